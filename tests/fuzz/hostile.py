"""Hostile inputs drawn from a seed, by category, and what the program makes of each: the cases of `attack.py`.

A category yields pairs of a name and an attempt. The attempt gives the program one input, and returns how it broke the
contract: a right result, or one line that names the input. None where it kept it. What becomes of time and memory, and
of a process that dies, is judged by who runs the attempts.
"""

from __future__ import annotations

import contextlib
import http.client
import io
import json
import random
import shutil
import struct
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import generators
import numpy as np
from PIL import Image

from ttl_deploy.errors import TtlDeployError
from ttl_deploy.spec import Placement

Attempt = Callable[[], str | None]
Cases = Iterator[tuple[str, Attempt]]

MODELS = {"onnx": "model.onnx", "openvino": "model.xml", "pt2": "model.pt2", "torchscript": "model.pt"}
IMAGE_KINDS = ("PNG", "JPEG", "BMP", "GIF", "TIFF", "WEBP", "PPM", "JPEG2000")
_TIFF_WAYS = ("raw", "tiff_lzw", "tiff_adobe_deflate", "packbits")
_STRANGE: tuple[Any, ...] = (
    None, True, 0, -1, 2**64, 0.5, "", "x", "FP32", [], [[]], {}, {"a": [1]}, [5], ["x"], 1e308, "\ud800", "9" * 5000,
)  # fmt: skip
_MOST_DICOM = 2**20
"""Bytes of a file of pydicom's that is damaged; mutations of larger ones only take longer."""


@dataclass(frozen=True)
class Place:
    """What the attempts need of sound things.

    Attributes:
        data: A folder with `labels.csv` and the images that it names.
        run: A finished run on them, with the artifact `onnx-fp32` inside.
        artifacts: Folders of artifacts by format; those that are missing are not attacked.
        scratch: A folder for whatever an attempt writes.
    """

    data: Path
    run: Path
    artifacts: Mapping[str, Path]
    scratch: Path

    @property
    def image(self) -> Path:
        """One of the images."""
        return min(self.data.rglob("*.png"))

    @property
    def cache(self) -> Path:
        """The pixel cache of all attempts."""
        return self.scratch / "cache"


def images(place: Place, count: int, seed: int) -> Cases:
    """Images of every kind with bytes changed, lost, doubled or taken from another."""
    draw = random.Random(seed)
    bases = [(kind, encoded(kind, draw)) for kind in IMAGE_KINDS for _ in range(4)]
    for number in range(count):
        kind, content = bases[number % len(bases)]
        damaged = _mutated(content, draw, draw.choice(bases)[1])
        file = place.scratch / f"{kind.lower()}-{number}"
        yield f"{kind} {number}", pixels_of(file, damaged)


def dicom(place: Place, count: int, seed: int) -> Cases:
    """pydicom's own test files with bytes or tags changed."""
    import pydicom.data

    folder = Path(str(pydicom.data.__file__)).parent / "test_files"
    bases = sorted(p for p in folder.rglob("*.dcm") if p.stat().st_size < _MOST_DICOM)
    draw = random.Random(seed)
    for number in range(count):
        base = bases[number % len(bases)]
        content = base.read_bytes()
        change = draw.choice((_mutated, _mutated, _other_tag))
        file = place.scratch / f"dicom-{number}.dcm"
        yield f"{base.name} {number}", pixels_of(file, change(content, draw, content))


def _other_tag(content: bytes, draw: random.Random, _other: bytes) -> bytes:
    """A tag that decides pixels gets another value; the file as it was where pydicom cannot write it."""
    import pydicom

    tag = draw.choice(
        ("Rows", "Columns", "BitsAllocated", "BitsStored", "HighBit", "SamplesPerPixel", "PixelRepresentation",
         "PlanarConfiguration", "NumberOfFrames", "WindowWidth", "WindowCenter", "RescaleSlope", "RescaleIntercept",
         "PhotometricInterpretation")
    )  # fmt: skip
    value = draw.choice((0, 1, 3, 7, 12, 16, 33, 255, 9400, 65535, -1, "", "1e308", "MONOCHROME1", "PALETTE COLOR"))
    with contextlib.suppress(Exception):
        dataset = pydicom.dcmread(io.BytesIO(content), force=True)
        setattr(dataset, tag, value)
        buffer = io.BytesIO()
        dataset.save_as(buffer)
        return buffer.getvalue()
    return content


