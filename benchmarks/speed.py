"""What was made faster, beside what it was before and what else a user would take, in turns in one run.

    python benchmarks/speed.py [--set TABLE] [--artifacts FOLDER ...] [--blocks 9] [--report reports/speed.md]

- Images: a grey JPEG decoded and resized as RGB by the preprocessing; by the order of steps that it had (three equal
  channels first, then the resize); by Pillow and torchvision's transforms.
- Augmentation: rotation and crop of an image as one movement; as torchvision's two transforms with a seed for every
  image (what it was); as they come without seeds.
- With a set of images: ResNet-18, cut after its second block, trained at 28 pixels with three seeds by either
  augmentation: seconds, and AUROC on the set's test side.
- Training: epochs whose files are written beside the next one, and epochs that wait for them.
- Precision: epochs of small images in float32 beside bfloat16.
- int8: whole networks quantised for OpenVINO, beside the pairs that ONNX Runtime needs and beside bfloat16.
- Engines: for each artifact, `Session.run` beside bare loops over the same file in OpenVINO, of the graph as it is and
  compiled for the batch's own shape, and beside ONNX Runtime where that reads it.

Each time is the median of a block; the ratio of two sides is that of their blocks in turns, with its 95 % interval.
"""

from __future__ import annotations

import argparse
import io
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any
from unittest import mock

import numpy as np
import torch
from blocks import enough_blocks
from numpy.typing import NDArray
from PIL import Image
from torchvision.transforms import v2

from ttl_deploy import files, hardware
from ttl_deploy.artifact import Artifact, open_artifact
from ttl_deploy.cli.console import line
from ttl_deploy.data.augment import Augmentation
from ttl_deploy.data.synthetic import write_synthetic
from ttl_deploy.data.torch_data import mix_seeds
from ttl_deploy.formats.onnx_graph import to_onnx
from ttl_deploy.formats.quantiser import Quantiser
from ttl_deploy.inputs import image as rule
from ttl_deploy.latency.duel import LEAST_BLOCKS, ratio_of_medians
from ttl_deploy.runtime import load
from ttl_deploy.runtime.base import default_threads
from ttl_deploy.runtime.ov import settings
from ttl_deploy.runtime.ov_core import core
from ttl_deploy.spec import AugmentSpec, Data, InputSpec, Model, ModelSpec, Placement, PreprocessSpec, Protocol
from ttl_deploy.training import depthwise
from ttl_deploy.training.beside import Beside
from ttl_deploy.training.train import train
from ttl_deploy.transfer import build

Work = Callable[[], object]

INTRODUCTION = """
Each way is measured in turns with the others in one run; a time is the median over blocks of the median of a call, and
the ratio that of the blocks of both, with its 95 % interval (Hodges and Lehmann's, by signed ranks). *Before* is what
the program did until then, kept in the benchmark. The pixels of both orders of resizing are compared, and are equal;
either augmentation is judged by what it trains. Of a quantised graph that lays features side by side, as DenseNet's,
there is none of a fixed shape in the format `onnx`: OpenVINO crashes when it compiles one.
"""

_PRECISIONS = (
    ("resnet18", "layer2.1", 32),
    ("resnet18", "layer2.1", 112),
    ("efficientnet_b0", "blocks.2.1", 56),
    ("efficientnet_b0", "blocks.2.1", 112),
    ("efficientnet_b0", "blocks.5.3", 224),
    ("mobilenet_v3_large", "features.12", 112),
    ("resnet50", "layer2.3", 112),
)
"""Backbone, cut and pixels of the epochs in either precision."""
_QUANTISED = (
    "resnet50",
    "densenet121",
    "densenet201",
    "efficientnet_b0",
    "tf_efficientnet_lite0",
    "mobilenet_v3_large",
)
"""Whole networks whose int8 graphs are held against each other, at 224 pixels."""
_DEPTHWISE = ("efficientnet_b0", "mobilenet_v3_large")

SECONDS = 0.4
"""Least length of a block."""


