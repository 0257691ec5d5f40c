"""Predicting on this machine: images are decoded on threads while the model runs, and come out in their order.

No torch and nothing else heavy, so that one image costs a fraction of a second.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ttl_deploy import files
from ttl_deploy.cores import usable_cores
from ttl_deploy.errors import UndecodedImageError, UnreadableImageError
from ttl_deploy.inputs.reading import load_input
from ttl_deploy.prediction.dicom_seg import Algorithm, SegmentationWriter
from ttl_deploy.prediction.masks import MaskWriter
from ttl_deploy.prediction.predictor import Prediction, Summary, still_wanted
from ttl_deploy.prediction.sources import ImageRef
from ttl_deploy.progress import Reporter
from ttl_deploy.runtime import Session
from ttl_deploy.runtime.base import WINDOWS
from ttl_deploy.spec import PreprocessSpec, Stream

_MOST_WORKERS = 8

_MANY = 8
"""Batches for which an engine is made ready."""

_Decoding = tuple[ImageRef, Future[NDArray[np.uint8]]]
"""An image and its pixels to come."""


@dataclass(frozen=True)
class LocalPredictor:
    """Decodes images on threads ahead of a session that runs them.

    Attributes:
        spec: What turns an image into pixels.
        session: Open.
        stream: How images go through it.
        reporter: Told of progress.
        algorithm: What draws masks, where the model says them.
    """

    spec: PreprocessSpec
    session: Session
    stream: Stream
    reporter: Reporter
    algorithm: Algorithm

    def predictions(
        self,
        images: Iterable[ImageRef],
        total: int | None,
        summary: Summary,
        done: Callable[[str], bool] | None = None,
    ) -> Iterator[Prediction]:
        """See `Predictor`."""
        if total is None or total >= _MANY * self._together:
            self.session.expect(self._together if self.spec.windows is None else WINDOWS)
        with self.reporter.task("predicting", total) as advance:
            wanted = still_wanted(images, done, summary, advance)
            with closing(self._decoded(wanted)) as decoded:
                for group in _grouped(decoded, self._together):
                    yield from self._run(self._readable(group, summary))
                    advance(len(group), "")
        summary.tell_undecoded(self.reporter)

    @property
    def _together(self) -> int:
        """Images of one run; the windows of a study are several batches."""
        return self.stream.batch_size if self.spec.windows is None else 1

    @cached_property
    def _masks(self) -> MaskWriter:
        assert self.stream.masks is not None
        files.recover_within(self.stream.masks)
        task = self.session.task
        segmentations = SegmentationWriter(self.algorithm, task.classes[0], self.reporter)
        return MaskWriter(self.stream.masks, self.spec, task, self.stream.overlays, segmentations)

    def _decoded(self, images: Iterable[ImageRef]) -> Generator[_Decoding, None, None]:
        """Images with their pixels, decoded ahead on threads; no more than two batches wait."""
        workers = self.stream.workers or min(usable_cores(), _MOST_WORKERS)
        pool = ThreadPoolExecutor(workers, thread_name_prefix="decode")
        waiting: deque[_Decoding] = deque()
        try:
            for image in images:
                waiting.append((image, pool.submit(load_input, Path(image.path), self.spec)))
                if len(waiting) > 2 * self._together + workers:
                    yield waiting.popleft()
            yield from waiting
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
        pool.shutdown()

    def _readable(self, group: Iterable[_Decoding], summary: Summary) -> tuple[list[ImageRef], list[NDArray[np.uint8]]]:
        images, pixels = [], []
        for image, future in group:
            try:
                pixels.append(future.result())
                images.append(image)
            except UnreadableImageError as error:
                if not self.stream.skip_unreadable:
                    raise
                summary.leave_out(error.packages if isinstance(error, UndecodedImageError) else "")
                self.reporter.warn(str(error))
        return images, pixels

    def _run(self, readable: tuple[list[ImageRef], list[NDArray[np.uint8]]]) -> Iterator[Prediction]:
        images, pixels = readable
        if not images:
            return
        classes = self.session.classes
        rows = self.session.probabilities(self.session.run_images(pixels, self.spec))
        if self.session.task.DENSE:
            yield from self._masks.predictions(images, pixels, rows)
            return
        for image, row, label in zip(images, rows, self.session.task.said(rows), strict=True):
            yield Prediction(image.path, label, dict(zip(classes, map(float, row), strict=True)), image.id)


def _grouped(decoded: Iterable[_Decoding], size: int) -> Iterator[list[_Decoding]]:
    iterator = iter(decoded)
    while group := list(islice(iterator, size)):
        yield group
