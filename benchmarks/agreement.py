"""Do our latencies agree with others'? One artifact, measured by us and by two plain tools, in turns in one run.

    python benchmarks/agreement.py [--artifact FOLDER] [--rounds 6] [--seconds 3] [--threads N] [--json]

Compared are the medians of OpenVINO's own `benchmark_app -api sync` with this package's measurement of the same file
in OpenVINO, and of a bare loop around an ONNX Runtime session with this package's measurement in ONNX Runtime. All use
the same threads, one stream and fp32. Prints both sides, the ratio and its 95 % interval; exits 1 where a ratio is
certainly off by more than 5 %.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path
from statistics import median
from typing import Any

from blocks import enough_blocks

from ttl_deploy import hardware
from ttl_deploy.artifact import Artifact, open_artifact
from ttl_deploy.errors import TtlDeployError
from ttl_deploy.formats.reference import whole_network
from ttl_deploy.latency import Job, run_isolated
from ttl_deploy.latency.duel import ratio_of_medians
from ttl_deploy.latency.isolate import environment
from ttl_deploy.runtime.base import default_threads
from ttl_deploy.spec import ModelSpec, Placement

BOUND = 0.05
_MEDIAN = re.compile(r"Median:\s+([\d.]+)\s+ms")

# A program of its own, so that it shares nothing with what it is compared with.
_BARE_LOOP = """
import json, sys, time
import numpy, onnxruntime
path, threads, seconds = sys.argv[1], int(sys.argv[2]), float(sys.argv[3])
options = onnxruntime.SessionOptions()
options.intra_op_num_threads = threads
session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
port = session.get_inputs()[0]
shape = [size if isinstance(size, int) else 1 for size in port.shape]
feed = {port.name: numpy.random.default_rng(0).standard_normal(shape, dtype=numpy.float32)}
for _ in range(20):
    session.run(None, feed)
times, end = [], time.perf_counter() + seconds
while time.perf_counter() < end:
    begin = time.perf_counter()
    session.run(None, feed)
    times.append(1000 * (time.perf_counter() - begin))
print(json.dumps(times))
"""


def ours(artifact: Artifact, runtime: str, threads: int, seconds: float) -> float:
    """Median of this package's measurement, milliseconds."""
    job = Job(
        label=f"ours, {runtime}",
        artifact=str(artifact.folder.resolve()),
        placement=Placement(runtime=runtime, threads=threads),
        min_samples=20,
        min_seconds=seconds,
        max_seconds=10 * seconds,
    )
    return median(run_isolated(job).samples_ms)


def benchmark_app(artifact: Artifact, threads: int, seconds: float) -> float:
    """Median that OpenVINO's tool prints, milliseconds."""
    shape = ",".join(map(str, (1, *artifact.manifest.model.input_shape)))
    command = [
        *_tool(),
        *("-m", str(artifact.model_path), "-d", "CPU", "-api", "sync", "-hint", "none", "-nstreams", "1"),
        *("-nthreads", str(threads), "-infer_precision", "f32", "-t", str(max(1, round(seconds)))),
        *("-shape", f"{artifact.manifest.input_name}[{shape}]"),
    ]
    said = _run(command, threads)
    found = _MEDIAN.search(said)
    if found is None:
        raise TtlDeployError("benchmark_app printed no median")
    return float(found[1])


def bare_loop(artifact: Artifact, threads: int, seconds: float) -> float:
    """Median of a loop around ONNX Runtime and nothing else, milliseconds."""
    command = [sys.executable, "-c", _BARE_LOOP, str(artifact.model_path), str(threads), str(seconds)]
    times: list[float] = json.loads(_run(command, threads))
    return median(times)


def compare(artifact: Artifact, *, rounds: int, seconds: float, threads: int) -> list[dict[str, Any]]:
    """Measures both pairs in turns.

    Returns:
        For each pair its engine, what it is compared with, both medians, the ratio ours/theirs and its interval.
    """
    theirs = {"openvino": ("benchmark_app", benchmark_app), "onnxruntime": ("bare loop", bare_loop)}
    times: dict[str, tuple[list[float], list[float]]] = {engine: ([], []) for engine in theirs}
    for turn in range(rounds):
        for engine, (_name, tool) in theirs.items():
            sides = (lambda e=engine: ours(artifact, e, threads, seconds), lambda t=tool: t(artifact, threads, seconds))
            # Each goes first every other time, so that neither always finds the machine as the other left it.
            for side in (0, 1) if turn % 2 == 0 else (1, 0):
                times[engine][side].append(sides[side]())
    found = []
    for engine, (mine, other) in times.items():
        ratio, low, high = ratio_of_medians(mine, other)
        found.append(
            {
                "engine": engine,
                "against": theirs[engine][0],
                "ours_ms": median(mine),
                "theirs_ms": median(other),
                "ratio": ratio,
                "low": low,
                "high": high,
                "agrees": None if low < 1 - BOUND < high or low < 1 + BOUND < high else abs(ratio - 1) <= BOUND,
                "rounds_ms": {"ours": mine, "theirs": other},
            }
        )
    return found


def main() -> int:
    """Runs the comparison; the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--artifact", type=Path, help="an fp32 ONNX artifact; otherwise an untrained ResNet-50")
    parser.add_argument("--rounds", type=enough_blocks, default=6, help="at least 6")
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--threads", type=int, default=default_threads())
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        artifact = (
            open_artifact(options.artifact)
            if options.artifact
            else whole_network(ModelSpec(backbone="resnet50", classes=("a", "b")), cache=Path(folder))
        )
        found = compare(artifact, rounds=options.rounds, seconds=options.seconds, threads=options.threads)
    if options.json:
        facts = {"hardware": hardware.describe().as_dict(), "libraries": hardware.library_versions()}
        sys.stdout.write(json.dumps({**facts, "threads": options.threads, "pairs": found}, indent=2) + "\n")
    else:
        for pair in found:
            sys.stdout.write(_line(pair))
    return 1 if any(pair["agrees"] is False for pair in found) else 0


def _line(pair: dict[str, Any]) -> str:
    verdict = {True: "agrees", False: "differs", None: "inconclusive"}[pair["agrees"]]
    return (
        f"{pair['engine']}: ours {pair['ours_ms']:.2f} ms, {pair['against']} {pair['theirs_ms']:.2f} ms, ratio"
        f" {pair['ratio']:.3f} (95 % interval {pair['low']:.3f} to {pair['high']:.3f}): {verdict} within {BOUND:.0%}\n"
    )


def _tool() -> list[str]:
    """OpenVINO's benchmark_app of this Python."""
    return [sys.executable, str(Path(sysconfig.get_path("scripts")) / "benchmark_app")]


def _run(command: list[str], threads: int) -> str:
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, env=environment(threads), check=False)
    if done.returncode:
        lines = (done.stderr.strip() or done.stdout.strip() or "no message").splitlines()
        raise TtlDeployError(f"{Path(command[1]).name} failed: {lines[-1]}")
    return done.stdout


if __name__ == "__main__":
    sys.exit(main())
