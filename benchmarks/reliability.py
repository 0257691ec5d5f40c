"""Makes `reports/reliability.md` of what the attack, the load and the soak recorded.

python tests/fuzz/attack.py --work attack --report attack.json
python benchmarks/load_serve.py ARTIFACT --out load.json
python benchmarks/soak_serve.py ARTIFACT --seconds 1800 --out soak.json
python benchmarks/reliability.py attack.json load.json soak.json --report reports/reliability.md
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ttl_deploy import documents, files, hardware

WHAT = {
    "images": "PNG, JPEG, BMP, GIF, TIFF, WebP, PPM, JPEG 2000 with bytes changed, lost, doubled, taken from others",
    "dicom": "pydicom's test files with bytes or deciding tags changed",
    "npz": "archives of arrays, their members and headers",
    "tables": "CSV, JSON and folders of data",
    "runs": "files of a finished run, before each command that reads such a folder",
    "weights": "safetensors and PyTorch checkpoints",
    "artifacts": "manifests and models of artifacts of four formats",
    "graphs": "ONNX graphs of a few hundred bytes that ask for terabytes",
    "requests": "requests to a `serve` that stays up, with its health asked after each tenth",
    "kills": "SIGKILL, SIGTERM, SIGINT at a random moment of `train`, `search`, `export`, `predict`, `bench`",
    "full disks": "a disk that is full at a random size, then has space",
    "two at once": "the same command twice, on one folder",
}
INTERRUPTED = ("kills", "full disks", "two at once")
"""Categories whose commands are processes of their own; no one measures those."""


def main() -> int:
    """Reads the three records and writes the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("attack", "load", "soak"):
        parser.add_argument(name, type=Path, help=f"the record of the {name}")
    parser.add_argument("--report", type=Path, default=Path("reports/reliability.md"))
    arguments = parser.parse_args()
    records = [documents.read_json(getattr(arguments, name)) for name in ("attack", "load", "soak")]
    files.write_text(arguments.report, page(*records))
    return 0


def page(attack: Mapping[str, Any], load: Mapping[str, Any], soak: Mapping[str, Any]) -> str:
    """The page, in Markdown."""
    parts = ["# What it withstands", attacked(attack), held(load), soaked(soak)]
    return "\n\n".join(parts) + "\n"


def attacked(record: Mapping[str, Any]) -> str:
    """Cases and survivors of each category."""
    tallies = record["categories"]
    cases, survived = (sum(tally[what] for tally in tallies.values()) for what in ("cases", "survived"))
    rows = [
        f"| {name} | {WHAT[name]} | {tally['cases']} | {tally['survived']} | {_costs(name, tally)} |"
        for name, tally in tallies.items()
    ]
    faults = [f"- {name}: {case}: {fault}" for name, tally in tallies.items() for case, fault in tally["faults"]]
    lines = [
        "## The attack",
        "",
        f"**{cases} cases, {survived} survived.** A case survives where the program gives a right result or one line "
        "that names the input, in at most 5 seconds of processor time and 2 GiB; after an interruption the next "
        "command has to make the files of an undisturbed one, and nothing hidden may stay.",
        "",
        "| category | what | cases | survived | longest, CPU s | most memory, MiB |",
        "|---|---|---|---|---|---|",
        *rows,
        *(["", "Not survived:", "", *faults] if faults else []),
        "",
        made_by(record),
    ]
    return "\n".join(lines)


def _costs(name: str, tally: Mapping[str, Any]) -> str:
    """Two cells: processor time and memory, which are measured in the attack's own process alone."""
    return " | " if name in INTERRUPTED else f"{tally['longest_s']:.2f} | {tally['most_bytes'] / 2**20:.0f}"


def held(record: Mapping[str, Any]) -> str:
    """Throughput and times of `serve` by number of clients."""
    bare, counts = record["bare_engine"], sorted(record["clients"], key=int)
    rows = [
        f"| bare engine, one image after the other | {bare['per_second']} | {bare['p50_ms']} | {bare['p99_ms']} | |"
    ]
    rows += [
        f"| {count} | {row['per_second']} | {row['p50_ms']} | {row['p99_ms']} | {row['refused']} |"
        for count, row in ((count, record["clients"][count]) for count in counts)
    ]
    low, high = record["ratio_interval"]
    lines = [
        "## `serve` under load",
        "",
        "Clients ask without a pause, in turns over several rounds with the bare engine, which decodes, prepares and "
        "runs the same images in one process.",
        "",
        "| clients | answers/s | p50, ms | p99, ms | refused |",
        "|---|---|---|---|---|",
        *rows,
        "",
        f"{counts[-1]} clients by {counts[-2]}: {record['ratio']} of the answers per second "
        f"(95 % interval {low} to {high}).",
        "",
        made_by(record),
    ]
    return "\n".join(lines)


def soaked(record: Mapping[str, Any]) -> str:
    """Memory over a long mixed load."""
    statuses = ", ".join(f"{answer}: {count}" for answer, count in record["answers"].items())
    lines = [
        "## `serve` for long",
        "",
        f"{record['seconds'] / 60:.0f} minutes of good and bad requests from several clients at once: "
        f"{record['requests']} requests, {len(record['wrong'])} answered wrongly; memory of the server "
        f"{record['memory_early_mib']:.0f} MiB in the second fifth of the time, {record['memory_late_mib']:.0f} MiB in "
        f"the last; {'it ended by itself on SIGTERM' if record['server_ended_by_itself'] else 'it did not end'}.",
        "",
        f"Answers by kind of request and status: {statuses}.",
        "",
        made_by(record),
    ]
    return "\n".join(lines)


def made_by(record: Mapping[str, Any]) -> str:
    """How to make the record again, and on what machine it was made."""
    machine = record["hardware"]
    return (
        f"Made by `python {record['command']}` on {machine['cpu']} ({machine['physical_cores']} cores), "
        f"{machine['system'].rpartition(', ')[2]}; {hardware.library_words(record['libraries'])}."
    )


if __name__ == "__main__":
    sys.exit(main())