def pixels_of(file: Path, content: bytes, channels: int = 3) -> Attempt:
    """Reads an image of these bytes."""
    from ttl_deploy.errors import UnreadableImageError
    from ttl_deploy.inputs.image import load_pixels
    from ttl_deploy.spec import InputSpec, PreprocessSpec

    def attempt() -> str | None:
        file.write_bytes(content)
        try:
            pixels = load_pixels(file, PreprocessSpec.of(InputSpec.image(16, channels)))
        except UnreadableImageError as error:
            return (
                None if file.name in str(error) and "\n" not in str(error) else f"not one line that names it: {error}"
            )
        finally:
            file.unlink()
        return None if pixels.shape == (16, 16, channels) else f"pixels of shape {pixels.shape}"

    return attempt


def of_file(file: Path, read: Callable[[Path], object]) -> Callable[[bytes], str | None]:
    """What a reader of files makes of bytes."""

    def attempt(content: bytes) -> str | None:
        file.write_bytes(content)
        try:
            read(file)
        except TtlDeployError as error:
            return unclear(error, file)
        finally:
            file.unlink()
        return None

    return attempt


def unclear(error: TtlDeployError, file: Path) -> str | None:
    """What an error says, where that is not one line with the file's name, or not bad input."""
    said = str(error)
    return None if error.exit_code == 2 and file.name in said and "\n" not in said else f"said {said[:300]}"


def encoded(kind: str, draw: random.Random) -> bytes:
    """A sound image of a few hundred bytes.

    Args:
        kind: One of `IMAGE_KINDS`.
        draw: Decides size, mode and how it is packed.
    """
    generator = np.random.default_rng(draw.getrandbits(32))
    shape = (draw.choice((9, 24)), draw.choice((7, 32)), 3)
    picture = Image.fromarray(generator.integers(0, 256, shape, dtype=np.uint8))
    if kind not in ("BMP", "WEBP"):
        modes = ("L", "RGB") if kind in ("JPEG", "PPM", "JPEG2000") else ("L", "RGB", "P", "1")
        picture = picture.convert(draw.choice(modes))
    if kind == "PNG" and draw.random() < 0.5:
        picture = Image.fromarray(generator.integers(0, 65536, shape[:2], dtype=np.uint16))
    ways: dict[str, Any] = {
        "TIFF": {"compression": draw.choice(_TIFF_WAYS)},
        "JPEG": {"progressive": draw.random() < 0.5},
    }
    buffer = io.BytesIO()
    picture.save(buffer, kind, **ways.get(kind, {}))
    return buffer.getvalue()


def _mutated(content: bytes, draw: random.Random, other: bytes) -> bytes:
    """One to three damages of a file's bytes; most in its first part, where headers are."""
    damaged = bytearray(content)
    for _ in range(draw.choice((1, 1, 2, 3))):
        size = len(damaged)
        if size < 8:
            break
        at = draw.randrange(min(size, draw.choice((64, 600, size))))
        kind = draw.randrange(8)
        if kind < 2:
            damaged[at] = draw.randrange(256)
        elif kind == 2:
            odd = draw.choice((0, 1, 0x7F, 0x80, 0xFF, 0x7FFF, 0xFFFF, 9400, 2**31 - 1, 2**32 - 1))
            word = struct.pack(draw.choice(("<I", ">I")), odd)[: draw.choice((2, 4))]
            damaged[at : at + len(word)] = word
        elif kind == 3:
            del damaged[at:]
        elif kind == 4:
            del damaged[at : at + draw.randrange(1, 40)]
        elif kind == 5:
            damaged[at:at] = damaged[at : at + draw.randrange(1, 400)] * draw.choice((1, 2, 50))
        elif kind == 6:
            damaged[at : at + 40] = bytes(min(40, size - at))
        else:
            damaged[at:] = other[draw.randrange(max(1, len(other))) :]
    return bytes(damaged)


def archives(place: Place, count: int, seed: int) -> Cases:
    """`.npz` files whose bytes, headers or members are not what they should be."""
    draw = random.Random(seed)
    for number in range(count):
        content = npz(draw)
        if draw.random() < 0.7:
            content = _mutated(content, draw, content)
        yield f"npz {number}", partial(set_of(place, place.scratch / f"set-{number}.npz"), content)


def npy(draw: random.Random) -> bytes:
    """An array of an image; in some, the header lies about its shape or type, or it holds objects."""
    generator = np.random.default_rng(draw.getrandbits(32))
    last = draw.choice(((), (1,), (2,), (3,), (4,)))
    kind = draw.choice((np.uint8, np.uint16, np.float32, object))
    buffer = io.BytesIO()
    np.save(buffer, generator.integers(0, 256, (9, 12, *last)).astype(kind))
    lie = draw.choice((b"(9,", b"(9400,", b"(-1,", b"(10**9,", b"((1,", b"(0,"))
    return buffer.getvalue().replace(b"(9,", lie, 1)


