"""SIGTERM ends every command as Ctrl-C does: one line, an exit code of its own, and files that can be gone on with."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ttl_deploy.artifact import Artifact
from ttl_deploy.cli import main
from ttl_deploy.cli.main import run

# Said where the signal may come: a command that says it before its `try` may get the signal before that too.
IN = 'print("in", file=sys.stderr, flush=True)'

WORDS = {signal.SIGINT: "interrupted", signal.SIGTERM: "ended by SIGTERM"}

# A command that hangs where a real one works, and the signal handlers of the program itself.
STUCK = """
import os, signal, sys, time
from ttl_deploy.cli import main
def stuck(*_, **__):
    {body}
import ttl_deploy.data.synthetic
ttl_deploy.data.synthetic.write_synthetic = stuck
sys.argv[1:] = ["synthetic", "nowhere"]
main.main()
"""


def started(*arguments: str, ignoring: bool = False) -> "subprocess.Popen[str]":
    """A process that hears Ctrl-C, which what a shell starts in the background does not, or ignores all."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(entry for entry in sys.path if entry)}
    new = signal.SIG_IGN if ignoring else signal.default_int_handler
    before = signal.signal(signal.SIGINT, new)
    try:
        return subprocess.Popen([sys.executable, *arguments], stderr=subprocess.PIPE, text=True, env=environment)
    finally:
        signal.signal(signal.SIGINT, before)


def stuck(body: str, *, ignoring: bool = False) -> "subprocess.Popen[str]":
    process = started("-c", STUCK.format(body=body), ignoring=ignoring)
    assert process.stderr is not None
    assert process.stderr.readline() == "in\n"
    return process


@pytest.mark.parametrize("how", WORDS)
def test_a_signal_is_one_line_and_its_own_exit_code(how: signal.Signals) -> None:
    process = stuck(f"{IN}; time.sleep(60)")
    process.send_signal(how)
    _, said = process.communicate(timeout=30)
    assert (process.returncode, said) == (128 + how, f"error: {WORDS[how]}; nothing was left half done\n")


def test_what_a_library_makes_of_a_signal_is_still_the_signal() -> None:
    body = f"""
    try:
        {IN}
        time.sleep(60)
    except BaseException:
        raise RuntimeError("something failed") from None
    """
    process = stuck(body.strip())
    process.send_signal(signal.SIGTERM)
    _, said = process.communicate(timeout=30)
    assert (process.returncode, said) == (143, "error: ended by SIGTERM; nothing was left half done\n")


def test_a_signal_that_a_finaliser_swallows_comes_again() -> None:
    body = f"""
    class Held:
        def __del__(self):
            {IN}
            time.sleep(60)
    held = Held()
    del held
    time.sleep(60)
    """
    process = stuck(body.strip())
    process.send_signal(signal.SIGTERM)
    _, said = process.communicate(timeout=30)
    assert (process.returncode, said) == (143, "error: ended by SIGTERM; nothing was left half done\n")


def test_a_second_signal_ends_a_command_that_tidies_up_forever_but_not_the_one_that_timeout_doubles() -> None:
    body = f"""
    try:
        {IN}
        time.sleep(60)
    finally:
        os.kill(os.getpid(), signal.SIGTERM)
        print("tidying", file=sys.stderr, flush=True)
        time.sleep(60)
    """
    process = stuck(body.strip())
    assert process.stderr is not None
    process.send_signal(signal.SIGTERM)
    assert process.stderr.readline() == "tidying\n"
    time.sleep(1.2)
    assert process.poll() is None
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=60)
    assert process.returncode == -signal.SIGTERM


def test_what_the_starter_had_ignored_stays_ignored() -> None:
    process = stuck(f"{IN}; time.sleep(1)", ignoring=True)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=30)
    assert (process.returncode, said) == (0, "")


