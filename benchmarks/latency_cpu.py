"""What truncation, precision and engine each bring on a processor: every way of running a model, in turns in one run.

    python benchmarks/latency_cpu.py RUN --whole FTL_RUN --report reports/latency-cpu.md

RUN's artifacts (RUN/FORMAT-PRECISION) are measured in the engine of their format, RUN and FTL_RUN in PyTorch, at batch
1 and at batch 32, by the harness of `ttl-deploy compare`: each in its own processes, block by block, with the
ratio to FTL_RUN in PyTorch eager and its interval. The machine's ceiling is measured before and after.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from blocks import enough_blocks

from ttl_deploy import files, hardware
from ttl_deploy.artifact import MANIFEST, open_artifact
from ttl_deploy.cli.console import ConsoleReporter
from ttl_deploy.latency import Measurement
from ttl_deploy.latency.ceiling import Ceiling, ceiling
from ttl_deploy.latency.duel import Ratio, block_medians, compare_blocks, measure_in_turns
from ttl_deploy.latency.persistent import Block
from ttl_deploy.latency.roofline import Work, floor
from ttl_deploy.runtime import RUNTIMES
from ttl_deploy.spec import ArtifactManifest, Placement
from ttl_deploy.training.run import finished_run
from ttl_deploy.verbs.bench import describe, provenance
from ttl_deploy.verbs.compare import job_of

_ENGINES = {
    "pytorch": "PyTorch eager",
    "pytorch-bf16": "PyTorch channels-last",
    "onnxruntime": "ONNX Runtime",
    "openvino": "OpenVINO",
}
_ARTIFACTS = "onnx-fp32,onnx-int8,openvino-fp32,openvino-bf16,openvino-int8"


@dataclass(frozen=True)
class Way:
    """One way of running a model, measured.

    Attributes:
        model: What it is, in words.
        how: Engine and precision.
        measured: All blocks.
        ratio: Its time by that of the reference; None for the reference itself.
        work: What it asks of the machine.
        parity: What its parity check said; empty for a run.
    """

    model: str
    how: str
    measured: Measurement
    ratio: Ratio | None
    work: Work
    parity: str = ""


def main() -> int:
    """Measures and writes the report."""
    options = _parser().parse_args()
    reporter = ConsoleReporter()
    before = ceiling(threads=options.threads, refresh=True, reporter=reporter)
    names = _names(options.run, options.whole, options.artifacts.split(","))
    found = {batch: _measure(names, batch, options, reporter) for batch in options.batches}
    after = ceiling(threads=options.threads, refresh=True, reporter=reporter)
    peaks = _best(before, after)
    files.write_text(options.report, _report(options, found, peaks))
    if options.out is not None:
        files.write_json(options.out, _record(found, before, after))
    return 0


def _names(run: Path, whole: Path, artifacts: Sequence[str]) -> list[str]:
    """What to measure, the reference first, as `compare` names it."""
    own = [_in_its_engine(run / artifact) for artifact in artifacts]
    return [f"{whole}@pytorch", f"{whole}@bf16", f"{run}@pytorch", f"{run}@bf16", *own]


def _in_its_engine(path: Path) -> str:
    form = open_artifact(path).manifest.format
    engine = next(e for e in sorted(RUNTIMES, key=lambda e: e.rank) if e.formats[0] == form and "cpu" in e.devices)
    return f"{path}@{engine.name}"


def _measure(names: Sequence[str], batch: int, options: argparse.Namespace, reporter: ConsoleReporter) -> list[Way]:
    jobs = [job_of(name, Placement(threads=options.threads), batch=batch) for name in names]
    block = Block(min_samples=5, min_seconds=options.seconds, max_seconds=60.0)
    return ways_of(names, measure_in_turns(jobs, blocks=options.blocks, block=block, reporter=reporter))


def ways_of(names: Sequence[str], measured: Sequence[Measurement]) -> list[Way]:
    """What was measured, with its ratio to the first.

    Args:
        names: As `compare` names them.
        measured: One each, in turns.
    """
    ways = []
    for name, m in zip(names, measured, strict=True):
        ratio = compare_blocks(m, measured[0]) if m is not measured[0] else None
        ways.append(Way(*_words(name, m), m, ratio, _work(name, m), _parity(name)))
    return ways


def _manifest(name: str) -> ArtifactManifest | None:
    path = Path(name.rpartition("@")[0])
    return open_artifact(path).manifest if (path / MANIFEST).exists() else None


def _words(name: str, measured: Measurement) -> tuple[str, str]:
    manifest = _manifest(name)
    spec = manifest.model if manifest else finished_run(Path(name.rpartition("@")[0])).config.model
    left = len(manifest.details.get("float_layers") or []) if manifest else 0
    engine = _ENGINES.get(measured.runtime, measured.runtime)
    return describe(spec), f"{engine} {measured.precision}{f' ({left} layers in float)' if left else ''}"


def _parity(name: str) -> str:
    manifest = _manifest(name)
    if manifest is None or manifest.parity is None:
        return ""
    found = manifest.parity
    drops = [
        f"{metric} {float(pair[1] or 0) - float(pair[0] or 0):+.4f}"
        for metric, pair in (("AUROC", found.auroc), ("AUPRC", found.auprc))
    ]
    return ", ".join([f"{found.label_agreement:.2%} of labels", *drops])


def _work(name: str, measured: Measurement) -> Work:
    path, manifest = Path(name.rpartition("@")[0]), _manifest(name)
    if manifest:
        spec, parameters, macs = manifest.model, manifest.parameters, manifest.macs
    else:
        run = finished_run(path)
        metrics = run.metrics()
        spec, parameters, macs = run.config.model, metrics["parameters"], metrics["macs"]
    return Work(macs, parameters, measured.precision, measured.batch, spec.input_shape, len(spec.classes))


def _best(before: Ceiling, after: Ceiling) -> Ceiling:
    """The higher rate of each kind: what only one of the two reached, the machine can do."""
    rates = {rate.what: rate for rate in sorted((*before.rates, *after.rates), key=lambda rate: rate.value)}
    return before.model_copy(update={"rates": tuple(rates.values())})


def _report(options: argparse.Namespace, found: dict[int, list[Way]], peaks: Ceiling) -> str:
    reached = [rate for rate in peaks.rates if rate.what not in ("copy", "triad")]
    products = ", ".join(f"{rate.what} {rate.value:.0f} ({rate.by})" for rate in reached)
    refused = "".join(f" {reason}: no share is given." for reason in peaks.refused.values())
    threads = next(iter(found.values()))[0].measured.threads
    lines = [
        "# Latency on a processor",
        "",
        f"{hardware.describe().name}, {threads} threads. The machine's ceiling, GOP/s of matrix products: {products};"
        f" instruction set by oneDNN: {peaks.isa or 'not told'}.{refused}",
        "",
        f"All ways of a table were measured in turns in one run, {options.blocks} blocks each, every block in a process"
        " of its own. *Faster* is the time of "
        "the whole network in PyTorch eager by that of the row, with its 95 % interval; a value is withheld where the "
        "interval is wider than ±5 %. *Of the ceiling* is the least time that the row's multiply-adds need at the rate "
        "of its precision, as a share of the median of the blocks' medians. The last column is what the artifact's "
        f"parity check found on the {_images(options)} test images of its run, where training was short; what they "
        "tolerated is in the manifests.",
    ]
    for batch, ways in found.items():
        lines += ["", f"## Batch {batch}", "", *_table(ways, peaks)]
    return "\n".join(
        [
            *lines,
            "",
            f"Made by `python benchmarks/{Path(sys.argv[0]).name} {' '.join(sys.argv[1:])}`; "
            f"{hardware.library_words()}.",
            "",
        ]
    )


def _table(ways: Sequence[Way], peaks: Ceiling) -> list[str]:
    head = ("model", "how", "ms per call", "images/s", "faster", "of the ceiling", "beside PyTorch fp32")
    return [f"| {' | '.join(head)} |", "|---" * len(head) + "|", *(_line(way, peaks) for way in ways)]


def _line(way: Way, peaks: Ceiling) -> str:
    ms = sorted(block_medians(way.measured))[len(way.measured.rounds) // 2]
    least = floor(way.work, peaks.peaks)
    cells = (
        way.model,
        way.how,
        f"{ms:.2f}",
        f"{1000 * way.measured.batch / ms:.1f}",
        _faster(way.ratio),
        f"{least.ms / ms:.0%}" if least else "",
        way.parity,
    )
    return f"| {' | '.join(cells)} |"


def _faster(ratio: Ratio | None) -> str:
    """The reference's time by the row's, from the row's by the reference's."""
    if ratio is None:
        return "1"
    interval = f"({1 / ratio.high:.2f} to {1 / ratio.low:.2f})"
    return f"{1 / ratio.ratio:.2f} {interval}" if ratio.ratio is not None else f"inconclusive {interval}"


def _images(options: argparse.Namespace) -> int:
    return int(finished_run(options.run).metrics()["images"]["test"])


def _record(found: dict[int, list[Way]], before: Ceiling, after: Ceiling) -> dict[str, Any]:
    return {
        **provenance(),
        "ceilings": [each.model_dump(mode="json") for each in (before, after)],
        "measurements": [way.measured.model_dump(mode="json") for ways in found.values() for way in ways],
        "ratios": [way.ratio.model_dump(mode="json") for ways in found.values() for way in ways if way.ratio],
    }


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="a finished run with its artifacts inside")
    parser.add_argument("--whole", type=Path, required=True, help="a finished FTL run of the same backbone")
    parser.add_argument("--artifacts", default=_ARTIFACTS, help="folders in the run, comma-separated")
    parser.add_argument("--report", type=Path, default=Path("reports/latency-cpu.md"))
    parser.add_argument("--out", type=Path, help="JSON file with every raw sample")
    parser.add_argument("--batches", type=lambda text: [int(b) for b in text.split(",")], default=[1, 32])
    parser.add_argument("--blocks", type=enough_blocks, default=12)
    parser.add_argument("--seconds", type=float, default=0.5, help="least seconds of a block")
    parser.add_argument("--threads", type=int)
    return parser


if __name__ == "__main__":
    sys.exit(main())
