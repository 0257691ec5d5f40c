"""`history.jsonl`: a last line cut short is left out and told, every other damage refused by its line."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from ttl_deploy.errors import DamagedError
from ttl_deploy.progress import SILENT
from ttl_deploy.training.run import Run, mend_lines, open_run, read_timing

Rows = list[dict[str, object]]


def swapped(rows: Rows) -> Rows:
    return rows[::-1]


def changed(name: str, value: object) -> Callable[[Rows], Rows]:
    return lambda rows: [rows[0], {**rows[1], name: value}]


WRONG: dict[str, tuple[Callable[[Rows], Rows], int]] = {
    "another order": (swapped, 1),
    "a gap": (lambda rows: rows[1:], 1),
    "an epoch twice": (lambda rows: [*rows, rows[1]], 3),
    "a text for a number": (changed("val_auprc", "0.9"), 2),
    "a truth for a number": (changed("train_loss", True), 2),
    "a number for a truth": (changed("best", 1), 2),
    "a number that is not finite": (changed("val_loss", float("nan")), 2),
    "an epoch of a half": (changed("epoch", 1.5), 2),
    "a name that no epoch has": (changed("loss", 0.1), 2),
    "a list for a row": (lambda rows: [rows[0], [1]], 2),  # type: ignore[list-item]
    "a row without its loss": (lambda rows: [{k: v for k, v in rows[0].items() if k != "train_loss"}, rows[1]], 1),
}


@pytest.fixture
def run(run_copy: Path) -> Run:
    return open_run(run_copy)


@pytest.mark.parametrize("wrong", WRONG)
def test_a_damaged_line_is_refused_by_its_number(wrong: str, run: Run) -> None:
    change, line = WRONG[wrong]
    rows = change(run.history())
    (run.folder / "history.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(DamagedError, match=rf"history\.jsonl:{line}: "):
        run.history()


def test_a_last_line_cut_short_is_left_out(run: Run) -> None:
    path, rows = run.folder / "history.jsonl", run.history()
    path.write_text(path.read_text()[:-9])
    assert run.history() == rows[:-1]
    (run.folder / "timing.jsonl").write_text('{"epoch": 1, "seconds": 2.5}\n{"epo')
    assert [row.seconds for row in read_timing(run.folder)] == [2.5]
    mend_lines(run.folder, SILENT)
    assert path.read_text().count("\n") == len(rows) - 1
    assert path.read_text().endswith("\n")
