"""Damaged files of every kind that a user may hand to the program, drawn from a seed; and what it must do with them.

The contract: exit code 2 and one line that names what is damaged, or a right result; never a traceback, never an error
that nobody foresaw. `cases` draws damages of a run's folder (its artifact inside it included), `weights_cases`,
`table_cases` and `graph_cases` those of single files. All take a number and a seed, so that the suite runs few of them
and a long run many.
"""

from __future__ import annotations

import contextlib
import io
import json
import pickle
import random
import shutil
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import yaml

from ttl_deploy.cli.main import run
from ttl_deploy.errors import BadInputError

ARTIFACT = "onnx-fp32"
DOCUMENTS = ("config.yaml", "data.json", "metrics.json", f"{ARTIFACT}/manifest.json")
LINES = ("history.jsonl", "timing.jsonl")
TABLES = ("split.csv", "predictions.csv")
TENSORS = ("best.safetensors", "last.ckpt")
MODELS = (f"{ARTIFACT}/model.onnx",)
RUN_FILES = (*DOCUMENTS, *LINES, *TABLES, *TENSORS, *MODELS)

SOUND = "taken for sound"
"""What stands for the slow end of a command that found nothing wrong."""

_MARK = "@@@"
_VALUES = (
    "null", "true", "-1", "0", "1e308", "1e999", str(2**63), "9" * 5000, '""', '"x"', '"\\ud800"', '"\\u0000"',
    "[]", "{}", '[null]', '{"a": 1}', "[" * 5000 + "]" * 5000, "NaN", '"' + "y" * 5000 + '"', "1.5", '"../../x"',
)  # fmt: skip
"""What is written in place of a value, as JSON that need not be valid."""


@dataclass(frozen=True)
class Damage:
    """One way to damage a file.

    Attributes:
        name: In words.
        file: Which, relative to the folder.
        apply: Does it; gets the folder.
    """

    name: str
    file: str
    apply: Callable[[Path], None]


@dataclass(frozen=True)
class Outcome:
    """What a command did.

    Attributes:
        code: Exit code.
        out: What it printed.
        err: What it said besides.
    """

    code: int
    out: str
    err: str

    def fault(self, *names: str) -> str | None:
        """How it breaks the contract; None where it keeps it.

        Args:
            names: One of them has to be in the error.
        """
        lines = self.err.splitlines()
        errors = [line for line in lines if line.startswith("error: ")]
        if "Traceback" in self.err + self.out or "unforeseen" in self.err:
            return f"unforeseen: {lines[-1:]}"
        if self.code == 0:
            return None
        if self.code != 2 or errors != lines[-1:]:
            return f"code {self.code}: {lines[-3:]}"
        named = SOUND in errors[0] or any(name in errors[0] for name in names)
        return None if named else f"names nothing: {errors[0][:300]}"


def command(*arguments: str | Path) -> Outcome:
    """Runs a command in this process; nothing is measured, and an export ends where the run has been checked."""
    out, err = io.StringIO(), io.StringIO()
    stop = mock.Mock(side_effect=BadInputError(SOUND))
    with (
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
        mock.patch("ttl_deploy.verbs.bench.run_all", stop),
        mock.patch("ttl_deploy.formats.export_run.export_one", stop),
    ):
        try:
            code = run([str(argument) for argument in arguments])
        except Exception as error:  # the command line lets none out
            return Outcome(-1, out.getvalue(), f"{err.getvalue()}\nTraceback: {error!r}")
    return Outcome(code, out.getvalue(), err.getvalue())


def commands_on(folder: Path, image: Path, cache: Path) -> dict[str, tuple[str | Path, ...]]:
    """The commands that read a run's folder or the artifact in it, by name."""
    artifact = folder / ARTIFACT
    return {
        "resume": ("train", "--resume", folder, "--cache", cache),
        "export": ("export", folder, "--out", folder / "new", "--cache", cache),
        "verify": ("verify", artifact, "--cache", cache),
        "predict": ("predict", artifact, image),
        "bench": ("bench", folder, "--no-whole", "--no-roofline"),
        "bench artifact": ("bench", artifact, "--no-whole", "--no-roofline"),
    }


def cases(folder: Path, count: int, seed: int, names: Sequence[str] = RUN_FILES) -> Iterator[Damage]:
    """Damages of a run's folder, every file in turn.

    Args:
        folder: A sound run, from which keys and contents are taken; it is not changed.
        count: How many.
        seed: Of the draw.
        names: Files to damage.
    """
    draw = random.Random(seed)
    for number in range(count):
        name = names[number % len(names)]
        yield draw.choice(_kinds_of(name))(name, folder, random.Random(draw.getrandbits(64)))


