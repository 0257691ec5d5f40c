"""Each reader of strangers' bytes under a fuzzer that keeps what reached a new branch and changes it further.

    python tests/fuzz/guided.py --work fuzz --runs 20000

`attack.py` damages sound files blindly and never sees what came of it; here atheris counts the branches that an input
takes, and so works its way behind the first checks. Where atheris does not install, hypothesis draws the inputs, from
the same sound ones, and makes one that breaks the contract as short as it can. The contract is the attack's: a result
or one line that names the file, in its time and memory. A reader ends at its first fault, whose input stays in the
folder; `--again FILE` gives it to the reader once more. What reached something new stays too, and the next time begins
there. Ends with exit code 1 where any reader broke the contract.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.util
import io
import json
import random
import re
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

sys.path.append(str(Path(__file__).parents[1] / "faults"))  # run as a program, only this file's folder is there

if TYPE_CHECKING:
    import hostile

# Nothing of the program is imported up here: atheris sees the branches of modules that are imported after it began.

FUZZERS = ("atheris", "hypothesis")
LONGEST_S = 120
"""Seconds of wall time after which an input hangs; how long it may take is judged in processor time."""
MOST_MIB = 8192
"""Memory of the whole process; how much one input may take is judged by itself."""
LONGEST_INPUT = 2**16
"""Bytes."""
_EXECUTED = re.compile(r"number_of_executed_units:\s+(\d+)")
_FAULT = re.compile(r"^(?:Fault|guided\.Fault|__main__\.Fault): (.*)$", re.MULTILINE)
_KEPT = re.compile(r"Test unit written to (\S+)")
_SMALL_DICOM = 2**13


@dataclass(frozen=True)
class Reader:
    """A part of the program that reads bytes of strangers.

    Attributes:
        read: Gives it the bytes, and returns how it broke the contract; None where it kept it.
        seeds: Sound inputs, from which the fuzzer begins.
        close: Ends what it opened; a fuzzer's process ends without it.
    """

    read: Callable[[bytes], str | None]
    seeds: Sequence[bytes]
    close: Callable[[], None] = lambda: None


class Fault(Exception):
    """An input that broke the contract."""


@dataclass(frozen=True)
class Found:
    """What became of a reader.

    Attributes:
        inputs: How many it was given.
        fault: How it broke the contract; None where it kept it.
        file: The input that it broke it with.
    """

    inputs: int
    fault: str | None = None
    file: Path | None = None


def images(place: hostile.Place) -> Reader:
    """Images of every kind, by their content."""
    import hostile

    draw = random.Random(0)
    seeds = [hostile.encoded(kind, draw) for kind in hostile.IMAGE_KINDS for _ in range(3)]
    return Reader(lambda content: hostile.pixels_of(place.scratch / "guided-image", content)(), seeds)


def dicom(place: hostile.Place) -> Reader:
    """DICOM, from the smallest of pydicom's own test files."""
    import hostile
    import pydicom.data

    folder = Path(str(pydicom.data.__file__)).parent / "test_files"
    seeds = [p.read_bytes() for p in sorted(folder.rglob("*.dcm")) if p.stat().st_size < _SMALL_DICOM]
    return Reader(lambda content: hostile.pixels_of(place.scratch / "guided.dcm", content)(), seeds)


def npy(place: hostile.Place) -> Reader:
    """Arrays in files of their own, read as pictures and as inputs of two channels."""
    import hostile

    draw = random.Random(0)
    seeds = [hostile.npy(draw) for _ in range(12)]

    def read(content: bytes) -> str | None:
        faults = (hostile.pixels_of(place.scratch / "guided.npy", content, channels)() for channels in (3, 2))
        return next((fault for fault in faults if fault is not None), None)

    return Reader(read, seeds)


def npz(place: hostile.Place) -> Reader:
    """Sets of NumPy arrays."""
    import hostile

    draw = random.Random(0)
    seeds = [hostile.npz(draw) for _ in range(4)]
    return Reader(hostile.set_of(place, place.scratch / "guided.npz"), seeds)


def table(place: hostile.Place) -> Reader:
    """Tables of images, among the images that they name."""
    import hostile

    from ttl_deploy.data.manifest import read_dataset

    sound = (place.data / "labels.csv").read_bytes().splitlines(keepends=True)
    seeds = [b"".join(sound[:7]), b"".join(sound[:4]).replace(b",", b";"), b"".join(sound[:4]).replace(b",", b"\t")]
    return Reader(hostile.of_file(place.data / "guided.csv", read_dataset), seeds)


