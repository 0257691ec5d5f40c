"""The report of `search_comparison.py` from searches that are there, some of them not finished."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "search_comparison.py"


def write(path: Path, content: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))


def searched(folder: Path, cut: str, left: list[str], work: float, told: bool | None) -> None:
    rows = [{"cut": c, "parameters": n, "macs": n, "trainable": n} for n, c in enumerate(("stem", "layer1.0"))]
    result = {
        "cut": cut,
        "open": left,
        "told_apart": told,
        "divisions": 3 if len(left) > 1 else 1,
        "together": {name: [0.9, 0.05] for name in left},
        "test": {"auroc": 0.8, "auprc": 0.7},
        "candidates": rows,
        "work": work,
        "cpu_seconds": 5.0,
        "seconds": 6.0,
    }
    write(folder / "result.json", result)


def test_the_report_shows_what_is_finished_and_costs_against_every_cut_once(tmp_path: Path) -> None:
    task = tmp_path / "out" / "few" / "resnet18"
    write(task / "task.json", {"title": "few: resnet18", "conditions": "32 pixels.", "command": "x.py"})
    home = task / "seed-0"
    searched(home / "exhaustive", "layer1.0", ["stem", "layer1.0"], 8e12, told=False)
    searched(home / "svcca", "layer1.0", ["layer1.0"], 1e12, told=None)
    (home / "auto").mkdir()
    for name, work in (("stem", 1e12), ("layer1.0", 3e12), ("stem-d1", 4e12)):
        run = home / "exhaustive" / "trials" / name
        record = {"name": name, "run": str(run), "finished": "-d" not in name, "work": work}
        write(home / "exhaustive" / "records" / f"{name}@8.json", record)
        write(run / "metrics.json", {"test": {"auroc": 0.6}})
    write(home / "svcca" / "records" / "layer1.0@8.json", {**record, "name": "layer1.0", "finished": True})
    report = tmp_path / "report.md"
    command = [sys.executable, str(SCRIPT), "--out", str(tmp_path / "out"), "--report", str(report)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    lines = [line for line in report.read_text().splitlines() if line.startswith(("| exhaustive", "| svcca", "| auto"))]
    first = (
        "| exhaustive | `layer1.0` | 0.800 | 0.700 | stem, layer1.0 | `stem` 0.600 | 0.900 ± 0.050 (3) | 8.0 | 2.00 |"
    )
    second = "| svcca | `layer1.0` | 0.800 | 0.700 | not compared | `layer1.0` 0.600 | 0.900 ± 0.050 (1) | 1.0 | 0.25 |"
    assert lines == [f"{first} 5 | 6 |", f"{second} 5 | 6 |"]


def test_what_an_earlier_folder_showed_stays_in_the_report(tmp_path: Path) -> None:
    report = tmp_path / "report.md"
    for seed, place in (("seed-0", "first"), ("seed-1", "second")):
        task = tmp_path / place / "few" / "resnet18"
        write(task / "task.json", {"title": "few: resnet18", "conditions": "32 pixels.", "command": "x.py"})
        searched(task / seed / "svcca", "layer1.0", ["layer1.0"], 1e12, told=None)
        run = task / seed / "svcca" / "trials" / "layer1.0"
        record = {"name": "layer1.0", "run": str(run), "finished": True, "work": 1e12}
        write(task / seed / "svcca" / "records" / "layer1.0@8.json", record)
        write(run / "metrics.json", {"test": {"auroc": 0.6}})
        command = [sys.executable, str(SCRIPT), "--out", str(tmp_path / place), "--report", str(report)]
        assert subprocess.run(command, capture_output=True, text=True, check=False).returncode == 0
    text = report.read_text()
    assert text.count("| svcca | `layer1.0` | 0.800 |") == 2
    assert text.index("seed 0:") < text.index("seed 1:")
    assert "| svcca | 0.800 | 0.600 |  |" in text, "the mean of both seeds"
    write(task / "task.json", {"title": "few: resnet18", "conditions": "64 pixels.", "command": "x.py"})
    assert subprocess.run(command, capture_output=True, text=True, check=False).returncode == 0
    assert report.read_text().count("| svcca | `layer1.0` | 0.800 |") == 1, "other conditions are another task"
