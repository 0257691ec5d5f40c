"""How images go through a model that predicts."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from ttl_deploy.errors import BadInputError
from ttl_deploy.spec.record import Record, among
from ttl_deploy.spec.said import Said

_ENGINES = ("local", "ray")


class Stream(Record):
    """How many images are run at once, who reads them ahead, and whether a cluster does it; the answers are the same.

    Attributes:
        skip_unreadable: Instead of stopping; into a file, they are tried again next time.
    """

    batch_size: Annotated[int, Field(ge=1, description="Images run at once.")] = 8
    workers: Annotated[
        int | None,
        Field(ge=1, le=256, description="Threads that read images ahead; ray: workers."),
        Said(default="one per core, at most 8; ray: one per --threads cores"),
    ] = None
    skip_unreadable: Annotated[bool, Field(description="Leave out unreadable images, with a warning.")] = False
    masks: Annotated[
        Path | None,
        Field(
            description="Segmentation: folder for the masks, PNG of 0 and 255, as large as the images; of DICOM also a "
            "DICOM Segmentation (extra medical)."
        ),
    ] = None
    overlays: Annotated[bool, Field(description="Segmentation: beside each mask a picture of the image with it.")] = (
        False
    )
    engine: Annotated[
        Literal["local", "ray"],
        among("engine", _ENGINES),
        Field(description="local, or ray: spread the images over a cluster (extra cluster)."),
    ] = "local"
    address: Annotated[
        str | None,
        Field(description="ray: address of a running cluster."),
        Said(default="one is started here"),
    ] = None

    @model_validator(mode="after")
    def _beside_masks(self) -> Self:
        if self.overlays and self.masks is None:
            raise BadInputError("--overlays are written beside masks", fix="pass --masks FOLDER, or leave it out")
        return self

    @model_validator(mode="after")
    def _of_a_cluster(self) -> Self:
        if self.address is not None and self.engine != "ray":
            raise BadInputError("--address is of a Ray cluster", fix="pass --engine ray, or leave it out")
        return self
