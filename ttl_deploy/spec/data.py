"""What a user says of the images: where they are, how they are read, and how they are divided."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import BeforeValidator, Field, model_validator

from ttl_deploy.spec.inputs import DEFAULT_WINDOW, Crop, HighBitDepth, SliceStride, Spacing, Window
from ttl_deploy.spec.record import Fraction, Record
from ttl_deploy.spec.said import Said
from ttl_deploy.spec.table import PathColumn, PathTemplate
from ttl_deploy.spec.task import TaskSpec

SplitSeed = Annotated[int, Field(ge=0, description="Seed of the split.")]


def refuse_other_sum(train: float, val: float, test: float) -> None:
    """Raises `ValueError` where the parts of a division are not a whole."""
    if abs(train + val + test - 1) > 1e-6:
        raise ValueError(f"train, val and test add up to {train + val + test:g}, not to 1")


class SplitSpec(Record):
    """How data is divided: by patient where patients are known, stratified by class.

    Attributes:
        train: Fraction for training (paper, appendix A.1: 0.64).
        val: Fraction for validation (0.16).
        test: Fraction for test (0.20).
        folds: Number of folds for cross-validation; the fold is the test set, `test` is then 1/folds.
        fold: Which fold, from 0.
        seed: Seed of the shuffle.
        fold_holds: What a fold is: the test side, or validation and test together, divided as `val` to `test`.
    """

    train: Fraction = 0.64
    val: Fraction = 0.16
    test: Fraction = 0.20
    folds: int | None = Field(default=None, ge=2)
    fold: int | None = Field(default=None, ge=0)
    seed: int = 0
    fold_holds: Literal["test", "val+test"] = Field(default="test", exclude_if=lambda held: held == "test")

    @model_validator(mode="after")
    def _adds_up(self) -> Self:
        refuse_other_sum(self.train, self.val, self.test)
        if (self.folds is None) != (self.fold is None):
            raise ValueError("folds and fold are given together")
        if self.folds is not None and self.fold is not None and self.fold >= self.folds:
            raise ValueError(f"fold {self.fold} does not exist; folds are 0 to {self.folds - 1}")
        return self


def _names(given: Any) -> Any:
    """Names from `a, b`; anything else is left to be judged."""
    return tuple(name.strip() for name in given.split(",")) if isinstance(given, str) else given


def _whole_path(given: Any) -> Any:
    """A path as a run can record it, whatever folder the next command runs in."""
    return os.path.realpath(given) if isinstance(given, str | Path) and str(given) else given


def _columns(given: Any) -> Any:
    """As `_names`; each is named once."""
    names = _names(given)
    if isinstance(names, tuple | list):
        blank_or_twice = next((name for name in names if not name or list(names).count(name) > 1), None)
        if blank_or_twice is not None or not names:
            raise ValueError(f"column {blank_or_twice!r} is named twice" if blank_or_twice else "a name is blank")
    return names


def _parts(given: Any) -> Any:
    """Fractions from per cent, as in `64/16/20`; anything else is left to be judged."""
    if not isinstance(given, str):
        return given
    try:
        train, val, test = (float(part) / 100 for part in given.split("/"))
    except ValueError:
        raise ValueError(f"{given!r} is not three numbers, for example 64/16/20") from None
    return train, val, test


class Reading(Record):
    """How classes, patients and sides are found in a table or folder."""

    PANEL: ClassVar[str] = "Data"

    classes: Annotated[
        tuple[str, ...] | None,
        BeforeValidator(_names),
        Field(
            description="Class names in order, comma-separated; of two, the second is the positive one. For .npz: the "
            "names of labels 0, 1, …"
        ),
        Said(text=True, default="as found, sorted"),
    ] = None
    ignore_other_labels: Annotated[
        bool, Field(description="Leave out images whose label is not in --classes; of multilabel the label alone.")
    ] = False
    patient_pattern: Annotated[
        str | None,
        Field(
            description="Regular expression with one group that finds the patient in a file's path, or in the cell of "
            "--patient-column."
        ),
    ] = None
    path_column: PathColumn = None
    label_column: Annotated[
        str | None,
        Field(
            description="CSV: the column with the classes; multilabel: joined by |, or a column for each of --classes."
        ),
        Said(default="label"),
    ] = None
    patient_column: Annotated[
        str | None,
        Field(
            description="CSV: the column with the patients, or with what --patient-pattern finds them in; '' for none."
        ),
        Said(default="patient_id, PatientID, subject and the like"),
    ] = None
    split_column: Annotated[
        str | None,
        Field(description="CSV: the column with a division into train, val and test; '' to divide anew."),
        Said(default="split"),
    ] = None
    path_template: PathTemplate = None
    label_columns: Annotated[
        tuple[str, ...] | None,
        BeforeValidator(_columns),
        Field(
            description="CSV: a column for each class, comma-separated: 1 for that of the image, 0 for others; "
            "multilabel: 1, 0, and -1 or nothing.",
            exclude_if=lambda said: said is None,
        ),
        Said(text=True),
    ] = None
    labels_separator: Annotated[
        str | None,
        Field(
            min_length=1,
            description="CSV, multilabel: what stands between the labels of a cell.",
            exclude_if=lambda said: said is None,
        ),
        Said(default="|"),
    ] = None
    val_data: Annotated[
        str | None,
        BeforeValidator(_whole_path),
        Field(
            description="CSV: the validation images, as --test-data.",
            exclude_if=lambda said: said is None,
        ),
        Said(text=True, default="taken from training"),
    ] = None
    test_data: Annotated[
        str | None,
        BeforeValidator(_whole_path),
        Field(
            description="CSV: the test images, a table like DATA, or a .txt with the names of some of DATA's, one a "
            "line; all others are for training.",
            exclude_if=lambda said: said is None,
        ),
        Said(text=True),
    ] = None
    slices_column: Annotated[
        str | None,
        Field(
            min_length=1,
            description="CSV, with --slice-stride: the column with the positive slices of a study, as in 12-31;40, the "
            "first being 1; in training a window with fewer than 4 of them is a negative one.",
            exclude_if=lambda said: said is None,
        ),
    ] = None
    unknown: Annotated[
        Literal["ignore", "zeros", "ones"],
        Field(
            description="multilabel: a label that is blank, -1 or NaN counts as nothing (ignore), as a no (zeros) or "
            "as a yes (ones).",
            exclude_if=lambda policy: policy == "ignore",
        ),
    ] = "ignore"
    skip_unreadable: Annotated[bool, Field(description="Leave out unreadable images, and count them.")] = False


class Data(Reading):
    """The images, with their classes, patients and sides.

    Every field is an option of the commands that read images to train on.
    """

    LEADING: ClassVar[tuple[str, ...]] = ("classes", "task", "positive_from", "unknown")

    path: Annotated[
        Path,
        Field(
            description="CSV (path,label[,patient_id][,split]), folder with one folder per class, .npz, or "
            "PatchCamelyon's folder of .h5."
        ),
        Said(argument="DATA"),
    ]
    task: Annotated[
        str,
        BeforeValidator(lambda given: given.strip().casefold() if isinstance(given, str) else given),
        Field(
            description="multiclass: one class for each image. ordinal: one grade, the classes in order. multilabel: "
            "any of the classes. segmentation: a mask for each image, DATA a CSV (image,mask) or a folder of both.",
            exclude_if=lambda kind: kind == "multiclass",
        ),
    ] = "multiclass"
    positive_from: Annotated[
        str | None,
        Field(
            description="ordinal: the first grade that counts as positive (referable).",
            exclude_if=lambda name: name is None,
        ),
    ] = None
    split: Annotated[
        tuple[Fraction, Fraction, Fraction],
        BeforeValidator(_parts),
        Field(description="Train/validation/test in per cent."),
        Said(text=True, default="64/16/20"),
    ] = (0.64, 0.16, 0.20)
    split_seed: SplitSeed = 0
    crop: Crop = "center"
    high_bit_depth: HighBitDepth = "full-range"
    hu_window: Annotated[
        Window, Field(exclude_if=lambda window: window == DEFAULT_WINDOW), Said(text=True, default="-100,900")
    ] = DEFAULT_WINDOW
    spacing: Annotated[
        Spacing, Field(exclude_if=lambda spacing: spacing is None), Said(text=True, default="the whole study")
    ] = None
    slice_stride: SliceStride = None
    cache: Annotated[
        Path | None, Field(description="Folder of the pixel cache."), Said(default="the user's cache folder")
    ] = None

    @property
    def task_spec(self) -> TaskSpec:
        """What the labels mean."""
        return TaskSpec(kind=self.task, positive_from=self.positive_from)

    @property
    def division(self) -> SplitSpec:
        """How the images are divided."""
        train, val, test = self.split
        return SplitSpec(train=train, val=val, test=test, seed=self.split_seed)

    @model_validator(mode="after")
    def _adds_up(self) -> Self:
        refuse_other_sum(*self.split)
        return self
