"""What the parity gate lets through and what it stops: sound exports of the whole zoo, and planted faults.

    python benchmarks/parity_gate.py --data ../shared/data/pneumonia28.npz --work gate --report reports/parity-gate.md

Every backbone is trained for a few epochs on small images and exported in every format and precision that this machine
runs, each in every engine that runs it; the distribution of what that moves is what the bounds were chosen from. Then
faults (`planted_faults.py`) are planted in the ONNX graphs of some backbones, and the gate judges each by the bounds
of what the graph is. Started again with the same folder it goes on where it was; `--only NAME` does one backbone's part
and writes no report, `--seconds N` ends after about that long (exit code 3 where something is left to do). Without
`--data` the images are synthetic.

Bounds that were chosen from networks say little of others. `--held-out FOLDER` shows what the gate says of the sound
exports of another folder of this program, made with `--only` from other images, seeds or starting weights.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from planted_faults import PRECISIONS, Fault, faults

from ttl_deploy import artifact as artifacts
from ttl_deploy import files, hardware
from ttl_deploy import runtime as runtimes
from ttl_deploy.artifact import Artifact, open_artifact
from ttl_deploy.cli.console import line
from ttl_deploy.data.synthetic import write_synthetic
from ttl_deploy.errors import TtlDeployError
from ttl_deploy.formats.export_run import Exported, export_one, write_one
from ttl_deploy.formats.exporter import EXPORTERS
from ttl_deploy.formats.onnx_graph import OnnxOptions
from ttl_deploy.parity.compare import Comparison, Verdict, compare, verdict
from ttl_deploy.parity.precision import judged_precision
from ttl_deploy.parity.run_session import logits_of
from ttl_deploy.runtime import suitable
from ttl_deploy.spec import Bounds, Data, Model, Placement, Protocol
from ttl_deploy.training.run import finished_run
from ttl_deploy.training.train import train
from ttl_deploy.zoo import BACKBONES

_BATCH = 32
_SMALL = 20
"""Images of the small test sets that are drawn from each large one, to see what the gate says of them."""
_DRAWS = 5
_CONDITIONS = "conditions.json"
_SLOW = 5
"""PyTorch on a CPU takes seconds per image in half precision, and is shown every so many-th image."""


@dataclass(frozen=True)
class Row:
    """One artifact in one engine, or one fault of one size.

    Attributes:
        backbone: Of the zoo.
        what: Format and engine, or the fault's name.
        size: Of the fault; None for a sound one.
        precision: By whose bounds it is judged.
        comparison: With PyTorch on the test images.
        small: Of a sound one: the same of some of the images.
    """

    backbone: str
    what: str
    size: str | None
    precision: str
    comparison: Comparison
    small: tuple[Comparison, ...] = ()

    @property
    def verdict(self) -> Verdict:
        """By the default bounds."""
        return verdict(self.comparison, Bounds.for_precision(self.precision))

    @property
    def refused(self) -> bool:
        """Whether an export of it would not be kept."""
        return not _kept(self.verdict)


def main() -> int:
    """Does what is missing, and writes the report; 1 where the gate stops a sound export or lets a fault through."""
    options = _parser().parse_args()
    options.until = time.monotonic() + options.seconds
    try:
        return _all(options)
    except _PausedError:
        return 3


_UNSEEN = ("vgg", "mobilenet_", "regnet_", "convnext_", "deit_", "vit_", "swin_")
_NAMES = tuple(name for name in BACKBONES.names() if BACKBONES.get(name).dims == 2 and not name.startswith(_UNSEEN))


class _PausedError(Exception):
    """The time given is over, and what was found is kept."""


def _pause(options: argparse.Namespace) -> None:
    if time.monotonic() > options.until:
        raise _PausedError


def _all(options: argparse.Namespace) -> int:
    names = options.only.split(",") if options.only else [] if options.partial else _NAMES
    for name in names:
        run = _trained(options, name)
        _pause(options)
        _sound(options, name, run)
        if name in options.planted.split(","):
            _plant(options, name, run)
    if options.only:
        _note_conditions(options)
        return 0
    sound, planted = _read(options.work / "sound-rows"), _read(options.work / "fault-rows")
    files.write_text(options.report, _report(options, sound, planted))
    unseen = [row for place in options.held_out for row in _sound_ones(_read(place / "sound-rows"))]
    return int(any(row.refused for row in [*_sound_ones(sound), *unseen]) or any(_missed(row) for row in planted))


def _note_conditions(options: argparse.Namespace) -> None:
    """What a report that shows this folder as held out says of it."""
    start = "random weights" if options.weights == "random" else Path(options.weights).name
    words = (
        f"{options.data.name if options.data else 'synthetic images'}, {options.size} pixels, {options.epochs} epochs "
        f"from {start}, seed {options.seed}{options.note and f'; {options.note}'}"
    )
    files.write_json(options.work / _CONDITIONS, {"words": words})


def _trained(options: argparse.Namespace, name: str) -> Path:
    folder: Path = options.work / "runs" / name
    if not (folder / "metrics.json").exists():
        model = Model(backbone=name, method="ftl", image_size=options.size, weights=options.weights)
        protocol = Protocol(
            epochs=options.epochs,
            batch_size=16,
            learning_rate=options.rate,
            seed=options.seed,
            device="cpu",
            precision="fp32",
        )
        train(Data(path=_images(options), cache=options.work / "cache"), model, protocol, folder, overwrite=True)
    return folder


def _images(options: argparse.Namespace) -> Path:
    """Every third training image is enough to give the networks something to lose."""
    if options.data is None:
        place = options.work / "synthetic"
        if not (place / "labels.csv").exists():
            write_synthetic(place, images=1200, size=options.size, seed=options.seed)
        return place / "labels.csv"
    if options.data.suffix != ".npz":
        return Path(options.data)
    small: Path = options.work / "images.npz"
    if not small.exists():
        with np.load(options.data) as arrays:
            kept = {name: arrays[name][::3] if name.startswith("train_") else arrays[name] for name in arrays}
        np.savez(small, **kept)
    return small


class _Shown:
    """The test images, and what PyTorch says of them."""

    def __init__(self, options: argparse.Namespace, run: Path) -> None:
        self.source = Exported(finished_run(run), options.work / "cache")
        test = self.source.prepared.indices("test")
        self.chosen = np.sort(np.random.default_rng(options.seed).permutation(test)[: options.images])
        said = self.source.reference
        place = {image: i for i, image in enumerate(said.ids)}
        rows = [place[self.source.prepared.ids[i]] for i in self.chosen]
        self.labels, self.reference = said.labels[rows], said.logits[rows]
        self.pixels = self.source.prepared.pixels(self.chosen)

    def logits(self, artifact: Artifact, engine: str, pixels: NDArray[np.uint8] | None = None) -> NDArray[np.float32]:
        shown = self.pixels if pixels is None else pixels
        with runtimes.load(artifact, Placement(runtime=engine)) as session:
            batches = (shown[i : i + _BATCH] for i in range(0, len(shown), _BATCH))
            return logits_of(session, batches, artifact.manifest.preprocess)

    def compared(self, logits: NDArray[np.float32], rows: NDArray[np.int64] | None = None) -> Comparison:
        chosen = np.arange(len(self.labels)) if rows is None else rows
        sides = (self.labels[chosen], self.reference[chosen], logits[chosen])
        return compare(*sides, self.source.prepared.task)

    def few(self, rows: NDArray[np.int64]) -> Iterator[NDArray[np.int64]]:
        """Rows of small test sets, drawn from some."""
        generator = np.random.default_rng(0)
        for _ in range(_DRAWS):
            yield generator.choice(rows, _SMALL, replace=False)


def _sound(options: argparse.Namespace, name: str, run: Path) -> None:
    """Every format, precision and engine of one backbone."""
    shown: _Shown | None = None
    for exporter in EXPORTERS:
        for precision in exporter.precisions:
            engines = [] if exporter.available(precision) else suitable(exporter.name, precision, "cpu")
            for engine in engines:
                place = options.work / "sound-rows" / name / f"{exporter.name} {precision} {engine.name}.json"
                # An AOTInductor package holds the same program and takes a C++ compiler minutes.
                if place.exists() or engine.name == "torch-aot":
                    continue
                shown = shown or _Shown(options, run)
                made = _exported(shown, exporter.name, precision, options.work / "artifacts" / name)
                _keep_sound(place, shown, made, engine.name, f"{exporter.name} in {engine.name}")
                _pause(options)
    _automatic(options, name, run, shown)


def _automatic(options: argparse.Namespace, name: str, run: Path, shown: _Shown | None) -> None:
    """Where plain int8 loses too much, the export that leaves layers in float."""
    rows = _read(options.work / "sound-rows" / name)
    refused = [row for row in rows if row.precision == "int8" and row.refused]
    place = options.work / "sound-rows" / name / "onnx int8-auto.json"
    if not refused or place.exists():
        return
    shown = shown or _Shown(options, run)
    target = options.work / "artifacts" / name / "onnx-int8-auto"
    try:
        made = export_one(shown.source, EXPORTERS.get("onnx"), "int8", target, settings=OnnxOptions(int8_auto=True))
    except TtlDeployError as error:
        line(f"{name} int8-auto: {error.what}")
        return
    for engine in suitable("onnx", "int8", "cpu"):
        where = place.with_name(f"onnx int8-auto {engine.name}.json")
        _keep_sound(where, shown, made, engine.name, f"onnx --int8-auto in {engine.name}")
    files.write_json(place, {"done": True})


def _exported(shown: _Shown, format: str, precision: str, folder: Path) -> Artifact:
    place = folder / f"{format}-{precision}"
    if (place / artifacts.MANIFEST).exists():
        return open_artifact(place)
    return write_one(shown.source, EXPORTERS.get(format), precision, place)[0]


def _keep_sound(place: Path, shown: _Shown, made: Artifact, engine: str, what: str) -> None:
    slow = engine == "torch" and made.manifest.precision != "fp32"
    rows = np.arange(0, len(shown.labels), _SLOW if slow else 1)
    logits = np.zeros_like(shown.reference)
    logits[rows] = shown.logits(made, engine, shown.pixels[rows])
    row = {
        "what": what,
        "size": None,
        "precision": judged_precision(made)[0],
        "comparison": shown.compared(logits, rows).model_dump(mode="json"),
        "small": [shown.compared(logits, few).model_dump(mode="json") for few in shown.few(rows)],
    }
    files.write_json(place, row)
    line(f"{place.parent.name} {place.stem}")


def _plant(options: argparse.Namespace, name: str, run: Path) -> None:
    """Every fault of one backbone, in every precision."""
    shown = _Shown(options, run)
    for precision in options.precisions.split(","):
        sound = _exported(shown, "onnx", precision, options.work / "artifacts" / name)
        (engine, *_others) = suitable("onnx", precision, "cpu")
        for number, fault in enumerate(faults()):
            place = options.work / "fault-rows" / name / f"{precision} {number}.json"
            if place.exists() or precision not in fault.precisions:
                continue
            rows = [
                {
                    "what": fault.name,
                    "size": f"{size:g}",
                    **_planted(shown, sound, engine.name, fault, size, options.work / f"planted-{os.getpid()}"),
                }
                for size in fault.sizes
            ]
            files.write_json(place, rows)
            _pause(options)
        line(f"{name} {precision}: faults planted")


def _planted(shown: _Shown, sound: Artifact, engine: str, fault: Fault, size: float, folder: Path) -> dict[str, Any]:
    made, pixels = sound, None
    if fault.alter is not None:
        pixels = fault.alter(shown.pixels, size)
    else:
        made = _damaged(sound, fault, size, folder)
    logits = shown.logits(made, engine, pixels)
    return {
        "precision": sound.manifest.precision,
        "judged": judged_precision(made)[0],
        "comparison": shown.compared(logits).model_dump(mode="json"),
    }


def _damaged(sound: Artifact, fault: Fault, size: float, folder: Path) -> Artifact:
    """A whole and valid artifact with a damaged graph."""
    shutil.rmtree(folder, ignore_errors=True)
    proto = onnx.load(sound.model_path)
    assert fault.edit is not None
    fault.edit(proto, size)

    def build(place: Path) -> str:
        (place / "model.onnx").write_bytes(proto.SerializeToString())
        return "model.onnx"

    kept = sound.manifest.model_dump(exclude={"files", "model_file", "parity", "details"})
    return artifacts.write_artifact(folder, kept, build)


def _read(folder: Path) -> list[Row]:
    found = []
    for place in sorted(folder.rglob("*.json")):
        content = json.loads(place.read_text())
        for row in content if isinstance(content, list) else [content]:
            found += [] if "done" in row else [_row(place.parent.name, row)]
    return found


def _row(backbone: str, content: dict[str, Any]) -> Row:
    small = tuple(Comparison.model_validate(each) for each in content.get("small", ()))
    comparison = Comparison.model_validate(content["comparison"])
    return Row(backbone, content["what"], content["size"], content["precision"], comparison, small)


def _kept(judged: Verdict) -> bool:
    return judged.result == "pass" or (judged.result == "inconclusive" and judged.within)


def _sound_ones(rows: Sequence[Row]) -> list[Row]:
    """Exports that keep labels, AUROC and AUPRC; what loses those is no measure of bounds on anything else."""
    return [row for row in rows if _kept(verdict(row.comparison, Bounds()))]


def _missed(row: Row) -> bool:
    """A fault that moved a probability by more than the bound, and was let through."""
    return _moves(row) and not row.refused


def _moves(row: Row) -> bool:
    bounds, moved = Bounds.for_precision(row.precision), row.comparison.shift
    if row.comparison.not_finite:
        return True
    return (moved.largest or 0) > (bounds.max_probability_difference or 1) or (moved.p99 or 0) > (
        bounds.max_p99_difference or 1
    )


def _report(options: argparse.Namespace, sound: Sequence[Row], planted: Sequence[Row]) -> str:
    return "\n".join(
        [
            *_head(options, sound),
            *_missing(options, sound, planted),
            *_summary(sound, planted),
            *_distribution(_sound_ones(sound)),
            *_held_out(options),
            *_lost(options, sound),
            *_by_backbone(_sound_ones(sound)),
            *_fault_tables(planted),
            *_blind(planted),
            _made(options),
        ]
    )


def _head(options: argparse.Namespace, sound: Sequence[Row]) -> list[str]:
    images = max(row.comparison.images for row in sound)
    data = options.data.name if options.data else "synthetic images"
    return [
        "# What the parity gate lets through and what it stops",
        "",
        f"Every backbone of the zoo, all layers, trained for {options.epochs} epochs from random weights on {data} "
        f"({options.size} pixels), exported in every format and precision that runs here, in every engine that runs "
        f"it. Judged on {images} test images ({images // _SLOW} for PyTorch in half precision) by the default bounds. "
        "*Sound* is an export as the program makes it that keeps the decisions, AUROC and AUPRC (99 % of labels, "
        "0.005); plain int8 that does not is listed apart, with what `--int8-auto` makes of it. *Refused* is what "
        "`export` does not keep: a fail, or an inconclusive verdict where a number breaks its bound.",
        "",
    ]


def _missing(options: argparse.Namespace, sound: Sequence[Row], planted: Sequence[Row]) -> list[str]:
    """What a whole run has and this one lacks, in words."""
    ways = {
        f"{exporter.name} {precision} in {engine.name}"
        for exporter in EXPORTERS
        for precision in exporter.precisions
        if not exporter.available(precision)
        for engine in suitable(exporter.name, precision, "cpu")
        if engine.name != "torch-aot"
    }
    lines = []
    for name in _NAMES:
        done = {
            f"{row.what.split()[0]} {row.precision} in {row.what.split()[-1]}" for row in sound if row.backbone == name
        }
        lacking = sorted(ways - done)
        if lacking:
            lines.append(
                f"- {name}: {'nothing yet' if len(lacking) == len(ways) else 'without ' + ', '.join(lacking)}."
            )
    for precision in PRECISIONS:
        kinds = {fault.name for fault in faults() if precision in fault.precisions}
        left = len(kinds - {row.what for row in planted if row.precision == precision})
        if left:
            lines.append(f"- {precision}: {left} of {len(kinds)} kinds of fault are not planted yet.")
    return ["**Not whole.** What is missing here:", "", *lines, ""] if lines else []


def _summary(sound: Sequence[Row], planted: Sequence[Row]) -> list[str]:
    table = []
    for precision in PRECISIONS:
        good = [row for row in _sound_ones(sound) if row.precision == precision]
        small = [kept for row in good for kept in _small_kept(row)]
        bad = [row for row in planted if row.precision == precision]
        moving = [row for row in bad if _moves(row)]
        quiet = [row for row in bad if not _moves(row)]
        table.append(
            (
                precision,
                f"{sum(row.refused for row in good)} of {len(good)}",
                str(sum(row.verdict.result == "inconclusive" and not row.refused for row in good)),
                f"{small.count(False)} of {len(small)}",
                str(len({row.what for row in bad})),
                str(len(bad)),
                f"{sum(row.refused for row in moving)} of {len(moving)}",
                f"{sum(row.refused for row in quiet)} of {len(quiet)}",
            )
        )
    head = (
        *(
            "graph",
            "sound refused",
            "inconclusive and kept",
            f"sound refused, {_SMALL} images",
            "kinds of fault",
            "faults",
        ),
        *("refused of those that move a probability by more than a bound", "refused of the others"),
    )
    return [*_table(head, table), ""]


def _small_kept(row: Row) -> list[bool]:
    """The probabilities' part of the verdict on small test sets; AUROC on 20 images is another question."""
    return [_kept(verdict(few, Bounds.for_precision(row.precision))) for few in row.small]


