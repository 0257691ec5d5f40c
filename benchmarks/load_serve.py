"""Requests per second of `ttl-deploy serve` at several numbers of clients, beside the bare engine.

    python benchmarks/load_serve.py ARTIFACT --clients 1,8,32 --seconds 10 --out load.json

starts the server on a free port of this machine, lets so many clients ask without a pause (a refused one asks again at
once, as the worst client does), in turns over several rounds, and runs the engine alone on the same images in between.
Prints requests per second, p50 and p99 of the answers, refusals, and the ratio of the throughput at the most clients to
that at the second most, with its interval of 95 % from the pairs of rounds; exit code 1 if the interval lies below
`--least-ratio`, or any answer was wrong. Times are only worth something on a machine that does nothing else.
"""

from __future__ import annotations

import argparse
import http.client
import json
import signal
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from soak_serve import sample_images

from ttl_deploy import files, hardware, runtime
from ttl_deploy.artifact import Artifact, open_artifact
from ttl_deploy.inputs.image import load_pixels
from ttl_deploy.latency.duel import LEAST_BLOCKS, ratio_of_medians
from ttl_deploy.prediction.predict import predict

TOLERANCE = 1e-4
MOST_REQUESTS = 200_000
"""Of one round, so that no loop is without an end."""

Address = tuple[str, int]
Pair = tuple[bytes, list[float]]


@dataclass
class Round:
    """What one number of clients saw; shared by their threads."""

    seconds: float = 0.0
    milliseconds: list[float] = field(default_factory=list)
    by_round: list[float] = field(default_factory=list)
    refused: int = 0
    wrong: list[str] = field(default_factory=list)

    def add(self, other: Round) -> None:
        """Takes in another's numbers."""
        self.seconds += other.seconds
        self.by_round += other.by_round
        self.milliseconds += other.milliseconds
        self.refused += other.refused
        self.wrong += other.wrong

    def summary(self) -> dict[str, Any]:
        """The numbers of a row."""
        took = np.array(self.milliseconds or [float("nan")])
        return {
            "answered": len(self.milliseconds),
            "refused": self.refused,
            "per_second": round(len(self.milliseconds) / self.seconds, 2) if self.seconds else 0.0,
            "per_second_by_round": [round(speed, 2) for speed in self.by_round],
            "p50_ms": round(float(np.percentile(took, 50)), 2),
            "p99_ms": round(float(np.percentile(took, 99)), 2),
            "wrong": self.wrong[:5],
        }


def ask(connection: http.client.HTTPConnection, pair: Pair, seen: Round) -> None:
    """One request; list.append and the counters of one client need no lock."""
    begin = time.perf_counter()
    try:
        connection.request("POST", "/predict", pair[0])
        response = connection.getresponse()
        status, body = response.status, response.read()
    except (OSError, http.client.HTTPException) as error:
        connection.close()
        seen.wrong.append(f"{type(error).__name__} {error}")
        return
    if status == 503:
        seen.refused += 1
    elif status != 200:
        seen.wrong.append(f"status {status}: {body[:200]!r}")
    elif not np.allclose(list(json.loads(body)["probabilities"].values()), pair[1], atol=TOLERANCE):
        seen.wrong.append("another prediction than that of the artifact")
    else:
        seen.milliseconds.append(1000 * (time.perf_counter() - begin))


def client(address: Address, pairs: list[Pair], end: float, seen: Round) -> None:
    """Asks until the time is over."""
    connection = http.client.HTTPConnection(*address, timeout=60)
    for number in range(MOST_REQUESTS):
        if time.monotonic() >= end:
            break
        ask(connection, pairs[number % len(pairs)], seen)
    connection.close()


def one_round(address: Address, pairs: list[Pair], clients: int, seconds: float) -> Round:
    """So many clients at once."""
    begin = time.monotonic()
    each = [Round() for _ in range(clients)]
    threads = [threading.Thread(target=client, args=(address, pairs, begin + seconds, seen)) for seen in each]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    found = Round(seconds=time.monotonic() - begin)
    for seen in each:
        found.add(seen)
    found.by_round = [len(found.milliseconds) / found.seconds]
    return found


