"""Commands that are killed, meet a full disk, or run twice at once, and whether the next one makes all good again.

The categories are those of `hostile.py` in form: pairs of a name and an attempt, which returns how the contract was
broken. The contract of an interrupted command: no traceback, no process left; what it had begun is finished by the same
command, or by the one that it names, to the same files as those of an undisturbed one; nothing hidden stays behind.
"""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
from occasion import content, files

Attempt = Callable[[], str | None]
Cases = Iterator[tuple[str, Attempt]]

_LONGEST_S = 180.0
"""Of one command, wall time; it needs a few seconds."""
_MARK = "TTL_DEPLOY_ATTEMPT"
"""Variable of the environment by which an attempt knows its processes again."""
_KEPT = ("out/.lock",)
"""A search's lock stays; which process has it is the system's to know."""
_SPACE = 256 * 2**20
"""Bytes of a disk that has enough."""


@dataclass(frozen=True)
class Command:
    """A command that writes.

    Attributes:
        name: What an attempt is called by.
        arguments: Of the program, which writes in the folder where it runs.
        made: The parts of that folder which an undisturbed command and a repaired one share.
        before: Makes what the folder has to hold at the beginning.
    """

    name: str
    arguments: tuple[str, ...]
    made: tuple[str, ...]
    before: Callable[[Path], object] = field(default=lambda _folder: None)


@dataclass(frozen=True)
class Whole:
    """What an undisturbed command made, and how long it took."""

    seconds: float
    files: dict[str, Any]
    bytes: int


def commands(data: Path, run: Path, artifact: Path) -> tuple[Command, ...]:
    """Every command that writes more than a line.

    Args:
        data: Folder with `labels.csv`.
        run: A finished run.
        artifact: An artifact of it.
    """
    table = str(data / "labels.csv")
    training = ["--backbone", "resnet18", "--image-size", "32", "--weights", "random", "--precision", "fp32"]
    training += ["--batch-size", "16", "--learning-rate", "0.001"]

    training += ["--cache", "cache", "--out", "out"]
    train = ["train", table, *training, "--cut", "stem", "--device", "cpu", "--epochs", "4"]
    search = ["search", table, *training, "--device", "cpu", "--threads", "1", "--epochs", "2", "--no-latency"]
    search += ["--strategy", "exhaustive", "--divisions", "1", "--max-params", "0.1M"]
    export = ["export", str(run), "--format", "onnx", "--cache", "cache", "--out", "out"]
    predict = ["predict", str(artifact), table, "--batch-size", "1", "--out", "out.csv"]
    bench = ["bench", str(artifact), "--runtime", "onnxruntime", "--rounds", "1", "--min-samples", "20", "--no-whole"]
    bench += ["--min-seconds", "0.1", "--no-roofline", "--allow-inconclusive", "--out", "out.json"]
    trained = ("out/best.safetensors", "out/history.jsonl", "out/predictions.csv", "out/split.csv", "out/config.yaml")
    return (
        Command("train", tuple(train), (*trained, "out/data.json")),
        Command("search", tuple(search), ("out/records", "out/result.json")),
        Command("export", tuple(export), ("out",)),
        Command("export --overwrite", (*export, "--overwrite"), ("out",), _older(artifact)),
        Command("predict", tuple(predict), ("out.csv",)),
        Command("bench", tuple(bench), ()),
    )


def _older(artifact: Path) -> Callable[[Path], object]:
    """A folder that is to be overwritten: the artifact with a graph that is not the right one."""

    def copy(folder: Path) -> None:
        shutil.copytree(artifact, folder / "out")
        (folder / "out" / "model.onnx").write_bytes(b"older")

    return copy


def _making(what: tuple[Command, ...]) -> tuple[Command, ...]:
    return tuple(command for command in what if command.made)


