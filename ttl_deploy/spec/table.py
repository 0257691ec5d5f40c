"""What a user says of a table of images: which column is which, and where the image of a cell lies."""

from __future__ import annotations

from typing import Annotated, ClassVar

from pydantic import Field

from ttl_deploy.spec.record import Record
from ttl_deploy.spec.said import Said

PathColumn = Annotated[str | None, Field(description="CSV: the column with the images' files."), Said(default="path")]

PathTemplate = Annotated[
    str | None,
    Field(
        description='CSV: where the image of a cell lies, {} standing for the cell, as in "train_images/{}.png" or '
        '"images_*/images/{}"; seen from the table\'s folder.',
        exclude_if=lambda said: said is None,
    ),
]


class Table(Record):
    """A table of images without labels."""

    PANEL: ClassVar[str] = "Tables"

    path_column: PathColumn = None
    id_column: Annotated[
        str | None, Field(description="CSV: the column with what an answer calls its image."), Said(default="id")
    ] = None
    path_template: PathTemplate = None