@dataclass(frozen=True)
class Contest:
    """Several ways of the same work.

    Attributes:
        what: The work, for one `unit`.
        unit: What the times are of.
        ours: Our way.
        others: The other ways by what they are called.
        each: Units of one call.
    """

    what: str
    unit: str
    ours: Work
    others: Mapping[str, Work]
    each: int = 1


@dataclass(frozen=True)
class Row:
    """What a contest came to.

    Attributes:
        what: The work.
        unit: What the times are of.
        ours: Milliseconds.
        others: Milliseconds of the other ways, and their time by ours with its interval.
    """

    what: str
    unit: str
    ours: float
    others: dict[str, tuple[float, float, float, float]]


def held(contest: Contest, blocks: int) -> Row:
    """Measures all ways in turns."""
    ways = {"": contest.ours, **contest.others}
    for way in ways.values():
        way()
    taken: dict[str, list[float]] = {name: [] for name in ways}
    for number in range(blocks):
        # The other way round every second time: what warms up or tires is no side's own.
        for name in sorted(ways, reverse=bool(number % 2)):
            taken[name].append(_block(ways[name]) / contest.each)
    others = {name: (median(taken[name]), *ratio_of_medians(taken[name], taken[""])) for name in contest.others}
    return Row(contest.what, contest.unit, median(taken[""]), others)


def _block(work: Work) -> float:
    """Median of a call, milliseconds."""
    times, end = [], time.perf_counter() + SECONDS
    while not times or time.perf_counter() < end:
        begin = time.perf_counter()
        work()
        times.append(1e3 * (time.perf_counter() - begin))
    return median(times)


def images() -> Iterator[Contest]:
    """Grey JPEG of two sizes, brought to 224 pixels."""
    spec = PreprocessSpec(image_size=224)
    for side in (320, 2000):
        rows, columns = np.mgrid[0:side, 0:side]
        noise = np.random.default_rng(0).normal(0, 4, (side, side))
        picture = (128 + 60 * np.sin(rows / 23) * np.cos(columns / 31) + noise).clip(0, 255).astype(np.uint8)
        stored = io.BytesIO()
        Image.fromarray(picture).save(stored, "JPEG", quality=90)
        content = stored.getvalue()
        to_size = v2.Compose([v2.Resize(224), v2.CenterCrop(224), v2.PILToTensor()])

        def before(content: bytes = content) -> object:
            with _colour_first():
                return rule.load_pixels(content, spec)

        def ours(content: bytes = content) -> object:
            return rule.load_pixels(content, spec)

        def usual(content: bytes = content, to_size: v2.Transform = to_size) -> object:
            with Image.open(io.BytesIO(content)) as image:
                return to_size(image.convert("RGB"))

        assert np.array_equal(before(), ours())  # type: ignore[arg-type]
        others = {"first RGB, then resized (before)": before, "Pillow and torchvision's transforms": usual}
        yield Contest(f"grey JPEG of {side} pixels to 224", "image", ours, others)


@contextmanager
def _colour_first() -> Iterator[None]:
    """Grey images become RGB before they are resized."""
    now = rule._finish

    def finish(image: Image.Image, spec: PreprocessSpec, where: str) -> NDArray[np.uint8]:
        return now(image.convert("RGB"), spec, where)

    rule._finish = finish
    try:
        yield
    finally:
        rule._finish = now


def augmentations() -> Iterator[Contest]:
    """Rotation by 10 degrees and crop of 0.8, of a batch of 32."""
    batch = 32
    for side in (28, 112, 224):
        pixels = torch.randint(0, 256, (batch, 3, side, side), dtype=torch.uint8)
        moved = Augmentation(AugmentSpec(), (side, side))
        seeds = [mix_seeds(0, 1, row) for row in range(batch)]
        both = _two_steps(side)

        def ours(moved: Augmentation = moved, pixels: torch.Tensor = pixels, seeds: list[int] = seeds) -> object:
            return moved(pixels, seeds)

        def seeded(both: v2.Transform = both, pixels: torch.Tensor = pixels, seeds: list[int] = seeds) -> object:
            return _one_by_one(both, pixels, seeds)

        def plain(both: v2.Transform = both, pixels: torch.Tensor = pixels) -> object:
            return torch.stack([both(image) for image in pixels])

        others = {"torchvision's two steps, seeded (before)": seeded, "the same without seeds": plain}
        yield Contest(f"augmentation, 3 x {side} x {side}", "image", ours, others, batch)


