"""What a disk or a path refuses is told in its own words, with the user's path and a way out that helps."""

import errno
import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from ttl_deploy import files
from ttl_deploy.cli.main import run
from ttl_deploy.errors import StorageError


def folder_with_json(path: Path) -> None:
    with files.atomic_folder(path) as folder:
        files.write_json(folder / "plan.json", {})


def folder_in_staging(path: Path) -> None:
    """As an export writes its artifact."""
    with files.staged_folder(path) as staged, files.atomic_folder(staged) as folder:
        files.write_json(folder / "plan.json", {})


WRITERS: list[Callable[[Path], None]] = [lambda path: files.write_text(path, "x"), folder_with_json, folder_in_staging]


@pytest.mark.parametrize("number", sorted(StorageError.REASONS))
@pytest.mark.parametrize("write", WRITERS)
def test_the_staging_is_never_named_and_only_a_full_disk_wants_space(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, write: Callable[[Path], None]
) -> None:
    def fails(path: Path, *_: object, **__: object) -> object:
        raise OSError(number, os.strerror(number), str(path))

    monkeypatch.setattr(Path, "write_bytes", fails)
    with pytest.raises(StorageError) as told:
        write(tmp_path / "out")
    said = str(told.value)
    assert said.startswith((f"{tmp_path / 'out'}: ", f"{tmp_path / 'out' / 'plan.json'}: "))
    assert StorageError.REASONS[number] in said
    assert ".tmp" not in said
    assert ("free space" in said) == (number == errno.ENOSPC)
    assert told.value.fix
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("write", WRITERS)
def test_paths_that_are_none(tmp_path: Path, write: Callable[[Path], None]) -> None:
    (tmp_path / "file").write_text("x")
    (tmp_path / "folder" / "in").mkdir(parents=True)
    for path, words in {
        tmp_path / "file" / "out": "a part of the path is a file and no folder; choose another place",
        tmp_path / "file" / "a" / "out": "a part of the path is a file and no folder; choose another place",
        tmp_path / ("x" * 300): "the name is longer than the file system allows; choose a shorter name",
    }.items():
        with pytest.raises(StorageError) as told:
            write(path)
        assert str(told.value) == f"{path}: {words}"
    with pytest.raises(StorageError, match=r"folder: is a folder; choose the name of a file"):
        files.write_text(tmp_path / "folder", "x")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["file", "folder"]


def test_a_disk_that_really_is_read_only(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    place = tmp_path / "disk"
    place.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "ro", "tmpfs", str(place)], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip("mounting a file system needs root")
    try:
        for write in WRITERS:
            with pytest.raises(StorageError) as told:
                write(place / "out")
            assert (
                str(told.value)
                == f"{place / 'out'}: the file system is read-only; choose a place that can be written to"
            )
        assert run(["synthetic", str(place / "data"), "--images", "24", "--size", "32"]) == 2
        said = capsys.readouterr().err.splitlines()[-1]
        assert said == f"error: {place / 'data'}: the file system is read-only; choose a place that can be written to"
    finally:
        subprocess.run(["umount", str(place)], check=True)


def test_a_file_that_has_nothing_to_do_with_the_place_is_named_itself(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="elsewhere: permission denied"), files.disk_errors(tmp_path / "out"):
        raise PermissionError(errno.EACCES, "Permission denied", "elsewhere")
