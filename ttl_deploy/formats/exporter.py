"""What an exporter is, and where exporters register themselves: one file per format.

An exporter gets a job and writes files; it says which options it takes, and what is to be remembered of the export.
"""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from ttl_deploy import aliases
from ttl_deploy.complexity import Complexity
from ttl_deploy.errors import BadInputError, near
from ttl_deploy.formats.images import RunImages
from ttl_deploy.formats.known import Format
from ttl_deploy.formats.options import FORMAT_OPTIONS, GROUP, ExportOptions
from ttl_deploy.progress import SILENT, Reporter
from ttl_deploy.spec import Bounds, OperatingPoint, PreprocessSpec, SourceRun, make_record
from ttl_deploy.spec.options import OptionedRegistry, Options, listed
from ttl_deploy.tasks import Task, task_of
from ttl_deploy.transfer import TransferModel

OUTPUT = "logits"


@dataclass(frozen=True)
class ExportJob:
    """What an exporter gets.

    Attributes:
        model: On the CPU, in evaluation mode, with the run's best weights.
        preprocess: What its input has been through.
        precision: One of the exporter's precisions.
        options: A record of the exporter's own class of options.
        images: Training images to calibrate on and validation images to choose on; None for a model without a run.
        bounds: What the parity check will tolerate; None: the precision's default.
        reporter: Told of long work.
        source: The run; None for a model without one.
        cost: What the model holds and computes; None where it was not counted.
        point: Of two classes, where the second begins to be said; None: where it is the more probable.
    """

    model: TransferModel
    preprocess: PreprocessSpec
    precision: str
    options: ExportOptions = field(default_factory=ExportOptions)
    images: RunImages | None = None
    bounds: Bounds | None = None
    reporter: Reporter = SILENT
    source: SourceRun | None = None
    cost: Complexity | None = None
    point: OperatingPoint | None = None

    @property
    def task(self) -> Task:
        """What the model's outputs mean, and where they decide."""
        return task_of(self.model.spec, self.point)

    def metadata(self, **more: Any) -> dict[str, str]:
        """What a model file shall say of itself, JSON by key; `runtime.binding` holds the manifest against it.

        Args:
            more: Further facts of the format, such as `precision`, and what differs: `input_type`, `activation`.
        """
        facts: dict[str, Any] = {
            "classes": self.model.spec.classes,
            "preprocess": self.preprocess.model_dump(mode="json"),
            "model": self.model.spec.model_dump(mode="json"),
            "input_type": "float32",
            "activation": "none",
        }
        if self.point is not None:
            facts["operating_point"] = self.point.model_dump(mode="json")
        if self.cost is not None:
            facts |= {"parameters": self.cost.parameters, "macs": self.cost.macs}
        if self.source is not None:
            facts |= {"weights_sha256": self.source.weights_sha256, "config_digest": self.source.config_digest}
        return {key: json.dumps(value) for key, value in {**facts, **more}.items()}

    def run_images(self) -> RunImages:
        """The run's images.

        Raises:
            BadInputError: The model has none, so nothing can be calibrated.
        """
        if self.images is None:
            raise BadInputError(
                f"precision {self.precision} is calibrated on a run's training images, and this model has no run",
                fix="export a finished run",
            )
        return self.images


@dataclass(frozen=True)
class StandIn:
    """Another format that is written in the place of the one that was asked for.

    Attributes:
        name: Of its exporter.
        reason: Why, to be told to the user.
    """

    name: str
    reason: str


@dataclass(frozen=True)
class Written:
    """What an exporter made.

    Attributes:
        model_file: Name of the file that a runtime opens.
        details: Facts for `ArtifactManifest.details`, plain JSON types: opset, calibration, layers left in float …
        fields: Further fields of `ArtifactManifest` that differ from their defaults, such as `input_type`, or `format`
            where what was written is to be run as another format (a build kit).
        runtime: Engine that checks parity; None: the fastest here of those that can (`quickest`).
    """

    model_file: str
    details: Mapping[str, Any] = field(default_factory=dict)
    fields: Mapping[str, Any] = field(default_factory=dict)
    runtime: str | None = None


class Exporter(Format, ABC):
    """Writes one format, of which `Format` says what is known beforehand.

    Attributes:
        options: Its class of options.
        maps: Whether it was tried with models that say something of every pixel.
        deferred: Name of the exporter that writes a build kit in its place, for another machine to finish; None: none.
    """

    options: ClassVar[type[ExportOptions]] = ExportOptions
    maps: ClassVar[bool] = False
    deferred: ClassVar[str | None] = None

    def stand_in(self, given: Mapping[str, Any]) -> StandIn | None:
        """The format that is written here instead, where this one cannot be and the user said enough for it, or None.

        Args:
            given: The options that were said, by name.
        """
        return None

    def check(self, precision: str, options: ExportOptions) -> None:
        """Refuses options that mean nothing together or in a precision, before the run is read.

        Args:
            precision: One of `precisions`.
            options: A record of the exporter's own class of options.

        Raises:
            BadInputError: With the reason and the way out.
        """

    @abstractmethod
    def write(self, job: ExportJob, folder: Path) -> Written:
        """Writes the model's files into the existing, empty `folder`.

        Raises:
            TtlDeployError: It cannot be written; whatever is in `folder` is thrown away.
        """


class Exporters(OptionedRegistry[Exporter]):
    """The formats; an exporter brings the record of its options."""

    def register(self, name: str, entry: Exporter, options: type[Options] | None = None) -> Exporter:
        """Adds an exporter; see `Registry.register`."""
        return super().register(name, entry, options or entry.options)


EXPORTERS = Exporters(FORMAT_OPTIONS, "ttl_deploy.formats", GROUP, aliases.FORMATS)


def make_options(exporter: Exporter, given: Mapping[str, Any]) -> ExportOptions:
    """An exporter's options from the user's.

    Args:
        exporter: Whose options.
        given: By name; None stands for the default.

    Raises:
        BadInputError: The exporter has no such option, or its value is out of range.
    """
    chosen = {name: value for name, value in given.items() if value is not None}
    for name in chosen:
        if name not in exporter.options.model_fields:
            valid = near(name, exporter.options.model_fields, 8) if exporter.options.model_fields else "it has none"
            takers = list(FORMAT_OPTIONS.takers(name))
            fix = f"it is {listed(takers)}'s; {valid}" if takers else valid
            raise BadInputError(f"format {exporter.name} has no option {name!r}", fix=fix)
    return make_record(exporter.options, **chosen)