Kind = Callable[[str, Path, random.Random], Damage]


def _kinds_of(name: str) -> Sequence[Kind]:
    special: Sequence[Kind] = ()
    if name in DOCUMENTS:
        special = (wrong_value,) * 12 + (_lost_key, _double_key, _bomb, _not_utf8)
    elif name in LINES:
        special = (_damaged_line,) * 6 + (_swapped_lines, _cut_last_line)
    elif name in TABLES:
        special = (_damaged_cell,) * 6
    elif name == "last.ckpt":
        special = (_wrong_checkpoint,) * 12
    elif name == "best.safetensors":
        special = tuple(_kind_of_weights(damage) for damage in _WEIGHTS.values())
    return (_missing, _empty, _truncated, _junk, _flipped, _other_content, _folder, _loop, *special)


def _missing(name: str, folder: Path, draw: random.Random) -> Damage:
    return Damage("missing", name, lambda target: (target / name).unlink())


def _empty(name: str, folder: Path, draw: random.Random) -> Damage:
    return _written("empty", name, b"")


def _truncated(name: str, folder: Path, draw: random.Random) -> Damage:
    content = (folder / name).read_bytes()
    return _written("truncated", name, content[: draw.randrange(len(content))])


def _junk(name: str, folder: Path, draw: random.Random) -> Damage:
    return _written("junk", name, draw.randbytes(draw.choice((1, 7, 8, 9, 100, 5000))))


def _flipped(name: str, folder: Path, draw: random.Random) -> Damage:
    content = bytearray((folder / name).read_bytes())
    for _ in range(draw.choice((1, 3, 30))):
        content[draw.randrange(len(content))] = draw.randrange(256)
    return _written("bytes changed", name, bytes(content))


def _other_content(name: str, folder: Path, draw: random.Random) -> Damage:
    other = draw.choice([n for n in RUN_FILES if n != name])
    return _written(f"content of {other}", name, (folder / other).read_bytes())


def _folder(name: str, folder: Path, draw: random.Random) -> Damage:
    def apply(target: Path) -> None:
        (target / name).unlink()
        (target / name).mkdir()

    return Damage("a folder", name, apply)


def _loop(name: str, folder: Path, draw: random.Random) -> Damage:
    def apply(target: Path) -> None:
        (target / name).unlink()
        (target / name).symlink_to(target / name)

    return Damage("a link to itself", name, apply)


def wrong_value(name: str, folder: Path, draw: random.Random) -> Damage:
    content = _document(folder / name)
    place, value = draw.choice(list(_places(content))), draw.choice(_VALUES)
    text = json.dumps(_replaced(content, place, _MARK), indent=1).replace(f'"{_MARK}"', value)
    return _written(f"{'.'.join(map(str, place))} = {value[:30]}", name, text.encode("utf-8", "surrogatepass"))


def _lost_key(name: str, folder: Path, draw: random.Random) -> Damage:
    content = _document(folder / name)
    key = draw.choice(list(content))
    return _written(f"without {key}", name, json.dumps({k: v for k, v in content.items() if k != key}).encode())


def _double_key(name: str, folder: Path, draw: random.Random) -> Damage:
    text = json.dumps(_document(folder / name))
    key = draw.choice(list(_document(folder / name)))
    return _written(f"{key} twice", name, f'{text[:-1]}, "{key}": 1}}'.encode())


def _bomb(name: str, folder: Path, draw: random.Random) -> Damage:
    """A few lines that an expanding loader makes gigabytes of."""
    rows = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    rows += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, 12)]
    text = "\n".join(rows) if name.endswith(".yaml") else "[" * 10**5
    return _written("a bomb", name, text.encode())


def _not_utf8(name: str, folder: Path, draw: random.Random) -> Damage:
    return _written("UTF-16", name, (folder / name).read_text().encode("utf-16"))


def _damaged_line(name: str, folder: Path, draw: random.Random) -> Damage:
    rows = (folder / name).read_text().splitlines()
    number = draw.randrange(len(rows))
    row = json.loads(rows[number])
    key, value = draw.choice(list(row)), draw.choice(_VALUES)
    rows[number] = json.dumps({**row, key: _MARK}).replace(f'"{_MARK}"', value)
    text = "\n".join(rows) + "\n"
    return _written(f"line {number + 1}: {key} = {value[:30]}", name, text.encode("utf-8", "surrogatepass"))