def bare(artifact: Artifact, pairs: list[Pair], seconds: float) -> Round:
    """The engine alone: decode, preprocess, run, one image after the other on all cores."""
    spec, found = artifact.manifest.preprocess, Round()
    with runtime.load(artifact) as session:
        begin = time.monotonic()
        for number in range(MOST_REQUESTS):
            if time.monotonic() >= begin + seconds:
                break
            start = time.perf_counter()
            pixels = load_pixels(pairs[number % len(pairs)][0], spec)
            session.run(session.prepare(pixels[None], spec))
            found.milliseconds.append(1000 * (time.perf_counter() - start))
        found.seconds = time.monotonic() - begin
    return found


def start(folder: Path) -> tuple[subprocess.Popen[str], Address]:
    """The server with its own defaults, which are what is measured."""
    command = [sys.executable, "-m", "ttl_deploy", "serve", str(folder), "--port", "0"]
    server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert server.stdout is not None
    line = server.stdout.readline()
    if "http://" not in line:
        server.kill()
        raise SystemExit(f"the server did not start: {line!r}")
    host, _, port = line.partition("http://")[2].partition(";")[0].rpartition(":")
    return server, (host, int(port))


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    """Rounds in turns, so that a disturbance falls on all."""
    artifact = open_artifact(arguments.artifact)
    with tempfile.TemporaryDirectory() as folder:
        images = sample_images(Path(folder))
        answers = predict(artifact.folder, [str(path) for path in images])
        wanted = [list(answer.probabilities.values()) for answer in answers]
        pairs = [(path.read_bytes(), row) for path, row in zip(images, wanted, strict=True)]
    counts: list[int] = sorted(arguments.clients)
    rows = {count: Round() for count in counts}
    engine = Round()
    server, address = start(artifact.folder)
    try:
        one_round(address, pairs, counts[-1], min(2.0, arguments.seconds))
        for _ in range(arguments.rounds):
            engine.add(bare(artifact, pairs, arguments.seconds))
            for count in counts:
                rows[count].add(one_round(address, pairs, count, arguments.seconds))
        server.send_signal(signal.SIGTERM)
        server.wait(60)
    finally:
        server.kill()
        server.wait()
    return record(arguments, {str(count): seen.summary() for count, seen in rows.items()}, engine.summary())


def record(arguments: argparse.Namespace, rows: dict[str, Any], engine: dict[str, Any]) -> dict[str, Any]:
    """The result, and whether it is good."""
    speeds = [row["per_second_by_round"] for row in rows.values()]
    wrong = [problem for row in rows.values() for problem in row["wrong"]]
    idle = [count for count, row in rows.items() if not row["answered"]]
    ratio, low, high = compared(speeds[-2], speeds[-1]) if len(speeds) > 1 and not idle else (None, None, None)
    return {
        "command": " ".join(sys.argv),
        "bare_engine": engine,
        "clients": rows,
        "ratio": ratio,
        "ratio_interval": [low, high],
        "passed": not wrong and not idle and (high is None or high >= arguments.least_ratio),
        "hardware": hardware.describe().as_dict(),
        "libraries": hardware.library_versions(),
    }


def compared(fewer: list[float], more: list[float]) -> tuple[float, float, float]:
    """The throughput at more clients by that at fewer and its interval; of few rounds, the ratio alone."""
    if len(fewer) < LEAST_BLOCKS:
        ratio = sum(more) / sum(fewer)
        return round(ratio, 3), round(ratio, 3), round(ratio, 3)
    ratio, low, high = ratio_of_medians(more, fewer)
    return round(ratio, 3), round(low, 3), round(high, 3)


def numbers(text: str) -> list[int]:
    """Numbers of clients, divided by commas."""
    return [int(part) for part in text.split(",")]


def main() -> int:
    """Parses, measures, prints; 0 if the throughput held."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("artifact", type=Path)
    parser.add_argument("--clients", type=numbers, default=[1, 8, 32], help="clients at once (default 1,8,32)")
    parser.add_argument("--seconds", type=float, default=6.0, help="of one round (default 6)")
    parser.add_argument(
        "--rounds", type=int, default=LEAST_BLOCKS, help=f"how often each comes (default {LEAST_BLOCKS})"
    )
    parser.add_argument("--least-ratio", type=float, default=1.0, help="least ratio of throughputs (default 1.0)")
    parser.add_argument("--out", type=Path, help="JSON file for the record")
    arguments = parser.parse_args()
    result = measure(arguments)
    if arguments.out:
        files.write_json(arguments.out, result)
    shown = {key: value for key, value in result.items() if key not in ("hardware", "libraries")}
    sys.stdout.write(json.dumps(shown, indent=2) + "\n")
    return 0 if result["passed"] else 1


if __name__ == "__main__":
    sys.exit(main())
