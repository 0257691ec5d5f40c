"""Preprocessed pixels on disk: each distinct image is decoded once, then read through a memory map.

Pixels are synced to disk before the index names them, so a process killed at any moment leaves a cache that is
consistent; what is damaged is dropped and decoded again.
"""

from __future__ import annotations

import hashlib
import os
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ttl_deploy.cores import usable_cores
from ttl_deploy.data.cache_index import CacheIndex
from ttl_deploy.data.items import ArraySource, FileSource, ImageSource, Item
from ttl_deploy.errors import BadInputError, IntegrityError, StorageError, UndecodedImageError, UnreadableImageError
from ttl_deploy.files import disk_errors
from ttl_deploy.inputs.image import PICTURE_CHANNELS, picture_problem
from ttl_deploy.inputs.image_kinds import IMAGE_SUFFIXES
from ttl_deploy.inputs.reading import READERS
from ttl_deploy.inputs.windows import window_starts
from ttl_deploy.progress import SILENT, Reporter
from ttl_deploy.spec import PreprocessSpec

FOLDER_VARIABLE = "TTL_DEPLOY_CACHE"
"""Environment variable that names the cache folder."""

_BATCH = 128
_BATCH_BYTES = 64 * 2**20
_MOST_WORKERS = 16
_SAMPLED = 8
"""Rows and columns of an image that are looked at before all of it is."""

_SHOWN = 10
"""How many unreadable images an error names."""

_LAST = "/last"
"""After a digest in the index: the row where a study of several rows ends."""


