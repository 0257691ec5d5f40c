"""Every workload of the regression gate under pytest-benchmark; the reference runs before each round."""

from __future__ import annotations

from dataclasses import asdict

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from ttl_deploy.latency.regression import LOOKS, PAIRS, Baseline, Pairing
from ttl_deploy.verbs.gate import against
from ttl_deploy.verbs.workloads import workloads

BOUND = 0.1


@pytest.mark.parametrize("name", [workload.name for workload in workloads()])
def test_no_slower_than_the_baseline(
    name: str, benchmark: BenchmarkFixture, pairings: dict[str, Pairing], baseline: Baseline
) -> None:
    pairing = pairings[name]
    benchmark.pedantic(pairing.work, setup=pairing.reference, rounds=PAIRS, warmup_rounds=1)
    for _ in range(LOOKS[0]):
        pairing.take()
    found = against(baseline, name, pairing.estimate(), BOUND)
    benchmark.extra_info.update({"verdict": found.verdict, "reason": found.reason, **asdict(found.estimate)})
    assert found.verdict != "fail", found.reason