def yaml(place: hostile.Place) -> Reader:
    """Configurations."""
    import hostile

    from ttl_deploy import documents

    seeds = [(place.run / "config.yaml").read_bytes(), b"a: [1, .5, {b: x}]\n", b'- "\\u00e9"\n- >\n  x\n- ~\n']
    return Reader(hostile.of_file(place.scratch / "guided.yaml", documents.read_yaml), seeds)


def toml(place: hostile.Place) -> Reader:
    """Targets and policies."""
    import hostile

    from ttl_deploy import documents

    seeds = [b'a = [1, 0.5, "x"]\n[b]\nc = 2026-01-02\n', b'[[x]]\ny = { z = """q""" }\n']
    return Reader(hostile.of_file(place.scratch / "guided.toml", documents.read_toml), seeds)


def manifest(place: hostile.Place) -> Reader:
    """An artifact's record of itself."""
    import hostile

    from ttl_deploy import documents
    from ttl_deploy.spec import ArtifactManifest, read_record

    def read(file: Path) -> object:
        return read_record(ArtifactManifest, documents.read_json(file), file)

    return Reader(
        hostile.of_file(place.scratch / "guided.json", read), [(place.artifacts["onnx"] / "manifest.json").read_bytes()]
    )


def history(place: hostile.Place) -> Reader:
    """Lines of JSON, the last of which may be cut short."""
    import hostile

    from ttl_deploy import documents

    def read(file: Path) -> object:
        return list(documents.read_json_lines(file))

    seeds = [b'{"epoch": 1, "loss": 0.5}\n{"epoch": 2}\n', b"[]\n1\n", b'{"a": [1, 2']
    return Reader(hostile.of_file(place.scratch / "guided.jsonl", read), seeds)


def safetensors(place: hostile.Place) -> Reader:
    """Weights in the format without code."""
    import hostile
    import numpy as np
    from safetensors.numpy import save

    tensors = {"conv1.weight": np.ones((2, 3), np.float32), "bn1.bias": np.zeros(2, np.float16)}
    return Reader(
        hostile.of_file(place.scratch / "guided.safetensors", _weights),
        [save(tensors), save(tensors, {"format": "pt"})],
    )


def pth(place: hostile.Place) -> Reader:
    """Weights as torch saves them."""
    import hostile
    import torch

    seeds = []
    for zipped in (True, False):
        buffer = io.BytesIO()
        torch.save({"conv1.weight": torch.ones(2, 3)}, buffer, _use_new_zipfile_serialization=zipped)
        seeds.append(buffer.getvalue())
    return Reader(hostile.of_file(place.scratch / "guided.pth", _weights), seeds)


def program(place: hostile.Place) -> Reader:
    """Programs of torch.export, whose records are looked through before PyTorch sees them."""
    import hostile

    from ttl_deploy.runtime.torch_guard import check_program

    return Reader(hostile.of_file(place.scratch / "guided.pt2", check_program), _torch_archives())


def script(place: hostile.Place) -> Reader:
    """Programs of TorchScript, likewise."""
    import hostile

    from ttl_deploy.runtime.torch_guard import check_script

    return Reader(hostile.of_file(place.scratch / "guided.pt", check_script), _torch_archives())


def _torch_archives() -> list[bytes]:
    """Archives by PyTorch's own writer, with records such as both kinds of program have."""
    import torch

    model = b'{"graph_module": {"graph": {"nodes": [{"target": "torch.ops.aten.relu.default", "inputs": []}]}}}'
    code = b"class M(Module):\n  def forward(self, x: Tensor) -> Tensor:\n    return torch.relu(x)\n"
    of_program = {"archive_format": b"pt2", "models/model.json": model, "data/weights/model_weights_config.json": b"{}"}
    of_script = {"code/__torch__.py": code, "data.pkl": b"\x80\x02}q\x00.", "constants.pkl": b"\x80\x02)."}
    found = []
    for records in (of_program, of_script):
        buffer = io.BytesIO()
        writer = torch._C.PyTorchFileWriter(buffer)
        for name, content in records.items():
            writer.write_record(name, content, len(content))
        writer.write_end_of_file()
        found.append(buffer.getvalue())
    return found


def graph(place: hostile.Place) -> Reader:
    """ONNX graphs, whose sizes are inferred before an engine allocates them."""
    import generators
    import hostile

    from ttl_deploy.runtime.graph_size import refuse_oversized

    seeds = [content for _, content in generators.graph_cases(generators.GRAPH_KINDS, 0)]
    return Reader(hostile.of_file(place.scratch / "guided.onnx", refuse_oversized), seeds)


