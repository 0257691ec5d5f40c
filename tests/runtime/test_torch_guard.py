from __future__ import annotations

import contextlib
import json
import pickle
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from odd_archives import of_two_disks
from torch import Tensor, nn
from torch.export import Dim

from ttl_deploy.errors import IntegrityError
from ttl_deploy.formats.pt2 import save_program
from ttl_deploy.runtime.script_tensors import misplaced
from ttl_deploy.runtime.torch_guard import check_program, check_script

Change = Callable[[dict[str, Any]], None]


class Network(nn.Module):
    """A convolution and a classifier."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        self.last = nn.Linear(4, 2)

    def forward(self, images: Tensor) -> Tensor:
        return self.last(torch.relu(self.conv(images)).mean((2, 3)))


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("program") / "model.pt2"
    traced = torch.export.export(Network().eval(), (torch.zeros(2, 3, 8, 8),), dynamic_shapes=({0: Dim.DYNAMIC},))
    for node in traced.graph.nodes:
        for note in ("stack_trace", "nn_module_stack", "source_fn_stack", "torch_fn", "from_node"):
            node.meta.pop(note, None)
    save_program(traced, path, {"producer": "a test"})
    return path


@pytest.fixture(scope="module")
def script(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("script") / "model.pt"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        traced = torch.jit.trace(Network().eval(), torch.zeros(1, 3, 8, 8), check_trace=False)
        torch.jit.save(torch.jit.freeze(traced), path)
    return without_debug_records(path)


def without_debug_records(path: Path) -> Path:
    return rewritten(path, path, lambda name, content: None if name.endswith(".debug_pkl") else content)


def rewritten(source: Path, target: Path, change: Callable[[str, bytes], bytes | None]) -> Path:
    with zipfile.ZipFile(source) as archive:
        records = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(target, "w", zipfile.ZIP_STORED) as archive:
        for name, content in records.items():
            if (new := change(name, content)) is not None:
                archive.writestr(name, new)
    return target


def planted(source: Path, target: Path, change: Change) -> Path:
    """The program with its graph's JSON changed."""

    def changed(name: str, content: bytes) -> bytes:
        if not name.endswith("models/model.json"):
            return content
        document = json.loads(content)
        change(document)
        return json.dumps(document).encode()

    return rewritten(source, target, changed)


def graph(document: dict[str, Any]) -> Any:
    return document["graph_module"]["graph"]


def code(trace: Path) -> str:
    return f"__import__('pathlib').Path({str(trace)!r}).touch()"


def in_a_size(document: dict[str, Any], text: str) -> None:
    sizes = next(t["sizes"] for t in graph(document)["tensor_values"].values() if "as_expr" in t["sizes"][0])
    sizes[0]["as_expr"]["expr_str"] = text


def in_a_guard(document: dict[str, Any], text: str) -> None:
    document["guards_code"] = [text]


def test_code_in_a_program_is_refused_that_pytorch_would_run(program: Path, tmp_path: Path) -> None:
    trace = tmp_path / "executed"
    hostile = planted(program, tmp_path / "h.pt2", lambda document: in_a_size(document, code(trace)))
    with pytest.raises(IntegrityError, match=r"h\.pt2.*could run any code"):
        check_program(hostile)
    assert not trace.exists()
    with contextlib.suppress(Exception):
        torch.export.load(hostile).module()(torch.zeros(2, 3, 8, 8))
    assert trace.exists(), "PyTorch evaluates it, or this test shows nothing"


@pytest.mark.parametrize(
    "expression",
    [
        "s0.__class__",
        "9**9**9",
        "[s0 for s0 in (1,)]",
        "(lambda: 1)()",
        "Symbol('s0; x')",
        "Symbol('s0', positive=f())",
        "exec",
        "s0 +",
        "1" * 3000,
        "Max(s0, open('x'))",
    ],
)
def test_an_expression_that_is_no_size_is_refused(program: Path, tmp_path: Path, expression: str) -> None:
    hostile = planted(program, tmp_path / "h.pt2", lambda document: in_a_size(document, expression))
    with pytest.raises(IntegrityError, match="could run any code"):
        check_program(hostile)