def _two_steps(side: int) -> v2.Transform:
    """The default augmentation by torchvision."""
    rotation = v2.RandomRotation(10, interpolation=v2.InterpolationMode.BILINEAR)
    return v2.Compose([rotation, v2.RandomResizedCrop([side, side], (0.8, 1.0), (1.0, 1.0), antialias=True)])


def _one_by_one(steps: v2.Transform, pixels: torch.Tensor, seeds: Sequence[int]) -> torch.Tensor:
    found = []
    for image, seed in zip(pixels, seeds, strict=True):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            found.append(steps(image))
    return torch.stack(found)


@dataclass(frozen=True)
class Trained:
    """A training by either augmentation.

    Attributes:
        seed: Of the training.
        seconds: Ours, and by two steps.
        auroc: Likewise, on the test side.
    """

    seed: int
    seconds: tuple[float, float]
    auroc: tuple[float, float]


def trained(table: Path, folder: Path, epochs: int = 8, seeds: Sequence[int] = (0, 1, 2)) -> Iterator[Trained]:
    """Trainings at 28 pixels, both ways of each seed one after the other."""
    data, steps = Data(path=table, cache=folder / "cache"), _two_steps(28)
    model = Model(backbone="resnet18", method="ttl", cut="layer2.1", weights="random", image_size=28)

    def before(self: Augmentation, images: torch.Tensor, seeds: Sequence[int], masks: None = None) -> object:
        return _one_by_one(steps, images, seeds), masks

    for seed in seeds:
        protocol = Protocol(
            epochs=epochs,
            learning_rate=1e-3,
            seed=seed,
            device="cpu",
            precision="fp32",
            schedule={"name": "cosine"},
        )
        ours = train(data, model, protocol, folder / f"ours{seed}").metrics()
        with mock.patch.object(Augmentation, "__call__", before):
            others = train(data, model, protocol, folder / f"before{seed}").metrics()
        auroc = ours["test"]["auroc"], others["test"]["auroc"]
        yield Trained(seed, (ours["seconds"], others["seconds"]), auroc)


def trained_table(rows: Sequence[Trained]) -> Iterator[str]:
    """Markdown, a line for each seed."""
    yield "| seed | ours | two steps (before) | its time by ours | AUROC, ours | AUROC, two steps |"
    yield "|---|---:|---:|---:|---:|---:|"
    for row in rows:
        (ours, before), (found, other) = row.seconds, row.auroc
        yield f"| {row.seed} | {ours:.1f} s | {before:.1f} s | {before / ours:.2f} | {found:.4f} | {other:.4f} |"


def epochs(folder: Path) -> Iterator[Contest]:
    """Three epochs of a whole ResNet-50 at 64 pixels: 280 MB are written after each."""
    labels = write_synthetic(folder / "set", images=48, size=64, seed=0) / "labels.csv"
    data = Data(path=labels, cache=folder / "cache")
    model = Model(backbone="resnet50", method="ftl", weights="random", image_size=64)
    protocol = Protocol(epochs=3, batch_size=16, device="cpu", precision="fp32", learning_rate=1e-3)

    def ours() -> object:
        return train(data, model, protocol, folder / "run", overwrite=True, finish=False)

    def waiting() -> object:
        with _in_line():
            return ours()

    yield Contest("training of 3 epochs of ResNet-50, 48 images", "training", ours, {"files in line (before)": waiting})