def form(place: hostile.Place) -> Reader:
    """The one file of a form, as browsers send it; what stands before the first blank line is the content's type."""
    from ttl_deploy.serve.multipart import file_of

    part = b'--b\r\nContent-Disposition: form-data; name="f"; filename="a.png"\r\n\r\nPNG\r\n--b--\r\n'
    seeds = [b"multipart/form-data; boundary=b\n\n" + part, b'multipart/form-data; boundary="b"\n\n' + part * 2]

    def read(content: bytes) -> object:
        kind, _, body = content.partition(b"\n\n")
        return file_of(body, kind.decode("latin-1"))

    return Reader(_of_request(read), seeds)


def inference(place: hostile.Place) -> Reader:
    """Requests of the inference protocol; the first line is the length of the JSON, where binary tensors follow."""
    from ttl_deploy.serve import kserve
    from ttl_deploy.serve.model import ServedModel
    from ttl_deploy.spec import Placement

    model = ServedModel(place.artifacts["onnx"], max_batch=4, placement=Placement(threads=1))
    tensor = {"name": model.input_name, "datatype": "FP32", "shape": [1, *model.input_shape], "data": [0.5]}
    image = {"name": "image", "datatype": "BYTES", "shape": [1], "data": ["aGVsbG8="]}
    wanted = {"name": "probabilities", "parameters": {"binary_data": True}}
    binary = json.dumps({"inputs": [{**image, "data": None, "parameters": {"binary_data_size": 7}}]}).encode()
    seeds = [
        *(b"\n" + json.dumps({"id": "1", "inputs": [put], "outputs": [wanted]}).encode() for put in (tensor, image)),
        b"%d\n" % len(binary) + binary + b"\3\0\0\0abc",
    ]

    def read(content: bytes) -> object:
        length, _, body = content.partition(b"\n")
        return kserve.read_request(body, length.decode("latin-1") or None, model)

    return Reader(_of_request(read), seeds, model.close)


def _of_request(read: Callable[[bytes], object]) -> Callable[[bytes], str | None]:
    """What a reader of requests makes of bytes."""
    from ttl_deploy.serve.request_error import RequestError

    def attempt(content: bytes) -> str | None:
        try:
            read(content)
        except RequestError as error:
            return None if 400 <= error.status < 500 and "\n" not in str(error) else f"said {error.status}: {error}"
        return None

    return attempt


def _weights(file: Path) -> object:
    from ttl_deploy.transfer.initialise import read_weights

    return read_weights(file)


READERS: Mapping[str, Callable[[hostile.Place], Reader]] = {
    make.__name__: make
    for make in (
        images, dicom, npy, npz, table, yaml, toml, manifest, history, safetensors, pth, program, script, graph, form,
        inference,
    )
}  # fmt: skip


def main(arguments: list[str]) -> int:
    """Gives every reader its inputs, or as a worker one of them."""
    options = _parser().parse_args(arguments)
    if options.worker:
        _work(options)
    if not (options.work / "run").is_dir():
        import hostile

        hostile.made_place(options.work)
    names = options.only.split(",") if options.only else list(READERS)
    broken = 0
    for name in names:
        found = fuzzed(options.work, name, options.runs, options.seed, fuzzer=options.fuzzer, again=options.again)
        broken += found.fault is not None
        said = "all kept the contract" if found.fault is None else f"{found.fault} (input: {found.file})"
        print(f"{name}: {found.inputs:,} inputs by {options.fuzzer}, {said}", flush=True)
    print(f"{len(names)} readers, {len(names) - broken} kept the contract")
    return int(broken > 0)


def fuzzed(
    work: Path, name: str, runs: int, seed: int, *, fuzzer: str, again: Path | None = None, program: str = __file__
) -> Found:
    """Gives a reader its inputs in a process of its own, which a fault of native code may end.

    Args:
        work: The folder of `hostile.made_place`.
        name: Of the reader.
        runs: How many inputs.
        seed: Of the draw.
        fuzzer: One of `FUZZERS`.
        again: Only this input.
        program: What calls `main`.
    """
    options = ["--work", work, "--worker", name, "--runs", runs, "--seed", seed, "--fuzzer", fuzzer]
    options += [] if again is None else ["--again", again]
    command = [sys.executable, program, *map(str, options)]
    ended = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace")
    counts, kept = _EXECUTED.findall(ended.stdout), _KEPT.findall(ended.stdout)
    count = int(counts[-1]) if counts else 0
    if ended.returncode == 0 and count:
        return Found(count)
    faults = _FAULT.findall(ended.stdout)
    said = faults[-1] if faults else f"its process ended with {ended.returncode}: {ended.stdout[-2000:]}"
    return Found(count, said, Path(kept[-1]) if kept else again)


