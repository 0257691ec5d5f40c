"""A long mixed load on `ttl-deploy serve`, to see that it stays up, answers rightly and needs no more memory with time.

    python benchmarks/soak_serve.py ARTIFACT --seconds 600 --out soak.json

starts the server on a free port of this machine, sends good and bad requests from several clients until the time or
the number of requests is used up, samples the server's resident memory, and stops it with SIGTERM. Exit code 1 if any
answer had another status than it should have, a good one was not the artifact's own prediction, memory grew by more
than the allowed part from the second to the last fifth of the run, or the server did not end by itself.
"""

from __future__ import annotations

import argparse
import http.client
import io
import json
import random
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from PIL import Image

from ttl_deploy import files, hardware
from ttl_deploy.artifact import open_artifact
from ttl_deploy.prediction.predict import predict
from ttl_deploy.spec import Placement

TOLERANCE = 1e-4
BUSY = 503
"""Always allowed for a request that reaches the model: the server says that it has enough to do."""


@dataclass
class Tally:
    """What the clients saw; shared by their threads."""

    lock: threading.Lock = field(default_factory=threading.Lock)
    answers: Counter[str] = field(default_factory=Counter)
    milliseconds: list[float] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)

    def add(self, kind: str, status: int, milliseconds: float | None, problem: str | None) -> None:
        """Counts an answer."""
        with self.lock:
            self.answers[f"{kind} {status}"] += 1
            if milliseconds is not None and len(self.milliseconds) < 1_000_000:
                self.milliseconds.append(milliseconds)
            if problem and len(self.wrong) < 20:
                self.wrong.append(problem)


@dataclass(frozen=True)
class Shot:
    """One kind of request: where to, with what, and what must come back."""

    kind: str
    path: str
    body: bytes
    headers: dict[str, str]
    status: int
    expected: list[float] | None = None


