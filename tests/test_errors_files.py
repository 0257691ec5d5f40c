import errno
import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from ttl_deploy import files
from ttl_deploy.errors import BadInputError, StorageError, TtlDeployError, near


def test_an_error_is_one_line_with_place_and_way_out() -> None:
    error = TtlDeployError("is\nbroken", where=Path("a/b.csv"), fix="mend it")
    assert str(error) == "a/b.csv: is broken; mend it"


def test_near_lists_close_names_or_all_of_few() -> None:
    assert near("x", ["a", "b"]) == "valid: a, b"
    assert near("layer3.9", [f"layer{i}.{j}" for i in range(1, 5) for j in range(6)]).startswith("nearest: layer3.")


def test_a_failed_write_leaves_the_old_file_and_no_rubbish(tmp_path: Path) -> None:
    target = tmp_path / "x.txt"
    files.write_text(target, "old")
    with pytest.raises(RuntimeError), files.atomic_path(target) as temporary:
        temporary.write_text("new")
        raise RuntimeError
    assert target.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["x.txt"]


def test_a_full_disk_is_one_clear_error_and_the_old_file_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = tmp_path / "x.txt"
    files.write_text(target, "old")

    def full(_descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StorageError, match=r"x\.txt: the disk is full; free space"):
        files.write_text(target, "new")
    assert target.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["x.txt"]


def test_a_really_full_disk(tmp_path: Path) -> None:
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(tmp_path)], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip("mounting a small file system needs root")
    try:
        files.write_bytes(tmp_path / "a", b"x" * 30_000)
        with pytest.raises(StorageError, match="the disk is full"):
            files.write_bytes(tmp_path / "a", b"y" * 100_000)
        assert (tmp_path / "a").read_bytes() == b"x" * 30_000
        assert len(list(tmp_path.iterdir())) == 1
    finally:
        subprocess.run(["umount", str(tmp_path)], check=True)


def test_a_folder_is_never_overwritten_unasked(tmp_path: Path) -> None:
    target = tmp_path / "run"
    with files.atomic_folder(target) as folder:
        (folder / "a").write_text("1")
    with pytest.raises(BadInputError, match=r"exists already; .*--overwrite"), files.atomic_folder(target):
        pass
    with files.atomic_folder(target, overwrite=True) as folder:
        (folder / "b").write_text("2")
    assert [p.name for p in target.iterdir()] == ["b"]
    assert [p.name for p in tmp_path.iterdir()] == ["run"]


def test_a_folder_that_fails_leaves_the_old_one(tmp_path: Path) -> None:
    target = tmp_path / "run"
    target.mkdir()
    (target / "a").write_text("1")
    with pytest.raises(RuntimeError), files.atomic_folder(target, overwrite=True) as folder:
        (folder / "b").write_text("2")
        raise RuntimeError
    assert [p.name for p in target.iterdir()] == ["a"]
    assert [p.name for p in tmp_path.iterdir()] == ["run"]


