"""A few of the attack's interruptions; the whole is `tests/fuzz/attack.py`."""

from pathlib import Path

import interrupted
import pytest
from interrupted import Cases, Command


@pytest.fixture(scope="module")
def commands(trained: Path, synthetic: Path) -> dict[str, Command]:
    return {command.name: command for command in interrupted.commands(synthetic, trained, trained / "onnx-fp32")}


def faults(cases: Cases) -> dict[str, str]:
    return {name: fault for name, attempt in cases if (fault := attempt())}


def test_a_training_killed_at_any_moment_is_finished_by_the_next(commands: dict[str, Command], tmp_path: Path) -> None:
    assert faults(interrupted.kills((commands["train"],), tmp_path, 1, seed=5)) == {}


def test_predictions_killed_at_any_moment_are_finished_by_the_next(
    commands: dict[str, Command], tmp_path: Path
) -> None:
    assert faults(interrupted.kills((commands["predict"],), tmp_path, 6, seed=1)) == {}


def test_predictions_of_two_at_once_are_those_of_one(commands: dict[str, Command], tmp_path: Path) -> None:
    assert faults(interrupted.pairs((commands["predict"],), tmp_path, 4, seed=1)) == {}


def test_a_full_disk_is_named_and_what_it_left_is_finished(commands: dict[str, Command], tmp_path: Path) -> None:
    if why := interrupted.why_no_disks(tmp_path):
        pytest.skip(why)
    chosen = (commands["predict"], commands["train"])
    assert faults(interrupted.disks(chosen, tmp_path, 3, seed=1)) == {}


def test_what_is_not_as_undisturbed_is_told(
    commands: dict[str, Command], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The judge itself: rows that another process wrote, something hidden that stays, a traceback."""
    command = commands["predict"]
    whole = interrupted.undisturbed(command, tmp_path)
    folder = tmp_path / "attempt"
    folder.mkdir()
    assert interrupted.repaired(command, whole, folder) is None
    (folder / ".left.tmp").touch()
    assert interrupted.repaired(command, whole, folder) == "left ['.left.tmp']"
    (folder / ".left.tmp").unlink()
    text = (folder / "out.csv").read_text()
    (folder / "out.csv").write_text(text.replace("0.", "0.0"))
    assert interrupted.repaired(command, whole, folder) == "other files ['out.csv/']"
    (folder / "out.csv").write_text("path\n")
    assert "exit code 2" in (interrupted.repaired(command, whole, folder) or "")
    monkeypatch.setattr(interrupted, "_ended", lambda process: process.communicate()[0] + "Traceback")
    (folder / "out.csv").unlink()
    assert "Traceback" in (interrupted.repaired(command, whole, folder) or "")