def shots(name: str, shape: tuple[int, ...], images: list[tuple[bytes, list[float]]], max_body: int) -> list[Shot]:
    """Good requests and bad ones, about half and half."""
    infer = f"/v2/models/{name}/infer"
    good = [Shot("good image", "/predict", content, {}, 200, wanted) for content, wanted in images]
    for content, wanted in images:
        body, headers = binary(content)
        good.append(Shot("good infer", infer, body, headers, 200, wanted))
    zeros = {"name": "images", "datatype": "FP32", "shape": [1, *shape], "data": [0.0] * int(np.prod(shape))}
    text = json.dumps({"inputs": [zeros]}).encode()
    bad_shape = json.dumps({"inputs": [zeros | {"shape": [1, 2, 3]}]}).encode()
    first = images[0][0]
    return [
        *good,
        Shot("good json", infer, text, {}, 200),
        Shot("not json", infer, b"{" * 1000, {}, 400),
        Shot("deep json", infer, b"[" * 100_000, {}, 400),
        Shot("bad shape", infer, bad_shape, {}, 400),
        Shot("bad length", infer, text, {"Inference-Header-Content-Length": "99999999"}, 400),
        Shot("no image", "/predict", b"not an image", {}, 400),
        Shot("cut image", "/predict", first[: len(first) // 2], {}, 400),
        Shot("empty", "/predict", b"", {}, 400),
        Shot("bomb", "/predict", bomb(), {}, 400),
        Shot("large", "/predict", bytes(max_body + 1), {}, 413),
        Shot("bad form", "/predict", b"--x", {"Content-Type": "multipart/form-data; boundary=x"}, 400),
        Shot("unknown model", "/v2/models/nobody/infer", text, {}, 404),
        Shot("unknown place", "/nowhere", b"", {}, 404),
    ]


def binary(content: bytes) -> tuple[bytes, dict[str, str]]:
    """An encoded image in the binary tensor extension."""
    tensor = struct.pack("<I", len(content)) + content
    entry = {
        "name": "image",
        "datatype": "BYTES",
        "shape": [1],
        "parameters": {"binary_data_size": len(tensor)},
    }
    head = json.dumps({"inputs": [entry], "outputs": [{"name": "probabilities"}]}).encode()
    return head + tensor, {"Inference-Header-Content-Length": str(len(head))}


def bomb() -> bytes:
    """A small file that claims more pixels than allowed."""
    return b"P5\n60000 60000\n255\n" + bytes(1000)


def probabilities(shot: Shot, body: bytes) -> list[float]:
    content = json.loads(body)
    if shot.path == "/predict":
        return list(content["probabilities"].values())
    return list(content["outputs"][0]["data"])


def shoot(connection: http.client.HTTPConnection, shot: Shot, tally: Tally) -> None:
    """Sends one request and judges its answer."""
    begin = time.perf_counter()
    try:
        connection.request("POST", shot.path, shot.body, shot.headers)
        response = connection.getresponse()
        status, body = response.status, response.read()
    except (OSError, http.client.HTTPException) as error:
        connection.close()
        # The answer to a body that is too large may come, and the connection end, before the body is out.
        tally.add(shot.kind, 0, None, None if shot.status == 413 else f"{shot.kind}: {type(error).__name__} {error}")
        return
    took = 1000 * (time.perf_counter() - begin)
    problem = None
    if status not in (shot.status, BUSY):
        problem = f"{shot.kind}: status {status} instead of {shot.status}: {body[:200]!r}"
    elif status == 200 and shot.expected is not None:
        found = probabilities(shot, body)
        if not np.allclose(found, shot.expected, atol=TOLERANCE):
            problem = f"{shot.kind}: {found} instead of {shot.expected}"
    tally.add(shot.kind, status, took if status == 200 else None, problem)


def client(address: tuple[str, int], all_shots: list[Shot], seed: int, go_on: Callable[[], bool], tally: Tally) -> None:
    """One client: shot after shot, now and then one that breaks off or talks nonsense."""
    generator = random.Random(seed)
    good = [shot for shot in all_shots if shot.status == 200]
    bad = [shot for shot in all_shots if shot.status != 200]
    connection = http.client.HTTPConnection(*address, timeout=60)
    while go_on():
        draw = generator.random()
        if draw < 0.02:
            rude(address, b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\nabc")
            tally.add("broken off", 0, None, None)
        elif draw < 0.03:
            rude(address, b"\x00\xff\r\n\r\n")
            tally.add("nonsense", 0, None, None)
        else:
            shoot(connection, generator.choice(good if draw < 0.6 else bad), tally)
    connection.close()


def rude(address: tuple[str, int], content: bytes) -> None:
    """Connects, sends something and leaves."""
    try:
        with socket.create_connection(address, timeout=10) as line:
            line.sendall(content)
    except OSError:
        return


def soak(arguments: argparse.Namespace) -> dict[str, Any]:
    """Starts the server, runs the load and gives the record."""
    artifact = open_artifact(arguments.artifact)
    with tempfile.TemporaryDirectory() as folder:
        images = sample_images(Path(folder))
        predictions = predict(artifact.folder, [str(path) for path in images], placement=Placement(threads=1))
        wanted = [list(prediction.probabilities.values()) for prediction in predictions]
        pairs = [(path.read_bytes(), row) for path, row in zip(images, wanted, strict=True)]
    max_body = 4 * 2**20
    command = [sys.executable, "-m", "ttl_deploy", "serve", str(artifact.folder), "--port", "0", "--name", "soak"]
    options = ["--max-body-mib", "4", "--timeout", "20", "--max-concurrency", str(2 * arguments.clients)]
    server = subprocess.Popen([*command, *options], stdout=subprocess.PIPE, text=True)
    try:
        assert server.stdout is not None
        line = server.stdout.readline()
        if "http://" not in line:
            raise SystemExit(f"the server did not start: {line!r}")
        host, _, port = line.partition("http://")[2].partition(";")[0].rpartition(":")
        address = (host, int(port))
        all_shots = shots("soak", artifact.manifest.model.input_shape, pairs, max_body)
        tally, memory, seconds = load(server.pid, address, all_shots, arguments)
        alive = server.poll() is None
        server.send_signal(signal.SIGTERM)
        code = server.wait(60)
    finally:
        server.kill()
        server.wait()
    return record(arguments, tally, memory, seconds, alive and code == 0)


def sample_images(folder: Path) -> list[Path]:
    """A few images of different sizes and modes."""
    generator = np.random.default_rng(0)
    paths = []
    for index, (height, width, mode) in enumerate(
        [(320, 400, "L"), (600, 320, "RGB"), (64, 64, "RGBA"), (1500, 1200, "L")]
    ):
        pixels = generator.integers(0, 256, (8, 8, 3), dtype=np.uint8)
        image = Image.fromarray(pixels).resize((width, height), Image.Resampling.BICUBIC).convert(mode)
        stream = io.BytesIO()
        image.save(stream, "PNG")
        paths.append(folder / f"{index}.png")
        paths[-1].write_bytes(stream.getvalue())
    return paths


def load(
    pid: int, address: tuple[str, int], all_shots: list[Shot], arguments: argparse.Namespace
) -> tuple[Tally, list[tuple[float, float]], float]:
    """Runs the clients; gives what they saw, (second, MiB) samples of the server's memory, and how long it took."""
    tally, process = Tally(), psutil.Process(pid)
    begin = time.monotonic()
    end = begin + arguments.seconds

    def go_on() -> bool:
        return time.monotonic() < end and sum(tally.answers.values()) < arguments.requests

    threads = [
        threading.Thread(target=client, args=(address, all_shots, seed, go_on, tally), daemon=True)
        for seed in range(arguments.clients)
    ]
    for thread in threads:
        thread.start()
    memory: list[tuple[float, float]] = []
    every = max(0.1, arguments.seconds / 300)
    while go_on() and process.is_running():
        memory.append((round(time.monotonic() - begin, 2), round(process.memory_info().rss / 2**20, 1)))
        time.sleep(every)
    for thread in threads:
        thread.join(90)
    return tally, memory, time.monotonic() - begin


def record(
    arguments: argparse.Namespace, tally: Tally, memory: list[tuple[float, float]], seconds: float, ended: bool
) -> dict[str, Any]:
    """The result, and whether it is good."""
    fifth = max(1, len(memory) // 5)
    # The first fifth holds the start, when buffers of every kind are made for the first time: the second is the base.
    early = float(np.median([mib for _, mib in memory[fifth : 2 * fifth] or memory]))
    late = float(np.median([mib for _, mib in memory[-fifth:]]))
    took = np.array(tally.milliseconds or [float("nan")])
    return {
        "command": " ".join(sys.argv),
        "seconds": round(seconds, 1),
        "requests": sum(tally.answers.values()),
        "answers": dict(sorted(tally.answers.items())),
        "wrong": tally.wrong,
        "p50_ms": round(float(np.percentile(took, 50)), 2),
        "p99_ms": round(float(np.percentile(took, 99)), 2),
        "memory_early_mib": early,
        "memory_late_mib": late,
        "memory_mib": memory,
        "server_ended_by_itself": ended,
        "passed": not tally.wrong and ended and late <= early * (1 + arguments.max_growth),
        "hardware": hardware.describe().as_dict(),
        "libraries": hardware.library_versions(),
    }


def main() -> int:
    """Parses, soaks, prints a summary; 0 if all was well."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("artifact", type=Path)
    parser.add_argument("--seconds", type=float, default=600.0, help="longest run (default 600)")
    parser.add_argument("--requests", type=int, default=10_000_000, help="most requests")
    parser.add_argument("--clients", type=int, default=4, help="clients at the same time (default 4)")
    parser.add_argument("--max-growth", type=float, default=0.10, help="allowed growth of memory (default 0.10)")
    parser.add_argument("--out", type=Path, help="JSON file for the record")
    arguments = parser.parse_args()
    result = soak(arguments)
    if arguments.out:
        files.write_json(arguments.out, result)
    shown = {key: value for key, value in result.items() if key not in ("memory_mib", "hardware", "libraries")}
    sys.stdout.write(json.dumps(shown, indent=2) + "\n")
    return 0 if result["passed"] else 1


if __name__ == "__main__":
    sys.exit(main())
