"""What `predict` is given, as a stream of images: files, folders, patterns and tables, in constant memory.

Nothing is listed before it is used: a folder is walked as its images are predicted, a table is read row by row. Of the
images already named by an earlier source only a rule is kept, never a list.
"""

from __future__ import annotations

import fnmatch
import glob
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import chain, islice
from pathlib import Path

from ttl_deploy.data.image_paths import ImagePaths, refuse_no_template
from ttl_deploy.data.read_csv import Endings, open_table
from ttl_deploy.data.read_folder import is_leftover, real_folder
from ttl_deploy.errors import BadInputError
from ttl_deploy.files import is_file, is_folder
from ttl_deploy.inputs.image_kinds import kind_of
from ttl_deploy.inputs.reading import READERS, Reader
from ttl_deploy.spec import Table

SORTED_UP_TO = 10_000
"""Entries of a folder that are sorted by name; a larger folder comes in the file system's order, in constant memory."""

_NO_MATCH = "pass image files, folders, patterns or a CSV with the column path"


@dataclass(frozen=True, slots=True)
class ImageRef:
    """One image to predict.

    Attributes:
        path: The file.
        id: What the table calls it; None where the source is no table or the table has no ids.
    """

    path: str
    id: str | None = None

    @property
    def key(self) -> str:
        """What tells this image's row from others: the id, or else the path."""
        return self.id if self.id is not None else self.path


class ImageSources:
    """The images of several sources, each image once; rows of a table are all kept, as the table says so.

    Args:
        sources: Paths, folders (searched to the bottom), patterns such as `scans/*.png`, and CSV files.
        table: How the CSV files are read.
        kind: Of the inputs, as in `InputSpec`: of volumes a folder may be one.

    Raises:
        BadInputError: A source does not exist, or a table has not the column.
    """

    def __init__(self, sources: Sequence[str], table: Table = Table(), kind: str = "image") -> None:
        self._sources = [_source_of(source, table, READERS[kind]) for source in sources]

    @property
    def has_tables(self) -> bool:
        """Whether there is any table."""
        return any(isinstance(source, _Table) for source in self._sources)

    @property
    def has_ids(self) -> bool:
        """Whether any table has the column `id`."""
        return any(isinstance(source, _Table) and source.has_ids for source in self._sources)

    def __iter__(self) -> Iterator[ImageRef]:
        """The images, in the order of the sources.

        Raises:
            BadInputError: A source holds no image, or a table's row is wrong.
        """
        files: set[str] = set()
        wide: list[_Folder | _Pattern] = []
        for source in self._sources:
            empty = True
            for image in source:
                empty = False
                known = image.path in files or any(earlier.has(image.path) for earlier in wide)
                if isinstance(source, _Table) or not known:
                    yield image
            if empty:
                raise BadInputError(f"no image matches {source.name!r}", fix=_NO_MATCH)
            if isinstance(source, _File):
                files.add(source.name)
            elif not isinstance(source, _Table):
                wide.append(source)

    def count(self) -> int:
        """How many images there are; walks all sources once and so finds their errors before a model is loaded."""
        return sum(1 for _ in self)

    @property
    def passed_over(self) -> Counter[str]:
        """How many files of the folders walked so far are no images, by their ending; hidden ones are not counted."""
        folders = (source for source in self._sources if isinstance(source, _Folder))
        return sum((folder.passed_over for folder in folders), Counter[str]())


@dataclass(frozen=True)
class _File:
    name: str

    def __iter__(self) -> Iterator[ImageRef]:
        yield ImageRef(self.name)


@dataclass(frozen=True)
class _Folder:
    name: str
    reader: Reader
    passed_over: Counter[str] = field(default_factory=Counter, compare=False)

    def __iter__(self) -> Iterator[ImageRef]:
        self.passed_over.clear()
        whole = self.name if self.reader.is_folder(Path(self.name)) else None
        if whole is not None:
            yield ImageRef(whole)
        for path, is_one in _walk(_here_is_blank(self.name), None, _around(self.name), self.reader):
            if is_one or self.reader.is_file(path):
                whole = path if is_one else whole
                yield ImageRef(path)
            elif whole is None or _below(whole, path) is None:
                self.passed_over[kind_of(path)] += 1

    def has(self, path: str) -> bool:
        """Whether the folder gave this file."""
        rest = _below(_here_is_blank(self.name), path)
        return rest is not None and not any(map(is_leftover, rest[:-1])) and _is_shown(path, self.reader)


@dataclass(frozen=True)
class _Pattern:
    name: str
    reader: Reader

    def __iter__(self) -> Iterator[ImageRef]:
        root, parts = self._split()
        depth = None if "**" in parts else len(parts)
        return (ImageRef(path) for path, _is_one in _walk(root, depth, _around(root), self.reader) if self.has(path))

    def has(self, path: str) -> bool:
        """Whether the pattern gave this file."""
        root, parts = self._split()
        rest = _below(root, path)
        return rest is not None and _fits(rest, parts)

    def _split(self) -> tuple[str, tuple[str, ...]]:
        """The folder in front of the first wildcard, and the rest."""
        parts = Path(self.name).parts
        plain = next(index for index, part in enumerate(parts) if glob.has_magic(part))
        return str(Path(*parts[:plain])) if plain else "", parts[plain:]