def precisions(folder: Path) -> Iterator[Contest]:
    """An epoch of 64 images in either precision."""
    for backbone, cut, side in _PRECISIONS:
        labels = write_synthetic(folder / f"{backbone}-{side}", images=96, size=side, seed=0) / "labels.csv"
        data = Data(path=labels, cache=folder / "cache")
        model = Model(backbone=backbone, method="ttl", cut=cut, weights="random", image_size=side)

        def epoch(precision: str, data: Data = data, model: Model = model) -> object:
            protocol = Protocol(epochs=1, batch_size=32, device="cpu", precision=precision, learning_rate=1e-3)
            return train(data, model, protocol, folder / "precision", overwrite=True, finish=False)

        others: dict[str, Work] = {"in fp32": partial(epoch, "fp32")}
        if backbone in _DEPTHWISE:
            others["depthwise gradients in bf16 (before)"] = partial(_derived_short, partial(epoch, "bf16"))
        what = f"an epoch of {backbone} {cut}, {side} pixels"
        yield Contest(what, "epoch in bf16", partial(epoch, "bf16"), others)


def _derived_short(work: Work) -> object:
    """Work whose depthwise convolutions are derived in bfloat16."""
    with mock.patch.object(depthwise, "_slow", return_value=False):
        return work()


@contextmanager
def _in_line() -> Iterator[None]:
    """Every epoch's files are written before the next begins."""
    begin = Beside.start

    def start(self: Beside, work: Callable[[], None]) -> None:
        begin(self, work)
        self.finish()

    with mock.patch.object(Beside, "start", start):
        yield


def quantised_graphs() -> Iterator[Contest]:
    """Whole networks of random values in int8 for OpenVINO, one image: by the pairs of either engine, and in bf16."""
    batch = np.random.default_rng(0).normal(size=(8, 3, 224, 224)).astype(np.float32)
    for backbone in _QUANTISED:
        spec = ModelSpec(backbone=backbone, method="ftl", classes=("a", "b"), input=InputSpec.image(224))
        plain = to_onnx(build(spec).eval())
        quantiser = Quantiser.calibrated(plain, [batch[:4], batch[4:]], method="minmax")
        before, ours = quantiser.quantise(), quantiser.for_openvino().quantise()
        # OpenVINO crashes on a fixed shape where rounded features are laid side by side.
        shape = None if backbone.startswith("densenet") else batch[:1]
        yield Contest(
            f"{backbone} FTL int8, batch 1",
            "call",
            _in_openvino(ours, "int8", batch[:1], batch[:1]),
            {
                "pairs for ONNX Runtime (before)": _in_openvino(before, "int8", batch[:1], shape),
                "bf16": _in_openvino(plain, "bf16", batch[:1], batch[:1]),
            },
        )


def _in_openvino(proto: Any, precision: str, batch: NDArray[np.float32], like: NDArray[np.float32] | None) -> Work:
    return _bare_loop(core().read_model(proto.SerializeToString()), precision, batch, like)


def engines(artifacts: Sequence[Path], batches: Sequence[int]) -> Iterator[Contest]:
    """Each artifact in OpenVINO at some batch sizes."""
    for path in artifacts:
        for count in batches:
            artifact = open_artifact(path)
            session = load(artifact, Placement(runtime="openvino"))
            session.expect(count)
            shape = (count, *session.input_shape)
            batch = np.random.default_rng(0).standard_normal(shape, dtype=np.float32)
            others = {"bare loop, any shape": _bare(artifact, batch, None)}
            if session._fixed:  # type: ignore[attr-defined]
                others["bare loop, this shape"] = _bare(artifact, batch, shape)
            if artifact.manifest.format == "onnx":
                plain = load(artifact, Placement(runtime="onnxruntime"))
                others["ONNX Runtime"] = partial(plain.run, batch)
            what = f"{artifact.manifest.model.words} {artifact.manifest.precision}, batch {count}"
            yield Contest(what, "call", lambda s=session, b=batch: s.run(b), others)  # type: ignore[misc]


