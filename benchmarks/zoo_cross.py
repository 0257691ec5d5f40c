"""Does every backbone, by every method that applies, from every initialisation, train and export to what it computes?

    python benchmarks/zoo_cross.py [--backbones resnet18 ...] [--workers 2] [--report reports/zoo.md]

Each is built for small images, started as its initialisation says from a file of tensors, trained one step, exported
to ONNX and run in ONNX Runtime beside PyTorch. What the product refuses stands in the report with its reason; anything
else that fails is marked, and the exit code is 1.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from itertools import chain
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from ttl_deploy import files, hardware
from ttl_deploy.cli.console import ConsoleReporter, line
from ttl_deploy.errors import TtlDeployError
from ttl_deploy.formats.onnx_graph import to_onnx
from ttl_deploy.spec import ModelSpec
from ttl_deploy.transfer import METHODS, TransferModel, build, initialise
from ttl_deploy.zoo import BACKBONES

INITS = ("weights", "random", "stats", "weights:0+stats", "weights:0+random", "gabor")
LEAST = {"inception_v3": 75}
"""Pixels that a network needs where it needs more than others."""
BATCH = 4
NEAR = 1e-3
"""How far logits of two engines may be apart, in their spread over images and classes."""


@dataclass(frozen=True)
class Row:
    """One attempt.

    Attributes:
        backbone: Its name.
        method: Of transfer.
        init: Of the reused layers.
        apart: Largest difference of the two engines' logits, in their spread; None where there is none.
        refusal: The product's own line; None where it refused nothing.
    """

    backbone: str
    method: str
    init: str
    apart: float | None = None
    refusal: str | None = None

    @property
    def holds(self) -> bool:
        """Whether both engines agree, or the product said why not."""
        return self.refusal is not None or (self.apart is not None and self.apart <= NEAR)


def small_spec(backbone: str, method: str, side: int = 32) -> ModelSpec:
    """A model of two classes for a small square, or a flat volume of eight slices of it."""
    network, side = BACKBONES.get(backbone), max(side, LEAST.get(backbone, 0))
    place = {"cut": "block:1"} if method == "ttl" else {"cut": "block:2"} if method in ("tf", "lwft") else {}
    size = (8, side, side) if network.dims == 3 else side
    return ModelSpec(backbone=backbone, method=method, classes=("a", "b"), input=network.input_spec(size), **place)


def written(backbone: str, folder: Path) -> Path:
    """A file of the whole network's tensors, drawn at random."""
    path = folder / f"{backbone}.safetensors"
    torch.manual_seed(1)
    save_file(build(small_spec(backbone, "ftl")).network_state(), path)
    return path


def started(backbone: str, method: str, init: str, weights: Path) -> TransferModel:
    """A small model whose reused layers are as its initialisation says.

    Raises:
        TtlDeployError: The product's reason why there is none.
    """
    torch.manual_seed(0)
    model = build(small_spec(backbone, method))
    initialise(model, str(weights), init)
    return model


def moved(model: TransferModel, images: Tensor) -> bool:
    """Whether a step of training changes anything; the model has taken it."""
    before = {name: tensor.clone() for name, tensor in model.named_parameters() if tensor.requires_grad}
    step(model, images)
    return any(not tensor.equal(before[name]) for name, tensor in model.named_parameters() if name in before)


def step(model: TransferModel, images: Tensor) -> None:
    """One of training.

    Norms take half of its statistics: with the usual tenth the features of random weights grow layer by layer, and with
    all of it channels that vary little over so few images make rounding large.
    """
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.momentum = 0.5
    optimizer = torch.optim.SGD(model.parameter_groups(1e-3))
    loss = nn.functional.cross_entropy(model.train()(images), torch.arange(len(images)) % 2)
    loss.backward()
    optimizer.step()
    model.eval()


def apart(model: TransferModel, graph: onnx.ModelProto, images: Tensor) -> float:
    """Largest difference between PyTorch and ONNX Runtime over the spread of the logits."""
    with torch.inference_mode():
        expected = model(images).numpy()
    session = onnxruntime.InferenceSession(graph.SerializeToString(), providers=["CPUExecutionProvider"])
    (found,) = session.run(None, {"images": images.numpy()})
    return float(np.abs(found - expected).max() / max(float(expected.std()), 1e-3))


