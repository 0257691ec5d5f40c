"""Where the image of a table's cell lies: `train_images/{}.png` says it of a cell that is a name or a part of a path.

`{}` stands for the cell; the rest is a path relative to the table's folder, or an absolute one. Folders in front of it
may be a pattern (`images_*/images/{}`): the image is then in one of those that there are.
"""

from __future__ import annotations

import glob
import os
from collections.abc import Sequence
from pathlib import Path

from ttl_deploy.errors import BadInputError, near
from ttl_deploy.files import is_folder

PLACE = "{}"
"""What stands for the cell."""

_OPTION = "--path-template"


class ImagePaths:
    """The paths that a template makes; each folder of a pattern is listed once.

    Args:
        table: The table whose cells they are.
        template: Holds `{}`.

    Raises:
        BadInputError: It is no template, or its pattern is of no folder.
    """

    def __init__(self, table: Path, template: str) -> None:
        refuse_no_template(template)
        self._base, self._template = table.parent, template.replace("\\", "/")
        front, _, behind = self._template.partition(PLACE)
        head, _, stem = front.rpartition("/")
        self._pattern = f"{head}/" if glob.has_magic(head) else ""
        self._rest = f"{stem}{PLACE}{behind}" if self._pattern else self._template
        self._folders = self._matching() if self._pattern else ["."]
        self._listed: dict[Path, frozenset[str]] = {}

    def of(self, cell: str, place: str) -> str:
        """The path of a cell's image, relative to the table's folder where it lies there; it may not exist.

        Args:
            cell: What `{}` stands for.
            place: Of the cell, for the error.

        Raises:
            BadInputError: Several folders of the pattern have it.
        """
        name = self._rest.replace(PLACE, cell.replace("\\", "/"))
        if not self._pattern:
            return _inside(self._base, name)
        found = [path for path in (f"{folder}/{name}" for folder in self._folders) if self._is_there(path)]
        if len(found) > 1:
            what = f"{name} is in several folders: {found[0]}, {found[1]}"
            raise BadInputError(what, where=place, fix=f"write a {_OPTION} that tells them apart")
        return _inside(self._base, found[0] if found else self._pattern + name)

    def _matching(self) -> list[str]:
        matches = glob.glob(self._pattern, root_dir=self._base)  # noqa: PTH207 - the pattern may be absolute
        found = sorted(match.rstrip("/") for match in matches)
        if not found:
            what = f"{self._template!r:.80} is of no folder that there is"
            known = _folders_in(self._base)
            fix = f"{near(self._pattern.split('/')[0], known)}, of {self._base}" if known else f"look into {self._base}"
            raise BadInputError(what, where=_OPTION, fix=fix)
        return found

    def _is_there(self, path: str) -> bool:
        whole = self._base / os.path.normpath(path)
        if whole.parent not in self._listed:
            names = os.listdir(whole.parent) if is_folder(whole.parent) else []  # noqa: PTH208 - names are enough
            self._listed[whole.parent] = frozenset(names)
        return whole.name in self._listed[whole.parent]


def refuse_no_template(template: str) -> None:
    """Raises `BadInputError` where a text does not say where a cell's image lies."""
    fix = 'write {} where the cell belongs, as in "train_images/{}.png"'
    if PLACE not in template:
        raise BadInputError(f"{template!r:.80} has no {{}}", where=_OPTION, fix=fix)
    front, _, behind = template.replace("\\", "/").partition(PLACE)
    if glob.has_magic(front.rpartition("/")[2] + behind):
        what = f"{template!r:.80} has a wildcard beside or behind {{}}"
        raise BadInputError(what, where=_OPTION, fix="leave * and the like to the folders in front of {}")


def _inside(base: Path, path: str) -> str:
    """A path that leads out of the table's folder and back into it, without the detour."""
    whole, top = (os.path.abspath(part) for part in (base / path, base))  # noqa: PTH100 - links stay
    return os.path.relpath(whole, top) if whole.startswith(os.path.join(top, "")) else path  # noqa: PTH118 - a prefix


def _folders_in(base: Path) -> Sequence[str]:
    return sorted(entry.name for entry in base.iterdir() if entry.is_dir()) if is_folder(base) else []