@dataclass(frozen=True, eq=False)
class Cached:
    """Images whose pixels are in the cache. Can be sent to other processes, which open the file themselves.

    An image is one input of the network and a row of the file. A study that is read in windows is several inputs, and
    each slice of it is a row; the inputs of all studies are numbered through, one study after the other.

    Attributes:
        path: The file of pixels.
        shape: Of a row: (H, W, C), or (D, H, W, C) of volumes.
        kept: (N,) int64, indices of the readable images among those asked for.
        rows: (N,) int64, their rows in the file; of studies in windows the first.
        digests: Their content digests.
        unreadable: What is wrong with each image left out.
        slices: (N,) int64, how many rows each study in windows has; None where an image is one input.
        windows: Then, as `PreprocessSpec.windows`.
    """

    path: Path
    shape: tuple[int, ...]
    kept: NDArray[np.int64]
    rows: NDArray[np.int64]
    digests: tuple[str, ...]
    unreadable: tuple[str, ...]
    slices: NDArray[np.int64] | None = None
    windows: tuple[int, int] | None = None

    def read(self, inputs: NDArray[np.int64]) -> NDArray[np.uint8]:
        """Pixels of some inputs.

        Args:
            inputs: (M,) their numbers; of images their positions among the kept.

        Returns:
            (M, H, W, C) uint8, or (M, D, H, W, C), a copy.

        Raises:
            IntegrityError: The file was removed since.
        """
        rows = self._input_rows[np.asarray(inputs, dtype=np.int64)]
        depth = () if self.windows is None else self.windows[:1]
        if not len(rows):
            return np.empty((0, *depth, *self.shape), dtype=np.uint8)
        if not depth:
            return np.asarray(self._memory[rows])
        return np.stack([self._memory[row : row + depth[0]] for row in rows])

    @cached_property
    def counts(self) -> NDArray[np.int64]:
        """(N,) how many inputs each image is."""
        if self.slices is None:
            return np.ones(len(self.rows), dtype=np.int64)
        return np.array([len(starts) for starts in self.starts], dtype=np.int64)

    @cached_property
    def first_inputs(self) -> NDArray[np.int64]:
        """(N,) the number of each image's first input."""
        return np.cumsum(self.counts) - self.counts

    @cached_property
    def starts(self) -> list[NDArray[np.int64]]:
        """The first slice of each window, of each study."""
        assert self.slices is not None and self.windows is not None
        depth, stride = self.windows
        return [window_starts(int(slices), depth, stride) for slices in self.slices]

    @cached_property
    def _input_rows(self) -> NDArray[np.int64]:
        """(M,) the first row of each input."""
        if self.slices is None or not len(self.rows):
            return self.rows
        return np.concatenate([row + starts for row, starts in zip(self.rows, self.starts, strict=True)])

    def _whole(self, position: int) -> NDArray[np.uint8]:
        """All rows of an image."""
        row = int(self.rows[position])
        return self._memory[row : row + (1 if self.slices is None else int(self.slices[position]))]

    def constant(self) -> NDArray[np.bool_]:
        """(N,) whether all pixels of an image are the same.

        Raises:
            IntegrityError: The file was removed since.
        """
        if not len(self.rows):
            return np.zeros(0, dtype=np.bool_)
        memory, axes = self._memory, len(self.shape) - 1
        middle = tuple(length // 2 for length in self.shape[:-1])
        # Three pixels clear nearly every image without reading it.
        first = memory[self.rows, *(0,) * axes]
        found = (first == memory[self.rows, *middle]).all(axis=1)
        found &= (first == memory[self.rows, *(-1,) * axes]).all(axis=1)
        for position in np.flatnonzero(found).tolist():
            image = self._whole(position)
            found[position] = (image == image[0, *(0,) * axes]).all()
        return np.asarray(found)

    def contents(self) -> tuple[str, ...]:
        """Digest of each image; where several files hold the same pixels (written anew, other metadata), one for all.

        Images of one colour keep their own.

        Raises:
            IntegrityError: The file was removed since.
        """
        sampled = tuple(slice(None, None, max(1, length // _SAMPLED)) for length in self.shape[:-1])
        alike: dict[bytes, dict[str, int]] = defaultdict(dict)
        for position in np.flatnonzero(~self.constant()).tolist():
            sample = self._memory[self.rows[position], *sampled].tobytes()
            alike[sample].setdefault(self.digests[position], position)
        same: dict[str, str] = {}
        for positions in alike.values():
            first: dict[bytes, str] = {}
            for digest, position in sorted(positions.items()) if len(positions) > 1 else ():
                same[digest] = first.setdefault(hashlib.sha256(self._whole(position).tobytes()).digest(), digest)
        return tuple(same.get(digest, digest) for digest in self.digests)

    @cached_property
    def _memory(self) -> NDArray[np.uint8]:
        try:
            end = int((self.rows + (1 if self.slices is None else self.slices)).max())
            return np.memmap(self.path, dtype=np.uint8, mode="r", shape=(end, *self.shape))
        except (OSError, ValueError) as error:
            raise IntegrityError("the pixel cache changed while in use", where=self.path, fix="run again") from error

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "_memory"}


class PixelCache:
    """The cached pixels of one preprocessing, shared by all processes and data sets.

    Args:
        folder: Where caches are kept; None: `TTL_DEPLOY_CACHE`, or the user's cache folder.
        spec: Decides the pixels; its mean and std do not matter.
        masks: Whether the pixels are those of masks, which have one channel and a folder of their own.
    """

    def __init__(self, folder: Path | None, spec: PreprocessSpec, *, masks: bool = False) -> None:
        self.folder = (folder or default_folder()) / (spec.pixel_digest()[:16] + ("-masks" if masks else ""))
        self._spec = spec
        self._shape = (*spec.input.size, 1) if masks else spec.input.array_shape
        if spec.windows is not None:
            self._shape = self._shape[1:]
        self._row_bytes = prod(self._shape)
        self._pixels = self.folder / "pixels.u8"
        self._index = self.folder / "index.sqlite"

    def ensure(
        self,
        items: Sequence[Item],
        *,
        skip_unreadable: bool,
        fix: str = "restore them",
        reporter: Reporter = SILENT,
        workers: int | None = None,
    ) -> Cached:
        """Decodes the images that are not in the cache yet.

        Args:
            items: The images.
            skip_unreadable: Leave out images that cannot be read instead of raising.
            fix: What to do about images that cannot be read.
            reporter: Told of progress and of repairs.
            workers: Threads; None: one per core.

        Returns:
            Where the pixels are.

        Raises:
            BadInputError: They are rows of an array that has not the channels of the input.
            UnreadableImageError: Some images cannot be read; the error counts them and names the first. The others are
                in the cache.
            StorageError: The disk is full, read-only or failing. What was decoded before is in the cache.
        """
        _refuse_shapes(items, self._spec)
        threads = workers or min(usable_cores(), _MOST_WORKERS)
        with disk_errors(self.folder):
            _make(self.folder)
            with self._alone(reporter):
                found = self._fill_or_rebuild(items, threads, reporter)
        if found.unreadable and not skip_unreadable:
            raise _refusal(found.unreadable, len(items), fix)
        return Cached(
            self._pixels,
            self._shape,
            np.array(found.kept, dtype=np.int64),
            np.array(found.rows, dtype=np.int64),
            tuple(found.digests),
            tuple(found.unreadable),
            None if self._spec.windows is None else np.array(found.slices, dtype=np.int64),
            self._spec.windows,
        )

    @contextmanager
    def _still_there(self) -> Iterator[None]:
        """Whatever fails while the folder is removed, that is why."""
        try:
            yield
        except (OSError, IntegrityError) as error:
            if self._pixels.is_file() and self._index.is_file():
                raise
            what, fix = "was removed while it was filled", "run again"
            raise StorageError(what, where=self.folder, fix=fix) from error

    @contextmanager
    def _alone(self, reporter: Reporter) -> Iterator[None]:
        from filelock import FileLock, Timeout

        lock = FileLock(self.folder / "lock")
        try:
            lock.acquire(timeout=0)
        except Timeout:
            reporter.info(f"waiting for another process that fills the pixel cache {self.folder}")
            lock.acquire()
        try:
            yield
        finally:
            lock.release()

    def _fill_or_rebuild(self, items: Sequence[Item], threads: int, reporter: Reporter) -> _Found:
        try:
            return self._fill(items, threads, reporter)
        except IntegrityError as error:
            reporter.info(f"the pixel cache is built again: {error.where} {error.what}")
        for path in (self._index, self._index.with_name(f"{self._index.name}-journal"), self._pixels):
            path.unlink(missing_ok=True)
        return self._fill(items, threads, reporter)

    def _fill(self, items: Sequence[Item], threads: int, reporter: Reporter) -> _Found:
        found = _Found()
        # How large a study in windows is, its file alone says.
        most = _BATCH_BYTES // self._row_bytes if self._spec.windows is None else threads
        step = max(threads, min(_BATCH, most))
        with (
            closing(CacheIndex(self._index)) as index,
            ThreadPoolExecutor(threads) as pool,
            reporter.task("reading images", len(items)) as advance,
        ):
            self._drop_lost(index, reporter)
            with self._still_there():
                for start in range(0, len(items), step):
                    batch = items[start : start + step]
                    decoded = self._fill_batch(index, pool, batch, found, start)
                    advance(len(batch), f"{decoded} decoded" if decoded else "from the cache")
        return found

    def _drop_lost(self, index: CacheIndex, reporter: Reporter) -> None:
        self._pixels.touch()
        lost = index.forget_from(self._pixels.stat().st_size // self._row_bytes)
        if lost:
            reporter.info(f"{lost} images are decoded again: {self._pixels} is shorter than its index says")

    def _fill_batch(self, index: CacheIndex, pool: Executor, batch: Sequence[Item], found: _Found, start: int) -> int:
        """Brings a batch into the cache and adds it to what was found; gives how many images were decoded."""
        digests, seen = _digests(index, pool, batch)
        missing = {
            digest: item.source
            for item, digest in zip(batch, digests, strict=True)
            if isinstance(digest, str) and self._place(index, digest) is None
        }
        failures = self._decode(index, pool, missing, seen)
        for position, (item, digest) in enumerate(zip(batch, digests, strict=True), start):
            problem = failures.get(digest) if isinstance(digest, str) else digest
            if problem is not None:
                found.unreadable.append(f"{item.source.where}: {_what(problem)}")
            else:
                found.add(position, self._place(index, str(digest)), str(digest))
        return len(missing)

    def _decode(
        self,
        index: CacheIndex,
        pool: Executor,
        missing: Mapping[str, ImageSource],
        seen: Sequence[tuple[str, str, str]],
    ) -> dict[str, UnreadableImageError]:
        """Decodes, stores, then indexes images by their digest; gives those that cannot be read."""
        images: dict[str, NDArray[np.uint8]] = {}
        failures: dict[str, UnreadableImageError] = {}
        results = pool.map(lambda source: _pixels(source, self._spec), missing.values())
        for digest, result in zip(missing, results, strict=True):
            if isinstance(result, UnreadableImageError):
                failures[digest] = result
            else:
                images[digest] = result
        if images or seen:
            first = index.next_row()
            self._append(first, images.values())
            index.commit(self._named(first, images), seen)
        return failures

    def _named(self, first: int, images: Mapping[str, NDArray[np.uint8]]) -> dict[str, int]:
        """What the index says of images that lie in the file from a row on."""
        if self._spec.windows is None:
            return {digest: first + offset for offset, digest in enumerate(images)}
        rows = {}
        for digest, slices in images.items():
            rows[digest], rows[digest + _LAST] = first, first + len(slices) - 1
            first += len(slices)
        return rows

    def _place(self, index: CacheIndex, digest: str) -> tuple[int, int] | None:
        """The first row of an image and how many it has, if it is there."""
        first = index.row(digest)
        last = first if self._spec.windows is None else index.row(digest + _LAST)
        return None if first is None or last is None else (first, last - first + 1)

    def _append(self, row: int, images: Iterable[NDArray[np.uint8]]) -> None:
        """Writes rows and waits until they are on disk; what a killed process left there is overwritten."""
        with self._pixels.open("r+b") as handle:
            handle.seek(row * self._row_bytes)
            for image in images:
                handle.write(image.tobytes())
            handle.flush()
            os.fsync(handle.fileno())


@dataclass
class _Found:
    """What `Cached` is made of, while it grows."""

    kept: list[int] = field(default_factory=list)
    rows: list[int] = field(default_factory=list)
    slices: list[int] = field(default_factory=list)
    digests: list[str] = field(default_factory=list)
    unreadable: list[str] = field(default_factory=list)

    def add(self, position: int, place: tuple[int, int] | None, digest: str) -> None:
        assert place is not None
        self.kept.append(position)
        self.rows.append(place[0])
        self.slices.append(place[1])
        self.digests.append(digest)


def default_folder() -> Path:
    """`TTL_DEPLOY_CACHE`, or `ttl-deploy/pixels` in the user's cache folder."""
    import platformdirs

    chosen = os.environ.get(FOLDER_VARIABLE)
    return Path(chosen) if chosen else platformdirs.user_cache_path("ttl-deploy") / "pixels"


def _make(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError) as error:
        raise StorageError("a file is in the way", where=folder, fix="choose another cache folder") from error
    except OSError as error:
        fix = f"choose another folder with --cache or {FOLDER_VARIABLE}"
        raise StorageError(
            f"cannot be made: {(error.strerror or str(error)).lower()}", where=folder, fix=fix
        ) from error


def _digests(
    index: CacheIndex, pool: Executor, batch: Sequence[Item]
) -> tuple[list[str | UnreadableImageError], list[tuple[str, str, str]]]:
    """Digest of each image or why there is none, and the files that were hashed as (path, stamp, digest)."""
    stamps = [_stamp(item.source) for item in batch]
    known = [index.digest(*stamp) if stamp else None for stamp in stamps]
    unknown = [item.source for item, digest in zip(batch, known, strict=True) if digest is None]
    hashed = iter(list(pool.map(_digest, unknown)))
    digests = [digest if digest is not None else next(hashed) for digest in known]
    seen = [
        (*stamp, digest)
        for stamp, before, digest in zip(stamps, known, digests, strict=True)
        if stamp is not None and before is None and isinstance(digest, str)
    ]
    return digests, seen


def _stamp(source: ImageSource) -> tuple[str, str] | None:
    try:
        return source.stamp()
    except OSError:
        return None  # hashing it will say what is wrong


def _digest(source: ImageSource) -> str | UnreadableImageError:
    try:
        return source.digest()
    except UnreadableImageError as error:
        return error


def _refuse_shapes(items: Sequence[Item], spec: PreprocessSpec) -> None:
    """Before any image is read: the rows of an array are all alike, and so are pictures."""
    channels = spec.input.channels
    sources = [item.source for item in items]
    arrays = {id(source.array): source for source in sources if isinstance(source, ArraySource)}
    for source in arrays.values():
        problem = READERS[spec.input.kind].shape_problem(source.array.shape[1:], channels)
        if problem is not None:
            raise BadInputError(problem[0], where=source.where, fix=problem[1])
    if channels not in PICTURE_CHANNELS:
        pictures = (s for s in sources if isinstance(s, FileSource) and s.path.suffix.lower() in IMAGE_SUFFIXES)
        if (picture := next(pictures, None)) is not None:
            what, way = picture_problem(channels)
            raise BadInputError(what, where=picture.where, fix=way)


def _pixels(source: ImageSource, spec: PreprocessSpec) -> NDArray[np.uint8] | UnreadableImageError:
    try:
        return source.pixels(spec)
    except UnreadableImageError as error:
        return error


def _what(problem: UnreadableImageError) -> str:
    """What is wrong, and for an image that only lacks its decoder which package that is."""
    if isinstance(problem, UndecodedImageError):
        return f"{problem.what} (pip install {problem.packages})"
    return problem.what


def _refusal(unreadable: Sequence[str], total: int, fix: str) -> UnreadableImageError:
    more = f"; and {len(unreadable) - _SHOWN} more" if len(unreadable) > _SHOWN else ""
    return UnreadableImageError(
        f"{len(unreadable)} of {total} images cannot be read: {'; '.join(unreadable[:_SHOWN])}{more}",
        fix=fix,
    )