def _turns(what: tuple[Command, ...], scratch: Path, count: int) -> Iterator[tuple[Command, Whole, Path]]:
    """Commands in turns, each with what it makes undisturbed, and a folder for the attempt."""
    whole = {command.name: undisturbed(command, scratch) for command in what}
    for number in range(count):
        command = what[number % len(what)]
        yield command, whole[command.name], scratch / f"attempt-{number}"


def kills(what: tuple[Command, ...], scratch: Path, count: int, seed: int) -> Cases:
    """SIGKILL, SIGTERM or SIGINT at a moment drawn from the time that the command takes."""
    draw = random.Random(seed)
    for command, whole, folder in _turns(what, scratch, count):
        how = draw.choice((signal.SIGKILL, signal.SIGKILL, signal.SIGTERM, signal.SIGINT))
        after = draw.uniform(0, whole.seconds)
        yield f"{command.name} {how.name} after {after:.2f} s", _killed(command, whole, folder, how, after)


def _killed(command: Command, whole: Whole, folder: Path, how: signal.Signals, after: float) -> Attempt:
    def attempt() -> str | None:
        with _folder(folder, command):
            process = begun(command.arguments, folder)
            time.sleep(after)
            process.send_signal(how)
            said = _ended(process)
            allowed = {0, -how} | ({128 + how} if how != signal.SIGKILL else set())
            return (
                _unlike(f"interrupted, exit code {process.returncode}: {said[-300:]}", process.returncode in allowed)
                or _traceback(said)
                or _alive(folder)
                or repaired(command, whole, folder)
            )

    return attempt


def disks(what: tuple[Command, ...], scratch: Path, count: int, seed: int) -> Cases:
    """A disk that is full at a size drawn from what the command writes, and that has enough space afterwards."""
    draw = random.Random(seed)
    for command, whole, folder in _turns(_making(what), scratch, count):
        size = draw.randrange(8192, max(16384, round(1.2 * whole.bytes)))
        yield f"{command.name} with {size} bytes", _full(command, whole, folder, size)


def _full(command: Command, whole: Whole, folder: Path, size: int) -> Attempt:
    def attempt() -> str | None:
        folder.mkdir()
        subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)], check=True)
        try:
            return _on_full_disk(command, whole, folder)
        finally:
            subprocess.run(["umount", "-l", str(folder)], check=True)
            folder.rmdir()

    return attempt


def _on_full_disk(command: Command, whole: Whole, folder: Path) -> str | None:
    try:
        command.before(folder)
    except OSError:
        return None  # not even what was there before has place
    process = begun(command.arguments, folder)
    said = _ended(process)
    fault = (
        _unlike(f"exit code {process.returncode}: {said[-300:]}", process.returncode in (0, 2))
        or _traceback(said)
        or _unlike(f"no word of the disk: {said[-300:]}", process.returncode == 0 or "space" in said)
    )
    subprocess.run(["mount", "-o", f"remount,size={_SPACE}", str(folder)], check=True)
    return fault or repaired(command, whole, folder)


def pairs(what: tuple[Command, ...], scratch: Path, count: int, seed: int) -> Cases:
    """The same command twice at once, the second begun a moment later."""
    draw = random.Random(seed)
    for command, whole, folder in _turns(_making(what), scratch, count):
        later = draw.uniform(0, whole.seconds)
        yield f"{command.name} and again after {later:.2f} s", _twice(command, whole, folder, later)


def _twice(command: Command, whole: Whole, folder: Path, later: float) -> Attempt:
    def attempt() -> str | None:
        with _folder(folder, command):
            first = begun(command.arguments, folder)
            time.sleep(later)
            both = [first, begun(command.arguments, folder)]
            said = [_ended(process) for process in both]
            codes = [process.returncode for process in both]
            right = 0 in codes and set(codes) <= {0, 2}
            return (
                _unlike(f"exit codes {codes}: {' | '.join(text[-300:] for text in said)}", right)
                or _traceback(said[0] + said[1])
                or repaired(command, whole, folder)
            )

    return attempt


