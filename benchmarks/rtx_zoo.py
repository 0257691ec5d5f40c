"""Which engines TensorRT for RTX builds of the zoo: backbones x methods x precisions x architectures, on any machine.

    python benchmarks/rtx_zoo.py --report reports/tensorrt-rtx.md

Weights are random, images small, and nothing is run: a row says that the library built an engine, of how many MB and in
how many seconds, or why not. Needs the extra `rtx`.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch

from ttl_deploy import files, hardware
from ttl_deploy.cli.console import ConsoleReporter, line
from ttl_deploy.errors import BadInputError
from ttl_deploy.formats.graph_types import to_half
from ttl_deploy.formats.kit.build_engine import AS_EXPORTED, GENERATIONS, BuildError, Settings
from ttl_deploy.formats.onnx_graph import to_onnx
from ttl_deploy.formats.quantiser import Quantiser
from ttl_deploy.formats.rtx_cards import PRECISIONS, refuse
from ttl_deploy.formats.trt_rtx import build_engines
from ttl_deploy.runtime.trt_rtx import import_rtx
from ttl_deploy.spec import ModelSpec
from ttl_deploy.transfer import METHODS, TransferModel, build
from ttl_deploy.zoo import BACKBONES

SIZE = 64
LARGEST_BATCH = 8
_CUT = "block:3"
_BF16_OPSET = 22


@dataclass(frozen=True)
class Row:
    """One attempt.

    Attributes:
        model: Backbone and method.
        precision: Of the graph.
        card: Architecture.
        size_mb: Of the engine; None where there is none.
        seconds: Of the build; None likewise.
        head: What stood for the head's matrix product.
        reason: Why there is no engine; None where there is one.
    """

    model: str
    precision: str
    card: str
    size_mb: float | None = None
    seconds: float | None = None
    head: str = AS_EXPORTED
    reason: str | None = None


_UNSEEN = ("cbr_", "inception_", "vgg", "mobilenet_", "regnet_", "convnext_", "deit_", "vit_", "swin_")
NAMES = tuple(name for name in BACKBONES.names() if BACKBONES.get(name).dims == 2 and not name.startswith(_UNSEEN))
"""Of volumes and of the families in `_UNSEEN` no engine has been seen."""


def specs(backbones: Iterable[str], methods: Iterable[str], size: int = SIZE) -> Iterator[ModelSpec]:
    """A model of every backbone and method, cut where the paper cuts first."""
    for backbone in backbones:
        for method in methods:
            own = {"cut": _CUT} if method in ("tf", "ttl") else {"layers": 2} if method == "lwft" else {}
            yield ModelSpec(backbone=backbone, method=method, classes=("a", "b"), image_size=size, **own)


def typed(model: TransferModel, plain: onnx.ModelProto, precision: str) -> onnx.ModelProto:
    """The graph in a precision; int8 is calibrated on noise, which decides scales and not whether it builds.

    Args:
        model: What `plain` was made of.
        plain: In fp32.
        precision: One of `PRECISIONS`.
    """
    if precision == "fp32":
        return plain
    if precision in ("fp16", "bf16"):
        return to_half(to_onnx(model, _BF16_OPSET) if precision == "bf16" else plain, precision)
    images = np.random.default_rng(0).normal(size=(4, *model.spec.input_shape)).astype(np.float32)
    return Quantiser.calibrated(plain, [images], method="minmax", symmetric=True).quantise()


def attempt(trt: Any, proto: onnx.ModelProto, spec: ModelSpec, precision: str, card: str) -> Row:
    """Builds one engine, or tells why not: our own refusal, or the library's words."""
    row = {"model": f"{spec.backbone} {spec.method}", "precision": precision, "card": card}
    shape = spec.input_shape
    settings = Settings(precision, "images", (1, *shape), (1, *shape), (LARGEST_BATCH, *shape), optimization_level=None)
    begun = time.perf_counter()
    try:
        refuse(precision, [card])
        engines = build_engines(trt, proto, settings, [card])
    except BadInputError as error:
        return Row(**row, reason=error.what)
    except BuildError as error:
        return Row(**row, reason=f"NOT EXPLAINED: {error}")
    return Row(
        **row,
        size_mb=len(engines.built[card].plan) / 1e6,
        seconds=time.perf_counter() - begun,
        head=engines.head,
    )


