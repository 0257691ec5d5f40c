"""A run's folder: what each file is called and how it is read back. No torch.

`config.yaml`, `data.json`, `split.csv`, `history.jsonl`, `best.safetensors`, `last.ckpt`, and when it is finished
`predictions.csv` and `metrics.json`.
"""

from __future__ import annotations

import csv
import hashlib
import json
import math
import os
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from shlex import quote
from typing import Any, Self

import numpy as np
import yaml
from numpy.typing import NDArray
from pydantic import ConfigDict, Field, model_validator

from ttl_deploy import documents, files
from ttl_deploy.data.columns import Columns
from ttl_deploy.data.divided import ImageTable
from ttl_deploy.data.manifest import Dataset, columns_of, read_dataset, sides_of
from ttl_deploy.data.own_sides import TABLES
from ttl_deploy.data.prepared import Prepared, prepare_like, read_split
from ttl_deploy.data.understood import read_columns
from ttl_deploy.errors import BadInputError, DamagedError, IntegrityError, TrainingError, about
from ttl_deploy.inputs import npy
from ttl_deploy.progress import SILENT, Reporter
from ttl_deploy.spec import AnyRecord, OperatingPoint, PreprocessSpec, Record, TrainConfig, read_record
from ttl_deploy.spec.beside import Beside
from ttl_deploy.tasks import Labels, Task, possible_task, task_of
from ttl_deploy.tasks.operating_point import Operation
from ttl_deploy.training import evidence
from ttl_deploy.training.measures import measure_of
from ttl_deploy.training.measures.overlap import MaskMetrics
from ttl_deploy.training.metrics import Metrics

CONFIG = "config.yaml"
SPLIT = "split.csv"
DATA = "data.json"
"""What was understood of the data when the run began; runs of earlier versions have none."""
HISTORY = "history.jsonl"
TIMING = "timing.jsonl"
BEST = "best.safetensors"
LAST = "last.ckpt"
PREDICTIONS = "predictions.csv"
METRICS = "metrics.json"
FEATURES = "features-{}.npy"
"""Cached features of a side; gone when the run is finished."""
FEATURES_RECORD = "features.json"
SERIES = "series.json"
SUMMARY = "summary.json"

MASKS = "masks.npy"
EVIDENCE = (CONFIG, SPLIT, PREDICTIONS, MASKS)
"""Files whose hashes `metrics.json` records, beside that of the weights: what an export or a parity check stands on."""


MOVED = "where the same images lie elsewhere now, say where with --data"
"""The way out where a run's images are gone."""


_TRAIN_AGAIN = "restore it, or train the run again"

SIDES = ("train", "val", "test")


class RunRecord(Record):
    """What is read back of `metrics.json`; fields of other versions are kept as they are.

    Attributes:
        val: Of the validation side.
        test: Of the test side.
        operating_point: Where the second of two classes begins to be said; None: where it is the more probable.
        paper: The printed rows of its recipe beside it; None where there are none.
        images: How many are on each side.
        unreadable: How many were left out because they cannot be read.
        best_epoch: Of the weights.
        epochs: How many were trained.
        stopped: Why training ended.
        seconds: Time of the training.
        parameters: Of the model.
        trainable: Of these, those that were trained.
        macs: Multiply-adds for one image.
        weights_sha256: Of the weights file.
        start_sha256: Of the weights that it started from: of the file (a run's `best.safetensors`), or of ImageNet's
            tensors; None where they were random, and in runs of earlier versions.
        files: SHA-256 of the run's other files by name; empty in runs of earlier versions.
        hardware: Where it was trained.
        libraries: With which versions.
    """

    model_config = ConfigDict(frozen=True, extra="allow")

    val: Metrics | MaskMetrics
    test: Metrics | MaskMetrics
    operating_point: Operation | None = Field(default=None, exclude_if=lambda point: point is None)
    paper: Beside | None = Field(default=None, exclude_if=lambda found: found is None)
    images: dict[str, int]
    unreadable: int = 0
    best_epoch: int = Field(ge=0)
    epochs: int = Field(ge=0)
    stopped: str | None
    seconds: float = Field(ge=0)
    parameters: int = Field(ge=0)
    trainable: int = Field(ge=0)
    macs: int = Field(ge=0)
    weights_sha256: str
    start_sha256: str | None = Field(default=None, exclude_if=lambda found: found is None)
    files: dict[str, str] = Field(default_factory=dict)
    hardware: dict[str, Any]
    libraries: dict[str, str]

    @model_validator(mode="after")
    def _names(self) -> Self:
        if set(self.images) != set(SIDES):
            raise ValueError(f"images has the sides {', '.join(self.images)}")
        strange = set(self.files) - set(EVIDENCE)
        if strange:
            raise ValueError(f"files has the name {min(strange)!r:.80}")
        return self