_MEASURES: dict[str, tuple[str, Callable[[Comparison], float | None]]] = {
    "largest Δp": ("max_probability_difference", lambda c: c.shift.largest),
    "99th percentile": ("max_p99_difference", lambda c: c.shift.p99),
    "mean shift": ("max_mean_shift", lambda c: max(map(abs, c.shift.mean), default=None)),
    "scale": ("max_scale_change", lambda c: None if c.shift.scale is None else abs(c.shift.scale - 1)),
    "offset": ("max_logit_offset", lambda c: c.shift.offset),
    "ECE": ("max_calibration_shift", lambda c: _largest_end(c)),
    "median logit": ("max_typical_difference", lambda c: c.typical_relative),
    "largest logit": ("max_logit_difference", lambda c: c.largest_relative),
}


def _largest_end(comparison: Comparison) -> float | None:
    interval = comparison.changes.calibration.interval
    return None if interval is None else max(map(abs, interval))


def _distribution(sound: Sequence[Row]) -> list[str]:
    lines = [
        "## What sound exports move, and the bounds",
        "",
        "Over all backbones, formats and engines: median and largest, and the bound that was chosen. ECE is the end of "
        "its 95 % interval farther from 0. The room left is for other processors, data and trainings: these are "
        "small networks on one machine.",
        "",
    ]
    table = []
    for precision in PRECISIONS:
        rows = [row.comparison for row in sound if row.precision == precision]
        bounds = Bounds.for_precision(precision)
        for name, (field, measure) in _MEASURES.items():
            values = [value for value in map(measure, rows) if value is not None]
            bound = getattr(bounds, field)
            if bound is not None and values:
                room = f"{bound / max(values):.1f}" if max(values) else ""
                table.append((precision, name, f"{np.median(values):.1e}", f"{max(values):.1e}", f"{bound:g}", room))
        agreement = [c.label_agreement for c in rows]
        if agreement:
            table.append(
                (
                    precision,
                    "same label",
                    f"{np.median(agreement):.2%}",
                    f"{min(agreement):.2%}",
                    "99 %, by interval",
                    "",
                )
            )
    return [*lines, *_table(("graph", "measure", "median", "largest", "bound", "bound / largest"), table), ""]


