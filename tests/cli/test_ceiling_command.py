"""`ceiling` on the command line: what it prints for people and machines, and keeps."""

import json
from pathlib import Path

import pytest

from ttl_deploy.cli.main import run
from ttl_deploy.latency import ceiling as room


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Matrices and tries that take no time, in this process."""
    monkeypatch.setattr(room, "SIZE", {"cpu": 128})
    monkeypatch.setattr(room, "_SECONDS", 0.02)
    monkeypatch.setattr(room, "_ARRAY_BYTES", 2**20)
    monkeypatch.setattr(room, "_measure_apart", room.measure_here)


def test_the_ceiling_is_printed_and_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    asked = ["ceiling", "--threads", "1", "--cache", str(tmp_path / "cache"), "--allow-inconclusive"]
    assert run(asked) == 0
    assert "GOP/s" in capsys.readouterr().out
    out = tmp_path / "ceiling.json"
    assert run([*asked, "--json", "--out", str(out)]) == 0
    (found,) = json.loads(capsys.readouterr().out)
    assert {rate["what"] for rate in found["rates"]} >= {"fp32", "bf16", "int8", "copy", "triad"}
    assert json.loads(out.read_text()) == [found]


def test_a_disturbed_ceiling_is_exit_code_1_unless_allowed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room, "judge", lambda *_: "others were busy")
    asked = ["ceiling", "--threads", "1", "--cache", str(tmp_path)]
    assert run(asked) == 1
    assert run([*asked, "--allow-inconclusive"]) == 0
    assert not list(tmp_path.rglob("*.json"))


def test_each_number_of_threads_has_its_ceiling(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from ttl_deploy import ceiling

    made = room.measure_here(1, "cpu")
    monkeypatch.setattr(room, "_measure_apart", lambda threads, device: made.model_copy(update={"threads": threads}))
    assert [each.threads for each in ceiling(threads=(1, 2, 1), cache=tmp_path)] == [1, 2]
    assert [each.threads for each in ceiling(threads=2, cache=tmp_path)] == [2]


@pytest.mark.parametrize(("option", "value"), [("--threads", "1,x"), ("--device", "tpu")])
def test_wrong_options_are_one_line(option: str, value: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["ceiling", option, value]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert value in line
