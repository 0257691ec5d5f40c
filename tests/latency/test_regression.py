"""The regression gate's statistics on synthetic machines, and its two promises with real time."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats

from ttl_deploy.errors import BadInputError, IntegrityError
from ttl_deploy.latency.regression import (
    LOOKS,
    Baseline,
    BaselineEntry,
    Pairing,
    RatioEstimate,
    compare,
    estimate,
    parse_percent,
    processor_of,
    quotient,
    read_baseline,
    write_baseline,
)

BOUND = 0.1
FIRST = LOOKS[0]

Neighbour = tuple[float, float, float]
"""How many times longer work, reference and chain take while another machine's work runs on the same core."""
MEASURED: tuple[Neighbour, ...] = ((1.61, 1.43, 1.19), (2.17, 1.60, 1.21), (1.85, 1.51, 1.17), (1.15, 1.45, 1.19))
"""Of a virtual machine (Intel Xeon) by turns: the lowest layers of a network, beside `network_work`; the last invented,
of a work that feels its neighbour least."""

Machine = Callable[[float, np.random.Generator], float]
"""Gives how many times longer than on the quiet machine a block takes that begins at a time, seconds."""


class Simulated:
    """Work and reference of fixed cost on a machine whose speed changes; its own clock."""

    def __init__(self, machine: Machine, seed: int) -> None:
        self.now = 0.0
        self._machine = machine
        self._generator = np.random.default_rng(seed)

    def block(self, seconds: float) -> Callable[[], None]:
        def run() -> None:
            self.now += seconds * self._machine(self.now, self._generator)

        return run

    def pairing(self, slowdown: float = 1.0, neighbour: Neighbour = (1.0, 1.0, 1.0)) -> Pairing:
        work, reference, chain = neighbour
        blocks = (0.006 * slowdown * work, 0.008 * reference, 0.0005 * chain)
        return Pairing(*(self.block(seconds) for seconds in blocks), clock=lambda: self.now)


def measured(
    machine: Machine,
    seed: int,
    slowdown: float = 1.0,
    batches: int = FIRST,
    neighbour: Neighbour = (1.0, 1.0, 1.0),
) -> RatioEstimate:
    pairing = Simulated(machine, seed).pairing(slowdown, neighbour)
    for _ in range(batches):
        pairing.take()
    return pairing.estimate()


def quiet(_now: float, generator: np.random.Generator) -> float:
    return float(generator.normal(1, 0.01))


def drifting(now: float, generator: np.random.Generator) -> float:
    """Ever slower: twice the time after two seconds."""
    return (1 + now / 2) * quiet(now, generator)


def two_clocks(now: float, generator: np.random.Generator) -> float:
    """A processor that changes between two clocks, 1 to 1.6, every 0.15 s."""
    return (1.6 if int(now / 0.15) % 2 else 1.0) * quiet(now, generator)


def interrupted(now: float, generator: np.random.Generator) -> float:
    """One block in four takes longer, some of them many times longer (Pareto with infinite variance)."""
    spike = generator.pareto(1.5) if generator.uniform() < 0.25 else 0.0
    return quiet(now, generator) + float(spike)


MACHINES = [quiet, drifting, two_clocks, interrupted]


@pytest.mark.parametrize("machine", MACHINES)
def test_the_quotient_does_not_see_the_machine(machine: Machine) -> None:
    for seed in range(20):
        assert measured(machine, seed, batches=16).ratio == pytest.approx(0.75, rel=0.05)


@pytest.mark.parametrize("machine", MACHINES)
def test_a_slowdown_is_told_on_another_machine_and_its_absence_too(machine: Machine) -> None:
    """The baseline is from the quiet machine, the check from a restless one; wrong verdicts never, open ones seldom."""
    base = measured(quiet, 1000)
    for slowdown, right, wrong in ((1.0, "pass", "fail"), (1.3, "fail", "pass")):
        verdicts = [compare("w", measured(machine, s, slowdown, LOOKS[-1]), base, BOUND).verdict for s in range(20)]
        assert wrong not in verdicts
        assert verdicts.count(right) == 20


