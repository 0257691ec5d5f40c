"""SIGTERM: what is accepted is answered or refused, and the process is gone a second after the grace."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from ttl_deploy.serve.model import ServedModel
from ttl_deploy.serve.server import Server

Connect = Callable[..., socket.socket]

GRACE = 1.0
SLOW_BODY = b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\nabc"


def test_a_request_beyond_the_grace_is_refused_with_503(
    tiny: ServedModel, connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, go = threading.Event(), threading.Event()

    def stuck(_: Any) -> Any:
        begun.set()
        go.wait(120)

    monkeypatch.setattr(tiny, "of_images", stuck)
    with ThreadPoolExecutor(1) as pool:
        with Server(tiny, port=0, grace=0.3) as server:
            late = pool.submit(lambda: httpx.post(f"{server.url}/predict", content=b"x", timeout=120, trust_env=False))
            assert begun.wait(120)
            body = connect(server, SLOW_BODY)
            half = connect(server, b"GET /v2 HTTP/1.1\r\nX: ")
            time.sleep(0.5)
        refused = late.result(120)
        assert server.has_abandoned
        go.set()
    assert refused.status_code == 503
    assert "stopping" in refused.json()["error"]
    assert body.recv(4096).startswith(b"HTTP/1.1 503 ")
    assert half.recv(4096) == b""


def test_the_command_ends_within_the_grace_and_a_second_while_a_decoder_and_clients_hang(
    served_artifact: Path, tmp_path: Path, png: bytes
) -> None:
    """A decoder that never comes back, a body that never ends, half a header and an idle connection."""
    (tmp_path / "sitecustomize.py").write_text(
        "import sys, time\n"
        "if 'ttl_deploy.serve.decoders' in sys.orig_argv:\n"
        "    import ttl_deploy.inputs.image as p\n"
        "    honest = p.load_pixels\n"
        "    def load_pixels(content, *rest, **more):\n"
        "        return time.sleep(600) if content == b'hang' else honest(content, *rest, **more)\n"
        "    p.load_pixels = load_pixels\n"
    )
    command = [sys.executable, "-m", "ttl_deploy", "serve", str(served_artifact), "--port", "0", "--grace", str(GRACE)]
    environment = {**os.environ, "PYTHONPATH": f"{tmp_path}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"}
    process = subprocess.Popen(
        [*command, "--threads", "1"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    )
    try:
        assert process.stdout is not None
        url = next(word for word in process.stdout.readline().split() if word.startswith("http")).rstrip(";")
        host, port = url.removeprefix("http://").split(":")
        children = psutil.Process(process.pid).children()
        assert children
        with ThreadPoolExecutor(8) as pool:
            hung = [
                pool.submit(lambda: httpx.post(f"{url}/predict", content=b"hang", timeout=120, trust_env=False))
                for _ in range(6)
            ]
            lines = [socket.create_connection((host, int(port)), timeout=120) for _ in range(3)]
            for line, sent in zip(lines, (SLOW_BODY, b"GET /v2 HTTP/1.1\r\nX: ", b""), strict=True):
                line.sendall(sent)
            until_in_flight(url, 6)
            process.send_signal(signal.SIGTERM)
            begin = time.monotonic()
            _, errors = process.communicate(timeout=120)
            took = time.monotonic() - begin
            answers = [task.result(120).status_code for task in hung]
        assert lines[0].recv(4096).startswith(b"HTTP/1.1 503 ")
        for line in lines:
            line.close()
    finally:
        process.kill()
        process.wait()
    assert (process.returncode, errors) == (0, "")
    assert answers == [503] * 6
    # A machine that is busy with other things gets two seconds more.
    assert took < GRACE + 1 + 2
    assert psutil.wait_procs(children, timeout=120)[1] == []


def until_in_flight(url: str, requests: int) -> None:
    end = time.monotonic() + 120
    while f"ttl_deploy_in_flight {requests}.0" not in httpx.get(f"{url}/metrics", timeout=120, trust_env=False).text:
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.02)


def test_a_second_stop_does_not_wait_for_the_grace(tiny: ServedModel, connect: Connect) -> None:
    with Server(tiny, port=0, grace=60) as server:
        line = connect(server, SLOW_BODY)
        time.sleep(0.5)
        server.stop()
        server.stop()
    assert line.recv(4096).startswith(b"HTTP/1.1 503 ")