@pytest.mark.parametrize(
    "expression", ["Symbol('s77', positive=True, integer=True)", "2*s0 + 1", "FloorDiv(s0 - 1, 2)"]
)
def test_an_expression_of_sizes_passes(program: Path, tmp_path: Path, expression: str) -> None:
    check_program(planted(program, tmp_path / "p.pt2", lambda document: in_a_size(document, expression)))


@pytest.mark.parametrize(
    "target",
    [
        "torch.hub.load",
        "torch.ops.aten.from_file.default",
        "torch.ops.aten.save.default",
        "_operator.call",
        "math.exp",
        "torch.ops.aten.relu.default.__init__",
        "#torch.ops.tensorrt.execute_engine",
        None,
    ],
)
def test_an_operator_that_is_not_listed_is_refused(program: Path, tmp_path: Path, target: object) -> None:
    def change(document: dict[str, Any]) -> None:
        graph(document)["nodes"][0]["target"] = target

    with pytest.raises(IntegrityError, match="the operator"):
        check_program(planted(program, tmp_path / "h.pt2", change))


def enum(document: dict[str, Any]) -> None:
    leaf = {"type": None, "context": None, "children_spec": []}
    context = json.dumps({"__enum__": True, "fqn": "antigravity:x", "name": "y"})
    spec = json.dumps([1, {"type": "builtins.dict", "context": context, "children_spec": [leaf]}])
    document["graph_module"]["module_call_graph"][0]["signature"]["in_spec"] = spec


def default_factory(document: dict[str, Any]) -> None:
    spec = json.dumps([1, {"type": "collections.defaultdict", "context": "{}", "children_spec": []}])
    document["graph_module"]["module_call_graph"][0]["signature"]["out_spec"] = spec


def note(document: dict[str, Any]) -> None:
    graph(document)["nodes"][0]["metadata"] = {"source_fn_stack": "x,torch.hub.load"}


def name_of_an_argument(document: dict[str, Any]) -> None:
    document["graph_module"]["module_call_graph"][0]["signature"]["forward_arg_names"] = ["images=f()"]


def name_of_a_node(document: dict[str, Any]) -> None:
    graph(document)["nodes"][0]["name"] = "x; import os"


def name_of_a_range(document: dict[str, Any]) -> None:
    document["range_constraints"] = {"f()": {"min_val": 1, "max_val": None}}


def word(document: dict[str, Any]) -> None:
    document["graph_module"]["signature"]["input_specs"][0]["parameter"]["parameter_name"] = "a\nimport os"


@pytest.mark.parametrize(
    "change", [enum, default_factory, note, name_of_an_argument, name_of_a_node, name_of_a_range, word]
)
def test_what_pytorch_would_import_or_make_source_of_is_refused(program: Path, tmp_path: Path, change: Change) -> None:
    with pytest.raises(IntegrityError, match=r"h\.pt2.*could run any code"):
        check_program(planted(program, tmp_path / "h.pt2", change))


def test_a_second_record_of_one_name_is_refused(program: Path, tmp_path: Path) -> None:
    twice = rewritten(program, tmp_path / "twice.pt2", lambda name, content: content)
    with zipfile.ZipFile(twice, "a") as archive, pytest.warns(UserWarning, match="Duplicate name"):
        archive.writestr(next(n for n in archive.namelist() if n.endswith("model.json")), "{}")
    with pytest.raises(IntegrityError, match="records of one name"):
        check_program(twice)