def _bare(artifact: Artifact, batch: NDArray[np.float32], shape: object) -> Work:
    return _bare_loop(core().read_model(artifact.model_path), artifact.manifest.precision, batch, shape)


def _bare_loop(network: Any, precision: str, batch: NDArray[np.float32], shape: object) -> Work:
    if shape is not None:
        network.reshape(list(batch.shape))
    request = core().compile_model(network, "CPU", settings(precision, default_threads())).create_infer_request()
    if shape is None:
        return lambda: request.infer([batch], share_inputs=True, share_outputs=True)
    import openvino

    request.set_input_tensor(openvino.Tensor(batch, shared_memory=True))
    return request.infer  # type: ignore[no-any-return]


def table(rows: Sequence[Row]) -> Iterator[str]:
    """Markdown, a line for each other way."""
    yield "| work | of one | ours | the other way | its time | its time by ours |"
    yield "|---|---|---:|---|---:|---:|"
    for row in rows:
        for name, (taken, ratio, low, high) in row.others.items():
            yield (
                f"| {row.what} | {row.unit} | {_milliseconds(row.ours)} | {name} | {_milliseconds(taken)} | "
                f"{ratio:.2f} [{low:.2f}, {high:.2f}] |"
            )


def _milliseconds(value: float) -> str:
    return f"{value / 1e3:.2f} s" if value >= 1e3 else f"{value:.1f} ms" if value >= 10 else f"{value:.3f} ms"


def main() -> int:
    """Holds the contests and writes the report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--set", type=Path, help="images of 28 pixels, to train on")
    parser.add_argument("--artifacts", nargs="*", type=Path, default=[], help="exports for OpenVINO")
    parser.add_argument("--batches", nargs="+", type=int, default=[1, 32], help="of the artifacts")
    parser.add_argument("--blocks", type=enough_blocks, default=9, help=f"of each way, at least {LEAST_BLOCKS}")
    parser.add_argument(
        "--without", nargs="*", default=[], choices=["images", "augmentation", "training", "precision", "int8"]
    )
    parser.add_argument("--report", type=Path, help="where the tables go")
    given = parser.parse_args()
    torch.set_num_threads(default_threads())
    groups: dict[str, list[Row]] = {}
    trainings: list[Trained] = []
    with tempfile.TemporaryDirectory() as folder:
        contests = {
            "images": images(),
            "augmentation": augmentations(),
            "training": epochs(Path(folder)),
            "precision": precisions(Path(folder)),
            "int8": quantised_graphs(),
            "engines": engines(given.artifacts, given.batches),
        }
        for name, some in contests.items():
            for contest in some if name not in given.without else ():
                row = held(contest, given.blocks)
                groups.setdefault(name, []).append(row)
                line("\n".join(list(table([row]))[2:]))
        for one in trained(given.set, Path(folder)) if given.set else ():
            trainings.append(one)
            line("\n".join(list(trained_table([one]))[2:]))
    if given.report:
        files.write_text(given.report, report(groups, trainings))
    return 0


def report(groups: Mapping[str, Sequence[Row]], trainings: Sequence[Trained] = ()) -> str:
    """Markdown."""
    machine, versions = hardware.describe(), hardware.library_versions()
    lines = ["<!-- made by `python benchmarks/speed.py --report reports/speed.md` -->", "# Speed", INTRODUCTION]
    for name, rows in groups.items():
        lines += [f"## {name.capitalize()}", "", *table(rows), ""]
    if trainings:
        what = (
            "ResNet-18 cut after its second block, 28 pixels, 8 epochs from random values, all but augmentation alike"
        )
        lines += ["## Training with either augmentation", "", f"{what}.", "", *trained_table(trainings), ""]
    lines += [
        f"{machine.name}, {default_threads()} threads, {', '.join(machine.isa)}; "
        + ", ".join(f"{name} {version}" for name, version in versions.items())
        + ".",
    ]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.exit(main())
