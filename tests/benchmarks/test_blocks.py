"""How few blocks a benchmark takes: none for which the ratio of two ways has no interval."""

from __future__ import annotations

import runpy
import sys
from pathlib import Path

import numpy as np
import pytest
from blocks import enough_blocks

from ttl_deploy.latency.duel import LEAST_BLOCKS, ratio_of_medians

PROGRAMS = ("agreement", "kept_memory", "latency_cpu", "speed", "startup")


def test_the_least_number_is_the_first_that_has_an_interval() -> None:
    taken = np.random.default_rng(0).uniform(1, 2, LEAST_BLOCKS).tolist()
    assert enough_blocks(str(LEAST_BLOCKS)) == LEAST_BLOCKS
    assert np.isfinite(ratio_of_medians(taken, taken[::-1])).all()


@pytest.mark.parametrize("name", PROGRAMS)
@pytest.mark.parametrize("said", ["many", str(LEAST_BLOCKS - 1)])
def test_fewer_are_refused_before_anything_is_measured(
    name: str, said: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    program = Path(__file__).parents[2] / "benchmarks" / f"{name}.py"
    option = "--rounds" if '"--rounds"' in program.read_text() else "--blocks"
    monkeypatch.setattr(sys, "argv", [str(program), option, said])
    with pytest.raises(SystemExit) as stopped:
        runpy.run_path(str(program), run_name="__main__")
    assert stopped.value.code == 2
    assert f"{option}: {said}: a ratio has an interval" in capsys.readouterr().err