class EpochRow(Record):
    """A line of `history.jsonl`.

    Attributes:
        epoch: From 1.
        learning_rate: Of its steps.
        train_loss: Mean over the images.
        val_loss: Likewise; None where it was no finite number.
        val_auroc: Headline.
        val_auprc: Headline.
        val_quadratic_kappa: Of grades.
        val_dice: Of masks, mean over the images.
        val_jaccard: Likewise.
        best: Whether no earlier epoch was as good by the metric that selects.
        part: How far a first epoch came that the minutes ended.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)

    epoch: int = Field(ge=1)
    learning_rate: float = Field(ge=0)
    train_loss: float
    val_loss: float | None
    val_auroc: float | None = None
    val_auprc: float | None = None
    val_quadratic_kappa: float | None = None
    val_dice: float | None = None
    val_jaccard: float | None = None
    best: bool
    part: str | None = None


class TimingRow(Record):
    """A line of `timing.jsonl`: the seconds that an epoch took, from 1."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)

    epoch: int = Field(ge=1)
    seconds: float = Field(ge=0)


@dataclass(frozen=True)
class Run:
    """A run on disk.

    Attributes:
        folder: Where it is.
        config: What was trained, on what and how.
    """

    folder: Path
    config: TrainConfig

    @property
    def name(self) -> str:
        """The folder's name."""
        return self.folder.resolve().name

    @property
    def finished(self) -> bool:
        """Whether training ended and the test split was evaluated."""
        return (self.folder / METRICS).exists()

    @property
    def weights(self) -> Path:
        """The best model's weights."""
        return self.folder / BEST

    @property
    def split(self) -> Path:
        """Which image is on which side."""
        return self.folder / SPLIT

    def config_digest(self) -> str:
        """Hex SHA-256 of the canonical JSON of `config.yaml` as it stands on disk.

        Of the file and not of `config`, so that a setting that a later version adds with a default changes no digest.
        """
        canonical = json.dumps(_read_config(self.folder), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(canonical.encode()).hexdigest()

    def metrics(self) -> dict[str, Any]:
        """The content of `metrics.json`.

        Raises:
            BadInputError: There is none.
            DamagedError: It is damaged.
        """
        path = self.folder / METRICS
        content = documents.read_object(path, "record of a run", fix=_TRAIN_AGAIN)
        return read_record(RunRecord, content, path, fix=_TRAIN_AGAIN).model_dump(mode="json")

    @property
    def task(self) -> Task:
        """What its model's outputs mean, without the operating point."""
        return task_of(self.config.model)

    @property
    def operating_point(self) -> OperatingPoint | None:
        """Where the second of two classes begins to be said; None: where it is the more probable."""
        found = self.metrics().get("operating_point")
        return None if found is None else OperatingPoint.model_validate(found["point"])

    @property
    def hashes_recorded(self) -> bool:
        """Whether `metrics.json` records the hashes of the run's files; versions before did not."""
        return bool(self.metrics().get(evidence.FILES))

    def history(self) -> list[dict[str, Any]]:
        """One row per epoch; none where none is finished.

        Raises:
            DamagedError: A line is damaged, or no epoch follows the one before; the error names the line.
        """
        path = self.folder / HISTORY
        rows = list(_lines(EpochRow, path, "remove it: `ttl-deploy train --resume` writes it anew from last.ckpt"))
        for number, row in enumerate(rows, 1):
            if row.epoch != number:
                raise DamagedError(f"has epoch {row.epoch} where {number} is due", where=f"{path}:{number}")
        return [row.model_dump(exclude_unset=True) for row in rows]


def read_timing(folder: Path) -> tuple[TimingRow, ...]:
    """The seconds of the epochs of a run, in the order in which they were trained.

    Raises:
        DamagedError: A line is damaged; the error names it.
    """
    return tuple(_lines(TimingRow, folder / TIMING, "remove it: only the time of its epochs is lost"))


def mend_lines(folder: Path, reporter: Reporter) -> None:
    """Cuts off a last line that was not finished when its process was killed, and tells it."""
    for name in (HISTORY, TIMING):
        path = folder / name
        if path.is_file():
            size = documents.unfinished(documents.read_bytes(path))
            if size:
                os.truncate(path, path.stat().st_size - size)
                reporter.warn(f"{path}: the last line was cut short by a crash and is left out")


def _lines(kind: type[AnyRecord], path: Path, fix: str) -> Iterator[AnyRecord]:
    """The records of a file of lines; none where there is no file."""
    if path.exists() or path.is_symlink():
        for number, content in documents.read_json_lines(path, fix=fix):
            yield read_record(kind, content, f"{path}:{number}", fix=fix)


@dataclass(frozen=True)
class Predictions:
    """What the PyTorch model said of the validation and test images, in fp32.

    Attributes:
        ids: Image ids.
        sides: `val` or `test` for each.
        labels: (N,) or (N, K) int64, as the task has them.
        logits: (N, M) float32: logits, or what else the task's measure keeps of an image.
        masks: (N, bytes) uint8, where masks are said: packed, as `ttl_deploy.training.measures.overlap` does.
    """

    ids: tuple[str, ...]
    sides: tuple[str, ...]
    labels: Labels
    logits: NDArray[np.float32]
    masks: NDArray[np.uint8] | None = None

    def side(self, name: str) -> Predictions:
        """Those of one side."""
        return self.at(np.array([i for i, side in enumerate(self.sides) if side == name], dtype=np.int64))

    def at(self, places: NDArray[np.int64]) -> Predictions:
        """Those of some images.

        Args:
            places: (M,).
        """
        ids, sides = (tuple(names[k] for k in places) for names in (self.ids, self.sides))
        masks = None if self.masks is None else self.masks[places]
        return Predictions(ids, sides, self.labels[places], self.logits[places], masks)


def open_run(folder: str | Path) -> Run:
    """Opens a run's folder.

    Raises:
        BadInputError: It is missing, not a run, or a series of runs (the error lists them).
        IntegrityError: Its configuration is damaged or of a newer version.
    """
    folder = Path(folder)
    if not folder.exists():
        files.recover(folder)
    if not folder.is_dir():
        raise BadInputError("no such run folder", where=folder, fix="pass a folder made by `ttl-deploy train`")
    if (folder / SERIES).exists():
        raise BadInputError(f"holds several runs: {', '.join(_members(folder))}", where=folder, fix="pass one of them")
    path = folder / CONFIG
    if not path.exists():
        raise BadInputError(
            "is not a run (no config.yaml)", where=folder, fix="pass a folder made by `ttl-deploy train`"
        )
    run = Run(folder, read_record(TrainConfig, _read_config(folder), path, fix=_TRAIN_AGAIN))
    with about(path):
        possible_task(run.config.model)
    return run


def refuse_existing_run(folder: Path, *, overwrite: bool) -> None:
    """Raises `BadInputError` where `folder` holds something and `overwrite` is false; an unfinished run can go on."""
    unfinished = (folder / CONFIG).exists() and not (folder / METRICS).exists()
    go_on = f"go on with `ttl-deploy train --resume {quote(str(folder))}`, or pass --overwrite to begin anew"
    files.refuse_existing(folder, overwrite=overwrite, fix=go_on if unfinished else None)


def finished_run(folder: Path) -> Run:
    """Opens a run whose training has ended, and checks that its files are those that were evaluated.

    Raises:
        BadInputError: It is not finished.
        IntegrityError: A file changed since, or the files contradict each other; see `evidence`.
    """
    run = open_run(folder)
    if not run.finished:
        raise BadInputError(
            "is not finished", where=folder, fix=f"finish it with `ttl-deploy train --resume {quote(str(folder))}`"
        )
    if not run.weights.is_file() or files.sha256(run.weights) != run.metrics().get("weights_sha256"):
        raise IntegrityError("is not the file that was evaluated", where=run.weights, fix="train the run again")
    _refuse_forged(run)
    return run


def _refuse_forged(run: Run) -> None:
    metrics, task = run.metrics(), run.task
    evidence.refuse_changed(run.folder, metrics)
    rows = read_split(run.split)
    evidence.refuse_other_split(run.split, rows, task)
    evidence.refuse_other_predictions(run.folder / PREDICTIONS, read_predictions(run), rows, task, metrics)


def run_data(
    run: Run,
    *,
    preprocess: PreprocessSpec | None = None,
    data: Path | None = None,
    cache: Path | None = None,
    reporter: Reporter = SILENT,
) -> Prepared:
    """The images of a run, on the sides they were trained and tested on.

    Args:
        run: Whose images.
        preprocess: Another preprocessing than the run's own, such as an artifact's.
        data: Where the same images are now, as a folder, table or .npz like the run's own, or the folder that it lies
            in; None: where they were.
        cache: Folder of the pixel cache; None: the user's.
        reporter: Told of decoding.

    Raises:
        BadInputError: An image is missing or changed since.
    """
    if data is None and not files.exists(Path(run.config.data)):
        raise BadInputError(f"the images of {run.folder} are no longer there", where=run.config.data, fix=MOVED)
    rule = preprocess or run.config.preprocess
    fix = "pass the images that the run was trained on" if data is not None else f"restore them; {MOVED}"
    return prepare_like(_dataset(run, data), rule, run.split, cache_folder=cache, fix=fix, reporter=reporter)


def holds_images_of(run: Run, data: Path) -> bool:
    """Whether a data set is the run's own at another place: it has all its images, with the same content and label."""
    try:
        dataset, rows = _dataset(run, data), read_split(run.split)
        items = {item.id: item for item in dataset.items}
        return all(
            row.id in items
            and dataset.task.text(items[row.id].label) == row.label
            and items[row.id].source.digest() == row.digest
            for row in rows
        )
    except BadInputError:
        return False


def _dataset(run: Run, data: Path | None) -> Dataset:
    return read_dataset(
        place_of_data(run, data),
        classes=run.config.model.classes,
        ignore_other_labels=True,
        columns=_columns(run),
        sides=_sides(run, data),
        task=run.config.model.task,
        unknown=run.config.reading.unknown,
        kind=run.config.model.input.kind,
    )


def place_of_data(run: Run, data: Path | None) -> Path:
    """Where the images are now; of a folder that is given for a run from a table, the table in it."""
    recorded = Path(run.config.data)
    if data is None:
        return recorded
    inside = data / recorded.name
    return inside if recorded.suffix and inside.is_file() else data


def table_of(run: Run, data: Path | None) -> ImageTable:
    """What the run's test images were listed from, as a table: one of their own, where the run had that.

    Args:
        run: The run.
        data: Where the images are now; None: where they were.
    """
    column, template = read_columns(run.folder / DATA).get("path", "path"), run.config.reading.path_template
    place, test = place_of_data(run, data), _sides(run, data).get("test")
    if test is not None and test.suffix.lower() in TABLES:
        return ImageTable(test, column, template, place.parent)
    return ImageTable(place, column, template)


def still_there(folder: Path) -> None:
    """Refuses to go on in a folder that was removed meanwhile, where what is written would be no run.

    Raises:
        TrainingError: It is gone.
    """
    if not folder.is_dir():
        raise TrainingError("was removed while it was trained", where=folder, fix="train it again")


def _columns(run: Run) -> Columns:
    """The columns that the run was read from; patients and sides are those of its division."""
    used = read_columns(run.folder / DATA)
    said = replace(columns_of(run.config.reading), patient="", split="")
    return replace(said, path=used.get("path"), label=None if said.labels else used.get("label"))


def _sides(run: Run, data: Path | None) -> dict[str, Path]:
    """The files of single sides, as far from the images as they were."""
    said, recorded = sides_of(run.config.reading), Path(run.config.data)
    folder = place_of_data(run, data).parent
    return {side: folder / os.path.relpath(file, recorded.parent) for side, file in said.items()}


def write_config(folder: Path, config: TrainConfig) -> None:
    """Writes `config.yaml`."""
    files.write_text(folder / CONFIG, yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False))


