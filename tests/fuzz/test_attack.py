"""A few cases of every category of the attack, and what its program says of those that do not survive."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import attack
import hostile
import pytest

FEW = {"images": 64, "dicom": 30, "npz": 24, "tables": 12, "artifacts": 8, "requests": 60}
"""Damaged runs, weights and graphs have tests of their own in `test_damaged_runs.py`."""


@pytest.fixture(scope="module")
def place(trained: Path, synthetic: Path, tmp_path_factory: pytest.TempPathFactory) -> hostile.Place:
    """On a copy of the images, among which tables are written."""
    folder = tmp_path_factory.mktemp("attack")
    data = folder / "data"
    for source in [synthetic / "labels.csv", *synthetic.rglob("*.png")]:
        target = data / source.relative_to(synthetic)
        target.parent.mkdir(parents=True, exist_ok=True)
        os.link(source, target)
    return hostile.place_of(folder, trained, data)


@pytest.mark.parametrize("category", FEW)
def test_every_hostile_input_gets_a_result_or_one_line(category: str, place: hostile.Place) -> None:
    pytest.importorskip("pydicom")
    _, make = hostile.CATEGORIES[category]
    faults, count = [], 0
    for name, attempt in make(place, FEW[category], 3):
        fault = attack.judged(attempt)["fault"]
        faults += [] if fault is None else [f"{name}: {fault}"]
        count += 1
    assert not faults, "\n".join(faults)
    assert count == FEW[category]


@pytest.mark.parametrize("category", ["images", "dicom", "npz", "tables", "weights", "artifacts", "graphs", "runs"])
def test_the_same_seed_gives_the_same_cases(category: str, place: hostile.Place) -> None:
    _, make = hostile.CATEGORIES[category]
    first, again, other = ([name for name, _ in make(place, 40, seed)] for seed in (0, 0, 1))
    assert first == again
    assert len(first) == 40
    assert category in ("images", "npz", "weights", "graphs", "tables", "dicom") or first != other


def test_an_attempt_that_raises_or_takes_long_did_not_survive(monkeypatch: pytest.MonkeyPatch) -> None:
    def slow() -> None:
        until = time.process_time() + 0.2
        while time.process_time() < until:
            pass

    assert attack.judged(lambda: None)["fault"] is None
    assert attack.judged(lambda: "said nothing")["fault"] == "said nothing"
    assert attack.judged(lambda: str(1 / 0))["fault"].startswith("raised ZeroDivisionError")
    monkeypatch.setattr(attack, "LONGEST_S", 0.1)
    assert attack.judged(slow)["fault"].startswith("took 0.")


def test_an_attempt_that_takes_much_did_not_survive() -> None:
    """In a process of its own, as in the attack: memory of earlier tests is given back at any moment, and counts."""
    code = (
        "import attack\n"
        "attack.LONGEST_S, attack.MOST_BYTES = 60, 20 * 2**20\n"
        "print(attack.judged(lambda: None if bytearray(40 * 2**20).count(0) == 40 * 2**20 else 'lost')['fault'])\n"
    )
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)
    assert done.stdout.strip().endswith("GiB"), done


def test_a_worker_that_dies_or_hangs_costs_one_case(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second case kills its process, the fourth never ends; the others are counted."""
    worker = tmp_path / "worker.py"
    worker.write_text(
        "import json, os, sys, time\n"
        "first = int(sys.argv[sys.argv.index('--first') + 1])\n"
        "for number in range(first, 5):\n"
        "    if number == 1:\n        os.kill(os.getpid(), 9)\n"
        "    if number == 3:\n        time.sleep(600)\n"
        "    print(json.dumps({'name': str(number), 'fault': None, 'seconds': 0.5, 'memory': 7}), flush=True)\n"
    )
    monkeypatch.setattr(attack, "__file__", str(worker))
    monkeypatch.setattr(attack, "SILENCE_S", 3.0)
    tally = attack.attacked(tmp_path, "images", 5, seed=0)
    assert (tally.cases, tally.survived, tally.longest_s, tally.most_bytes) == (5, 3, 0.5, 7)
    assert tally.faults == [("case 1", "its process ended with -9"), ("case 3", "no end within 3 s")]


def test_the_program_counts_and_reports(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: hostile.Place) -> None:
    def two(place: hostile.Place, count: int, seed: int) -> Iterator[tuple[str, hostile.Attempt]]:
        yield "good", lambda: None
        yield "bad", lambda: "said nothing"

    def here(work: Path, category: str, count: int, seed: int) -> attack.Tally:
        tally = attack.Tally()
        for name, attempt in attack.CATEGORIES[category][1](place, count, seed):
            tally.add(name, **attack.judged(attempt))
        return tally

    monkeypatch.setattr(attack, "CATEGORIES", {"odd": (2, two)})
    monkeypatch.setattr(hostile, "made_place", lambda folder: place)
    monkeypatch.setattr(attack, "attacked", here)
    report = tmp_path / "report.json"
    assert attack.main(["--work", str(tmp_path), "--report", str(report)]) == 1
    found = json.loads(report.read_text())["categories"]["odd"]
    assert (found["cases"], found["survived"], found["faults"]) == (2, 1, [["bad", "said nothing"]])
