"""The page of what the attack, the load and the soak recorded."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import attack
import hostile
import reliability

PROGRAM = Path(__file__).parents[2] / "benchmarks" / "reliability.py"
MADE = {"command": "x.py", "hardware": {"cpu": "A", "physical_cores": 2, "system": "Linux 6, Python 3.11.7"}}
ROW = {"answered": 9, "refused": 1, "per_second": 3.0, "p50_ms": 1.5, "p99_ms": 2.5, "wrong": []}


def tally(cases: int, faults: list[list[str]]) -> dict[str, Any]:
    return {
        "cases": cases,
        "survived": cases - len(faults),
        "longest_s": 0.5,
        "most_bytes": 3 * 2**20,
        "faults": faults,
    }


def test_every_category_has_its_words() -> None:
    assert list(reliability.WHAT) == list(attack.CATEGORIES)
    assert set(reliability.INTERRUPTED) == attack.CATEGORIES.keys() - hostile.CATEGORIES.keys()


def test_it_adds_up_and_hides_no_case_that_did_not_survive(tmp_path: Path) -> None:
    made = {**MADE, "libraries": {"torch": "2"}}
    kills = tally(3, [["train at 2 s", "said nothing"]])
    load = {"bare_engine": ROW, "clients": {"32": ROW, "8": ROW}, "ratio": 1.0, "ratio_interval": [0.9, 1.1]}
    soak = {"seconds": 1800, "requests": 5, "wrong": ["a"], "answers": {"good 200": 5}, "server_ended_by_itself": False}
    records = {
        "attack": {**made, "categories": {"images": tally(7, []), "kills": kills}},
        "load": {**made, **load},
        "soak": {**made, **soak, "memory_early_mib": 100.0, "memory_late_mib": 101.0},
    }
    for name, record in records.items():
        (tmp_path / name).write_text(json.dumps(record))
    command = [
        sys.executable,
        str(PROGRAM),
        *(str(tmp_path / name) for name in records),
        "--report",
        str(tmp_path / "p"),
    ]
    subprocess.run(command, check=True)
    page = (tmp_path / "p").read_text()
    assert "**10 cases, 9 survived.**" in page
    assert "- kills: train at 2 s: said nothing" in page
    assert "| 32 | 3.0 | 1.5 | 2.5 | 1 |" in page
    assert "32 clients by 8: 1.0 of the answers per second (95 % interval 0.9 to 1.1)" in page
    assert "30 minutes" in page
    assert "1 answered wrongly" in page
    assert "it did not end" in page