def _work(options: argparse.Namespace) -> NoReturn:
    folder = options.work / "guided" / options.worker
    for name in ("found", "seeds"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    if options.fuzzer == "atheris":
        _by_branches(options, folder)
    reader = _reader(options)
    if options.again is not None:
        _judge(reader, options.again.read_bytes())
        print("stat::number_of_executed_units: 1")
    else:
        print(f"stat::number_of_executed_units: {drawn(reader, options.runs, options.seed, folder)}")
    sys.exit(0)


def _reader(options: argparse.Namespace) -> Reader:
    """The reader, after each of its seeds: what it imports at its first use is imported."""
    import hostile

    place = hostile.place_of(options.work, options.work / "run", options.work / "data")
    reader = READERS[options.worker](place)
    for content in reader.seeds:
        reader.read(content)
    return reader


def _judge(reader: Reader, content: bytes) -> None:
    import attack

    fault = attack.judged(lambda: reader.read(content))["fault"]
    if fault is not None:
        raise Fault(fault)


def _by_branches(options: argparse.Namespace, folder: Path) -> NoReturn:
    """Fuzzes until the end of the process, which libFuzzer ends."""
    import atheris

    with atheris.instrument_imports(include=["ttl_deploy", "pydicom"]):
        reader = _reader(options)
    for content in reader.seeds:
        (folder / "seeds" / hashlib.sha256(content).hexdigest()[:16]).write_bytes(content)
    limits = [f"-timeout={LONGEST_S}", f"-rss_limit_mb={MOST_MIB}", f"-max_len={LONGEST_INPUT}"]
    way = [f"-runs={options.runs}", f"-seed={options.seed + 1}", f"-artifact_prefix={folder}/", "-print_final_stats=1"]
    inputs = [folder / "found", folder / "seeds"] if options.again is None else [options.again]
    atheris.Setup(
        [sys.argv[0], *limits, *way, *map(str, inputs)],
        atheris.instrument_func(lambda content: _judge(reader, content)),
    )
    atheris.Fuzz()
    raise SystemExit(0)


def drawn(reader: Reader, runs: int, seed: int, folder: Path) -> int:
    """Gives a reader sound inputs with parts taken out and put in, drawn by hypothesis; how many it was given.

    Raises:
        Fault: One broke the contract; the shortest that does lies in the folder.
    """
    import hypothesis

    count, last = 0, b""

    @hypothesis.seed(seed)
    @hypothesis.settings(
        max_examples=runs, deadline=None, database=None, suppress_health_check=list(hypothesis.HealthCheck)
    )
    @hypothesis.given(_inputs(reader.seeds))
    def keeps_the_contract(content: bytes) -> None:
        nonlocal count, last
        count, last = count + 1, content
        _judge(reader, content)

    try:
        keeps_the_contract()
    except Fault:
        file = folder / f"crash-{hashlib.sha256(last).hexdigest()[:16]}"
        file.write_bytes(last)
        print(f"Test unit written to {file}")
        raise
    return count


def _inputs(seeds: Sequence[bytes]) -> Any:
    """A strategy: any bytes, towards which faults are shortened, or a seed with up to four edits."""
    from hypothesis import strategies

    edit = strategies.tuples(
        strategies.floats(0, 1), strategies.integers(0, 40), strategies.binary(max_size=40) | strategies.just(b"")
    )
    edited = strategies.builds(_edited, strategies.sampled_from(list(seeds)), strategies.lists(edit, max_size=4))
    return strategies.binary(max_size=200) | edited


def _edited(content: bytes, edits: Sequence[tuple[float, int, bytes]]) -> bytes:
    for where, removed, put in edits:
        at = round(where * len(content))
        content = content[:at] + put + content[at + removed :]
    return content


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True, help="folder of the sound run and of the inputs found")
    parser.add_argument("--runs", type=int, default=20_000, help="inputs of each reader")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", help=f"readers, comma-separated: {', '.join(READERS)}")
    parser.add_argument("--again", type=Path, metavar="FILE", help="only this input; give the reader with --only")
    parser.add_argument("--fuzzer", choices=FUZZERS, default=_fuzzer_here(), help="default: the first that is here")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    return parser


def _fuzzer_here() -> str:
    return next(name for name in FUZZERS if importlib.util.find_spec(name) is not None)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
