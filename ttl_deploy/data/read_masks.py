"""Lists images with the masks that were drawn on them: a table, or a folder as the public sets have it.

A table has the columns image (or path) and mask, and where known patient_id and split; several masks of one image are
joined by `|`, and their union counts. A folder has `images` and `masks` with files of the same stem (`_mask` at its end
does not matter), or is the Montgomery set (`CXR_png`, and `ManualMask` with a left and a right lung) or the Shenzhen
set (`CXR_png` and `mask`), or holds several such folders.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from ttl_deploy.data.class_names import task_of_names
from ttl_deploy.data.columns import NAMES, Columns, find_columns
from ttl_deploy.data.items import FileSource, MaskSource
from ttl_deploy.data.listing import Entry, Labelled, Listing
from ttl_deploy.data.own_sides import TABLES
from ttl_deploy.data.read_csv import locate, side_in, table_rows
from ttl_deploy.data.read_folder import is_leftover
from ttl_deploy.data.values import patient_of
from ttl_deploy.errors import BadInputError
from ttl_deploy.files import is_file
from ttl_deploy.inputs.image_kinds import is_image
from ttl_deploy.spec import TaskSpec
from ttl_deploy.tasks import Task

STRUCTURE = "mask"
"""What the outlined structure is called where nobody named it."""

SEPARATOR = "|"
"""Between several masks of one image."""

_NAMES: Mapping[str, frozenset[str]] = {
    **NAMES,
    "path": frozenset({"path", "image", "images", "imagepath"}),
    "label": frozenset({"mask", "masks", "maskpath"}),
}
_IMAGES = ("images", "CXR_png")
_MASKS = (("masks",), ("mask",), ("ManualMask/leftMask", "ManualMask/rightMask"))
_SHOWN = 5


def list_masks(path: Path, columns: Columns | None, *, options: bool) -> Listing:
    """The images of a table or folder, with their masks.

    Args:
        path: Which.
        columns: Which columns of a table to use; None: found by their names. That of the label is that of the masks.
        options: Whether the command has options for the columns, so that an error may name them.

    Raises:
        BadInputError: It is neither, a column is missing, or a mask is not there.
    """
    if path.is_dir():
        return _of_folder(path)
    if path.suffix.lower() not in TABLES:
        what = "masks are read from a table (image,mask) or a folder with images and masks"
        raise BadInputError(what, where=path, fix="pass one of these")
    return _of_table(path, columns or Columns(), options=options)


def settle_masks(path: Path, listing: Listing, classes: Sequence[str] | None, task: TaskSpec) -> Labelled:
    """The images with the beginnings of their masks' SHA-256 as labels.

    Args:
        path: For the error.
        listing: The images.
        classes: The structure's name; None: `STRUCTURE`.
        task: What the labels mean.

    Raises:
        BadInputError: A mask is missing or cannot be opened, or several structures are named.
    """
    names = tuple(classes or (STRUCTURE,))
    if len(names) != 1:
        raise BadInputError(f"a mask is of one structure, not of {', '.join(names)}", where=path, fix="name one")
    meaning = task_of_names(task, names)
    gone = [mask for entry in listing.entries if entry.mask for mask in entry.mask.paths if not is_file(mask)]
    if gone:
        more = f" and {len(gone) - _SHOWN} more" if len(gone) > _SHOWN else ""
        said = ", ".join(mask.name for mask in gone[:_SHOWN])
        raise BadInputError(f"masks are missing: {said}{more}", where=path, fix="restore them or correct the paths")
    return Labelled(meaning, listing.entries, [_label(entry, meaning) for entry in listing.entries])


def _label(entry: Entry, task: Task) -> int:
    assert entry.mask is not None
    label = task.label(entry.mask.digest())
    assert isinstance(label, int)
    return label


def _of_table(table: Path, columns: Columns, *, options: bool) -> Listing:
    rows = table_rows(table)
    _line, header = next(rows, (0, []))
    places = find_columns(table, header, columns, options=options, required=("path", "label"), known=_NAMES)
    entries: dict[str, Entry] = {}
    for line, cells in rows:
        entry = _entry(
            table, f"{table}:{line}", {role: cells[i] if i < len(cells) else "" for role, i in places.items()}
        )
        if entry.id in entries:
            raise BadInputError(f"{entry.id} is listed twice", where=entry.place, fix="keep one of the lines")
        entries[entry.id] = entry
    if not entries:
        raise BadInputError("lists no images", where=table, fix="give it a header (image,mask) and a row per image")
    used = {role: header[place] for role, place in places.items()}
    unused = tuple(name for place, name in enumerate(header) if name and place not in places.values())
    return Listing(list(entries.values()), columns=used, unused=unused, is_table=True)


def _entry(table: Path, place: str, cells: Mapping[str, str]) -> Entry:
    for role, word in (("path", "image"), ("label", "mask")):
        if not cells[role]:
            raise BadInputError(f"the {word} is blank", where=place, fix="fill it in or remove the line")
    name, path = locate(table.parent, cells["path"])
    masks = tuple(locate(table.parent, part.strip())[1] for part in cells["label"].split(SEPARATOR))
    patient, split = patient_of(cells.get("patient", "")), side_in(cells.get("split", ""), place)
    return Entry(name, "", patient, split, FileSource(path), place, MaskSource(masks, path))


def _of_folder(folder: Path) -> Listing:
    places = list(_sets(folder))
    if not places:
        what = "has no folders of images and of masks"
        raise BadInputError(what, where=folder, fix="name them images and masks, or pass a table (image,mask)")
    entries, without = [], 0
    for images, masks in places:
        drawn = [_by_stem(place) for place in masks]
        for stem, image in _by_stem(images).items():
            found = tuple(by_stem[stem] for by_stem in drawn if stem in by_stem)
            if len(found) < len(masks):
                without += 1
                continue
            name = image.relative_to(folder).as_posix()
            entries.append(Entry(name, "", None, None, FileSource(image), name, MaskSource(found, image)))
    if not entries:
        raise BadInputError("no image has a mask of its name", where=folder, fix="give masks the names of their images")
    return Listing(entries, passed_over={"images without a mask": without} if without else {})


def _sets(folder: Path) -> Iterator[tuple[Path, list[Path]]]:
    """The folders of images with those of their masks, in a folder and those in it."""
    for place in (folder, *sorted(entry for entry in folder.iterdir() if entry.is_dir())):
        images = next((place / name for name in _IMAGES if (place / name).is_dir()), None)
        masks = next((names for names in _MASKS if all((place / name).is_dir() for name in names)), None)
        if images is not None and masks is not None:
            yield images, [place / name for name in masks]


def _by_stem(folder: Path) -> dict[str, Path]:
    """The images of a folder by their names without ending, and without `_mask`."""
    files = sorted(entry for entry in folder.iterdir() if entry.is_file() and not is_leftover(entry.name))
    return {file.stem.removesuffix("_mask"): file for file in files if is_image(file)}