def _swapped_lines(name: str, folder: Path, draw: random.Random) -> Damage:
    rows = (folder / name).read_text().splitlines()
    return _written("lines in another order", name, ("\n".join(reversed(rows)) + "\n").encode())


def _cut_last_line(name: str, folder: Path, draw: random.Random) -> Damage:
    text = (folder / name).read_text()
    return _written("the last line cut short", name, text[: -draw.randrange(2, 12)].encode())


def _damaged_cell(name: str, folder: Path, draw: random.Random) -> Damage:
    rows = (folder / name).read_text().splitlines()
    number = draw.randrange(len(rows))
    cells = rows[number].split(",")
    value = draw.choice(("", "x", "-1", "nan", "1e999", '"', "a,b", "\0", "é" * 5000, "9" * 5000, "\ud800"))
    cells[draw.randrange(len(cells))] = value
    rows[number] = ",".join(cells)
    text = "\n".join(rows) + "\n"
    return _written(f"line {number + 1} = {value[:10]!r}", name, text.encode("utf-8", "surrogatepass"))


def _wrong_checkpoint(name: str, folder: Path, draw: random.Random) -> Damage:
    import torch

    content = torch.load(folder / name, weights_only=True)
    place = draw.choice(list(_places(content)))
    value = draw.choice((None, -1, "x", [], {}, float("nan"), 10**30, torch.zeros(0), torch.full((2,), torch.nan)))
    buffer = io.BytesIO()
    torch.save(_replaced(content, place, value), buffer)
    return _written(f"{'.'.join(map(str, place))} = {value!r:.30}", name, buffer.getvalue())


def weights_cases(count: int, seed: int) -> Iterator[tuple[str, bytes]]:
    """Name and content of files of weights; PyTorch's end in `.pth`, others in `.safetensors`."""
    draw = random.Random(seed)
    kinds = [*_WEIGHTS.items(), *_PICKLES.items()]
    for number in range(count):
        name, make = kinds[number % len(kinds)]
        ending = ".pth" if name in _PICKLES else ".safetensors"
        yield f"{name}-{number}{ending}", make(random.Random(draw.getrandbits(64)))


def _kind_of_weights(make: Callable[[random.Random], bytes]) -> Kind:
    return lambda name, folder, draw: _written("other weights", name, make(draw))


def _header(entries: Any, data: bytes = b"", length: int | None = None) -> bytes:
    text = entries if isinstance(entries, bytes) else json.dumps(entries).encode()
    return (len(text) if length is None else length).to_bytes(8, "little") + text + data


def _one_tensor(draw: random.Random, dtype: str = "F32", shape: Any = (4,), end: int = 16) -> bytes:
    return _header({"conv1.weight": {"dtype": dtype, "shape": shape, "data_offsets": [0, end]}}, draw.randbytes(16))


_WEIGHTS: dict[str, Callable[[random.Random], bytes]] = {
    "no header": lambda draw: draw.randbytes(4),
    "a header of terabytes": lambda draw: _header({}, length=2**63 - 1),
    "a header that is no JSON": lambda draw: _header(draw.randbytes(40)),
    "a header that is a list": lambda draw: _header([1]),
    "a nested header": lambda draw: _header(b"[" * 10**5),
    "no tensor": lambda draw: _header({}),
    "a tensor of terabytes": lambda draw: _one_tensor(draw, shape=[2**40], end=2**42),
    "a shape that overflows": lambda draw: _one_tensor(draw, shape=[2**62, 2**62]),
    "a negative shape": lambda draw: _one_tensor(draw, shape=[-4]),
    "an unknown type": lambda draw: _one_tensor(draw, dtype="X9"),
    "whole numbers": lambda draw: _one_tensor(draw, dtype="I32"),
    "a number alone": lambda draw: _one_tensor(draw, shape=[], end=4)[:-12],
    "an empty tensor": lambda draw: _one_tensor(draw, shape=[0], end=0)[:-16],
    "metadata that is no text": lambda draw: _header({"__metadata__": {"epoch": 3}}),
    "an epoch of words": lambda draw: _header({"__metadata__": {"epoch": "two"}}),
    "a key twice": lambda draw: _header(b'{"a": 1, "a": 2}'),
}


def _saved(make: Callable[[Any], Any], **how: Any) -> Callable[[random.Random], bytes]:
    def content(draw: random.Random) -> bytes:
        import torch

        buffer = io.BytesIO()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of what PyTorch calls beta
            torch.save(make(torch), buffer, **how)
        return buffer.getvalue()

    return content


