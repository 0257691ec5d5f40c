"""What a command costs before it works: processor seconds of whole processes, beside other ways, in turns in one run.

    python benchmarks/startup.py ARTIFACT IMAGE RUN [--before CHECKOUT] [--rounds 15] [--only NAME ...]

ARTIFACT is of the format onnx or openvino, RUN what it was exported from. `predict` of one image is held against a bare
script for the same file, in the engine that the artifact runs in, with Pillow and NumPy for the image; in OpenVINO also
against one that keeps its telemetry off, as `predict` does. `train` is RUN's training with one epoch. With --before,
every command is held against that of another checkout, too. Processor time (user and system, waited children included),
since wall time depends on what else runs; of compiled modules, as pip installs them; ratios are those of the rounds in
turns, with their 95 % interval.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from blocks import enough_blocks

from ttl_deploy import hardware
from ttl_deploy.artifact import open_artifact
from ttl_deploy.cli.console import line
from ttl_deploy.latency.duel import ratio_of_medians

_CANDIDATES = """
from ttl_deploy.cut_search.candidates import candidates
from ttl_deploy.spec import ModelSpec
assert len(candidates(ModelSpec(backbone="densenet121", method="ttl", classes=("a", "b"), image_size=96))) == 62
"""

_EXPORT = """
from ttl_deploy.formats.onnx_graph import to_onnx
from ttl_deploy.spec import ModelSpec
from ttl_deploy.transfer import build
to_onnx(build(ModelSpec(backbone="densenet121", classes=("a", "b"), image_size=32)).eval())
"""

_BARE = """
import sys
import numpy as np
from PIL import Image
model, image, height, width = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
pixels = np.asarray(Image.open(image).convert("RGB").resize((width, height), Image.BILINEAR), np.float32) / 255
batch = ((pixels - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]).astype(np.float32).transpose(2, 0, 1)[None]
"""
_ENGINES = {
    "onnx": """
import onnxruntime
session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
logits = session.run(None, {session.get_inputs()[0].name: batch})[0]
""",
    "openvino": """
import openvino
logits = openvino.Core().compile_model(model, "CPU")(batch)[0]
""",
}
_UNTOLD = "import sys\nsys.modules['openvino_telemetry'] = None\n"
_SAID = "powers = np.exp(logits - logits.max())\nprint(powers / powers.sum())\n"


def seconds(command: Sequence[str], environment: Mapping[str, str]) -> float:
    """Processor time of a command, and of what it waited for."""
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, env=dict(environment))
    assert process.stderr is not None
    said = process.stderr.read()
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"{' '.join(command)[:200]} failed: {said.decode(errors='replace')[-500:]}")
    return usage.ru_utime + usage.ru_stime


def in_turns(ways: Mapping[str, tuple[Sequence[str], Mapping[str, str]]], rounds: int) -> dict[str, list[float]]:
    """Times of each way; the first round, which fills caches, is not kept."""
    taken: dict[str, list[float]] = {name: [] for name in ways}
    for number in range(rounds + 1):
        for name in sorted(ways, reverse=bool(number % 2)):
            spent = seconds(*ways[name])
            if number:
                taken[name].append(spent)
    return taken


def environment(checkout: Path | None, work: str) -> dict[str, str]:
    """Of a process that runs a checkout; modules are compiled once, in `work` and not in the checkout."""
    kept = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    return {"PYTHONPYCACHEPREFIX": f"{work}/compiled", **kept, "PYTHONPATH": str(checkout)}


def row(what: str, name: str, ours: Sequence[float], other: Sequence[float]) -> str:
    """A line of the table: least times, and the other's time by ours."""
    ratio, low, high = ratio_of_medians(list(other), list(ours))
    return f"| {what} | {min(ours):.2f} s | {name} | {min(other):.2f} s | {ratio:.2f} [{low:.2f}, {high:.2f}] |"


def main() -> None:
    """Measures and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("artifact", type=Path)
    parser.add_argument("image", type=Path)
    parser.add_argument("run", type=Path)
    parser.add_argument("--before", type=Path)
    parser.add_argument("--rounds", type=enough_blocks, default=15)
    parser.add_argument("--only", nargs="+", help="names of rows")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as work:
        measure(given, work)
    line(f"\n{hardware.describe().name}, {hardware.library_words()}.")


def measure(given: argparse.Namespace, work: str) -> None:
    """Prints the table's rows.

    Args:
        given: What was said on the command line.
        work: Folder for what the commands write.
    """
    manifest = open_artifact(given.artifact).manifest
    height, width = (str(side) for side in manifest.model.input.size)
    bare = _BARE + _ENGINES[manifest.format] + _SAID
    engine = "onnxruntime" if manifest.format == "onnx" else "openvino"
    place, once = [str(given.artifact)], ["--epochs", "1", "--overwrite"]
    own = {
        "--help": ["--help"],
        "predict --help": ["predict", "--help"],
        f"predict of one image ({engine})": ["predict", *place, str(given.image), "--runtime", engine],
        "verify": ["verify", *place, "--against", str(given.run)],
        "cuts resnet50": ["cuts", "resnet50"],
        "doctor": ["doctor"],
        "train": ["train", "--config", str(given.run / "config.yaml"), *once, "--out", f"{work}/run"],
    }
    commands = {what: ["-m", "ttl_deploy", *arguments] for what, arguments in own.items()}
    commands |= {"candidates of a search": ["-c", _CANDIDATES], "DenseNet-121 to ONNX": ["-c", _EXPORT]}
    if unknown := set(given.only or ()) - set(commands):
        raise SystemExit(f"--only: there is no row {min(unknown)!r}; there are {', '.join(commands)}")
    here = environment(Path(__file__).resolve().parents[1], work)
    there = environment(given.before, work)
    line("| command | ours | the other way | its time | its time by ours |\n|---|---:|---|---:|---:|")
    for what in given.only or commands:
        # -P: without it the folder that this is run in would be imported in place of the other checkout.
        command = [sys.executable, "-P", *commands[what]]
        ways: dict[str, tuple[Sequence[str], Mapping[str, str]]] = {"": (command, here)}
        if what.startswith("predict of"):
            scripts = {"a bare script": bare}
            if engine == "openvino":
                scripts["a bare script, telemetry off"] = _UNTOLD + bare
            files = [str(given.artifact / manifest.model_file), str(given.image), height, width]
            ways |= {name: ([sys.executable, "-c", code, *files], here) for name, code in scripts.items()}
        if given.before is not None:
            ways["before"] = (command, there)
        taken = in_turns(ways, given.rounds)
        for name in sorted(set(ways) - {""}, reverse=True):
            line(row(what, name, taken[""], taken[name]))


if __name__ == "__main__":
    main()
