"""What the regression gate times: small and complete pieces of the program, through its own functions.

The pytest suite in `benchmarks/` and `ttl-deploy gate` both take them from here. Everything is seeded and
runs on one thread, so that a block is the same work every time.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from ttl_deploy.errors import BadInputError, near
from ttl_deploy.latency.references import IMAGE, NETWORK, PREDICTION, TRAINING, Reference, Work

_CLASSES = ("healthy", "lesion")
_MEMORY_DISK = Path("/dev/shm")


@dataclass(frozen=True)
class Workload:
    """A piece of the program that must not become slower.

    A block is short, a few ms where the work allows, so that work and reference see the same machine, and long against
    the clock's 10 us.

    Attributes:
        name: What the baseline calls it.
        what: In words, for tables.
        revision: Raised whenever the work itself changes, which makes the baseline's entry void.
        reference: What its time is divided by.
        calls: Calls per block.
        reference_calls: Helpings of the reference per block.
        make: Prepares the work; gets a folder of its own.
    """

    name: str
    what: str
    revision: int
    reference: Reference
    calls: int
    reference_calls: int
    make: Callable[[Path], Work]


def workloads(names: Sequence[str] | None = None) -> tuple[Workload, ...]:
    """The workloads, all or those named, in their own order.

    Raises:
        BadInputError: There is none of that name.
    """
    known = {workload.name: workload for workload in _WORKLOADS}
    for name in names or ():
        if name not in known:
            raise BadInputError(f"unknown workload {name!r}", where="--workload", fix=near(name, known))
    return tuple(workload for workload in _WORKLOADS if names is None or workload.name in names)


@contextmanager
def scratch() -> Iterator[Path]:
    """A folder for the workloads' files, in memory where there is such a place: a disk's fsync is not the program's."""
    usable = _MEMORY_DISK if _MEMORY_DISK.is_dir() else None
    with tempfile.TemporaryDirectory(prefix="ttl-deploy-", dir=usable) as folder:
        yield Path(folder)


@contextmanager
def one_thread() -> Iterator[None]:
    """Lets PyTorch compute on the calling thread only; puts its setting back."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _forward(method: str, cut: str | None) -> Callable[[Path], Work]:
    def make(_folder: Path) -> Work:
        import torch

        from ttl_deploy.spec import InputSpec, ModelSpec
        from ttl_deploy.transfer import build

        torch.manual_seed(0)
        spec = ModelSpec(backbone="resnet18", method=method, cut=cut, classes=_CLASSES, input=InputSpec.image(64))
        model = build(spec).eval()
        batch = torch.randn(1, *spec.input_shape)

        def work() -> object:
            with torch.inference_mode():
                return model(batch)

        return work

    return make


def _preprocess(folder: Path) -> Work:
    from ttl_deploy.inputs.image import load_pixels, normalise
    from ttl_deploy.spec import PreprocessSpec

    image, spec = _image(folder), PreprocessSpec()
    return lambda: normalise(load_pixels(image, spec)[None], spec)


def _predict(folder: Path) -> Work:
    from ttl_deploy.formats.reference import write_untrained
    from ttl_deploy.prediction.predict import predict
    from ttl_deploy.spec import InputSpec, ModelSpec, Placement

    image, where = str(_image(folder)), Placement(runtime="onnxruntime", threads=1)
    spec = ModelSpec(backbone="resnet18", method="ttl", cut="layer1.0", classes=_CLASSES, input=InputSpec.image(64))
    write_untrained(spec, folder / "artifact")
    return lambda: list(predict(folder / "artifact", [image], placement=where))


def _epoch(folder: Path) -> Work:
    """One epoch of a candidate cut: shuffled, augmented, trained, evaluated and saved, from cached pixels."""
    import torch

    from ttl_deploy.data.manifest import read_dataset
    from ttl_deploy.data.prepared import prepare
    from ttl_deploy.data.synthetic import write_synthetic
    from ttl_deploy.progress import SILENT
    from ttl_deploy.spec import InputSpec, ModelSpec, PreprocessSpec, SplitSpec, TrainConfig
    from ttl_deploy.training.engine import make_fabric
    from ttl_deploy.training.loop import Trainer
    from ttl_deploy.transfer import build

    images = write_synthetic(folder / "images", images=20, size=32)
    preprocess = PreprocessSpec(input=InputSpec.image(32))
    prepared = prepare(read_dataset(images / "labels.csv"), preprocess, SplitSpec(), cache_folder=folder / "cache")
    config = TrainConfig(
        data="synthetic",
        data_digest=prepared.data_digest(),
        model=ModelSpec(backbone="resnet18", method="ttl", cut="layer1.0", classes=_CLASSES, input=InputSpec.image(32)),
        preprocess=preprocess,
        weights="random",
        batch_size=8,
        epochs=1,
    )
    fabric = make_fabric("cpu", "fp32")
    run = folder / "run"
    run.mkdir()

    def work() -> object:
        torch.manual_seed(0)
        return Trainer(fabric, config, prepared, build(config.model), run, None, SILENT).run()

    return work


def _image(folder: Path) -> Path:
    """A grey 320-pixel PNG as an archive holds them."""
    from ttl_deploy.data.synthetic import write_synthetic

    images = write_synthetic(folder / "image", images=20, size=320)
    return min(images.rglob("*.png"))


_WORKLOADS = (
    Workload("forward-ftl", "FTL forward, ResNet-18, 64 px", 1, NETWORK, 1, 2, _forward("ftl", None)),
    Workload("forward-tf", "TF forward, cut layer2.1", 1, NETWORK, 1, 2, _forward("tf", "layer2.1")),
    Workload("forward-lwft", "LWFT forward, cut layer2.1", 1, NETWORK, 1, 2, _forward("lwft", "layer2.1")),
    Workload("forward-ttl", "TTL forward, cut layer2.1", 1, NETWORK, 1, 1, _forward("ttl", "layer2.1")),
    Workload("preprocess", "one PNG to a network's input", 1, IMAGE, 1, 1, _preprocess),
    Workload("predict", "predict(): artifact and one PNG to probabilities", 1, PREDICTION, 1, 2, _predict),
    Workload("search-epoch", "one epoch of a candidate cut, cached pixels", 1, TRAINING, 1, 2, _epoch),
)