def _held_out(options: argparse.Namespace) -> list[str]:
    """What the gate says of networks that no bound was chosen from."""
    if not options.held_out:
        return []
    lines = [
        "## Networks on which no bound was set",
        "",
        "The room that the tightest bound leaves: bound / largest number among these exports.",
        "",
    ]
    table = []
    for place in options.held_out:
        words = json.loads((place / _CONDITIONS).read_text())["words"]
        sound = _sound_ones(_read(place / "sound-rows"))
        for name in sorted({row.backbone for row in sound}):
            for precision in PRECISIONS:
                rows = [row for row in sound if (row.backbone, row.precision) == (name, precision)]
                if rows:
                    refused = sum(row.refused for row in rows)
                    table.append((words, name, precision, f"{refused} of {len(rows)}", _room(rows)))
    return [*lines, *_table(("trained on", "backbone", "graph", "sound refused", "room"), table), ""]


def _room(rows: Sequence[Row]) -> str:
    """How often the tightest bound goes into what these exports moved, and which bound that is."""
    bounds = Bounds.for_precision(rows[0].precision)
    found = []
    for name, (field, measure) in _MEASURES.items():
        bound = getattr(bounds, field)
        values = [value for value in (measure(row.comparison) for row in rows) if value]
        if bound is not None and values:
            found.append((bound / max(values), name))
    least, name = min(found, default=(float("inf"), "nothing moved"))
    return f"{least:.1f} ({name})"


