"""What is freed within the block is used again, and is the system's at its end: by the kernel's own counts."""

from __future__ import annotations

import json
import platform
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest
from small import MODEL, PROTOCOL, but

from ttl_deploy import kept_memory
from ttl_deploy.spec import Data
from ttl_deploy.training.train import train

pytestmark = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="is of glibc's malloc")

PROGRAM = """
import contextlib, ctypes, json, resource
import numpy as np, psutil
from ttl_deploy import kept_memory
from ttl_deploy.kept_memory import freed_memory_kept

SIDE = 48 * 2**20  # more than glibc's heap takes by itself
ctypes.CDLL(None).prctl(41, 1, 0, 0, 0)  # PR_SET_THP_DISABLE: of huge pages one fault brings 512
resident = lambda: psutil.Process().memory_info().rss

def faults(times):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(times):
        np.ones(SIDE, np.uint8)
    return (resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before) * resource.getpagesize() / SIDE / times

said = {"before": faults(10)}
begun = resident()
with freed_memory_kept():
    with freed_memory_kept():
        kept = [np.ones(SIDE, np.uint8) for _ in range(4)]
        del kept
    said["held"] = (resident() - begun) / SIDE
    said["within"] = faults(10)
said["left"] = (resident() - begun) / SIDE
said["after"] = faults(10)
with contextlib.suppress(ValueError), freed_memory_kept():
    raise ValueError
said["after an error"] = faults(4)
with freed_memory_kept(on=False):
    said["off"] = faults(4)
for refusal in (TypeError, OSError, AttributeError):
    def library(_name):
        raise refusal
    ctypes.CDLL = library
    with freed_memory_kept():
        said[refusal.__name__] = faults(4)
    kept_memory.steady_memory()
print(json.dumps(said))
"""
"""Counts in units of one array; in a process of its own, whose heap nothing else has grown."""


@pytest.fixture(scope="module")
def said() -> dict[str, float]:
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True)
    return dict(json.loads(done.stdout))


def test_a_page_is_paid_for_once_within_and_every_time_without(said: dict[str, float]) -> None:
    assert said["within"] < 0.1
    assert min(said["before"], said["after"]) > 0.9


def test_it_is_the_systems_again_at_the_end_of_the_outermost_block(said: dict[str, float]) -> None:
    assert said["held"] > 3.5
    assert said["left"] < 0.5


def test_an_error_ends_it_and_off_is_off(said: dict[str, float]) -> None:
    assert min(said["after an error"], said["off"]) > 0.9


@pytest.mark.parametrize("refusal", ["TypeError", "OSError", "AttributeError"])
def test_where_the_c_library_is_another_nothing_is_done(said: dict[str, float], refusal: str) -> None:
    """Windows has no library that stands for the process, musl no such function."""
    assert said[refusal] > 0.9


def test_a_training_on_the_cpu_keeps_it_and_gives_it_back(synthetic: Path, pixel_cache: Path, tmp_path: Path) -> None:
    seen: list[int] = []

    def judge(_rows: Sequence[Mapping[str, object]]) -> None:
        seen.append(kept_memory._within)

    train(
        Data(path=synthetic / "labels.csv", cache=pixel_cache),
        MODEL,
        but(PROTOCOL, epochs=3),
        tmp_path / "run",
        judge=judge,
        finish=False,
    )
    assert seen == [1, 1]
    assert kept_memory._within == 0