@pytest.mark.parametrize(
    ("arguments", "left"),
    [
        (["train", "data", "--out", "none"], "nothing was written"),
        (["train", "data", "--out=my run"], "`ttl-deploy train --resume 'my run'` goes on"),
        (["train", "--resume", "my run"], "`ttl-deploy train --resume 'my run'` goes on"),
        (
            ["train", "data", "--repeats", "3", "--out", "series"],
            "finished runs are kept, and the same command goes on",
        ),
        (["search", "data", "--out", "s", "--overwrite"], "and the same command without --overwrite goes on"),
        (["predict", "a", "b", "--out", "c"], "and the same command goes on"),
        (["export", "run"], "nothing was left half done"),
    ],
)
def test_what_is_left_is_told_as_it_is(
    arguments: list[str], left: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("my run", "series"):
        (tmp_path / name).mkdir()
    (tmp_path / "my run" / "config.yaml").touch()
    monkeypatch.chdir(tmp_path)
    assert main._left(arguments).endswith(left)


def until(reached: Callable[[], bool], process: "subprocess.Popen[str]") -> None:
    end = time.monotonic() + 120
    while not reached():
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < end
        time.sleep(0.01)


def ended(process: "subprocess.Popen[str]", how: signal.Signals) -> str:
    """The last line of a command that a signal ended."""
    process.send_signal(how)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 128 + how, said
    assert "Traceback" not in said
    return said.splitlines()[-1]


def pictures(folder: Path, count: int) -> Path:
    for number in range(count):
        place = folder / "ab"[number % 2] / f"{number}.png"
        place.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.random.default_rng(number).integers(0, 255, (8, 8), dtype=np.uint8)).save(place)
    return folder


def test_sigterm_in_train_leaves_a_run_that_resumes_and_says_so(tmp_path: Path) -> None:
    data, folder = pictures(tmp_path / "data", 24), tmp_path / "run"
    small = ("--backbone", "resnet18", "--method", "ttl", "--cut", "layer1.1", "--weights", "random", "--device", "cpu")
    more = ("--image-size", "32", "--batch-size", "8", "--cache", str(tmp_path / "cache"))
    process = started("-m", "ttl_deploy", "train", str(data), *small, *more, "--epochs", "5000", "--out", str(folder))
    history = folder / "history.jsonl"
    until(lambda: history.exists() and history.read_text().count("\n") > 1, process)
    said = ended(process, signal.SIGTERM)
    way_on = f"finished epochs are kept, and `ttl-deploy train --resume {folder}` goes on"
    assert said == f"error: ended by SIGTERM; {way_on}"
    assert [p.name for p in tmp_path.glob(".*")] + [p.name for p in folder.glob(".*")] == []
    wanted = history.read_text().count("\n") + 2
    assert run(["train", "--resume", str(folder), "--epochs", str(wanted), "--cache", str(tmp_path / "cache")]) == 0
    assert history.read_text().count("\n") == wanted


def test_sigterm_in_predict_leaves_whole_rows_that_are_gone_on_with(
    artifact: Artifact, synthetic: Path, tmp_path: Path
) -> None:
    scans, out, table = sorted(synthetic.glob("*/*.png")), tmp_path / "out.csv", tmp_path / "many.csv"
    table.write_text("path,id\n" + "".join(f"{scans[i % 20]},{i}\n" for i in range(3000)))
    arguments = ["predict", str(artifact.folder), str(table), "--batch-size", "4", "--threads", "1", "--out", str(out)]
    process = started("-m", "ttl_deploy", *arguments)
    until(lambda: out.exists() and out.stat().st_size > 10_000, process)
    said = ended(process, signal.SIGTERM)
    assert said == "error: ended by SIGTERM; finished rows of --out are kept, and the same command goes on"
    assert out.read_bytes().endswith(b"\n")
    assert 100 < len(out.read_text().splitlines()) < 3000
    assert run(arguments) == 0
    assert len(out.read_text().splitlines()) == 3001