def _lost(options: argparse.Namespace, sound: Sequence[Row]) -> list[str]:
    kept = {id(row) for row in _sound_ones(sound)}
    rows = [row for row in sound if id(row) not in kept]
    if not rows:
        return []
    table = [(row.backbone, row.what, *_numbers(row), row.verdict.result) for row in rows]
    shares = []
    for name in sorted({row.backbone for row in rows}):
        place = options.work / "artifacts" / name / "onnx-int8-auto"
        if (place / artifacts.MANIFEST).exists():
            share = open_artifact(place, verify=False).manifest.details["quantisation"]["int8_macs"]
            shares.append(f"`--int8-auto` of {name} keeps {share:.1%} of the multiply-adds in int8.")
    return ["## Plain int8 that loses too much", "", *_table(_HEAD, table), "", *shares, ""]


_HEAD = ("backbone", "export", "largest Δp", "99th percentile", "mean shift", "scale", "same label", "verdict")


def _numbers(row: Row) -> tuple[str, ...]:
    moved = row.comparison.shift
    return (
        f"{moved.largest or 0:.1e}",
        f"{moved.p99 or 0:.1e}",
        f"{max(map(abs, moved.mean), default=0):.1e}",
        f"{moved.scale or 0:.4f}",
        f"{row.comparison.label_agreement:.2%}",
    )


