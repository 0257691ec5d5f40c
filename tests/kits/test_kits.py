"""The stand-alone programs in `export/` against `ttl-deploy predict`: the same images, the same numbers.

The model is the identity: its logits are the preprocessed pixels, so one bit in one pixel moves a probability by more
than the tolerance.
"""

import contextlib
import csv
import importlib.util
import io
import json
import os
import re
import shutil
import struct
import subprocess
import sys
import zlib
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper
from PIL import Image

from ttl_deploy import files
from ttl_deploy.artifact import open_artifact, write_artifact
from ttl_deploy.errors import printable
from ttl_deploy.inputs.image import load_pixels
from ttl_deploy.prediction.file import columns_of
from ttl_deploy.prediction.predict import predict
from ttl_deploy.spec import (
    OPERATING_POINT_VERSION,
    TASK_VERSION,
    InputSpec,
    ModelSpec,
    Placement,
    PreprocessSpec,
    SourceRun,
    TaskSpec,
    version_of,
)

ROOT = Path(__file__).parents[2]
CPP = ROOT / "export" / "cpp-openvino"
PYTHON = ROOT / "export" / "python-onnxruntime" / "predict.py"
DATA = ROOT.parent / "shared" / "data"
SIZE = 12

Program = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="module")
def python_kit() -> Program:
    """The program's `main` in this process: starting an interpreter for each call would take most of the test."""
    found = importlib.util.spec_from_file_location("kit_predict", PYTHON)
    assert found is not None
    assert found.loader is not None
    module = importlib.util.module_from_spec(found)
    found.loader.exec_module(module)

    def run(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
        with contextlib.redirect_stdout(io.StringIO()) as out, contextlib.redirect_stderr(io.StringIO()) as err:
            code = module.main([str(argument) for argument in arguments])
        return subprocess.CompletedProcess(arguments, code, out.getvalue(), err.getvalue())

    return run


@pytest.fixture(scope="module")
def cpp_kit(tmp_path_factory: pytest.TempPathFactory) -> Program:
    if not shutil.which("cmake") or not shutil.which("c++"):
        pytest.skip("needs cmake and a C++ compiler")
    import openvino

    build = tmp_path_factory.mktemp("cpp") / "build"
    config = Path(str(openvino.__file__)).parent / "cmake"
    environment = os.environ | {"CMAKE_BUILD_PARALLEL_LEVEL": "2"}
    for command in (
        ["cmake", "-S", str(CPP), "-B", str(build), f"-DOpenVINO_DIR={config}"],
        ["cmake", "--build", str(build)],
    ):
        done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
        assert done.returncode == 0, done.stdout + done.stderr

    def run(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
        command = [str(build / "ttl_predict"), *map(str, arguments)]
        return subprocess.run(command, capture_output=True, text=True, check=False, encoding="utf-8")

    return run


def identity(folder: Path, channels: int = 3, size: tuple[int, int] = (SIZE, SIZE), **preprocess: Any) -> Path:
    """An artifact whose logits are its input."""
    given = InputSpec.image(size, channels)
    count = int(np.prod(given.shape))
    graph = helper.make_graph(
        [helper.make_node("Flatten", ["images"], ["logits"])],
        "identity",
        [helper.make_tensor_value_info("images", TensorProto.FLOAT, ["batch", *given.shape])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", count])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)

    def build(target: Path) -> str:
        (target / "model.onnx").write_bytes(model.SerializeToString())
        return "model.onnx"

    # Class names with everything that JSON escapes, CSV quotes and terminals obey, that are other columns' names, and
    # that a spreadsheet would run, or would not as they are numbers.
    odd = ('é"\\,\n\U0001f600', "label", "image", "\x1b[31m\x9b\u202e\x7f", "=1+1", "-1.5e3", "-x", "\uff1dx", "\t'=")
    classes = (*odd, *(f"pixel {i}" for i in range(len(odd), count)))
    fields = {
        "format": "onnx",
        "precision": "fp32",
        "schema_version": version_of(given),
        "model": ModelSpec(backbone="identity", classes=classes, input=given),
        "preprocess": PreprocessSpec.of(given, **preprocess),
        "parameters": 0,
        "macs": 0,
        "source": SourceRun(name="none", weights_sha256="", config_digest=""),
        "tools": {"onnx": onnx.__version__},
    }
    return write_artifact(folder, fields, build).folder


TASKS = (
    *((("multiclass", None), classes, None) for classes in (("a", "b"), ("a", "b", "c"))),
    (("ordinal", None), ("0", "1", "2", "3"), None),
    (("ordinal", "2"), ("0", "1", "2", "3"), 0.2),
    (("ordinal", "2"), ("0", "1", "2", "3"), 0.8),
    (("multilabel", None), ("a", "b", "c"), None),
    (("multilabel", None), ("lesion",), None),
    (("multilabel", None), ("lesion",), 0.3),
)
"""Kind and first positive class, classes, and an operating point."""


def of_task(folder: Path, task: TaskSpec, classes: tuple[str, ...], threshold: float | None) -> Path:
    """An artifact of a task whose logits differ from class to class with the image's brightness."""
    weights = np.random.default_rng(len(classes)).normal(0, 0.5, (3, len(classes)))
    point = None if threshold is None else {"rule": str(threshold), "threshold": threshold}
    version = OPERATING_POINT_VERSION if task == TaskSpec() else TASK_VERSION
    more = {"schema_version": version} if version == TASK_VERSION or point else {}
    more |= {} if point is None else {"operating_point": point}
    return brightness(folder, ModelSpec(backbone="b", task=task, classes=classes, image_size=SIZE), weights, more)


def pointed(folder: Path, **point: Any) -> Path:
    """An artifact of two classes: the second is the likelier, the brighter the image, and said from a point on."""
    more = {"schema_version": OPERATING_POINT_VERSION, "operating_point": point} if point else {}
    spec = ModelSpec(backbone="two", classes=("healthy", "ill"), image_size=SIZE)
    return brightness(folder, spec, np.array([[0, 0.3], [0, 0.3], [0, 0.3]]), more)


def brightness(folder: Path, spec: ModelSpec, weights: NDArray[np.float64], more: dict[str, Any]) -> Path:
    """An artifact whose logits are the mean of each channel by a weight (3, classes)."""
    count = len(spec.classes)
    graph = helper.make_graph(
        [
            helper.make_node("GlobalAveragePool", ["images"], ["mean"]),
            helper.make_node("Flatten", ["mean"], ["flat"]),
            helper.make_node("MatMul", ["flat", "weight"], ["logits"]),
        ],
        "brightness",
        [helper.make_tensor_value_info("images", TensorProto.FLOAT, ["batch", 3, SIZE, SIZE])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", count])],
        [helper.make_tensor("weight", TensorProto.FLOAT, [3, count], weights.ravel().tolist())],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)

    def build(target: Path) -> str:
        (target / "model.onnx").write_bytes(model.SerializeToString())
        return "model.onnx"

    fields = {
        "format": "onnx",
        "precision": "fp32",
        "model": spec,
        "preprocess": PreprocessSpec.of(InputSpec.image(SIZE, 3)),
        "parameters": 6,
        "macs": 6,
        "source": SourceRun(name="none", weights_sha256="", config_digest=""),
        "tools": {"onnx": onnx.__version__},
        **more,
    }
    return write_artifact(folder, fields, build).folder


def greys(tmp_path: Path) -> list[Path]:
    """Images from black to white."""
    images = []
    for grey in range(0, 256, 15):
        images.append(tmp_path / f"{grey}.pgm")
        Image.fromarray(np.full((SIZE, SIZE), grey, dtype=np.uint8)).save(images[-1])
    return images


def check_tasks(program: Program, tmp_path: Path) -> None:
    """The same probabilities and labels as `predict`, whatever the task, and a task that nobody knows is refused."""
    images = greys(tmp_path)
    for number, ((kind, first), classes, threshold) in enumerate(TASKS):
        artifact = of_task(tmp_path / str(number), TaskSpec(kind=kind, positive_from=first), classes, threshold)
        said, probabilities = ask(program, artifact, images)
        expected = list(predict(artifact, [str(image) for image in images], placement=Placement(runtime="onnxruntime")))
        assert said == [p.label for p in expected]
        assert len(set(said)) > 1, f"{kind}: these images cannot tell two decisions apart"
        np.testing.assert_allclose(probabilities, [list(p.probabilities.values()) for p in expected], atol=1e-6)
    manifest = tmp_path / "0" / "manifest.json"
    content = json.loads(manifest.read_text())
    content["model"]["task"] = {"kind": "segmentation"}
    manifest.write_text(json.dumps(content))
    done = program(tmp_path / "0", images[0])
    assert done.returncode == 2
    assert "segmentation" in done.stderr


def check_operating_point(program: Program, tmp_path: Path) -> None:
    """The same decisions as `predict`, of which some are not those of the likelier class."""
    images = greys(tmp_path)
    plain, probabilities = ask(program, pointed(tmp_path / "plain"), images)
    artifact = pointed(tmp_path / "pointed", rule="0.3", threshold=0.3)
    said, same = ask(program, artifact, images)
    np.testing.assert_array_equal(same, probabilities)
    assert said == [
        p.label for p in predict(artifact, [str(image) for image in images], placement=Placement(runtime="onnxruntime"))
    ]
    assert said == ["ill" if row[1] >= 0.3 else "healthy" for row in probabilities]
    assert said != plain
    assert set(said) == {"healthy", "ill"}


def ask(program: Program, artifact: Path, images: list[Path]) -> tuple[list[str], NDArray[np.float64]]:
    done = program(artifact, *images)
    assert done.returncode == 0, done.stderr
    header, *rows = csv.reader(io.StringIO(done.stdout, newline=""))
    expected = columns_of(open_artifact(artifact).manifest.model.classes, has_ids=False)
    (line,) = csv.reader(io.StringIO(files.csv_row(expected), newline=""))
    assert header == line
    assert [row[0] for row in rows] == [str(image) for image in images]
    return [row[1] for row in rows], np.array([row[2:] for row in rows], dtype=np.float64)


def assert_equal(program: Program, artifact: Path, images: list[Path]) -> None:
    expected = list(predict(artifact, [str(image) for image in images], placement=Placement(runtime="onnxruntime")))
    labels, probabilities = ask(program, artifact, images)
    wanted = np.array([list(p.probabilities.values()) for p in expected])
    np.testing.assert_allclose(probabilities, wanted, atol=1e-5 / 2, rtol=0)
    named = {printable(name): name for name in expected[0].probabilities}
    decided = [named[cell] for cell in files.plain_cells(labels)]
    # Where two pixels tie for the largest, either is the label.
    assert all(
        p.probabilities[label] == max(p.probabilities.values()) for p, label in zip(expected, decided, strict=True)
    )


def noise(*shape: int, top: int = 256, seed: int = 0) -> NDArray[Any]:
    """Smooth noise with some hard edges, so that rounding in a resize is exercised."""
    generator = np.random.default_rng([seed, *shape])
    values = generator.integers(0, top, shape)
    return values.astype(np.uint8 if top == 256 else np.uint16)


@pytest.fixture(scope="module")
def netpbm(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """PGM and PPM of many sizes, larger and smaller than the network's input, 8 and 16 bits."""
    folder = tmp_path_factory.mktemp("netpbm")
    sizes = [
        (1, 1),
        (1, 40),
        (5, 9),
        (11, 13),
        (12, 12),
        (12, 40),
        (13, 12),
        (23, 24),
        (97, 64),
        (300, 417),
        (40, 11),
        (417, 60),
    ]
    for height, width in sizes:
        Image.fromarray(noise(height, width)).save(folder / f"g{height}x{width}.pgm")
        Image.fromarray(noise(height, width, 3)).save(folder / f"c{height}x{width}.ppm")
    deep = noise(37, 50, top=65536)
    (folder / "deep.pgm").write_bytes(b"P5 # a comment\n50 37\n65535\n" + deep.astype(">u2").tobytes())
    flat = np.full((20, 20), 700, dtype=">u2")
    (folder / "flat.pgm").write_bytes(b"P5\n20 20\n65535\n" + flat.tobytes())
    return sorted(folder.iterdir())


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """PNG and JPEG of every mode that both sides read."""
    folder = tmp_path_factory.mktemp("pictures")
    grey, colour = Image.fromarray(noise(45, 61)), Image.fromarray(noise(45, 61, 3))
    alpha = Image.fromarray(noise(45, 61, seed=1))
    grey.save(folder / "l.png")
    grey.convert("1").save(folder / "1.png")
    colour.save(folder / "rgb.png")
    colour.quantize(30).save(folder / "p.png")
    colour.quantize(30).save(folder / "p-transparent.png", transparency=3)
    colour.quantize(4).save(folder / "p2.png", bits=2)
    grey.save(folder / "l-transparent.png", transparency=7)
    Image.merge("RGBA", (*colour.split(), alpha)).save(folder / "rgba.png")
    Image.merge("LA", (grey, alpha)).save(folder / "la.png")
    Image.fromarray(noise(45, 61, top=65536)).save(folder / "i16.png")
    Image.fromarray(noise(45, 61, top=65536)).save(folder / "i16-transparent.png", transparency=9)
    twelve = noise(45, 61, top=4096).astype(np.uint16)
    for name, values in {"raw": twelve, "zeros": twelve << 4, "repeated": twelve << 4 | twelve >> 8}.items():
        Image.fromarray(values).save(folder / "x.png")
        content = (folder / "x.png").read_bytes()
        (folder / f"i12-{name}.png").write_bytes(content[:33] + chunk(b"sBIT", b"\x0c") + content[33:])
    (folder / "x.png").unlink()
    content = (folder / "i16.png").read_bytes()
    for name, extra in {
        "exif": chunk(b"eXIf", b"\0\x08\0\2\1\x12\0\3" + bytes(20)),
        "text": chunk(b"zTXt", b"k\0\0" + zlib.compress(b"x" * 3_000_000)),
        "checksum": chunk(b"tEXt", b"k\0x")[:-1] + b"?",
    }.items():
        (folder / f"metadata-{name}.png").write_bytes(content[:33] + extra + content[33:])
    (folder / "rgb16.png").write_bytes(png(noise(20, 30, 3, top=65536), 2))
    (folder / "rgba16.png").write_bytes(png(noise(20, 30, 4, top=65536), 6))
    smooth = Image.fromarray(noise(9, 12, 3)).resize((200, 150), Image.Resampling.BICUBIC)
    for quality in (30, 90):
        for subsampling in (0, 1, 2):
            smooth.save(folder / f"c{quality}-{subsampling}.jpg", quality=quality, subsampling=subsampling)
    smooth.convert("L").save(folder / "g.jpg", progressive=True)
    for orientation in range(1, 9):
        exif = Image.Exif()
        exif[0x0112] = orientation
        smooth.crop((0, 0, 150, 90)).save(folder / f"turned{orientation}.jpg", exif=exif)
        colour.save(folder / f"turned{orientation}.png", exif=exif)
    return sorted(folder.iterdir())


def chunk(kind: bytes, content: bytes) -> bytes:
    """A chunk of a PNG."""
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def png(values: NDArray[np.uint16], colour_type: int) -> bytes:
    """A 16-bit PNG, which Pillow does not write in colour."""
    height, width = values.shape[:2]
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    header = struct.pack(">IIBBBBB", width, height, 16, colour_type, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


@pytest.fixture(scope="module")
def real() -> list[Path]:
    if not DATA.is_dir():
        pytest.skip("the real x-rays are not here")
    files = sorted(path for path in (DATA / "cxr3").rglob("*") if path.suffix.lower() in (".jpg", ".jpeg", ".png"))
    return files[:: max(1, len(files) // 24)]


def test_one_bit_would_be_seen(tmp_path: Path) -> None:
    """The tolerance of these tests is below the effect of one grey level in one pixel of one channel."""
    values = noise(SIZE, SIZE, 3)
    values[values == 255] = 254
    Image.fromarray(values).save(tmp_path / "a.png")
    values[3, 4, 1] += 1
    Image.fromarray(values).save(tmp_path / "b.png")
    artifact = identity(tmp_path / "artifact")
    a, b = (
        np.array(list(p.probabilities.values()))
        for p in predict(artifact, [str(tmp_path / n) for n in ("a.png", "b.png")])
    )
    assert np.abs(a - b).max() > 1e-5 / 2


class TestPython:
    @pytest.mark.parametrize("channels", [1, 3])
    @pytest.mark.parametrize("crop", ["center", "none"])
    def test_the_same_numbers(
        self, python_kit: Program, netpbm: list[Path], pictures: list[Path], tmp_path: Path, channels: int, crop: str
    ) -> None:
        depth = "min-max" if crop == "none" else "full-range"
        artifact = identity(tmp_path / "artifact", channels, crop=crop, high_bit_depth=depth)
        assert_equal(python_kit, artifact, netpbm + pictures)

    @pytest.mark.parametrize("crop", ["center", "none"])
    @pytest.mark.parametrize("size", [(10, 16), (16, 10)])
    def test_inputs_that_are_not_square(
        self, python_kit: Program, netpbm: list[Path], pictures: list[Path], tmp_path: Path, size: Any, crop: str
    ) -> None:
        assert_equal(python_kit, identity(tmp_path / "artifact", size=size, crop=crop), netpbm + pictures)

    @pytest.mark.parametrize(("channels", "depth"), [(2, "full-range"), (2, "min-max"), (4, "full-range")])
    def test_arrays_of_other_channels(
        self, python_kit: Program, pictures: list[Path], tmp_path: Path, channels: int, depth: str
    ) -> None:
        artifact = identity(tmp_path / "artifact", channels, (10, 16), high_bit_depth=depth)
        assert_equal(python_kit, artifact, arrays(tmp_path, (channels,)))
        assert "picture" in refused(python_kit, artifact, pictures[0])
        wrong = tmp_path / "wrong.npy"
        np.save(wrong, noise(20, 20, channels + 1))
        assert f"no image of {channels} channels" in refused(python_kit, artifact, wrong)

    @pytest.mark.parametrize("channels", [1, 3])
    def test_arrays_of_plain_images(self, python_kit: Program, tmp_path: Path, channels: int) -> None:
        assert_equal(python_kit, identity(tmp_path / "artifact", channels), arrays(tmp_path, (), (1,), (3,), (4,)))

    def test_real_xrays(self, python_kit: Program, real: list[Path], tmp_path: Path) -> None:
        assert_equal(python_kit, identity(tmp_path / "artifact"), real)

    def test_bad_input(self, python_kit: Program, tmp_path: Path) -> None:
        check_bad_input(python_kit, tmp_path)

    def test_the_operating_point_decides(self, python_kit: Program, tmp_path: Path) -> None:
        check_operating_point(python_kit, tmp_path)

    def test_every_task_is_decided_as_predict_decides_it(self, python_kit: Program, tmp_path: Path) -> None:
        check_tasks(python_kit, tmp_path)

    def test_it_runs_alone(self, pictures: list[Path], tmp_path: Path) -> None:
        """In an interpreter that cannot see this project."""
        command = [sys.executable, "-I", str(PYTHON), str(identity(tmp_path / "artifact")), str(pictures[0])]
        done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=tmp_path)
        assert done.stdout.splitlines()[-1].startswith(str(pictures[0]))

    def test_it_needs_three_packages(self) -> None:
        imported = set(re.findall(r"^(?:from|import) (\w+)", PYTHON.read_text(), re.MULTILINE))
        assert imported - set(sys.stdlib_module_names) == {"numpy", "onnxruntime", "PIL"}


@pytest.mark.slow
class TestCpp:
    @pytest.mark.parametrize("channels", [1, 3])
    @pytest.mark.parametrize("crop", ["center", "none"])
    def test_the_same_numbers(
        self, cpp_kit: Program, netpbm: list[Path], pictures: list[Path], tmp_path: Path, channels: int, crop: str
    ) -> None:
        depth = "min-max" if crop == "none" else "full-range"
        artifact = identity(tmp_path / "artifact", channels, crop=crop, high_bit_depth=depth)
        assert_equal(cpp_kit, artifact, netpbm)
        assert_equal(cpp_kit, artifact, readable(cpp_kit, pictures))

    @pytest.mark.parametrize("crop", ["center", "none"])
    @pytest.mark.parametrize("size", [(10, 16), (16, 10)])
    def test_inputs_that_are_not_square(
        self, cpp_kit: Program, netpbm: list[Path], tmp_path: Path, size: Any, crop: str
    ) -> None:
        assert_equal(cpp_kit, identity(tmp_path / "artifact", size=size, crop=crop), netpbm)

    def test_a_model_of_other_channels_is_refused(self, cpp_kit: Program, tmp_path: Path) -> None:
        assert "takes 2 channels" in refused(cpp_kit, identity(tmp_path / "artifact", 2), tmp_path / "x.pgm")

    def test_real_xrays(self, cpp_kit: Program, real: list[Path], tmp_path: Path) -> None:
        """As they are where the libraries were there at the build, and as PPM anywhere."""
        artifact = identity(tmp_path / "artifact")
        assert_equal(cpp_kit, artifact, readable(cpp_kit, real))
        converted = []
        for path in real:
            with Image.open(path) as image:
                converted.append(tmp_path / f"{path.stem}.ppm")
                image.convert("RGB").save(converted[-1])
        assert_equal(cpp_kit, artifact, converted)

    def test_a_trained_network(self, cpp_kit: Program, trained: Path, synthetic: Path, tmp_path: Path) -> None:
        images = []
        for path in sorted(synthetic.glob("*/*.png"))[:6]:
            with Image.open(path) as image:
                images.append(tmp_path / f"{path.stem}.pgm")
                image.convert("L").save(images[-1])
        assert_equal(cpp_kit, trained / "onnx-fp32", images)

    def test_bad_input(self, cpp_kit: Program, tmp_path: Path) -> None:
        check_bad_input(cpp_kit, tmp_path)

    def test_the_operating_point_decides(self, cpp_kit: Program, tmp_path: Path) -> None:
        check_operating_point(cpp_kit, tmp_path)

    def test_every_task_is_decided_as_predict_decides_it(self, cpp_kit: Program, tmp_path: Path) -> None:
        check_tasks(cpp_kit, tmp_path)

    def test_manifests_that_are_not_json(self, cpp_kit: Program, tmp_path: Path) -> None:
        """What Python's reader takes or refuses, this one does too; and it is stricter about double keys and NaN."""
        artifact = identity(tmp_path / "artifact")
        manifest = artifact / "manifest.json"
        good = manifest.read_text()
        broken = (
            *("", "{", "[" * 100_000, "\x00", '"\\ud83d"', '{"a": 1, "a": 2}'),
            *(good[:-3], good + "x", good.replace(": 12", ": 012"), good.replace("\\u", "\\v")),
            good.replace('"macs": 0', '"macs": NaN'),
        )
        for bad in broken:
            manifest.write_text(bad)
            assert "manifest.json: not valid JSON" in refused(cpp_kit, artifact, tmp_path / "x.pgm"), bad


def arrays(folder: Path, *channels: tuple[int, ...]) -> list[Path]:
    """Files of arrays, of 8 and of 16 bits, tall and wide."""
    made = []
    for last in channels:
        for top in (256, 65536):
            for shape in ((20, 33), (33, 20)):
                made.append(folder / f"{'_'.join(map(str, (*shape, *last)))}-{top}.npy")
                np.save(made[-1], noise(*shape, *last, top=top))
    return made


def readable(cpp_kit: Program, images: list[Path]) -> list[Path]:
    """The images that this build of the program reads; on a machine with libpng and libjpeg, all of them."""
    said = cpp_kit().stderr
    endings = {".png"} if "PNG" in said else set()
    endings |= {".jpg", ".jpeg"} if "JPEG" in said else set()
    found = [image for image in images if image.suffix.lower() in endings]
    if not found:
        pytest.skip("built without libpng and libjpeg")
    return found


def refused(program: Program, artifact: Path, *images: Path) -> str:
    done = program(artifact, *images)
    assert done.returncode == 2, done
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1
    return done.stderr


def check_bad_input(program: Program, tmp_path: Path) -> None:
    """One line, exit code 2, for every way an artifact or an image can be wrong."""
    artifact = identity(tmp_path / "artifact")
    good = tmp_path / "good.pgm"
    Image.fromarray(noise(20, 20)).save(good)
    assert program().returncode == 2
    assert "nowhere" in refused(program, tmp_path / "nowhere", good)

    images: dict[str, tuple[bytes, str]] = {
        "empty.pgm": (b"", "empty"),
        "text.png": (b"not an image", "not an image"),
        "short.pgm": (good.read_bytes()[:-1], ""),
        "huge.pgm": (b"P5\n60000 60000\n255\n" + bytes(100), ""),
        "header.pgm": (b"P5\n20", ""),
        "broken.png": (png(noise(20, 30, 3, top=65536), 2)[:300], ""),
    }
    for name, (content, said) in images.items():
        (tmp_path / name).write_bytes(content)
        line = refused(program, artifact, tmp_path / name)
        assert name in line
        assert said in line
    assert "gone.pgm" in refused(program, artifact, tmp_path / "gone.pgm")

    def changed(change: Callable[[dict[str, Any]], None]) -> str:
        copy = tmp_path / "changed"
        shutil.rmtree(copy, ignore_errors=True)
        shutil.copytree(artifact, copy)
        manifest = json.loads((copy / "manifest.json").read_text())
        change(manifest)
        (copy / "manifest.json").write_text(json.dumps(manifest))
        return refused(program, copy, good)

    assert "newer" in changed(lambda m: m.update(schema_version=5))
    point = {"rule": "youden", "threshold": 0.3}
    assert "operating point" in changed(lambda m: m.update(operating_point=point))  # of far more than two classes
    changed(lambda m: m["preprocess"].update(gamma=2))
    for kind, size in (("volume", [8, 8, 8]), ("image", [8]), (None, None)):
        given = {"kind": kind, "size": size, "channels": 1}
        changed(lambda m, given=given: m["model"].update(input=given))  # type: ignore[misc]
    changed(lambda m: m.update(format="trt"))
    assert "activation is softmax" in changed(lambda m: m.update(activation="softmax"))
    assert "input_type is uint8" in changed(lambda m: m.update(input_type="uint8"))
    changed(lambda m: m.pop("files"))
    changed(lambda m: m.update(input_name="pixels"))
    changed(
        lambda m: m.update(files={"model.onnx": m["files"]["model.onnx"], "../good.pgm": {"sha256": "", "size": 1}})
    )
    model = artifact / "model.onnx"
    content = bytearray(model.read_bytes())
    content[len(content) // 2] ^= 1
    model.write_bytes(content)
    assert "model.onnx" in refused(program, artifact, good)


def test_the_dockerfile_installs_what_serving_imports(trained: Path, synthetic: Path) -> None:
    """The image holds no torch and no trainer; what a server imports outside the list would fail there, not here."""
    folder = ROOT / "export" / "docker"
    assert (
        "install --no-cache-dir --require-hashes -r export/docker/requirements.lock"
        in (folder / "Dockerfile").read_text()
    )
    wanted = [line for line in (folder / "requirements.in").read_text().splitlines() if not line.startswith("#")]
    installed = {word.lower().replace("-", "_") for word in wanted}
    image = next((synthetic / "lesion").glob("*.png"))
    code = (
        "import sys, json\nfrom ttl_deploy.cli import main\n"
        "from ttl_deploy.serve.model import ServedModel\nfrom ttl_deploy.serve.server import Server\n"
        "from ttl_deploy.spec import Placement\n"
        "import urllib.request\n"
        f"content = open({str(image)!r}, 'rb').read()\n"
        f"artifact = {str(trained / 'onnx-fp32')!r}\n"
        "for engine in ('onnxruntime', 'openvino'):\n"
        "    where = Placement(runtime=engine)\n"
        "    with ServedModel(artifact, placement=where) as model, Server(model, port=0) as server:\n"
        "        urllib.request.urlopen(urllib.request.Request(server.url + '/predict', data=content)).read()\n"
        "        urllib.request.urlopen(server.url + '/metrics').read()\n"
        "print(json.dumps(sorted({m.partition('.')[0] for m in sys.modules})))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    owners = metadata.packages_distributions()
    # FastAPI imports email_validator, and OpenVINO absl, where something else has installed it.
    spared = ("_distutils_hack", "email_validator", "absl")
    modules = [name for name in json.loads(done.stdout) if name in owners and name not in spared]
    tree = {"ttl_deploy"}
    frontier = set(owners.get("onnxruntime", [])) | installed
    while frontier:
        name = frontier.pop()
        normal = name.lower().replace("-", "_")
        if normal in tree:
            continue
        tree.add(normal)
        try:
            requires = metadata.requires(name) or []
        except metadata.PackageNotFoundError:
            continue
        frontier |= {re.split(r"[^\w.-]", line)[0] for line in requires if "extra ==" not in line}
    # A name space such as google has several owners; one of them is enough.
    assert not [m for m in modules if not tree & {name.lower().replace("-", "_") for name in owners[m]}]


def test_pixels_are_the_rules(tmp_path: Path) -> None:
    """The identity artifact really shows the pixels of `load_pixels`."""
    path = tmp_path / "a.png"
    Image.fromarray(noise(33, 21, 3)).save(path)
    artifact = identity(tmp_path / "artifact")
    spec = open_artifact(artifact).manifest.preprocess
    (answer,) = predict(artifact, [str(path)])
    logits = np.log(np.array(list(answer.probabilities.values()))).reshape(3, SIZE, SIZE)
    pixels = logits * 255 * np.array(spec.std)[:, None, None]
    flat = np.rint(pixels[0] - pixels[0, 0, 0]).astype(int)
    wanted = load_pixels(path, spec).astype(int)[..., 0]
    np.testing.assert_array_equal(flat, wanted - wanted[0, 0])
