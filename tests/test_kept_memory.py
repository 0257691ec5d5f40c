"""What is freed within the block is used again, and is the system's at its end: by the kernel's own counts."""

from __future__ import annotations

import contextlib
import platform
import resource
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import psutil
import pytest
from small import MODEL, PROTOCOL, but

from ttl_deploy import kept_memory
from ttl_deploy.kept_memory import freed_memory_kept
from ttl_deploy.spec import Data
from ttl_deploy.training.train import train

pytestmark = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="is of glibc's malloc")

MIB = 2**20
SIDE = 48 * MIB
"""Bytes; more than glibc's heap takes by itself."""
PAGES = SIDE // resource.getpagesize()


def faults_of(times: int) -> int:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(times):
        np.ones(SIDE, np.uint8)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before


@pytest.fixture(autouse=True)
def _pages_of_their_own(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """NumPy asks for huge pages, of which one fault brings 512."""
    hugepages = np._core.multiarray._set_madvise_hugepage
    before = hugepages(False)
    yield
    hugepages(before)


def test_a_page_is_paid_for_once_within_and_every_time_without() -> None:
    with freed_memory_kept():
        faults_of(1)
        assert faults_of(10) < PAGES / 10
    assert faults_of(10) > 9 * PAGES


def test_it_is_the_systems_again_at_the_end_of_the_outermost_block() -> None:
    resident = psutil.Process().memory_info
    with freed_memory_kept():
        before = resident().rss
        with freed_memory_kept():
            kept = [np.ones(SIDE, np.uint8) for _ in range(4)]
            del kept
        assert resident().rss > before + 3 * SIDE
        assert faults_of(4) < PAGES / 10
    assert resident().rss < before + SIDE


def test_an_error_ends_it_and_off_is_off() -> None:
    with contextlib.suppress(ValueError), freed_memory_kept():
        raise ValueError
    with freed_memory_kept(on=False):
        assert faults_of(2) > 1.5 * PAGES


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
