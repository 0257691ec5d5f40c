"""The bootstrap's benchmark at a small size: both sides are of the same draws, and the record holds what is printed."""

import json
import subprocess
import sys
from pathlib import Path

import bootstrap
import numpy as np
import pytest

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "bootstrap.py"


def sizes(task: str, classes: int) -> bootstrap.Sizes:
    return bootstrap.Sizes(300, 100, classes, task, resamples=15, loop=12, seed=1)


@pytest.mark.parametrize(("task", "classes"), [("multiclass", 2), ("multiclass", 3), ("multilabel", 4)])
def test_both_sides_say_the_same_of_the_same_draws(task: str, classes: int) -> None:
    ours, loop = bootstrap.our_areas(sizes(task, classes)), bootstrap.looped_areas(sizes(task, classes))
    assert (len(ours), len(loop)) == (16, 13)
    assert ours[1:13] == pytest.approx(loop[1:], abs=1e-12)
    assert len(set(loop[1:].round(6))) > 6, "other draws give other values"


def test_the_ratio_is_for_one_resample_and_a_difference_is_told() -> None:
    ours, loop = np.array([2.0, 0.5, 0.6, 0.7, 0.8]), np.array([3.0, 0.5, 0.61])
    found = bootstrap.compared((ours, 100.0), (loop, 90.0))
    assert found["ratio"] == pytest.approx((3 / 2) / (2 / 4))
    assert found["largest_difference"] == pytest.approx(0.01)
    assert found["loop"] == {"resamples": 2, "seconds": 3.0, "peak_mib": 90.0}


def test_where_resamples_lack_a_class_it_ends_and_says_so() -> None:
    rare = bootstrap.Sizes(60, 60, 60, "multiclass", resamples=4, loop=2, seed=1)
    sides = [(work(rare), 0.0) for work in (bootstrap.our_areas, bootstrap.looped_areas)]
    assert [len(values) for values, _ in sides] == [1, 1]
    with pytest.raises(SystemExit, match="nearly every resample lacks a class"):
        bootstrap.compared(*sides)


def test_the_program_prints_and_keeps_its_record(tmp_path: Path) -> None:
    out = tmp_path / "record.json"
    small = ["--images", "150", "--patients", "60", "--resamples", "20", "--loop", "3", "--out", str(out)]
    done = subprocess.run([sys.executable, str(SCRIPT), *small], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    record = json.loads(out.read_text())
    assert record["evaluate"]["resamples"] == record["changes"]["resamples"] == record["ours"]["resamples"] == 20
    assert record["loop"]["resamples"] == 3
    assert record["largest_difference"] < 1e-12
    assert all(record[name]["peak_mib"] > 20 for name in ("evaluate", "changes", "ours", "loop"))
    printed = done.stdout.splitlines()
    assert printed[0] == "150 images of 60 patients, 2 classes (multiclass)"
    assert [line.partition(":")[0] for line in printed[1:5]] == ["evaluate", "changes", "ours", "loop"]
