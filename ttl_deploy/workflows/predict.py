"""Predicting images with an artifact: files, folders, patterns and tables in, a stream of probabilities out.

No torch and nothing else heavy, so that one image costs a fraction of a second; memory does not grow with the
number of images. Images are decoded on threads while the model runs, and come out in the order they went in.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from ttl_deploy import hardware
from ttl_deploy import runtime as runtimes
from ttl_deploy.artifact import Artifact, open_artifact
from ttl_deploy.errors import UndecodedImageError, UnreadableImageError
from ttl_deploy.preprocess import load_pixels
from ttl_deploy.progress import SILENT, Advance, Reporter
from ttl_deploy.runtime import Session
from ttl_deploy.spec import PreprocessSpec
from ttl_deploy.workflows.image_sources import ImageRef, ImageSources
from ttl_deploy.workflows.prediction_file import PredictionFile, Provenance

_MOST_WORKERS = 8

_Decoding = tuple[ImageRef, Future[NDArray[np.uint8]]]
"""An image and its pixels to come."""


@dataclass(frozen=True, slots=True)
class Prediction:
    """What the model says of one image.

    Attributes:
        image: Its path.
        label: The class said of it: the most probable, or what the artifact's operating point makes of the two.
        probabilities: By class, in the order of the outputs.
        id: What the table calls it, if it came from one that has ids.
    """

    image: str
    label: str
    probabilities: dict[str, float]
    id: str | None = None


@dataclass
class Summary:
    """How a prediction to a file went.

    Attributes:
        written: Rows added.
        present: Images whose rows were there already.
        unreadable: Images left out.
        undecoded: How many of these some packages would read that are not installed, by the packages.
    """

    written: int = 0
    present: int = 0
    unreadable: int = 0
    undecoded: Counter[str] = field(default_factory=Counter)

    def leave_out(self, packages: str) -> None:
        """Counts an unreadable image, and the packages that would read it, where there are any."""
        self.unreadable += 1
        if packages:
            self.undecoded[packages] += 1

    def tell_undecoded(self, reporter: Reporter) -> None:
        """Says which packages would read images that were left out."""
        if self.undecoded:
            packages = dict.fromkeys(" ".join(sorted(self.undecoded)).split())
            count = self.undecoded.total()
            reporter.warn(
                f"{count:,} of {self.unreadable:,} unreadable images lack only a decoder: pip install "
                f"{' '.join(packages)}"
            )


def predict(
    artifact: str | Path,
    images: Iterable[str],
    *,
    runtime: str | None = None,
    device: str = "cpu",
    threads: int | None = None,
    batch_size: int = 8,
    workers: int | None = None,
    skip_unreadable: bool = False,
    key: str | Path | None = None,
    trust: bool = False,
    reporter: Reporter = SILENT,
) -> Iterator[Prediction]:
    """Class probabilities of images, in their order, as a stream: a million images need no more memory than a hundred.

    Args:
        artifact: Folder of the artifact.
        images: Files, folders, patterns or CSV files with the column `path` and, where wanted, `id`. An iterator is
            taken as it comes, one source after the other, and nothing is counted beforehand.
        runtime: Engine; None: the first that can.
        device: `cpu` or `cuda`.
        threads: Threads for one batch.
        batch_size: Images run at once.
        workers: Threads that decode images; None: one per core, at most 8.
        skip_unreadable: Leave out images that cannot be read, with a warning, instead of stopping.
        key: Public key that must have signed the artifact.
        trust: Run native code in the artifact, whoever made it.
        reporter: Told of progress.

    Raises:
        BadInputError: No image, or an image cannot be read.
        IntegrityError: The artifact was changed, is not signed by the key, or is native code that nobody answers for.
    """
    opened = open_artifact(Path(artifact), key=key, trust=trust)
    runtimes.runtime_for(opened, runtime, device=device)
    stream, total = stream_of(images, reporter)
    with runtimes.load(opened, runtime, threads=threads, device=device) as session:
        job = _Job(opened.manifest.preprocess, session, batch_size, workers, skip_unreadable, reporter)
        yield from job.predictions(stream, total, Summary())


def predict_to_file(
    artifact: str | Path,
    images: Iterable[str],
    out: Path,
    *,
    overwrite: bool = False,
    lines: str | None = None,
    runtime: str | None = None,
    device: str = "cpu",
    threads: int | None = None,
    batch_size: int = 8,
    workers: int | None = None,
    skip_unreadable: bool = False,
    key: str | Path | None = None,
    trust: bool = False,
    reporter: Reporter = SILENT,
) -> Summary:
    """Predicts into a file that a killed command can go on with: images whose rows are there are skipped.

    Args:
        artifact: Folder of the artifact.
        images: As for `predict`.
        out: The file; beside it `OUT.meta.json` says which model, engine and machine made it.
        overwrite: Begin again instead of going on.
        lines: `csv` or `jsonl`; None: by the ending of `out`, csv where it says nothing.
        runtime: Engine; None: the first that can.
        device: `cpu` or `cuda`.
        threads: Threads for one batch.
        batch_size: Images run at once.
        workers: Threads that decode images; None: one per core, at most 8.
        skip_unreadable: Leave out images that cannot be read, with a warning; they are tried again next time.
        key: Public key that must have signed the artifact.
        trust: Run native code in the artifact, whoever made it.
        reporter: Told of progress.

    Raises:
        BadInputError: No image, an image cannot be read, or the file was written by another model.
        IntegrityError: The artifact or the file was changed, or as `predict`.
        StorageError: The disk is full, read-only or failing; what is written stays, and the command can be repeated.
    """
    opened = open_artifact(Path(artifact), key=key, trust=trust)
    with runtimes.load(opened, runtime, threads=threads, device=device) as session:
        job = _Job(opened.manifest.preprocess, session, batch_size, workers, skip_unreadable, reporter)
        provenance = provenance_of(opened, session.runtime, session.device)
        return write_predictions(job, images, out, provenance, lines=lines, overwrite=overwrite)


class Predictor(Protocol):
    """Turns a stream of images into a stream of predictions in the same order."""

    @property
    def reporter(self) -> Reporter:
        """Told of progress and of what is passed over."""

    def predictions(
        self,
        images: Iterable[ImageRef],
        total: int | None,
        summary: Summary,
        done: Callable[[str], bool] | None = None,
    ) -> Iterator[Prediction]:
        """Predicts.

        Args:
            images: What to predict.
            total: How many they are, if that is known.
            summary: Is told of images left out.
            done: Says of an image's key whether to skip it.
        """


def write_predictions(
    predictor: Predictor,
    images: Iterable[str],
    out: Path,
    provenance: Provenance,
    *,
    lines: str | None,
    overwrite: bool,
) -> Summary:
    """Adds predictions to a file, and skips the images whose rows are there.

    Args:
        predictor: Who predicts.
        images: As for `predict`.
        out: The file.
        provenance: What makes the rows.
        lines: `csv` or `jsonl`; None: by the ending of `out`.
        overwrite: Begin again instead of going on.

    Raises:
        BadInputError: As `predict_to_file`.
    """
    stream, total = stream_of(images, predictor.reporter)
    has_ids = isinstance(stream, ImageSources) and stream.has_ids
    summary = Summary()
    with PredictionFile(out, lines, provenance.classes, has_ids, provenance, overwrite=overwrite) as file:
        for prediction in predictor.predictions(stream, total, summary, file.take):
            file.write(prediction.image, prediction.id, prediction.label, prediction.probabilities)
            summary.written += 1
    return summary


def stream_of(images: Iterable[str], reporter: Reporter) -> tuple[Iterable[ImageRef], int | None]:
    """The images and how many they are, if that can be known; tells of files that are none."""
    if isinstance(images, str):
        images = [images]
    if isinstance(images, Sequence):
        sources = ImageSources(images)
        total = sources.count()
        if sources.passed_over:
            kinds = ", ".join(f"{count} {kind}" for kind, count in sorted(sources.passed_over.items()))
            reporter.info(f"passed over, as no images: {kinds}")
        return sources, total
    return (image for source in images for image in ImageSources([source])), None


def provenance_of(artifact: Artifact, runtime: str, device: str) -> Provenance:
    """What makes the rows of a file: this artifact in an engine on a device."""
    manifest = artifact.manifest
    return Provenance(
        model_sha256=manifest.files[manifest.model_file].sha256,
        files={name: record.sha256 for name, record in manifest.files.items()},
        preprocess=manifest.preprocess.digest(),
        classes=manifest.model.classes,
        precision=manifest.precision,
        activation=manifest.activation,
        operating_point=manifest.operating_point,
        runtime=runtime,
        device=device,
        artifact=str(artifact.folder),
        hardware=hardware.describe().as_dict(),
        libraries=hardware.library_versions(),
    )


@dataclass(frozen=True)
class _Job:
    """What stays the same while images go by."""

    spec: PreprocessSpec
    session: Session
    batch_size: int
    workers: int | None
    skip_unreadable: bool
    reporter: Reporter

    def predictions(
        self,
        images: Iterable[ImageRef],
        total: int | None,
        summary: Summary,
        done: Callable[[str], bool] | None = None,
    ) -> Iterator[Prediction]:
        with self.reporter.task("predicting", total) as advance:
            wanted = still_wanted(images, done, summary, advance)
            with closing(self._decoded(wanted)) as decoded:
                for group in _grouped(decoded, self.batch_size):
                    yield from self._run(self._readable(group, summary))
                    advance(len(group), "")
        summary.tell_undecoded(self.reporter)

    def _decoded(self, images: Iterable[ImageRef]) -> Generator[_Decoding, None, None]:
        """Images with their pixels, decoded ahead on threads; no more than two batches wait."""
        workers = self.workers or min(hardware.usable_cores(), _MOST_WORKERS)
        pool = ThreadPoolExecutor(workers, thread_name_prefix="decode")
        waiting: deque[_Decoding] = deque()
        try:
            for image in images:
                waiting.append((image, pool.submit(load_pixels, Path(image.path), self.spec)))
                if len(waiting) > 2 * self.batch_size + workers:
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
                if not self.skip_unreadable:
                    raise
                summary.leave_out(error.packages if isinstance(error, UndecodedImageError) else "")
                self.reporter.warn(str(error))
        return images, pixels

    def _run(self, readable: tuple[list[ImageRef], list[NDArray[np.uint8]]]) -> Iterator[Prediction]:
        images, pixels = readable
        if not images:
            return
        classes = self.session.classes
        rows = self.session.probabilities(self.session.run(self.session.prepare(np.stack(pixels), self.spec)))
        for image, row, label in zip(images, rows, self.session.task.said(rows), strict=True):
            yield Prediction(image.path, label, dict(zip(classes, map(float, row), strict=True)), image.id)


def still_wanted(
    images: Iterable[ImageRef], done: Callable[[str], bool] | None, summary: Summary, advance: Advance
) -> Iterator[ImageRef]:
    """The images that are not done; those that are, are counted."""
    for image in images:
        if done is not None and done(image.key):
            summary.present += 1
            advance(1, "already there")
        else:
            yield image


def _grouped(decoded: Iterable[_Decoding], size: int) -> Iterator[list[_Decoding]]:
    iterator = iter(decoded)
    while group := list(islice(iterator, size)):
        yield group