def _by_backbone(sound: Sequence[Row]) -> list[str]:
    """The worst export of each backbone and precision."""
    table = []
    for precision in PRECISIONS:
        for name in sorted({row.backbone for row in sound}):
            rows = [row for row in sound if (row.precision, row.backbone) == (precision, name)]
            if rows:
                worst = max(rows, key=lambda row: row.comparison.shift.p99 or 0)
                verdicts = ", ".join(sorted({row.verdict.result for row in rows}))
                table.append((name, f"{precision}, {len(rows)} exports; {worst.what}", *_numbers(worst), verdicts))
    return ["## Sound exports: each backbone's worst", "", *_table(_HEAD, table), ""]


def _fault_tables(planted: Sequence[Row]) -> list[str]:
    """From which size on each fault is refused; every size tried is refused where nothing else is said."""
    names = list(dict.fromkeys(fault.name for fault in faults()))
    table = []
    for name in names:
        cells = []
        for precision in PRECISIONS:
            rows = [row for row in planted if (row.what, row.precision) == (name, precision)]
            cells.append(_cell(rows))
        table.append((name, *cells))
    return [
        "## Faults, and from which size on they are refused",
        "",
        "`all`: every size is refused (how many were tried). Else the sizes let through, each with the most that it "
        "moves any probability by.",
        "",
        *_table(("fault", *PRECISIONS), table),
        "",
    ]