def test_killed_while_writing_the_file_is_old_or_new_never_half(tmp_path: Path) -> None:
    target = tmp_path / "x"
    code = f"""
        from pathlib import Path
        from ttl_deploy import files
        sizes = [1, 3_000_000]
        print("go", flush=True)
        while True:
            for n in sizes:
                files.write_bytes(Path({str(target)!r}), bytes([n % 7]) * n)
    """
    with subprocess.Popen([sys.executable, "-c", textwrap.dedent(code)], stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == "go\n"
        while not target.exists():
            pass
        child.send_signal(signal.SIGKILL)
    assert target.stat().st_size in (1, 3_000_000)
    files.remove_leftovers(tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["x"]


FOLDER = """
    import sys, time
    from pathlib import Path
    from ttl_deploy import files
    with files.atomic_folder(Path(sys.argv[1]), overwrite=True) as folder:
        (folder / "who").write_text(sys.argv[2])
        print("in", flush=True)
        sys.stdin.readline()
"""


def writing(target: Path, who: str) -> "subprocess.Popen[str]":
    """A process that stands inside an atomic folder until it gets a line."""
    command = [sys.executable, "-c", textwrap.dedent(FOLDER), str(target), who]
    child = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert child.stdout is not None
    assert child.stdout.readline() == "in\n"
    return child


def test_of_two_that_write_to_one_place_the_last_stands_whole(tmp_path: Path) -> None:
    target = tmp_path / "artifact"
    with writing(target, "first") as first, writing(target, "second") as second:
        second.communicate("go\n", timeout=60)
        assert (target / "who").read_text() == "second"
        first.communicate("go\n", timeout=60)
    assert (first.returncode, second.returncode) == (0, 0)
    assert [p.name for p in tmp_path.rglob("*")] == ["artifact", "who"]
    assert (target / "who").read_text() == "first"


def test_without_overwrite_the_second_to_finish_is_refused_and_the_first_stands(tmp_path: Path) -> None:
    target = tmp_path / "artifact"
    with pytest.raises(BadInputError, match="exists already"), files.atomic_folder(target) as late:
        (late / "who").write_text("late")
        with files.atomic_folder(target) as early:
            (early / "who").write_text("early")
    assert (target / "who").read_text() == "early"
    assert [p.name for p in tmp_path.iterdir()] == ["artifact"]


def test_what_a_killed_process_left_is_removed_by_the_next_and_a_living_ones_is_not(tmp_path: Path) -> None:
    target = tmp_path / "artifact"
    with writing(target, "killed") as killed, writing(target, "living") as living:
        killed.kill()
        killed.wait(timeout=60)
        assert len(list(tmp_path.iterdir())) == 2
        files.recover(target)
        (left,) = tmp_path.iterdir()
        assert (left / "who").read_text() == "living"
        living.communicate("go\n", timeout=60)
    assert (target / "who").read_text() == "living"


def test_killed_between_the_two_renames_the_old_folder_comes_back(tmp_path: Path) -> None:
    target = tmp_path / "artifact"
    with files.atomic_folder(target) as folder:
        (folder / "who").write_text("old")
    code = f"""
        import os, signal
        from pathlib import Path
        from ttl_deploy import files
        rename = Path.rename
        def killed(path, to):
            if Path(to).name == "artifact":
                os.kill(os.getpid(), signal.SIGKILL)
            return rename(path, to)
        Path.rename = killed
        with files.atomic_folder(Path({str(target)!r}), overwrite=True) as folder:
            (folder / "who").write_text("new")
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], check=False)
    assert done.returncode == -signal.SIGKILL
    assert not target.exists()
    assert len(list(tmp_path.iterdir())) == 2
    files.recover(target)
    assert (target / "who").read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["artifact"]


def test_what_was_staged_within_what_was_staged_is_removed_too(tmp_path: Path) -> None:
    target = tmp_path / "artifact"
    code = f"""
        import os, signal
        from pathlib import Path
        from ttl_deploy import files
        with files.staged_folder(Path({str(target)!r})) as outer, files.atomic_folder(outer):
            os.kill(os.getpid(), signal.SIGKILL)
    """
    subprocess.run([sys.executable, "-c", textwrap.dedent(code)], check=False)
    (left,) = tmp_path.iterdir()
    assert left.name.startswith("..artifact.")
    other = tmp_path / left.name.replace("..artifact.", "..other.")
    of_dotted = tmp_path / f"{left.name.split('.tmp')[0]}.old"  # of a target that is called `.artifact`
    for folder in (other, of_dotted):
        folder.mkdir()
    files.recover(target)
    assert {path.name for path in tmp_path.iterdir()} == {other.name, of_dotted.name}


def test_leftovers_of_another_machine_are_left_alone_for_a_day(tmp_path: Path) -> None:
    other = tmp_path / ".artifact.elsewhere-1-0a0b0c0d.tmp"
    strange = tmp_path / ".artifact.more.elsewhere-1-0a0b0c0d.tmp"
    for folder in (other, strange):
        folder.mkdir()
    files.recover(tmp_path / "artifact")
    assert other.exists()
    for folder in (other, strange):
        os.utime(folder, (0, 0))
    files.recover(tmp_path / "artifact")
    assert [p.name for p in tmp_path.iterdir()] == [strange.name]


def test_what_a_dead_process_left_inside_a_folder_is_removed_and_a_living_one_keeps_its_own(tmp_path: Path) -> None:
    inside = tmp_path / "masks" / "deeper"
    code = f"""
        import os, signal
        from pathlib import Path
        from ttl_deploy import files
        with files.atomic_path(Path({str(inside / "a.png")!r})) as place:
            place.write_bytes(b"half")
            os.kill(os.getpid(), signal.SIGKILL)
    """
    subprocess.run([sys.executable, "-c", textwrap.dedent(code)], check=False)
    (left,) = inside.iterdir()
    assert left.suffix == ".tmp"
    (inside / ".a.user.tmp").touch()
    with files.atomic_path(inside / "b.png") as mine:
        mine.touch()
        files.recover_within(tmp_path / "masks")
        assert {path.name for path in inside.iterdir()} == {".a.user.tmp", mine.name}
    files.recover_within(tmp_path / "nothing here")