@pytest.mark.parametrize("check", [check_program, check_script])
def test_an_archive_that_no_reader_understands_is_none(
    check: Callable[[Path], None], program: Path, tmp_path: Path
) -> None:
    sound = program.read_bytes()
    # The first name in the directory is said to be longer than the file.
    at = sound.rindex(b"PK\1\2") + 28
    for content in (of_two_disks(sound), sound[:at] + b"\xff\xff" + sound[at + 2 :], sound[:-9]):
        (tmp_path / "odd.pt2").write_bytes(content)
        with pytest.raises(IntegrityError, match=r"odd\.pt2: is not an archive of PyTorch"):
            check(tmp_path / "odd.pt2")


def test_a_program_as_it_was_written_passes_and_runs(program: Path) -> None:
    check_program(program)
    assert torch.export.load(program).module()(torch.zeros(3, 3, 8, 8)).shape == (3, 2)


def test_a_script_as_it_was_written_passes(script: Path) -> None:
    check_script(script)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("torch.relu(", "torch.save("),
        ("torch.relu(", "torch.from_file("),
        ("torch.relu(", "ops.mine.relu("),
        ("    return ", "    while True:\n      pass\n    return "),
        ("  def forward(", "  def __setstate__("),
        ("  __buffers__ = []", "  __buffers__ = torch.save()"),
        ("class ", "import os\nclass "),
    ],
)
def test_a_script_that_does_more_than_compute_is_refused(script: Path, tmp_path: Path, old: str, new: str) -> None:
    def change(name: str, content: bytes) -> bytes:
        if not name.endswith(".py"):
            return content
        assert old.encode() in content
        return content.replace(old.encode(), new.encode(), 1)

    with pytest.raises(IntegrityError, match="could run any code"):
        check_script(rewritten(script, tmp_path / "h.pt", change))


@pytest.mark.parametrize(
    ("record", "change"),
    [
        ("constants/0", lambda content: content[:-4]),
        ("constants/0", lambda content: b""),
        ("constants/0", lambda content: content + bytes(4)),
        ("constants.pkl", lambda content: content.replace(b"FloatStorage", b"LongStorage")),
        ("constants.pkl", lambda content: content.replace(b"X\x01\x00\x00\x000", b"X\x01\x00\x00\x009")),
    ],
)
def test_a_script_whose_records_do_not_hold_its_tensors_is_refused(
    script: Path, tmp_path: Path, record: str, change: Callable[[bytes], bytes]
) -> None:
    """LibTorch compares neither with the other, and reads on behind the end of a record."""

    def changed(name: str, content: bytes) -> bytes:
        if not name.endswith(f"/{record}"):
            return content
        assert change(content) != content
        return change(content)

    with pytest.raises(IntegrityError, match="of another size than its tensor"):
        check_script(rewritten(script, tmp_path / "h.pt", changed))


class Anything:
    def __reduce__(self) -> Any:
        return print, ("called",)


def test_a_pickle_of_a_script_calls_nothing(script: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    content = pickle.dumps(Anything(), protocol=2)

    def changed(name: str, old: bytes) -> bytes:
        return content if name.endswith("/constants.pkl") else old

    with pytest.raises(IntegrityError, match=r"holds the name \w+\.print in a pickle"):
        check_script(rewritten(script, tmp_path / "h.pt", changed))
    assert capsys.readouterr().out == ""


def test_a_tensor_that_steps_beyond_its_numbers_is_refused() -> None:
    """The pickle of a tensor, written by hand: 4 numbers, of which it takes 2 by 2 in steps of 3 and 1."""
    storage = b"((X\x07\x00\x00\x00storageq\x01ctorch\nFloatStorage\nq\x02X\x01\x00\x00\x000X\x03\x00\x00\x00cpuK\x04tQ"
    tensor = b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\n" + storage + b"K\x00(K\x02K\x02t(K%cK\x01t\x89)tR."
    for step, expected in ((2, None), (3, "a tensor beyond its numbers")):
        content = tensor.replace(b"%c", bytes([step]))
        assert misplaced({"data.pkl": len(content), "data/0": 16}, {"data.pkl": content}.__getitem__) == expected