def _cell(rows: Sequence[Row]) -> str:
    if not rows:
        return "-"
    passed = [row for row in rows if not row.refused]
    if not passed:
        return f"all ({len(rows)})"
    several = len({row.backbone for row in rows}) > 1
    shown = [
        f"{row.size}{f' {row.backbone}' if several else ''} ({row.comparison.shift.largest or 0:.0e})" for row in passed
    ]
    return f"{len(rows) - len(passed)} of {len(rows)}; not " + ", ".join(shown)


def _blind(planted: Sequence[Row]) -> list[str]:
    lines = ["## What the gate cannot see", ""]
    for precision in [name for name in PRECISIONS if any(row.precision == name for row in planted)]:
        passed = [row for row in planted if row.precision == precision and not row.refused]
        largest = max((row.comparison.shift.largest or 0 for row in passed), default=0)
        lines.append(
            f"- {precision}: {len(passed)} of the faults above, none of which moves any probability of any test image "
            f"by more than {largest:.1e}."
        )
    return [
        *lines,
        "- A fault that shows on no test image: a channel that is silent on all of them, a class that none has, a "
        "weight that meets nothing but padding (at 32 pixels the last convolutions of a ResNet see one position, so of "
        "their 3 x 3 kernels only the middle counts).",
        "- A fault as small as what the precision itself does: within an int8 graph's own rounding, a layer that is "
        "somewhat worse than it need be looks like int8.",
        "- Preprocessing that differs by the records fails whatever the numbers; the faults of pixels above are those "
        "that no record tells of.",
        "- Engines without readable tensors (TensorRT) are judged by the precision that their manifest says.",
        "",
    ]


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    return [f"| {' | '.join(head)} |", "|---" * len(head) + "|", *(f"| {' | '.join(row)} |" for row in rows)]


