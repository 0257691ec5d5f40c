"""What an exporter is, and where exporters register themselves: one file per format."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from ttl_deploy.registry import Registry
from ttl_deploy.spec import PreprocessSpec
from ttl_deploy.transfer import TransferModel

INPUT = "images"
OUTPUT = "logits"


@dataclass(frozen=True)
class ExportJob:
    """What an exporter gets.

    Attributes:
        model: On the CPU, in evaluation mode, with the run's best weights.
        preprocess: What its input has been through.
        precision: One of the exporter's precisions.
    """

    model: TransferModel
    preprocess: PreprocessSpec
    precision: str


class Exporter(Protocol):
    """Writes one format.

    Attributes:
        name: The format's name.
        precisions: What it can write, the default first.
    """

    name: str
    precisions: tuple[str, ...]

    def write(self, job: ExportJob, folder: Path) -> str:
        """Writes the model's files into `folder` and gives the name of the one a runtime opens."""


EXPORTERS: Registry[Exporter] = Registry("format", "ttl_deploy.export", "ttl_deploy.exporters")