_CONV = "conv1.weight"
_PICKLES: dict[str, Callable[[random.Random], bytes]] = {
    "bytes": lambda draw: draw.randbytes(300),
    "nothing": lambda draw: b"",
    "a pickle": lambda draw: pickle.dumps({_CONV: [1.0]}),
    "python": _saved(lambda torch: {_CONV: Path("x")}),
    "a list": _saved(lambda torch: [torch.zeros(3)]),
    "a tensor": _saved(lambda torch: torch.zeros(3)),
    "numbers": _saved(lambda torch: {_CONV: 1.0}),
    "sparse": _saved(lambda torch: {_CONV: torch.eye(3).to_sparse()}),
    "sparse rows": _saved(lambda torch: {_CONV: torch.eye(3).to_sparse_csr()}),
    "meta": _saved(lambda torch: {_CONV: torch.zeros(3, device="meta")}),
    "no dimension": _saved(lambda torch: {_CONV: torch.tensor(1.0)}),
    "one dimension": _saved(lambda torch: {_CONV: torch.zeros(64)}),
    "no numbers": _saved(lambda torch: {_CONV: torch.zeros(0, 3, 7, 7)}),
    "spread": _saved(lambda torch: {_CONV: torch.zeros(1).expand(10**10)}),
    "complex": _saved(lambda torch: {_CONV: torch.zeros(64, 3, 7, 7, dtype=torch.complex64)}),
    "whole": _saved(lambda torch: {_CONV: torch.zeros(64, 3, 7, 7, dtype=torch.int64)}),
    "truth": _saved(lambda torch: {_CONV: torch.zeros(64, 3, 7, 7, dtype=torch.bool)}),
    "nan": _saved(lambda torch: {_CONV: torch.full((64, 3, 7, 7), torch.nan)}),
    "names of other types": _saved(lambda torch: {3: torch.zeros(3)}),
    "old": _saved(lambda torch: {_CONV: torch.zeros(3)}, _use_new_zipfile_serialization=False),
}


def table_cases(folder: Path, count: int, seed: int) -> Iterator[tuple[str, bytes]]:
    """What is wrong, and a table of images in which it is.

    Args:
        folder: Holds the sound `labels.csv`.
        count: How many.
        seed: Of the draw.
    """
    draw = random.Random(seed)
    rows = (folder / "labels.csv").read_text().splitlines()
    for number in range(count):
        name, change = list(_TABLES.items())[number % len(_TABLES)]
        yield name, change(list(rows), draw)


def _cell(column: int, value: str) -> Callable[[list[str], random.Random], bytes]:
    def change(rows: list[str], draw: random.Random) -> bytes:
        number = draw.randrange(1, len(rows))
        cells = rows[number].split(",")
        cells[column] = value
        rows[number] = ",".join(cells)
        return ("\n".join(rows) + "\n").encode("utf-8", "surrogatepass")

    return change


_TABLES: dict[str, Callable[[list[str], random.Random], bytes]] = {
    "a label of 5,000 digits": _cell(1, "7" * 5000),
    "a path of 5,000 letters": _cell(0, "x" * 5000),
    "a path of 5,000 letters and its ending": _cell(0, "x" * 5000 + ".png"),
    "a path of 5,000 folders": _cell(0, "x/" * 5000 + "a.png"),
    "a zero byte in a path": _cell(0, "a\0.png"),
    "half a character": _cell(0, "\ud800.png"),
    "a quote": _cell(1, '"'),
    "a label of a megabyte": _cell(1, "z" * 2**20),
    "no rows": lambda rows, draw: rows[0].encode(),
    "nothing": lambda rows, draw: b"",
    "junk": lambda rows, draw: draw.randbytes(500),
    "zeros": lambda rows, draw: b"\0" * 500,
    "a folder as a path": _cell(0, "."),
}


def graph_cases(count: int, seed: int) -> Iterator[tuple[str, bytes]]:
    """What a graph of a few hundred bytes asks for, and the graph: (batch, 3, 8, 8) float32 to (batch, 3)."""
    draw = random.Random(seed)
    for number in range(count):
        name, make = list(_GRAPHS.items())[number % len(_GRAPHS)]
        yield name, make(10 ** draw.choice((10, 11, 12)))