def npz(draw: random.Random) -> bytes:
    """A set of three sides; in some, an array's header lies about its shape."""
    generator = np.random.default_rng(draw.getrandbits(32))
    buffer = io.BytesIO()
    how = draw.choice((zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED))
    with zipfile.ZipFile(buffer, "w", how) as archive:
        for side, images in (("train", 12), ("val", 6), ("test", 6)):
            pixels = generator.integers(0, 256, (images, 8, 8), dtype=np.uint8)
            labels = np.arange(images).reshape(-1, 1) % 2
            for name, array in ((f"{side}_images", pixels), (f"{side}_labels", labels)):
                member = io.BytesIO()
                np.save(member, array)
                raw = member.getvalue()
                if draw.random() < 0.1:
                    lie = draw.choice((b"(9400", b"(-1", b"(10**9", b"((1", b"(1e3", b"(0"))
                    raw = raw.replace(b"(%d" % images, lie, 1)
                archive.writestr(f"{name}.npy", raw)
    return buffer.getvalue()


def set_of(place: Place, file: Path) -> Callable[[bytes], str | None]:
    """What reading a `.npz` set, its pixels too, makes of bytes."""
    from ttl_deploy.data.manifest import read_dataset
    from ttl_deploy.data.prepared import prepare
    from ttl_deploy.spec import PreprocessSpec, SplitSpec

    def read(path: Path) -> None:
        prepare(read_dataset(path), PreprocessSpec(image_size=8), SplitSpec(), cache_folder=place.cache)

    return of_file(file, read)


def tables(place: Place, count: int, seed: int) -> Cases:
    """Tables of images with a damaged cell, and with damaged bytes."""
    draw = random.Random(seed)
    sound = (place.data / "labels.csv").read_bytes()
    drawn = generators.table_cases(place.data, count, seed)
    for number, (name, content) in enumerate(drawn):
        damaged = content if number % 2 else _mutated(sound, draw, sound)
        yield f"{name if number % 2 else 'bytes'} {number}", _table(place, place.data / f"table-{number}.csv", damaged)


def _table(place: Place, file: Path, content: bytes) -> Attempt:
    def attempt() -> str | None:
        file.write_bytes(content)
        options = ("--backbone", "resnet18", "--cut", "layer1.0", "--image-size", "32", "--weights", "no-such-weights")
        out = place.scratch / "never"
        try:
            found = generators.command("train", file, *options, "--cache", place.cache, "--out", out)
        finally:
            file.unlink()
        return "it trained" if found.code == 0 or out.exists() else found.fault(file.name, "no-such-weights")

    return attempt


def runs(place: Place, count: int, seed: int) -> Cases:
    """A damaged file in a run's folder, and each command that reads such a folder in turn."""
    folder = place.scratch / "run"
    names = list(generators.commands_on(folder, place.image, place.cache))
    for number, damage in enumerate(generators.cases(place.run, count, seed)):
        name = names[number % len(names)]
        yield f"{name}: {damage.file}, {damage.name}", _run(place, folder, damage, name)


def _run(place: Place, folder: Path, damage: generators.Damage, name: str) -> Attempt:
    def attempt() -> str | None:
        generators.copied(place.run, folder)
        damage.apply(folder)
        found = generators.command(*generators.commands_on(folder, place.image, place.cache)[name])
        also = ("labels.csv",) if damage.file == "split.csv" else ()
        return found.fault(damage.file, Path(damage.file).name, str((folder / damage.file).parent), *also)

    return attempt


def weights(place: Place, count: int, seed: int) -> Cases:
    """Files of weights that are none, and sound ones with damaged bytes."""
    draw = random.Random(seed)
    sound = (place.run / "best.safetensors").read_bytes()
    for number, (name, content) in enumerate(generators.weights_cases(count, seed)):
        damaged = content if number % 2 else _mutated(sound, draw, content)
        ending = Path(name).suffix if number % 2 else ".safetensors"
        yield name, partial(_start_from(place.scratch / f"weights-{number}{ending}"), damaged)


def _start_from(file: Path) -> Callable[[bytes], str | None]:
    from ttl_deploy.spec import ModelSpec
    from ttl_deploy.transfer import build
    from ttl_deploy.transfer.initialise import initialise

    spec = ModelSpec(backbone="resnet18", method="ttl", cut="layer1.0", classes=("a", "b"), image_size=32)
    return of_file(file, lambda path: initialise(build(spec), str(path)))


