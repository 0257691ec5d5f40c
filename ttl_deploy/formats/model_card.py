"""The model card of an artifact: what the model was made of, how good it is, what it is not for.

Everything that a run knows is filled in; what only a person can say (intended use, licence, owner) stands there as a
marked gap. After Mitchell et al., Model Cards for Model Reporting (FAT* 2019).
"""

from __future__ import annotations

import csv
from collections import Counter
from pathlib import Path, PurePath
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from ttl_deploy import files
from ttl_deploy.runtime import RUNTIMES, native_code
from ttl_deploy.spec import ModelSpec, TrainConfig
from ttl_deploy.spec.model import WHOLE
from ttl_deploy.tasks import Task
from ttl_deploy.tasks.operating_point import Operation
from ttl_deploy.training.metrics import TITLES
from ttl_deploy.training.run import Run

CARD = "model_card.md"

_TEMPLATE = "model_card.md.j2"
_METRICS = (
    ("accuracy", "accuracy", None),
    ("balanced accuracy", "balanced_accuracy", None),
    ("sensitivity at 95 % specificity", "sensitivity_at_95_specificity", "sensitivity_at_95_specificity_interval"),
    ("Brier score", "brier", None),
    ("expected calibration error", "ece", None),
    ("Dice, deviation of the images", "dice_std", None),
    ("Jaccard, deviation of the images", "jaccard_std", None),
    ("Dice, worst image", "least_dice", None),
)


def write_model_card(
    folder: Path,
    run: Run,
    *,
    format: str,
    precision: str,
    parameters: int,
    macs: int,
    operation: Operation | None = None,
) -> None:
    """Writes `model_card.md` into an artifact's folder while it is being made, so that the manifest lists its hash.

    The same run gives the same text: no date, and no path of the machine.

    Args:
        folder: The artifact's folder.
        run: The finished run.
        format: Of the artifact.
        precision: Of the artifact.
        parameters: Of the model.
        macs: Multiply-adds for one image.
        operation: Its operating point; None: the more probable class is said.
    """
    files.write_text(
        folder / CARD,
        model_card(run, format=format, precision=precision, parameters=parameters, macs=macs, operation=operation),
    )


def model_card(
    run: Run, *, format: str, precision: str, parameters: int, macs: int, operation: Operation | None = None
) -> str:
    """The text of a run's model card, Markdown."""
    environment = Environment(
        loader=PackageLoader("ttl_deploy.formats", "templates"),
        autoescape=False,  # noqa: S701,RUF100 - Markdown, not HTML; `cell` keeps values inside their cells
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters["cell"] = _cell
    environment.filters["number"] = _number
    config, metrics, task = run.config, run.metrics(), run.task
    headline = ((TITLES[name], name, f"{name}_interval") for name in task.METRICS)
    rows = tuple(
        # A run of an earlier version has fewer intervals.
        (title, name, interval if interval in metrics["test"] else None)
        for title, name, interval in (*headline, *_METRICS)
        if name in metrics["test"]
    )
    return environment.get_template(_TEMPLATE).render(
        name=run.name,
        network=_network(config.model),
        format=format,
        precision=precision,
        parameters=parameters,
        macs=macs,
        config=config,
        data=PurePath(config.data).name,
        task=_task(task),
        exclusive=task.ACTIVATION == "softmax",
        pixels=task.DENSE,
        positive=task.positive,
        images=metrics["images"],
        unreadable=metrics["unreadable"],
        patients=_patients(run),
        operation=operation,
        sides={side: metrics[side] for side in ("val", "test")},
        rows=rows,
        weights=_start(config),
        native=_native(format),
        hardware=metrics["hardware"],
        libraries=metrics["libraries"],
    )


def _start(config: TrainConfig) -> str:
    source = config.weights if config.weights in ("imagenet", "random") else "a file or run of the user"
    return source if config.init == WHOLE else f"{source}, by {config.init}"


def _native(format: str) -> bool:
    """Whether every engine that runs such artifacts runs native code in them."""
    able = [engine.name for engine in RUNTIMES if format in engine.formats]
    return bool(able) and all(native_code(name) for name in able)


def _patients(run: Run) -> dict[str, int]:
    """Patients on each side, and under `unknown` how many images name none; empty where no image names one."""
    with run.split.open(newline="", encoding="utf-8", errors=files.UNDECODED) as handle:
        rows = list(csv.DictReader(handle))
    named = {(row["split"], row["patient_id"]) for row in rows if row["patient_id"]}
    counts = Counter(side for side, _ in named)
    return {**counts, "unknown": sum(not row["patient_id"] for row in rows)} if named else {}


def _network(spec: ModelSpec) -> str:
    cut = f", cut at {spec.cut}" if spec.cut else ""
    return f"{spec.backbone}, {spec.method.upper()}{cut}"


def _task(task: Task) -> str:
    kind = {"multiclass": ""}.get(task.KIND, f"{task.KIND}, ")
    positive = f"; positive: {task.positive}" if task.divided is not None else ""
    if task.DENSE:
        return f"{kind}the pixels of {task.classes[0]}"
    return f"{kind}{len(task.classes)} classes: {', '.join(task.classes)}{positive}"


def _cell(value: Any) -> str:
    """A value that cannot leave its table cell or begin HTML."""
    return " ".join(str(value).replace("|", "\\|").replace("<", "&lt;").split())


def _number(value: float | None) -> str:
    return "undefined" if value is None else f"{value:.4f}"
