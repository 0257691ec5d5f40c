"""Fixtures of the benchmarks: every workload ready to run, and the committed baseline."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from ttl_deploy.latency.regression import Baseline, Pairing, read_baseline
from ttl_deploy.verbs.gate import prepared
from ttl_deploy.verbs.workloads import workloads


@pytest.fixture(scope="session")
def pairings() -> Iterator[dict[str, Pairing]]:
    """Each workload beside its reference, by name."""
    chosen = workloads()
    with prepared(chosen) as made:
        yield {workload.name: pairing for workload, pairing in zip(chosen, made, strict=True)}


@pytest.fixture(scope="session")
def baseline() -> Baseline:
    return read_baseline(Path(__file__).with_name("baseline.json"))