def _graph(nodes: Callable[[Any, Any], list[Any]]) -> Callable[[int], bytes]:
    def content(size: int) -> bytes:
        from onnx import TensorProto, helper, numpy_helper

        inits: list[Any] = []

        def constant(*values: float, whole: bool = True) -> str:
            array = np.array(values, dtype=np.int64 if whole else np.float32)
            inits.append(numpy_helper.from_array(array, f"c{len(inits)}"))
            return str(inits[-1].name)

        def scalar(value: int) -> str:
            inits.append(numpy_helper.from_array(np.array(value, dtype=np.int64), f"c{len(inits)}"))
            return str(inits[-1].name)

        def node(kind: str, *inputs: str, **attributes: Any) -> str:
            made.append(helper.make_node(kind, inputs, [f"t{len(made)}"], **attributes))
            return f"t{len(made) - 1}"

        made: list[Any] = []
        big = nodes(node, {"constant": constant, "scalar": scalar, "size": size})
        total = node("ReduceSum", str(big), keepdims=0)
        flat = node("Flatten", node("GlobalAveragePool", "images"))
        made.append(helper.make_node("Add", [flat, node("Cast", total, to=TensorProto.FLOAT)], ["logits"]))
        graph = helper.make_graph(
            made,
            "g",
            [helper.make_tensor_value_info("images", TensorProto.FLOAT, ["batch", 3, 8, 8])],
            [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", 3])],
            inits,
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
        return bytes(model.SerializeToString())

    return content


def _doubled(node: Any, given: Any) -> Any:
    found = "images"
    for _ in range(34):
        found = node("Concat", found, found, axis=2)
    return found


_GRAPHS: dict[str, Callable[[int], bytes]] = {
    "ConstantOfShape": _graph(lambda node, g: node("ConstantOfShape", g["constant"](g["size"]))),
    "Expand": _graph(lambda node, g: node("Expand", g["constant"](1.0, whole=False), g["constant"](g["size"]))),
    "Tile": _graph(lambda node, g: node("Tile", g["constant"](1.0, whole=False), g["constant"](g["size"]))),
    "Range": _graph(lambda node, g: node("Range", g["scalar"](0), g["scalar"](g["size"]), g["scalar"](1))),
    "a computed shape": _graph(
        lambda node, g: node("ConstantOfShape", node("Mul", g["constant"](g["size"]), g["constant"](2)))
    ),
    "a computed shape, cast": _graph(
        lambda node, g: node(
            "Cast", node("ConstantOfShape", node("Mul", g["constant"](g["size"]), g["constant"](2))), to=1
        )
    ),
    "a long constant, cast": _graph(
        lambda node, g: node("Cast", node("ConstantOfShape", g["constant"](g["size"])), to=7)
    ),
    "a shape that is not told": _graph(
        lambda node, g: node("ConstantOfShape", node("Pow", g["constant"](g["size"]), g["constant"](1)))
    ),
    "Resize": _graph(lambda node, g: node("Resize", "images", "", g["constant"](1, 1, 9e4, 9e4, whole=False))),
    "doubling": _graph(_doubled),
    "of the batch": _graph(
        lambda node, g: node("ConstantOfShape", node("Mul", node("Shape", "images"), g["constant"](1, 1, 10**5, 10**5)))
    ),
    "an unknown operator": _graph(lambda node, g: node("NoSuchOperator", "images")),
}


GRAPH_KINDS = len(_GRAPHS)


def copied(folder: Path, target: Path) -> Path:
    """A copy of a run's folder to damage; what was there before is gone."""
    shutil.rmtree(target, ignore_errors=True)
    return Path(shutil.copytree(folder, target))


def _written(words: str, name: str, content: bytes) -> Damage:
    def apply(target: Path) -> None:
        (target / name).write_bytes(content)

    return Damage(words, name, apply)


def _document(path: Path) -> dict[str, Any]:
    text = path.read_text()
    content: dict[str, Any] = yaml.safe_load(text) if path.suffix == ".yaml" else json.loads(text)
    return content


def _places(content: Any, before: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Where values are: keys and positions from the outside in. Of a list the first element alone."""
    inner = (
        content.items() if isinstance(content, dict) else enumerate(content[:1]) if isinstance(content, list) else ()
    )
    for key, value in inner:
        yield (*before, key)
        yield from _places(value, (*before, key))


def _replaced(content: Any, place: tuple[Any, ...], value: Any) -> Any:
    if not place:
        return value
    if isinstance(content, dict):
        return {**content, place[0]: _replaced(content[place[0]], place[1:], value)}
    return [_replaced(content[0], place[1:], value), *content[1:]]
