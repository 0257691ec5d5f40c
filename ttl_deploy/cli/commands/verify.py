"""`ttl-deploy verify`: is the artifact the model that was validated?"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ttl_deploy.cli import console
from ttl_deploy.cli.criteria_table import print_criteria
from ttl_deploy.cli.forms import form
from ttl_deploy.cli.options import PixelCache
from ttl_deploy.first_use import importing
from ttl_deploy.spec import Bounds, Placement, Reading, Trust
from ttl_deploy.spec.said import Without

if TYPE_CHECKING:
    from ttl_deploy.parity.compare import Comparison
    from ttl_deploy.parity.location import Location
    from ttl_deploy.parity.paired import Change
    from ttl_deploy.parity.verify import Check
    from ttl_deploy.spec import CriteriaFile
    from ttl_deploy.verbs.acceptance import Acceptance

NAME = "verify"
_SIDE_BY_SIDE = 4
ORDER = 6
NEEDS_ARGUMENTS = True


@form
def run(
    artifact: Annotated[Path, typer.Argument(help="Folder of the artifact.")],
    against: Annotated[
        Path | None,
        typer.Option(
            help="What to hold it against: the run it was exported from, or another artifact.",
            show_default="the run around the artifact",
        ),
    ] = None,
    data: Annotated[
        Path | None,
        typer.Option(
            help="Images to compare on: a folder, CSV or .npz. The run's own images at another place (told by their "
            "content) give its test split; of other ones their own test side is taken where they have one, and with a "
            "run as the reference PyTorch computes. Without labels only logits and predicted classes are compared.",
            show_default="the run's test split",
        ),
    ] = None,
    *,
    reading: Annotated[Reading, Without("classes", "skip_unreadable", "val_data", "test_data")],
    placement: Placement,
    bounds: Annotated[Bounds, Without("min_metric_ratio")],
    allow_other_preprocessing: Annotated[
        bool,
        typer.Option(
            "--allow-other-preprocessing",
            help="The artifact's preprocessing differs from the reference's and is meant to: let the numbers decide. "
            "Without, it fails, because the images at hand may not show it.",
            rich_help_panel=Bounds.PANEL,
        ),
    ] = False,
    allow_inconclusive: Annotated[
        bool,
        typer.Option(
            "--allow-inconclusive",
            help="Exit with 0 too where the images are too few to tell.",
            rich_help_panel=Bounds.PANEL,
        ),
    ] = False,
    locate: Annotated[
        bool,
        typer.Option(
            "--locate",
            help="Find where the two part: preprocessing, classes, then PyTorch, ONNX fp32, ONNX of the artifact's "
            "precision and the engine, then the first tensor inside. Against a run this imports PyTorch.",
        ),
    ] = False,
    criteria: Annotated[
        Path | None,
        typer.Option(
            help="Acceptance criteria, fixed beforehand in a YAML file: bounds as below, minimum, maximum, and "
            "subgroups. Every one gets a row and the exit code follows them; options that contradict the file are "
            "refused."
        ),
    ] = None,
    report: Annotated[Path | None, typer.Option(help="Write an HTML report, pictures inside, to this file.")] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the file at --report.")] = False,
    cache: PixelCache = None,
    trust: Trust,
    as_json: Annotated[bool, typer.Option("--json", help="Print the comparison as JSON.")] = False,
) -> int:
    """Compare an artifact with PyTorch, or with another artifact: exit code 0 pass, 1 fail or inconclusive.

    The signature (--key; of an artifact at --against too) and hashes are checked first. Unless told otherwise the
    images are the run's own test split, and the reference is what PyTorch said of them, in fp32, when the run was
    evaluated. Intervals are DeLong's for AUROC and of a paired
    bootstrap for the rest, by patient where patients are known. The default bounds are those of what the graph's
    weights are, whatever the manifest calls them.
    """
    from ttl_deploy import files
    from ttl_deploy.errors import IntegrityError

    with importing():
        from ttl_deploy.verbs.verify import verify

    fixed = _criteria(criteria, bounds)
    if report is not None:
        files.refuse_existing(report, overwrite=overwrite, option="--report")
    shared: dict[str, Any] = {
        "against": against,
        "data": data,
        "reading": reading,
        "placement": placement,
        "trust": trust,
        "cache": cache,
        "reporter": console.ConsoleReporter(quiet=as_json),
    }
    try:
        judged_by = bounds if fixed is None else fixed.criteria.bounds
        result = verify(
            artifact,
            bounds=judged_by,
            allow_other_preprocessing=allow_other_preprocessing,
            subgroups={} if fixed is None else fixed.subgroups,
            **shared,
        )
    except IntegrityError:
        found = _records_only(artifact, shared) if locate else None
        if found is None:
            raise
        _print_location(found, as_json)
        return 1
    location = _locate(artifact, result, judged_by.max_logit_difference, shared) if locate else None
    accepted = _accepted(result, fixed, shared)
    if report is not None:
        from ttl_deploy.verbs.parity_report import write_report

        write_report(result, report, location, accepted)
    if as_json:
        from ttl_deploy.verbs.parity_report import as_dict

        console.print_json({**as_dict(result, location, accepted), "artifact": str(artifact)})
    else:
        _print(artifact, result, location, report)
        print_criteria(accepted)
    allowed = ("pass", "inconclusive") if allow_inconclusive else ("pass",)
    return 0 if (result.verdict if accepted is None else accepted).result in allowed else 1


def _criteria(path: Path | None, said: Bounds) -> CriteriaFile | None:
    from ttl_deploy.spec import read_criteria, refuse_other_bounds

    if path is None:
        return None
    found = read_criteria(path)
    refuse_other_bounds(said, found)
    return found


def _accepted(result: Check, fixed: CriteriaFile | None, shared: dict[str, Any]) -> Acceptance | None:
    if fixed is None:
        return None
    from ttl_deploy.verbs.acceptance import accept

    return accept(result, fixed, **{name: shared[name] for name in ("placement", "trust", "reporter")})


def _locate(artifact: Path, result: Check, max_logit_difference: float | None, shared: dict[str, Any]) -> Location:
    from ttl_deploy.verbs.locate import locate

    return locate(artifact, ids=result.worst, max_logit_difference=max_logit_difference, **shared)


def _records_only(artifact: Path, shared: dict[str, Any]) -> Location | None:
    """What the records of the two say where they cannot be compared: classes in another order."""
    from ttl_deploy.artifact import open_artifact
    from ttl_deploy.parity.verify import open_source
    from ttl_deploy.verbs.locate import of_classes

    opened = open_artifact(artifact, trust=shared["trust"])
    return of_classes(opened, open_source(opened, shared["against"], trust=shared["trust"]))


def _print(artifact: Path, result: Check, location: Location | None, report: Path | None) -> None:
    comparison, judged = result.comparison, result.verdict
    of = "test images" if result.record.split == "test" else f"images of {result.record.split}"
    patients = f" of {comparison.changes.patients} patients" if comparison.changes.patients else ""
    title = f"{artifact} in {result.runtime} against {result.record.reference}: {comparison.images} {of}{patients}"
    console.table(title, ("", "reference", "artifact", "difference", "95 % interval"), _rows(result))
    columns = (
        "differ most",
        *([] if comparison.overlap is not None else ["label"]),
        *(f"{side}: {name}" for name in _shown(result) for side in ("ref.", "art.")),
    )
    if comparison.max_difference or comparison.not_finite or comparison.overlap is not None:
        console.table(
            "",
            (*columns, "logits apart" if comparison.overlap is None else "not common"),
            _worst_rows(result),
            right_from=2,
        )
    for note in result.notes:
        console.line(f"note: {note}")
    console.line(f"{judged.result.upper()}: {judged.reason}")
    if location is not None:
        _print_location(location, as_json=False)
    if report is not None:
        console.line(f"report: {report}")


def _rows(result: Check) -> list[tuple[str | None, ...]]:
    from ttl_deploy.training.metrics import TITLES

    comparison = result.comparison
    if comparison.overlap is not None:
        return _mask_rows(comparison)
    rows: list[tuple[str | None, ...]] = []
    if comparison.labelled:
        measured = comparison.changes
        named = (
            *((TITLES[name], change) for name, change in measured.headline.items()),
            ("ECE", measured.ece),
            *(("ECE in the reference's bins", measured.calibration), ("Brier", measured.brier)),
        )
        rows += [_change_row(name, change) for name, change in named]
    similarity = comparison.similarity
    if similarity is not None:
        first, second = similarity.accuracy
        right = "every label right" if result.prepared.task.SEVERAL else "accuracy"
        rows.append((right, f"{first:.2%}", f"{second:.2%}", f"{100 * (second - first):+.2f} points", ""))
        alone = f"independent errors: {similarity.independent:.2%}"
        rows.append(("both right or both wrong", "", f"{similarity.observed:.2%}", alone, ""))
    same = f"{comparison.disagreements} of {comparison.images} differ"
    rows.append((_decision(result), "", f"{comparison.label_agreement:.2%}", same, ""))
    rows += _shift_rows(result)
    for name, value in (
        ("mean", comparison.mean_difference),
        ("median", comparison.p50_difference),
        ("95th percentile", comparison.p95_difference),
        ("99th percentile", comparison.p99_difference),
        ("largest", comparison.max_difference),
    ):
        rows.append((f"logit difference, {name}", "", "", None if value is None else f"{value:.2e}", ""))
    return rows


def _mask_rows(comparison: Comparison) -> list[tuple[str | None, ...]]:
    assert comparison.overlap is not None
    measured, (mean, least) = comparison.changes, comparison.overlap
    named = (("Dice with the drawn masks", measured.dice), ("Jaccard with the drawn masks", measured.jaccard))
    same = f"{comparison.disagreements} of {comparison.images} differ somewhere"
    return [
        *(_change_row(name, change) for name, change in named if change is not None),
        ("Dice of the two", "", f"{mean:.4f}", f"worst image {least:.4f}", ""),
        ("same pixel", "", f"{comparison.label_agreement:.3%}", same, ""),
    ]


def _decision(result: Check) -> str:
    at = result.comparison.threshold
    return "same label" if at is None else f"same label ({result.prepared.task.positive} from {at:.4f})"


def _shift_rows(result: Check) -> list[tuple[str | None, ...]]:
    moved = result.comparison.shift
    means = zip(result.prepared.classes, moved.mean, strict=True) if moved.mean else ()
    shown = [f"{shift:+.5f} {name}" for name, shift in means if name in result.prepared.task.telling]
    return [
        ("probability difference, largest", "", "", _number(moved.largest), ""),
        ("probability difference, 99th percentile", "", "", _number(moved.p99), ""),
        *(("mean probability", "", "", words, "") for words in shown),
        ("logits multiplied by", "", "", _number(moved.scale), ""),
        ("logits moved, relative to their size", "", "", _number(moved.offset), ""),
    ]


def _change_row(name: str, change: Change) -> tuple[str | None, ...]:
    difference = None if change.difference is None else f"{change.difference:+.5f}"
    interval = None if change.interval is None else "{:+.5f} to {:+.5f}".format(*change.interval)
    return name, _number(change.reference), _number(change.candidate), difference, interval


def _shown(result: Check) -> tuple[str, ...]:
    """The classes whose probabilities fit beside each other; none where there are more."""
    telling = result.prepared.task.telling
    return telling if len(telling) <= _SIDE_BY_SIDE else ()


def _worst_rows(result: Check) -> list[tuple[str | None, ...]]:
    return [
        (
            example.id,
            *([example.label] if result.comparison.overlap is None else []),
            *(_number(side.get(name)) for name in _shown(result) for side in (example.reference, example.candidate)),
            None if example.difference is None else f"{example.difference:.2e}",
        )
        for example in result.examples
    ]


def _print_location(location: Location, as_json: bool) -> None:
    if as_json:
        console.print_json({"location": location.model_dump(mode="json")})
        return
    rows = [
        (
            f"{step.start} -> {step.end}",
            None if step.difference is None else f"{step.difference:.2e}",
            f"{step.bound:.2e}",
            f"{step.agreement:.2%}",
            "<-- here" if step.exceeds else "",
        )
        for step in location.steps
    ]
    if rows:
        title = f"where they part, on {location.images} images"
        console.table(title, ("step", "largest logit difference", "may be", "same label", ""), rows)
    console.line(f"located ({location.kind}): {location.sentence}")


def _number(value: float | None) -> str | None:
    return None if value is None else f"{value:.5f}"