@pytest.mark.parametrize("neighbour", MEASURED)
@pytest.mark.parametrize("then", [False, True])
def test_a_neighbour_on_the_same_core_is_no_slowdown_and_hides_none(neighbour: Neighbour, then: bool) -> None:
    """It was there when the baseline was made, or is there now; it lasts, so no batch is without it."""
    alone = (1.0, 1.0, 1.0)
    before, now = (neighbour, alone) if then else (alone, neighbour)
    base = measured(quiet, 1000, neighbour=before)
    for slowdown, wrong in ((1.0, "fail"), (1.3, "pass")):
        found = [compare("w", measured(quiet, s, slowdown, LOOKS[-1], now), base, BOUND) for s in range(20)]
        assert wrong not in [c.verdict for c in found]
    same = [compare("w", measured(quiet, s, 1.3, LOOKS[-1], before), base, BOUND).verdict for s in range(20)]
    assert same.count("fail") == 20, "the same neighbour as then hides nothing"


def test_what_a_neighbour_changed_widens_the_interval_by_hand() -> None:
    """Of two exact measurements, with the reference a quarter slower in units of the chain."""
    now, base = (RatioEstimate(r, r, r, 8, 64, contention) for r, contention in ((1.2, 5.0), (1.0, 4.0)))
    found = compare("w", now, base, BOUND)
    assert (found.low, found.high) == pytest.approx((1.2 / 1.25 - 1, 1.2 * 1.25 - 1))
    assert found.verdict == "inconclusive"
    assert "the reference takes +25% beside" in found.reason
    assert compare("w", replace(now, ratio=1.5, low=1.5, high=1.5), base, BOUND).verdict == "fail"
    assert compare("w", now, replace(base, contention=None), BOUND).verdict == "fail", "a file of earlier versions"


def test_the_quotient_by_hand() -> None:
    """Ten per cent of the way up eleven sorted times is the second; what is added above it changes nothing."""
    works, references = [3.0 + i for i in range(11)], [1.0 + i for i in range(11)]
    assert quotient(references, works) == pytest.approx(4 / 2)
    assert quotient([*references[:6], *[90.0] * 5], [*works[:6], *[70.0] * 5]) == pytest.approx(4 / 2)


def test_a_block_too_short_for_the_clock_is_refused() -> None:
    with pytest.raises(ValueError, match="too short"):
        quotient([1.0, 0.0], [1.0, 1.0])


@pytest.mark.parametrize("observations", [8, 9, 12, 16, 24, 32])
def test_the_interval_leaves_out_as_many_as_the_sign_test_allows(observations: int) -> None:
    """Against SciPy's binomial quantile: the interval is the widest cut that keeps 99 %."""
    values = [float(i) for i in range(1, observations + 1)]
    skip = int(stats.binom.ppf(0.005, observations, 0.5)) - 1
    while 2 * stats.binom.cdf(skip + 1, observations, 0.5) <= 0.01:
        skip += 1
    found = estimate(values, observations)
    assert (found.low, found.high) == (values[skip], values[-1 - skip])


def test_the_interval_covers_the_true_median_as_often_as_it_says() -> None:
    """Skewed observations with the median ln 2; 99 % wanted, 2000 tries."""
    generator = np.random.default_rng(3)
    tries = [estimate(generator.exponential(size=16).tolist(), 16) for _ in range(2000)]
    assert np.mean([t.low <= math.log(2) <= t.high for t in tries]) >= 0.985


def test_one_wild_batch_among_sixteen_moves_nothing() -> None:
    calm = [1.0 + i / 1000 for i in range(16)]
    wild = [*calm[:-1], 50.0]
    assert estimate(wild, 16).ratio == pytest.approx(estimate(calm, 16).ratio, rel=1e-3)
    assert estimate(wild, 16).high < 1.02


def test_the_change_and_its_interval_by_hand() -> None:
    """Both intervals are 3 % to either side, so the change's is sqrt(2) times that on the logarithmic scale."""
    now, base = (RatioEstimate(r, r / 1.03, r * 1.03, 8, 64) for r in (1.2, 1.0))
    found = compare("w", now, base, BOUND)
    assert found.change == pytest.approx(0.2)
    assert found.high == pytest.approx(1.2 * math.exp(math.sqrt(2) * math.log(1.03)) - 1)
    assert found.low == pytest.approx(1.2 / math.exp(math.sqrt(2) * math.log(1.03)) - 1)
    assert found.verdict == "fail"
    assert "+20.0%" in found.reason
    assert "+10.0%" in found.reason


@pytest.mark.parametrize(
    ("ratio", "width", "verdict", "said"),
    [
        (1.0, 1.02, "pass", "within"),
        (0.5, 1.02, "pass", "within"),
        (1.2, 1.02, "fail", "slower"),
        (1.11, 1.02, "inconclusive", "too close"),
        (1.0, 1.3, "inconclusive", "too noisy"),
        (1.2, 1.3, "inconclusive", "too noisy"),
    ],
)
def test_only_a_whole_interval_gives_a_verdict(ratio: float, width: float, verdict: str, said: str) -> None:
    now = RatioEstimate(ratio, ratio / width, ratio * width, 8, 64)
    found = compare("w", now, RatioEstimate(1.0, 0.99, 1.01, 8, 64), BOUND)
    assert found.verdict == verdict
    assert said in found.reason


