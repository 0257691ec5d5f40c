"""The tables of the papers as data: what is printed, and the construction that rebuilds each row's network.

They lie in `benchmarks/paper/`, one TOML file a table. Reading them needs no torch.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Self

from pydantic import Field, model_validator

from ttl_deploy.documents import read_toml
from ttl_deploy.errors import IntegrityError
from ttl_deploy.resources import data_tables
from ttl_deploy.spec import SCHEMA_VERSION, InputSpec, ModelSpec, Record, TaskSpec, read_record

FOLDER = "benchmarks/paper"

Quantity = Literal["parameters", "macs"]
Device = Literal["cpu", "gpu"]


class Printed(Record):
    """The numbers of a row as the paper prints them.

    Attributes:
        parameters_m: Parameters, millions.
        macs_g: Multiply-adds for one input, thousand millions; None where the table has no such column.
        run_ms: Run time of one input at batch 1 by device, milliseconds.
    """

    parameters_m: float = Field(gt=0)
    macs_g: float | None = Field(default=None, gt=0)
    run_ms: dict[Device, float] = Field(default_factory=dict)


class Construction(Record):
    """How a row's network is built.

    Attributes:
        backbone: Name in the zoo, present or future.
        method: `ftl`, `ttl`, `tf` or `lwft`.
        cut: Cut point, as for `ModelSpec`.
        trained_layers: LWFT's k; the cost of a forward pass does not depend on it.
        head: `gap`, `flatten`, or another network's own.
        slim: TF's divisor.
        outputs: Numbers the network gives for one input.
        input: Shape of one input without the batch.
        parameters_of: Whether the paper counts the whole `model`, its `features` without the classifier, those without
            the scales of batch norms too, or the model with the `whole encoder`, which holds layers above the cut that
            never run.
        options: What a network outside the zoo needs besides, by name.
    """

    backbone: str
    method: str
    cut: str | None = None
    trained_layers: int | None = Field(default=None, ge=1)
    head: str
    slim: int = Field(default=2, ge=2)
    outputs: int = Field(ge=1)
    input: tuple[int, ...] = Field(min_length=2)
    parameters_of: Literal["model", "features", "features without scales", "whole encoder"] = "model"
    options: dict[str, bool | int | tuple[int, ...]] = Field(default_factory=dict)

    def describe(self) -> str:
        """The network in words: `resnet50 TTL layer3.3, gap head`."""
        where = self.cut or (f"top {self.trained_layers}" if self.trained_layers else "")
        return " ".join(part for part in (self.backbone, self.method.upper(), where) if part) + f", {self.head} head"

    def model_spec(self) -> ModelSpec:
        """The spec of a classifier of images or volumes; one output is the probability of its one class.

        Raises:
            IntegrityError: The construction is something else.
        """
        channels, *size = self.input
        if len(size) not in (2, 3) or self.options:
            raise IntegrityError(f"{self.backbone} with input {self.input} is not a classifier of the zoo")
        return ModelSpec(
            backbone=self.backbone,
            method=self.method,
            cut=self.cut,
            layers=self.trained_layers,
            head=self.head,
            slim=self.slim,
            task=TaskSpec(kind=self._task()),
            classes=tuple(f"class {i}" for i in range(self.outputs)),
            input=InputSpec(kind="image" if len(size) == 2 else "volume", channels=channels, size=tuple(size)),
        )

    def _task(self) -> str:
        if self.head == "unet":
            return "segmentation"
        return "multiclass" if self.outputs > 1 else "multilabel"


class PaperRow(Record):
    """One row.

    Attributes:
        name: The row's name as printed.
        group: What the table groups rows by (its backbone), empty where it does not.
        printed: The numbers.
        construction: What reproduces them.
        as_labelled: What the row's label or the paper's text would mean, where that is another network.
        inconsistent: Printed numbers that the construction is known not to give.
        note: What a reader should know, one line.
    """

    name: str
    group: str = ""
    printed: Printed
    construction: Construction
    as_labelled: Construction | None = None
    inconsistent: tuple[Quantity, ...] = ()
    note: str | None = None

    @property
    def title(self) -> str:
        """Group and name."""
        return f"{self.group} {self.name}".strip()

    @model_validator(mode="after")
    def _explained(self) -> Self:
        if (self.inconsistent or self.as_labelled) and not self.note:
            raise ValueError(f"row {self.title} is marked as inconsistent without a note that says why")
        if "macs" in self.inconsistent and self.printed.macs_g is None:
            raise ValueError(f"row {self.title} prints no MACs that could be inconsistent")
        return self


class PaperTable(Record):
    """One table.

    Attributes:
        name: Its short name, for example `2-PE`.
        title: What it is about.
        source: Paper and table.
        baseline: Name of the row that run times are compared with, in each group.
        devices: The machines of the run times.
        run_time_note: What a reader should know of the printed run times.
        rows: The rows in the paper's order.
    """

    schema_version: int = SCHEMA_VERSION
    name: str
    title: str
    source: str
    baseline: str | None = None
    devices: dict[Device, str] = Field(default_factory=dict)
    run_time_note: str | None = None
    rows: tuple[PaperRow, ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        twice = [title for title, times in Counter(row.title for row in self.rows).items() if times > 1]
        if twice:
            raise ValueError(f"row {twice[0]} is there twice")
        for row in self.rows:
            unknown = set(row.printed.run_ms) - set(self.devices)
            if unknown:
                raise ValueError(f"row {row.title} has a run time on {unknown.pop()}, which the table does not name")
            if row.printed.run_ms and self._baseline_of(row) is None:
                raise ValueError(f"row {row.title} has a run time and no row {self.baseline} to compare it with")
        return self

    def _baseline_of(self, row: PaperRow) -> PaperRow | None:
        return next((r for r in self.rows if r.group == row.group and r.name == self.baseline), None)


@dataclass(frozen=True)
class RunTimeRatio:
    """A printed run time beside the baseline's on the same device.

    Attributes:
        table: Short name of the table.
        row: The row.
        device: `cpu` or `gpu`.
        machine: The device's name.
        milliseconds: The printed run time.
        ratio: Run time relative to the baseline's; below 1 is faster.
        parameters: Printed parameters relative to the baseline's.
        macs: Printed MACs relative to the baseline's; None where they are not printed.
    """

    table: str
    row: PaperRow
    device: Device
    machine: str
    milliseconds: float
    ratio: float
    parameters: float
    macs: float | None


def load_tables(folder: Path | None = None) -> tuple[PaperTable, ...]:
    """Reads every table.

    Args:
        folder: Holds the TOML files; None: the ones that come with the program.

    Raises:
        IntegrityError: A file is not TOML, or a field is missing, unknown or wrong; the error names both.
    """
    return tuple(_read(path) for path in data_tables(FOLDER, folder))


def run_time_ratios(table: PaperTable) -> list[RunTimeRatio]:
    """The table's run times relative to its baseline, device by device: what another machine can be compared with."""
    ratios = []
    for device, machine in table.devices.items():
        for row in table.rows:
            base = table._baseline_of(row)
            if base is None or device not in row.printed.run_ms or device not in base.printed.run_ms:
                continue
            own, reference = row.printed, base.printed
            macs = own.macs_g / reference.macs_g if own.macs_g and reference.macs_g else None
            ratios.append(
                RunTimeRatio(
                    table=table.name,
                    row=row,
                    device=device,
                    machine=machine,
                    milliseconds=own.run_ms[device],
                    ratio=own.run_ms[device] / reference.run_ms[device],
                    parameters=own.parameters_m / reference.parameters_m,
                    macs=macs,
                )
            )
    return ratios


def _read(path: Path) -> PaperTable:
    return read_record(PaperTable, read_toml(path), path)