def attempt(backbone: str, method: str, init: str, weights: Path) -> Row:
    """Builds, starts, trains and exports one; or tells the product's reason why not."""
    try:
        model = started(backbone, method, init, weights)
    except TtlDeployError as error:
        return Row(backbone, method, init, refusal=str(error).splitlines()[0])
    images = torch.randn(BATCH, *model.spec.input_shape)
    return Row(backbone, method, init, apart(model, to_onnx(model), images) if moved(model, images) else None)


def tried(backbones: Iterable[str], inits: Sequence[str] = INITS) -> Iterator[Row]:
    """Every attempt, each backbone's weights written once."""
    for backbone in backbones:
        with tempfile.TemporaryDirectory() as folder, torch.random.fork_rng():
            weights = written(backbone, Path(folder))
            for method in METHODS.names():
                for init in inits:
                    yield attempt(backbone, method, init, weights)


def shared_out(backbones: Sequence[str], workers: int) -> Iterator[Row]:
    """Every attempt, in the order of the backbones, by several processes of one thread each."""
    if workers == 1:
        yield from tried(backbones)
        return
    spawned = get_context("spawn")
    with ProcessPoolExecutor(workers, spawned, initializer=torch.set_num_threads, initargs=(1,)) as pool:
        yield from chain.from_iterable(pool.map(_all_of_one, backbones))


def _all_of_one(backbone: str) -> list[Row]:
    return list(tried([backbone]))


def cell(rows: Sequence[Row]) -> str:
    """How many of a backbone's by a method hold, or why none is there."""
    refusals = [row for row in rows if row.refusal is not None]
    wrong = [row.init for row in rows if not row.holds]
    if wrong:
        return f"**FAILED** from {', '.join(wrong)}"
    if len(refusals) == len(rows):
        return "refused"
    return f"{len(rows) - len(refusals)}" + (f", {len(refusals)} refused" if refusals else "")


def report(rows: Sequence[Row]) -> str:
    """Markdown: a line for each backbone, how many initialisations hold by each method, and what was refused."""
    by = {name: [row for row in rows if row.backbone == name] for name in dict.fromkeys(row.backbone for row in rows)}
    methods, inits = METHODS.names(), list(dict.fromkeys(row.init for row in rows))
    agreeing = [row.apart for row in rows if row.apart is not None]
    refusals = dict.fromkeys(row.refusal for row in rows if row.refusal is not None)
    machine, versions = hardware.describe(), hardware.library_versions()
    lines = [
        "<!-- made by `python benchmarks/zoo_cross.py --report reports/zoo.md` -->",
        "# Every backbone, method and initialisation",
        "",
        f"Each was built for small images, started from a file of tensors by {', '.join(inits)}, trained one step,",
        "exported to ONNX and run in ONNX Runtime beside PyTorch. A number says from how many of the initialisations",
        f"both agree: {len(agreeing)} of {len(rows)} attempts, logits apart by at most",
        f"{max(agreeing, default=0):.1e} of their spread.",
        "",
        f"| backbone | {' | '.join(methods)} |",
        "|---|" + "---|" * len(methods),
        *(
            f"| {name} | {' | '.join(cell([row for row in own if row.method == method]) for method in methods)} |"
            for name, own in by.items()
        ),
        "",
        *(["Refused, in the product's words:", "", *(f"- {text}" for text in refusals), ""] if refusals else []),
        f"{machine.name}; " + ", ".join(f"{name} {version}" for name, version in versions.items()) + ".",
    ]
    return "\n".join(lines) + "\n"


def main() -> int:
    """Tries all and writes the report; 1 where something fails without a reason."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backbones", nargs="+", default=BACKBONES.names(), choices=BACKBONES.names(), metavar="NAME")
    parser.add_argument("--workers", type=int, default=1, choices=range(1, 65), metavar="N", help="processes")
    parser.add_argument("--report", type=Path, help="where the table goes")
    given = parser.parse_args()
    rows: list[Row] = []
    with ConsoleReporter().task("attempts", len(given.backbones) * len(METHODS.names()) * len(INITS)) as advance:
        for row in shared_out(given.backbones, given.workers):
            rows.append(row)
            advance(1, row.backbone)
            if not row.holds:
                line(f"{row.backbone} {row.method} {row.init}: apart by {row.apart}")
    if given.report:
        files.write_text(given.report, report(rows))
    return int(not all(row.holds for row in rows))


if __name__ == "__main__":
    sys.exit(main())