def artifacts(place: Place, count: int, seed: int) -> Cases:
    """Artifacts whose hashes are right and whose model files, or manifests, were made by somebody else."""
    draw = random.Random(seed)
    known = [(kind, folder) for kind, folder in place.artifacts.items() if (folder / "manifest.json").exists()]
    for number in range(count):
        kind, sound = known[number % len(known)]
        change = draw.choice((_other_model, _other_model, _other_member, _other_manifest))
        yield f"{kind} {number}, {change.__name__}", _opened(place, sound, change, random.Random(draw.getrandbits(64)))


def _opened(place: Place, sound: Path, change: Callable[[Path, random.Random], None], draw: random.Random) -> Attempt:
    def attempt() -> str | None:
        folder = generators.copied(sound, place.scratch / "artifact")
        change(folder, draw)
        found = generators.command("predict", folder, place.image)
        return found.fault(str(folder), folder.name)

    return attempt


def _other_model(folder: Path, draw: random.Random) -> None:
    """The bytes of a file that the manifest lists are damaged, and its hash is that of the damaged file."""
    manifest = json.loads((folder / "manifest.json").read_text())
    name = draw.choice(sorted(manifest["files"]))
    content = (folder / name).read_bytes()
    _write(folder, manifest, name, _mutated(content, draw, content))


def _other_member(folder: Path, draw: random.Random) -> None:
    """A member of an archive is damaged, its checksum right; other files as in `_other_model`."""
    manifest = json.loads((folder / "manifest.json").read_text())
    name = manifest["model_file"]
    if not zipfile.is_zipfile(folder / name):
        _other_model(folder, draw)
        return
    buffer = io.BytesIO()
    with zipfile.ZipFile(folder / name) as source, zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as target:
        members = source.infolist()
        chosen = draw.choice([member.filename for member in members if not member.is_dir()])
        for member in members:
            content = source.read(member)
            target.writestr(member, _mutated(content, draw, content) if member.filename == chosen else content)
    _write(folder, manifest, name, buffer.getvalue())


def _other_manifest(folder: Path, draw: random.Random) -> None:
    generators.wrong_value("manifest.json", folder, draw).apply(folder)


def _write(folder: Path, manifest: dict[str, Any], name: str, content: bytes) -> None:
    import hashlib

    (folder / name).write_bytes(content)
    manifest["files"][name] = {"sha256": hashlib.sha256(content).hexdigest(), "size": len(content)}
    (folder / "manifest.json").write_text(json.dumps(manifest))


def graphs(place: Place, count: int, seed: int) -> Cases:
    """ONNX graphs of a few hundred bytes that ask for terabytes."""
    for name, content in generators.graph_cases(count, seed):
        yield name, _graph(place, content)


def _graph(place: Place, content: bytes) -> Attempt:
    def attempt() -> str | None:
        folder = generators.copied(place.artifacts["onnx"], place.scratch / "artifact")
        manifest = json.loads((folder / "manifest.json").read_text())
        _write(folder, manifest, manifest["model_file"], content)
        found = generators.command("predict", folder, place.image)
        return "it predicted" if found.code == 0 else found.fault(str(folder))

    return attempt


def requests(place: Place, count: int, seed: int) -> Cases:
    """Requests of every kind to a server that stays up: an answer below 500, or 503, and health after each tenth."""
    from ttl_deploy.serve.model import ServedModel
    from ttl_deploy.serve.server import Server

    draw = random.Random(seed)
    picture = place.image.read_bytes()
    with (
        ServedModel(place.artifacts["onnx"], max_batch=4, decode_seconds=10.0, placement=Placement(threads=1)) as model,
        Server(model, port=0) as server,
    ):
        host, _, port = server.url.removeprefix("http://").partition(":")
        for number in range(count):
            yield (
                f"request {number}",
                _request(host, int(port), *_asked(draw, model.name, picture), check=not number % 10),
            )


