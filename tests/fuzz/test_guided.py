"""Every reader keeps its contract under drawn inputs, and the fuzzers find what is planted and keep it."""

from __future__ import annotations

import importlib.util
import shutil
from pathlib import Path

import guided
import hostile
import pytest

from ttl_deploy.serve.request_error import RequestError

DRAWN = 40
PLANTED = f"""
import sys
sys.path.append({str(Path(guided.__file__).parent)!r})
import guided

def lock(content):
    if content[:1] != b"<":
        return None
    return "opened" if content[1:5] == b"open" else None

def planted(place):
    if "atheris" in sys.modules:
        sys.modules["atheris"].instrument_func(lock)
    return guided.Reader(lock, [b"0000"])

guided.READERS = dict(planted=planted)
guided.sys.exit(guided.main(sys.argv[1:]))
"""
"""A reader with a fault behind two checks: of 10^12 blind inputs, one passes them."""


def _without(fuzzer: str) -> pytest.MarkDecorator:
    return pytest.mark.skipif(importlib.util.find_spec(fuzzer) is None, reason=f"{fuzzer} does not install here")


FUZZERS = [pytest.param(name, marks=_without(name)) for name in guided.FUZZERS]


@pytest.fixture(scope="module")
def place(trained: Path, synthetic: Path, tmp_path_factory: pytest.TempPathFactory) -> hostile.Place:
    """The folder that `--work` names, made of the run that other tests share."""
    folder = tmp_path_factory.mktemp("guided")
    (folder / "run").symlink_to(trained)
    (folder / "data").symlink_to(synthetic)
    return hostile.place_of(folder, folder / "run", folder / "data")


@pytest.mark.parametrize("name", guided.READERS)
def test_every_reader_keeps_the_contract(
    name: str, place: hostile.Place, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    pytest.importorskip("pydicom")
    reader = guided.READERS[name](place)
    request.addfinalizer(reader.close)
    assert [reader.read(content) for content in reader.seeds] == [None] * len(reader.seeds)
    assert guided.drawn(reader, DRAWN, 1, tmp_path) >= DRAWN
    assert not list(tmp_path.iterdir())


def test_a_reader_of_requests_that_says_more_than_a_line_or_blames_itself_is_at_fault() -> None:
    def status(content: bytes) -> None:
        raise RequestError("no", int(content))

    read = guided._of_request(status)
    assert [read(content) is None for content in (b"400", b"413", b"500", b"503")] == [True, True, False, False]


@_without("atheris")
def test_branches_and_comparisons_lead_to_a_fault_that_no_blind_input_finds(
    place: hostile.Place, tmp_path: Path
) -> None:
    program = tmp_path / "planted.py"
    program.write_text(PLANTED)
    work = place.scratch.parent
    found = guided.fuzzed(work, "planted", 50_000, 0, fuzzer="atheris", program=str(program))
    assert found.fault == "opened"
    assert found.file is not None
    assert found.file.read_bytes().startswith(b"<open")
    again = guided.fuzzed(work, "planted", 1, 0, fuzzer="atheris", again=found.file, program=str(program))
    assert (again.fault, again.file) == ("opened", found.file)


@pytest.mark.parametrize("fuzzer", FUZZERS)
def test_a_process_of_its_own_reads_what_it_is_given(
    fuzzer: str, place: hostile.Place, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.rmtree(place.scratch.parent / "guided", ignore_errors=True)
    arguments = ["--work", str(place.scratch.parent), "--runs", "300", "--only", "history,form", "--fuzzer", fuzzer]
    assert guided.main(arguments) == 0
    said = capsys.readouterr().out
    assert said.count(f"300 inputs by {fuzzer}, all kept the contract") == 2
    assert said.endswith("2 readers, 2 kept the contract\n")
    # What is kept reached a new branch of the program, whose branches are thus seen.
    kept = list((place.scratch.parent / "guided" / "history" / "found").iterdir())
    assert (len(kept) > 3) == (fuzzer == "atheris")


def test_a_fault_is_kept_as_short_as_it_can_be(place: hostile.Place, tmp_path: Path) -> None:
    reader = guided.Reader(lambda content: "long" if len(content) > 5 else None, [b"x" * 100])
    with pytest.raises(guided.Fault, match="long"):
        guided.drawn(reader, 200, 0, tmp_path)
    (file,) = tmp_path.iterdir()
    assert len(file.read_bytes()) == 6


@pytest.mark.parametrize("fuzzer", FUZZERS)
def test_a_process_that_dies_is_a_fault(fuzzer: str, place: hostile.Place, tmp_path: Path) -> None:
    program = tmp_path / "planted.py"
    program.write_text(PLANTED.replace("def lock(content):", "def lock(content):\n    guided.sys.exit(7)"))
    found = guided.fuzzed(place.scratch.parent, "planted", 100, 0, fuzzer=fuzzer, program=str(program))
    assert found.fault is not None
    assert found.fault.startswith("its process ended with 7")