def write_predictions(folder: Path, task: Task, predictions: Predictions) -> None:
    """Writes `predictions.csv`: id, split, label, one logit per class, to float32's last digit; and masks, packed."""
    rows: list[list[str]] = [["id", "split", "label", *measure_of(task).columns(task)]]
    for image, side, label, row in zip(
        predictions.ids, predictions.sides, task.rows(predictions.labels), predictions.logits, strict=True
    ):
        rows.append([image, side, task.text(label), *(f"{value:.9g}" for value in row)])
    files.write_text(folder / PREDICTIONS, "".join(map(files.csv_row, rows)))
    if predictions.masks is not None:
        with files.atomic_path(folder / MASKS) as path, path.open("wb") as handle:
            np.save(handle, predictions.masks, allow_pickle=False)


def read_predictions(run: Run) -> Predictions:
    """Reads `predictions.csv`.

    Raises:
        IntegrityError: It is missing or damaged.
    """
    path = run.folder / PREDICTIONS
    task = run.task
    try:
        with path.open(newline="", encoding="utf-8", errors=files.UNDECODED) as handle:
            header, *lines = map(files.plain_cells, csv.reader(handle))
        rows = [dict(zip(header, line, strict=True)) for line in lines]
        with np.errstate(over="ignore"):  # what is too large is infinite, and told
            cells = [[float(row[name]) for name in measure_of(task).columns(task)] for row in rows]
            logits = np.array(cells, dtype=np.float32)
        labels = np.array([task.label(row["label"]) for row in rows], dtype=np.int64)
        ids, sides = tuple(row["id"] for row in rows), tuple(row["split"] for row in rows)
        masks = _masks(run, len(ids)) if task.DENSE else None
        return Predictions(ids, sides, labels, logits, masks)
    except (OSError, KeyError, ValueError, TypeError, csv.Error) as error:
        raise IntegrityError("is missing or damaged", where=path, fix="train the run again") from error


def evidence_of(task: Task) -> tuple[str, ...]:
    """The files that a run of a task is evaluated by."""
    return EVIDENCE if task.DENSE else tuple(name for name in EVIDENCE if name != MASKS)


def _masks(run: Run, images: int) -> NDArray[np.uint8]:
    """The packed masks of as many images.

    Raises:
        ValueError: There are others.
    """
    masks = npy.array_of((run.folder / MASKS).read_bytes())
    if masks.dtype != np.uint8 or masks.shape != (images, -(-math.prod(run.config.model.input.size) // 8)):
        raise ValueError(f"{MASKS} holds {masks.shape}")
    return masks


def _read_config(folder: Path) -> Any:
    path = folder / CONFIG
    return documents.read_yaml(path, fix=_TRAIN_AGAIN)


def _members(folder: Path) -> list[str]:
    return sorted(entry.name for entry in folder.iterdir() if (entry / CONFIG).exists())