def _asked(draw: random.Random, name: str, picture: bytes) -> tuple[str, str, bytes, dict[str, str]]:
    """Method, path, body and headers."""
    infer = f"/v2/models/{name}/infer"
    kind = draw.randrange(6)
    if kind == 0:
        return "POST", "/predict", _mutated(picture, draw, picture), {"content-type": "image/png"}
    if kind == 1:
        body = b'--b\r\nContent-Disposition: form-data; name="f"; filename="a.png"\r\n\r\n' + picture + b"\r\n--b--\r\n"
        return "POST", "/predict", _mutated(body, draw, body), {"content-type": "multipart/form-data; boundary=b"}
    if kind == 2:
        method = draw.choice(("GET", "POST", "PUT", "DELETE", "HEAD", "OPTIONS"))
        path = draw.choice(("/", "/metrics", "/v2", "/v2/models/x", "/predict", infer, "/%00", "/" + "x" * 9000))
        return method, path, draw.randbytes(draw.choice((0, 9))), {"content-encoding": draw.choice(("gzip", "br", "x"))}
    content: Any = {
        "inputs": [{"name": "images", "datatype": "FP32", "shape": [1, 3, 32, 32], "data": [0.5] * 3072}],
        "outputs": [{"name": "logits"}],
    }
    _strange(content, draw)
    body = json.dumps(content).encode("utf-8", "surrogatepass")
    if kind == 3:
        body = _mutated(body, draw, body)
    headers = {"content-type": "application/json"}
    if kind == 4:
        body = draw.choice((zlib.compress(body, wbits=31), body))
        headers["content-encoding"] = "gzip"
    if kind == 5:
        headers["inference-header-content-length"] = draw.choice(("0", "-1", "99999999", "x", str(len(body))))
    return "POST", infer, body, headers


def _strange(content: Any, draw: random.Random) -> None:
    """Puts something strange in a random place of a request."""
    keys = list(content) if isinstance(content, dict) else list(range(min(len(content), 3)))
    key = draw.choice([*keys, "data", "parameters"] if isinstance(content, dict) else keys)
    inside = content.get(key) if isinstance(content, dict) else content[key]
    if isinstance(inside, dict | list) and inside and draw.random() < 0.7:
        _strange(inside, draw)
    else:
        content[key] = draw.choice(_STRANGE)


def _request(
    host: str, port: int, method: str, path: str, body: bytes, headers: dict[str, str], *, check: bool
) -> Attempt:
    def attempt() -> str | None:
        status = _status(host, port, method, path, body, headers)
        if status is None or (status >= 500 and status != 503):
            return f"{method} {path[:40]}: status {status}"
        if check and _status(host, port, "GET", "/v2/health/ready", b"", {}) != 200:
            return "the server is not healthy any more"
        return None

    return attempt


def _status(host: str, port: int, method: str, path: str, body: bytes, headers: dict[str, str]) -> int | None:
    connection = http.client.HTTPConnection(host, port, timeout=30)
    try:
        connection.request(method, path, body or None, headers)
        answer = connection.getresponse()
        answer.read()
        return answer.status
    except (OSError, http.client.HTTPException):
        return None
    finally:
        connection.close()


CATEGORIES: Mapping[str, tuple[int, Callable[[Place, int, int], Cases]]] = {
    "images": (4000, images),
    "dicom": (1500, dicom),
    "npz": (800, archives),
    "tables": (700, tables),
    "runs": (900, runs),
    "weights": (500, weights),
    "artifacts": (600, artifacts),
    "graphs": (100, graphs),
    "requests": (1000, requests),
}
"""By name: how many cases, and what makes them."""


def made_place(folder: Path) -> Place:
    """Trains a tiny network and exports it in every format that data travels in; what is there is taken."""
    from ttl_deploy.data.synthetic import write_synthetic
    from ttl_deploy.formats.export_run import export_run
    from ttl_deploy.spec import Data, Model, Protocol
    from ttl_deploy.training.train import train

    data, run, scratch = folder / "data", folder / "run", folder / "scratch"
    if not (data / "labels.csv").exists():
        write_synthetic(data, images=60, size=32, seed=1)
    if not (run / "metrics.json").exists():
        model = Model(backbone="resnet18", cut="layer1.1", image_size=32, weights="random")
        protocol = Protocol(epochs=2, batch_size=16, learning_rate=1e-3)
        train(Data(path=data / "labels.csv", cache=scratch / "cache"), model, protocol, run, overwrite=True)
    for kind in MODELS:
        out = run / generators.ARTIFACT if kind == "onnx" else folder / kind
        if not (out / "manifest.json").exists():
            export_run(run, format=kind, out=out, cache=scratch / "cache")
    return place_of(folder, run, data)


def place_of(folder: Path, run: Path, data: Path) -> Place:
    """The place in which things lie already; formats that are not in `folder` are left out."""
    scratch = folder / "scratch"
    scratch.mkdir(parents=True, exist_ok=True)
    found = {kind: folder / kind for kind in MODELS if (folder / kind).is_dir()}
    return Place(data, run, {"onnx": run / generators.ARTIFACT, **found}, scratch)


def emptied(place: Place) -> None:
    """Removes what attempts left; the pixel cache stays."""
    for left in place.scratch.iterdir():
        if left.name != "cache":
            shutil.rmtree(left) if left.is_dir() else left.unlink()
