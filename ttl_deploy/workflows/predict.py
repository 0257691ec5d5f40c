"""Predicting images with an artifact: files, folders and patterns in, class probabilities out, in constant memory.

No torch and nothing else heavy, so that one image costs a fraction of a second.
"""

from __future__ import annotations

import glob
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np

from ttl_deploy import runtime as runtimes
from ttl_deploy.artifact import open_artifact
from ttl_deploy.errors import BadInputError, UnreadableImageError
from ttl_deploy.preprocess import IMAGE_SUFFIXES, load_pixels
from ttl_deploy.progress import SILENT, Reporter


@dataclass(frozen=True)
class Prediction:
    """What the model says of one image.

    Attributes:
        image: Its path.
        label: The most probable class.
        probabilities: By class, in the order of the outputs.
    """

    image: str
    label: str
    probabilities: dict[str, float]


def find_images(sources: Sequence[str]) -> list[Path]:
    """Files named by paths, folders (searched to the bottom) and patterns such as `scans/*.png`, each once.

    Raises:
        BadInputError: A source does not exist, or holds no image.
    """
    found: dict[Path, None] = {}
    for source in sources:
        images = list(_images_of(source))
        if not images:
            raise BadInputError(f"no image matches {source!r}", fix="pass image files, folders or patterns")
        found.update(dict.fromkeys(images))
    return list(found)


def predict(
    artifact: str | Path,
    images: Sequence[str],
    *,
    runtime: str | None = None,
    device: str = "cpu",
    threads: int | None = None,
    batch_size: int = 8,
    skip_unreadable: bool = False,
    reporter: Reporter = SILENT,
) -> Iterator[Prediction]:
    """Class probabilities of images, in their order.

    Args:
        artifact: Folder of the artifact.
        images: Files, folders or patterns.
        runtime: Engine; None: the first that can.
        device: `cpu` or `cuda`.
        threads: Threads for one batch.
        batch_size: Images run at once.
        skip_unreadable: Leave out images that cannot be read, with a warning, instead of stopping.
        reporter: Told of progress.

    Raises:
        BadInputError: No image, or an image cannot be read.
        IntegrityError: The artifact was changed.
    """
    opened = open_artifact(Path(artifact))
    paths = find_images(images)
    spec = opened.manifest.preprocess
    with (
        runtimes.load(opened, runtime, threads=threads, device=device) as session,
        reporter.task("predicting", len(paths)) as advance,
    ):
        for group in _grouped(paths, batch_size):
            readable, pixels = [], []
            for path in group:
                try:
                    pixels.append(load_pixels(path, spec))
                    readable.append(path)
                except UnreadableImageError as error:
                    if not skip_unreadable:
                        raise
                    reporter.warn(str(error))
            if pixels:
                rows = session.probabilities(session.run(session.prepare(np.stack(pixels), spec)))
                for path, row in zip(readable, rows, strict=True):
                    probabilities = dict(zip(session.classes, map(float, row), strict=True))
                    yield Prediction(str(path), session.classes[int(row.argmax())], probabilities)
            advance(len(group), "")


def _images_of(source: str) -> Iterable[Path]:
    path = Path(source)
    if path.is_file():
        return [path]
    if path.is_dir():
        return sorted(p for p in path.rglob("*") if p.suffix.lower() in IMAGE_SUFFIXES and p.is_file())
    if not glob.has_magic(source):
        raise BadInputError("no such image or folder", where=source)
    # Path.glob takes no absolute pattern.
    return sorted(p for p in map(Path, glob.glob(source, recursive=True)) if p.is_file())  # noqa: PTH207


def _grouped(paths: Iterable[Path], size: int) -> Iterator[list[Path]]:
    iterator = iter(paths)
    while group := list(islice(iterator, size)):
        yield group