def _made(options: argparse.Namespace) -> str:
    made = f"Made by `python {' '.join(sys.argv)}` (seed {options.seed}) on {hardware.describe().name}"
    return f"{made}; {hardware.library_words()}.\n"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="images, every third one of an .npz; synthetic ones without")
    parser.add_argument("--work", type=Path, required=True, help="folder of runs, artifacts and what was found")
    parser.add_argument("--report", type=Path, default=Path("reports/parity-gate.md"))
    parser.add_argument("--only", help="backbones to do now, comma-separated; writes no report")
    parser.add_argument("--partial", action="store_true", help="report on what is there, and name what is missing")
    parser.add_argument("--seconds", type=float, default=float("inf"), help="end after about that long")
    parser.add_argument("--planted", default="resnet18", help="backbones to plant faults in")
    parser.add_argument("--precisions", default=",".join(PRECISIONS), help="to plant faults in, in this order")
    parser.add_argument("--held-out", type=Path, action="append", default=[], help="another --work, to report beside")
    parser.add_argument("--weights", default="random", help="of the start: random, or a file")
    parser.add_argument("--note", default="", help="what else to say of a folder that is held out")
    parser.add_argument("--rate", type=float, default=1e-3, help="learning rate")
    parser.add_argument("--size", type=int, default=32, help="pixels")
    parser.add_argument("--images", type=int, default=200, help="most test images")
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--seed", type=int, default=0)
    return parser


if __name__ == "__main__":
    sys.exit(main())
