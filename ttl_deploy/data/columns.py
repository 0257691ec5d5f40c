"""Which column of a table is which: by the names that archives use, or as the user says.

Upper and lower case, spaces and signs do not matter: `Patient ID`, `patientId` and `patient_id` are one name.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path

from ttl_deploy.errors import BadInputError, near

PATIENT_NAMES = frozenset(
    stem + ending
    for stem, ending in product(
        ("patient", "subject", "participant", "person"),
        ("", "id", "ids", "no", "nr", "num", "number", "code", "key", "uid", "identifier", "index"),
    )
) | {"mrn", "pid"}
"""Names of a column of patients, without case, spaces and signs (RSNA patientId, NIH Patient ID, BIDS participant_id,
MIMIC subject_id, TCIA Subject ID, NLST pid, OMOP person_id, DICOM PatientID)."""

NAMES: Mapping[str, frozenset[str]] = {
    "path": frozenset({"path"}),
    "label": frozenset({"label"}),
    "patient": PATIENT_NAMES,
    "split": frozenset({"split"}),
    "slices": frozenset(),
}
"""What a column of each role is called; of slices it is what the user says."""

REQUIRED = ("path", "label")


@dataclass(frozen=True, slots=True)
class Columns:
    """How a user says that a table is read; of a column None: found by its name, blank: not used.

    Attributes:
        path: File of the image.
        label: Its class.
        patient: Whose it is.
        split: `train`, `val` or `test`.
        labels: The columns of single classes, in place of one for all.
        separator: What stands between the labels of a cell; None: `|`, or what the classes leave no doubt of.
        template: Where the image of a cell lies; see `ttl_deploy.data.image_paths`.
        slices: Which slices of a study are positive.
    """

    path: str | None = None
    label: str | None = None
    patient: str | None = None
    split: str | None = None
    labels: tuple[str, ...] | None = None
    separator: str | None = None
    template: str | None = None
    slices: str | None = None

    @property
    def of_tables(self) -> list[str]:
        """The options that were said and mean nothing but in a table."""
        said = {f"--{role}-column": getattr(self, role) for role in NAMES}
        said |= {"--label-columns": self.labels, "--labels-separator": self.separator, "--path-template": self.template}
        return [option for option, value in said.items() if value]


def find_columns(
    table: Path,
    header: Sequence[str],
    columns: Columns,
    *,
    options: bool,
    required: Sequence[str] = REQUIRED,
    known: Mapping[str, frozenset[str]] = NAMES,
) -> dict[str, int]:
    """Position of the column of each role; roles without a column are left out.

    Args:
        table: For the error.
        header: Names of the columns.
        columns: What the user says of them.
        options: Whether the command has options for the columns, so that an error may name them.
        required: Roles that have to have a column.
        known: What a column of each role is called.

    Raises:
        BadInputError: A column is missing, or two may be meant.
    """
    found: dict[str, int] = {}
    for role, names in known.items():
        said: str | None = getattr(columns, role)
        if said == "":
            continue
        places = [i for i, name in enumerate(header) if normal(name) in names] if said is None else _said(header, said)
        if len(places) > 1:
            raise _question(table, role, [header[place] for place in places], options)
        if places:
            found[role] = places[0]
        elif said is not None:
            fix = near(said, header)
            raise BadInputError(f"has no column {said!r}", where=table, fix=f"correct --{role}-column; {fix}")
    missing = [role for role in required if role not in found]
    if missing:
        raise _missing(table, missing, header, options)
    return found


def named_columns(table: Path, header: Sequence[str], names: Sequence[str]) -> dict[str, int]:
    """Position of the column of each name that has one.

    Raises:
        BadInputError: A name has two columns.
    """
    found = {name: _said(header, name) for name in names}
    for name, places in found.items():
        if len(places) > 1:
            raise BadInputError(f"has the column {name} twice", where=table, fix="remove one")
    return {name: places[0] for name, places in found.items() if places}


def normal(name: str) -> str:
    """A column's name without case, spaces and signs."""
    return re.sub(r"[\W_]", "", name.casefold())


def _said(header: Sequence[str], said: str) -> list[int]:
    """Where a column that the user names is; its exact name goes before one that is alike."""
    exact = [i for i, name in enumerate(header) if name == said.strip()]
    return exact or [i for i, name in enumerate(header) if normal(name) == normal(said)]


def _question(table: Path, role: str, names: Sequence[str], options: bool) -> BadInputError:
    if len(set(names)) < len(names):
        return BadInputError(f"has the column {names[0]} twice", where=table, fix="remove one")
    what = f"has several columns that may be the {role}: {', '.join(names)}"
    option = f"name the right one: --{role}-column {_quoted(names[0])}"
    return BadInputError(what, where=table, fix=option if options else "rename all but the right one")


def _missing(table: Path, roles: Sequence[str], header: Sequence[str], options: bool) -> BadInputError:
    named = " and ".join(f"--{role}-column NAME" for role in roles)
    say_which = f"; or say which column it is: {named}" if options else ""
    return BadInputError(
        f"has no column {' and '.join(roles)}; found: {', '.join(header)}",
        where=table,
        fix=f"the first line names the columns path, label and, where known, patient_id and split{say_which}",
    )


def _quoted(name: str) -> str:
    return f'"{name}"' if re.search(r"\W", name) else name