def entry(**changes: Any) -> BaselineEntry:
    fields: dict[str, Any] = {
        "revision": 1,
        "reference": "network",
        "reference_revision": 1,
        "ratio": 1.0,
        "low": 0.98,
        "high": 1.02,
        "batches": 8,
        "pairs": 64,
        "work_ms": 5.0,
        "measured": "2026-01-01T00:00:00+00:00",
        "hardware": {},
        "libraries": {},
    }
    return BaselineEntry(**{**fields, **changes})


def test_writing_keeps_what_was_not_measured(tmp_path: Path) -> None:
    path = tmp_path / "new" / "baseline.json"
    write_baseline(path, {"a": entry(), "b": entry()})
    write_baseline(path, {"b": entry(ratio=1.01)})
    assert read_baseline(path) == Baseline(workloads={"a": (entry(),), "b": (entry(ratio=1.01),)})


def test_every_processor_has_an_entry_of_its_own(tmp_path: Path) -> None:
    path = tmp_path / "baseline.json"
    first, second = ({"cpu": "one", "isa": isa} for isa in (["avx2"], ["avx2", "amx_int8"]))
    for machine, ratio in ((first, 1.0), (second, 1.01), (first, 0.99)):
        write_baseline(path, {"a": entry(hardware=machine, ratio=ratio)})
    found = read_baseline(path)
    assert len(found.workloads["a"]) == 2
    for machine, ratio in ((first, 0.99), (second, 1.01)):
        kept = found.entry("a", processor_of(machine))
        assert kept is not None
        assert kept.ratio == ratio
    assert found.entry("a", ("two", ("avx2",))) is None


def test_a_file_of_an_earlier_version_holds_one_entry_each(tmp_path: Path) -> None:
    path = tmp_path / "baseline.json"
    path.write_text(json.dumps({"schema_version": 1, "workloads": {"a": entry().model_dump(mode="json")}}))
    assert read_baseline(path) == Baseline(workloads={"a": (entry(),)})


def test_a_failed_write_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "baseline.json"
    write_baseline(path, {"a": entry()})
    before = path.read_bytes()

    def broken(_descriptor: int) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("ttl_deploy.files.os.fsync", broken)
    with pytest.raises(KeyboardInterrupt):
        write_baseline(path, {"a": entry(ratio=1.01)})
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def damage(path: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    write_baseline(path, {"a": entry()})
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda c: c.update(schema_version=99), "newer"),
        (lambda c: c.pop("workloads"), "workloads"),
        (lambda c: c["workloads"]["a"][0].update(ratio=-1), "ratio"),
        (lambda c: c["workloads"]["a"][0].update(low=1.5), "order"),
        (lambda c: c["workloads"]["a"][0].update(ratio="fast"), "ratio"),
    ],
)
def test_a_damaged_baseline_is_refused_and_left(
    tmp_path: Path, change: Callable[[dict[str, Any]], Any], said: str
) -> None:
    path = tmp_path / "baseline.json"
    damage(path, change)
    before = path.read_bytes()
    for use in (lambda: read_baseline(path), lambda: write_baseline(path, {"b": entry()})):
        with pytest.raises(IntegrityError, match=said) as error:
            use()
        assert "baseline.json" in str(error.value)
    assert path.read_bytes() == before


def test_no_baseline_and_no_json(tmp_path: Path) -> None:
    with pytest.raises(BadInputError, match=r"gate .* --update"):
        read_baseline(tmp_path / "none.json")
    with pytest.raises(BadInputError, match="cannot be read"):
        read_baseline(tmp_path)
    (tmp_path / "half.json").write_text('{"workloads": {')
    with pytest.raises(IntegrityError, match="not valid JSON"):
        read_baseline(tmp_path / "half.json")


def test_percentages() -> None:
    assert parse_percent("10%") == pytest.approx(0.1)
    assert parse_percent(" 7.5 %") == pytest.approx(0.075)


@pytest.mark.parametrize("text", ["10", "0.1", "ten%", "%", "", "0%", "-5%", "nan%", "inf%", "1000%"])
def test_what_is_no_percentage_is_refused(text: str) -> None:
    with pytest.raises(BadInputError, match="is not a percentage"):
        parse_percent(text)