def tried(models: Iterable[ModelSpec], precisions: Sequence[str], cards: Sequence[str]) -> Iterator[Row]:
    """Every attempt; a model's graph of a precision is made once."""
    trt = import_rtx()
    for spec in models:
        with torch.random.fork_rng():
            torch.manual_seed(0)
            model = build(spec).eval()
        plain = to_onnx(model)
        for precision in precisions:
            proto = typed(model, plain, precision)
            for card in cards:
                yield attempt(trt, proto, spec, precision, card)


def report(rows: Sequence[Row], *, seconds: bool, command: str) -> str:
    """The report, a table a precision."""
    version = str(import_rtx().__version__)
    built = [row for row in rows if row.reason is None]
    models, cards = list(dict.fromkeys(row.model for row in rows)), list(dict.fromkeys(row.card for row in rows))
    parts = [
        "# Engines of TensorRT for RTX, for the whole zoo",
        "",
        f"TensorRT for RTX {version} built {len(built)} engines of {len(rows)} that were asked of it, on a machine "
        "without a GPU; what was refused is explained below. No engine was run: that needs the card.",
        "",
        f"Random weights, {SIZE} pixels, batches 1 to {LARGEST_BATCH}; `tf` and `ttl` are cut at {_CUT}. A cell is the "
        "engine's MB" + (" / seconds of the build, taken beside other work on the machine." if seconds else "."),
        "",
        f"`{command}` on {hardware.describe().name}.",
    ]
    for precision in dict.fromkeys(row.precision for row in rows):
        cells = {(row.model, row.card): row for row in rows if row.precision == precision}
        parts += ["", f"## {precision}", "", f"| model | {' | '.join(f'{c} ({GENERATIONS[c]})' for c in cards)} |"]
        parts.append("|---" * (len(cards) + 1) + "|")
        for model in models:
            parts.append(f"| {model} | {' | '.join(_cell(cells[model, card], seconds) for card in cards)} |")
    parts += ["", "## What was refused", "", *(f"- {words}" for words in _refusals(rows)), "", *_heads(rows)]
    return "\n".join(parts) + "\n"


def _cell(row: Row, seconds: bool) -> str:
    if row.size_mb is None:
        return "refused"
    return f"{row.size_mb:.1f}" + (f" / {row.seconds:.1f}" if seconds else "")


def _refusals(rows: Iterable[Row]) -> list[str]:
    counts: dict[str, int] = {}
    for row in rows:
        if row.reason is not None:
            counts[row.reason] = counts.get(row.reason, 0) + 1
    return [f"{reason} ({number} times)" for reason, number in counts.items()] or ["nothing"]


def _heads(rows: Iterable[Row]) -> list[str]:
    changed = [row for row in rows if row.head != AS_EXPORTED]
    forms = ", ".join(sorted({row.head for row in changed})) or "none"
    return [f"In {len(changed)} graphs another form stands for the head's matrix product ({forms}): fp32 for Turing."]


def main() -> int:
    """Tries all, and writes the report. Exit code 1: a refusal is not explained."""
    chosen = _parser().parse_args()
    reporter, rows = ConsoleReporter(), []
    models = list(specs(chosen.backbones, chosen.methods))
    total = len(models) * len(PRECISIONS) * len(GENERATIONS)
    with reporter.task("building engines", total) as advance:
        for row in tried(models, PRECISIONS, tuple(GENERATIONS)):
            rows.append(row)
            advance(1, f"{row.model} {row.precision} {row.card}")
    files.write_text(
        chosen.report, report(rows, seconds=chosen.seconds, command=f"python {' '.join(map(str, sys.argv))}")
    )
    line(str(chosen.report))
    return int(any((row.reason or "").startswith("NOT EXPLAINED") for row in rows))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backbones", nargs="+", default=NAMES)
    parser.add_argument("--methods", nargs="+", default=METHODS.names())
    parser.add_argument("--seconds", action="store_true", help="tell seconds of the builds, for a quiet machine")
    parser.add_argument("--report", type=Path, default=Path("reports/tensorrt-rtx.md"))
    return parser


if __name__ == "__main__":
    sys.exit(main())
