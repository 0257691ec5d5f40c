"""Images are decoded in processes that end when they must, and give what the one preprocessing gives."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import psutil
import pytest

from ttl_deploy.inputs.image import load_pixels
from ttl_deploy.serve import decoders
from ttl_deploy.serve.decoders import Decoders
from ttl_deploy.serve.request_error import RequestError
from ttl_deploy.spec import PreprocessSpec

SPEC = PreprocessSpec(image_size=16)


@pytest.fixture
def pool() -> Iterator[Decoders]:
    with Decoders(SPEC, 1, 20.0) as opened:
        opened.wait()
        yield opened


def children() -> list[psutil.Process]:
    return [child for child in psutil.Process().children() if "ttl_deploy.serve.decoders" in " ".join(child.cmdline())]


def test_pixels_are_those_of_the_one_preprocessing(pool: Decoders, png: bytes) -> None:
    np.testing.assert_array_equal(pool.pixels(png, "image 0"), load_pixels(png, SPEC))


def test_an_error_keeps_its_words_and_the_process_goes_on(pool: Decoders, png: bytes) -> None:
    before = children()
    for content, said in (
        (b"", "image 7: is empty"),
        (b"?", "image 7: is not an image"),
        (png[:60], "image 7: is"),
    ):
        with pytest.raises(RequestError, match=said):
            pool.pixels(content, "image 7")
    assert pool.pixels(png, "image 7").shape == (16, 16, 3)
    assert children() == before


@pytest.fixture
def hanging(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Processes whose decoder of the image `hang` never comes back and that of `crash` ends the process."""
    (tmp_path / "sitecustomize.py").write_text(
        "import ttl_deploy.inputs.image as p, os, time\n"
        "honest = p.load_pixels\n"
        "def load_pixels(content, spec, *, where=None):\n"
        "    if content == b'hang':\n        time.sleep(600)\n"
        "    if content == b'crash':\n        os.abort()\n"
        "    if content == b'greedy':\n        bytearray(4 * 2**30)\n"
        "    return honest(content, spec, where=where)\n"
        "p.load_pixels = load_pixels\n"
    )
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}{os.pathsep}{os.environ.get('PYTHONPATH', '')}")


def test_a_decoder_that_hangs_crashes_or_takes_all_memory_is_told_and_replaced(hanging: None, png: bytes) -> None:
    with Decoders(SPEC, 1, 2.0) as pool:
        pool.wait()
        for content, said in (
            (b"hang", "not decoded within 2 s"),
            (b"crash", "its decoder crashed"),
            (b"greedy", "needs more memory"),
        ):
            with pytest.raises(RequestError, match=f"image 0: .*{said}"):
                pool.pixels(content, "image 0")
            assert pool.pixels(png, "image 0").shape == (16, 16, 3)


def test_an_interruption_ends_what_hangs_and_nothing_else(hanging: None, png: bytes) -> None:
    with Decoders(SPEC, 1, 600) as pool:
        pool.wait()
        found: list[object] = []

        def ask() -> None:
            try:
                found.append(pool.pixels(b"hang", "image 0"))
            except RequestError as error:
                found.append(error)

        thread = threading.Thread(target=ask)
        thread.start()
        time.sleep(0.2)
        pool.interrupt()
        thread.join(120)
        assert isinstance(found[0], RequestError)
        assert pool.pixels(png, "image 0").shape == (16, 16, 3)


def test_signals_to_all_processes_of_a_service_take_no_image_with_them(pool: Decoders, png: bytes) -> None:
    (child,) = children()
    for number in (signal.SIGTERM, signal.SIGINT):
        child.send_signal(number)
    assert pool.pixels(png, "image 0").shape == (16, 16, 3)
    assert children() == [child]


def test_closing_leaves_no_process_behind() -> None:
    with Decoders(SPEC, 2, 1.0) as pool:
        pool.wait()
        assert len(children()) == 2
    assert children() == []


def test_a_process_that_does_not_start_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from ttl_deploy.errors import TtlDeployError

    monkeypatch.setattr(decoders, "_environment", lambda: {"PYTHONPATH": str(tmp_path), "PYTHONHOME": str(tmp_path)})
    with Decoders(SPEC, 1, 1.0) as pool, pytest.raises(TtlDeployError, match="do not start"):
        pool.wait()