def why_no_disks(scratch: Path) -> str | None:
    """Why no small disk can be mounted here; None where it can."""
    folder = scratch / "may-mount"
    folder.mkdir(parents=True, exist_ok=True)
    command = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(folder)]
    try:
        subprocess.run(command, check=True, capture_output=True)
        subprocess.run(["umount", str(folder)], check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        return "mounting a small disk needs more rights"
    finally:
        folder.rmdir()
    return None


def undisturbed(command: Command, scratch: Path) -> Whole:
    """What the command makes when nothing comes between.

    Raises:
        RuntimeError: It fails.
    """
    folder = scratch / f"whole-{command.name.replace(' ', '')}"
    with _folder(folder, command):
        started = time.monotonic()
        process = begun(command.arguments, folder)
        said = _ended(process)
        if process.returncode:
            raise RuntimeError(f"{command.name}: {said}")
        size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
        return Whole(time.monotonic() - started, _made(command, folder), size)


def repaired(command: Command, whole: Whole, folder: Path) -> str | None:
    """Runs the command again, or the one that it names; what is then not as an undisturbed one leaves it."""
    said, code = "", 0
    arguments = command.arguments
    for _ in range(2):
        process = begun(arguments, folder)
        said, code = _ended(process), process.returncode
        if code == 2 and "--resume" in said:
            arguments = ("train", "--resume", "out", "--cache", "cache")
        else:
            break
    there = code == 2 and "exists already" in said  # it had come to its end before
    if code and not there:
        return f"again, exit code {code}: {said[-400:]}"
    hidden = [
        path.name
        for path in folder.rglob(".*")
        if path.name != ".lock" and "cache" not in path.relative_to(folder).parts
    ]
    made = _made(command, folder)
    other = sorted(name for name in whole.files.keys() | made.keys() if whole.files.get(name) != made.get(name))
    return _traceback(said) or _unlike(f"left {hidden}", not hidden) or _unlike(f"other files {other}", not other)


def begun(arguments: tuple[str, ...], folder: Path) -> subprocess.Popen[str]:
    """The program as a process of its own in a folder, which hears Ctrl-C."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", _MARK: str(folder), "PYTHONWARNINGS": "ignore"}
    heard = signal.signal(signal.SIGINT, signal.default_int_handler)  # what ignores it hands that on
    try:
        return subprocess.Popen(
            [sys.executable, "-m", "ttl_deploy", *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            env=environment,
            cwd=folder,
        )
    finally:
        signal.signal(signal.SIGINT, heard)


def _ended(process: subprocess.Popen[str]) -> str:
    """What it said; it is killed where it takes far too long."""
    try:
        return process.communicate(timeout=_LONGEST_S)[0]
    except subprocess.TimeoutExpired:
        process.kill()
        return f"{process.communicate()[0]}\nno end within {_LONGEST_S:.0f} s: Traceback"


def _made(command: Command, folder: Path) -> dict[str, Any]:
    found = {}
    for part in command.made:
        for name in files(folder / part):
            found[f"{part}/{name}"] = content(folder / part / name)
    return found


def _alive(folder: Path) -> str | None:
    """The processes of an attempt that are still there some seconds after it."""
    until = time.monotonic() + 10
    while left := [process.info["pid"] for process in psutil.process_iter(["pid", "environ"]) if _of(process, folder)]:
        if time.monotonic() > until:
            return f"processes left: {left}"
        time.sleep(0.1)
    return None


def _of(process: psutil.Process, folder: Path) -> bool:
    return (process.info["environ"] or {}).get(_MARK) == str(folder)


def _traceback(said: str) -> str | None:
    wrong = "Traceback" in said or "unforeseen" in said
    return f"said {said[-600:]}" if wrong else None


def _unlike(fault: str, right: bool) -> str | None:
    return None if right else fault


@contextmanager
def _folder(path: Path, command: Command) -> Iterator[None]:
    """An attempt's folder, filled with what its command needs, and removed after it."""
    path.mkdir(parents=True)
    command.before(path)
    try:
        yield
    finally:
        shutil.rmtree(path)