@dataclass(frozen=True)
class _Table:
    name: str
    read: Table
    has_ids: bool

    def __iter__(self) -> Iterator[ImageRef]:
        table = Path(self.name)
        rows, endings = _table_rows(table, self.read), Endings()
        paths = None if self.read.path_template is None else ImagePaths(table, self.read.path_template)
        of_path, of_id = _columns(self.read)
        next(rows)
        for line, cells in rows:
            cell, place = cells.get(of_path), f"{table}:{line}"
            if not cell:
                raise BadInputError("the path is blank", where=place, fix="fill it in or remove the line")
            if self.has_ids and not cells.get(of_id):
                raise BadInputError("the id is blank", where=place, fix="fill it in or remove the column")
            name = cell if paths is None else paths.of(cell, place)
            path = os.path.normpath(table.parent / name.replace("\\", "/"))
            if not os.path.exists(path):  # noqa: PTH110 - a million Path objects are slow
                path = str(endings.complete(Path(path), place))
            yield ImageRef(path, cells[of_id] if self.has_ids else None)


def _source_of(source: str, table: Table, reader: Reader) -> _File | _Folder | _Pattern | _Table:
    if not source:
        raise BadInputError("an empty name is no image", fix=_NO_MATCH)
    path = Path(source)
    if is_file(path):
        if path.suffix.lower() in (".csv", ".tsv"):
            return _table(path, table)
        return _File(str(path))
    if is_folder(path):
        return _Folder(str(path), reader)
    if not glob.has_magic(source):
        raise BadInputError("no such image or folder", where=source)
    return _Pattern(str(path), reader)


def _table(path: Path, read: Table) -> _Table:
    header = next(_table_rows(path, read), None)
    if header is None:
        raise BadInputError("lists no images", where=path, fix="give it a header (path) and a row per image")
    if read.path_template is not None:
        refuse_no_template(read.path_template)
    return _Table(str(path), read, _columns(read)[1] in header[1])


def _table_rows(table: Path, read: Table) -> Iterator[tuple[int, dict[str, str]]]:
    path, name = _columns(read)
    required = (path,) if read.id_column is None else (path, name)
    return open_table(table, required=required, optional=(name,))


def _columns(read: Table) -> tuple[str, str]:
    """The columns of paths and ids, as `open_table` names them."""
    return (read.path_column or "path").lower(), (read.id_column or "id").lower()


def _here_is_blank(folder: str) -> str:
    """A folder as a prefix of the paths in it: nothing for the current one."""
    return "" if folder == "." else folder


def _below(folder: str, path: str) -> tuple[str, ...] | None:
    """The parts of a path below a folder; None where it is elsewhere."""
    prefix = os.path.join(folder, "")  # noqa: PTH118 - a prefix, not a path
    if not path.startswith(prefix) or (not prefix and os.path.isabs(path)):  # noqa: PTH117 - likewise
        return None
    return Path(path[len(prefix) :]).parts


def _around(folder: str) -> frozenset[tuple[int, int]]:
    """The folders around one; a link to any of them leads in a circle."""
    return frozenset(real_folder(above) for above in Path(folder).absolute().parents if above.exists())


def _is_shown(path: str, reader: Reader) -> bool:
    if os.path.basename(path).startswith("."):  # noqa: PTH119 - a million Path objects are slow
        return False
    return reader.is_file(path) or reader.is_folder(Path(path))


def _walk(
    folder: str, depth: int | None, around: frozenset[tuple[int, int]], reader: Reader
) -> Iterator[tuple[str, bool]]:
    """Files below a folder, down to `depth` levels, through links too, except to a folder around them.

    A folder that is one input (True) comes before the files in it. Hidden files and folders, and what systems leave
    behind, are left out.
    """
    try:
        around = around | {real_folder(folder or ".")}
        with os.scandir(folder or ".") as entries:
            for entry in _sorted_if_few(entry for entry in entries if not entry.name.startswith(".")):
                path = os.path.join(folder, entry.name)  # noqa: PTH118 - a million Path objects are slow
                if entry.is_dir():
                    if is_leftover(entry.name):
                        continue
                    if reader.is_folder(Path(path)):
                        yield path, True
                    if (depth is None or depth > 1) and not (entry.is_symlink() and real_folder(path) in around):
                        yield from _walk(path, None if depth is None else depth - 1, around, reader)
                elif entry.is_file():
                    yield path, False
    except FileNotFoundError:
        return
    except OSError as error:
        raise BadInputError(f"cannot be read: {(error.strerror or '').lower()}", where=folder) from error


def _sorted_if_few(entries: Iterator[os.DirEntry[str]]) -> Iterable[os.DirEntry[str]]:
    head = list(islice(entries, SORTED_UP_TO + 1))
    return sorted(head, key=lambda entry: entry.name) if len(head) <= SORTED_UP_TO else chain(head, entries)


def _fits(parts: Sequence[str], pattern: Sequence[str]) -> bool:
    """Whether a path's parts match a pattern's; `**` stands for any number of folders."""
    if not pattern:
        return not parts
    if pattern[0] == "**":
        rest = pattern[1:] or ("*",)
        return any(_fits(parts[start:], rest) for start in range(len(parts)))
    return bool(parts) and fnmatch.fnmatchcase(parts[0], pattern[0]) and _fits(parts[1:], pattern[1:])
