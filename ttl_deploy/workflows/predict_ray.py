"""Predicting an archive over a cluster: Ray Data maps batches of images over actors that each hold the artifact.

Reads, preprocesses and predicts as `predict` does, on as many nodes as there are, and writes the same resumable file;
needs the extra `cluster`. An archive goes to the cluster in portions, so memory does not grow with it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ttl_deploy import hardware
from ttl_deploy import runtime as runtimes
from ttl_deploy.artifact import Artifact, open_artifact
from ttl_deploy.errors import MissingDependencyError, UndecodedImageError, UnreadableImageError
from ttl_deploy.preprocess import load_pixels
from ttl_deploy.progress import SILENT, Reporter
from ttl_deploy.search.engines import ray_cluster
from ttl_deploy.search.ray_driver import RayDriver
from ttl_deploy.tasks import Multiclass
from ttl_deploy.workflows.image_sources import ImageRef
from ttl_deploy.workflows.predict import (
    Prediction,
    Summary,
    provenance_of,
    still_wanted,
    stream_of,
    write_predictions,
)

PORTION = 50_000
"""Images that go to the cluster at once: their paths fill megabytes, and starting the actors again costs seconds."""


def predict_ray(
    artifact: str | Path,
    images: Iterable[str],
    *,
    runtime: str | None = None,
    device: str = "cpu",
    threads: int | None = None,
    batch_size: int = 8,
    skip_unreadable: bool = False,
    address: str | None = None,
    workers: int | None = None,
    key: str | Path | None = None,
    trust: bool = False,
    reporter: Reporter = SILENT,
) -> Iterator[Prediction]:
    """Class probabilities of images, in their order; the same as `predict` gives with the same threads.

    Args:
        artifact: Folder of the artifact, on a file system that every node sees; likewise the images.
        images: As for `predict`.
        runtime: Engine; None: the first that can.
        device: `cpu` or `cuda`; each worker takes one GPU.
        threads: Threads and cores of one worker; None: 1.
        batch_size: Images run at once.
        skip_unreadable: Leave out images that cannot be read, with a warning, instead of stopping.
        address: Of a running cluster; None: one is started here.
        workers: How many; None: one per `threads` cores of the cluster.
        key: Public key that must have signed the artifact, a file that every node sees.
        trust: Run native code in the artifact, whoever made it.
        reporter: Told of progress.

    Raises:
        MissingDependencyError: Ray is not installed.
        BadInputError: No image, or an image cannot be read.
    """
    opened, engine = _opened(artifact, runtime, device, key, trust)
    signer = None if key is None else str(Path(key).resolve())
    job = _Job(
        opened, engine, device, threads or 1, batch_size, skip_unreadable, address, workers, reporter, signer, trust
    )
    stream, total = stream_of(images, reporter)
    yield from job.predictions(stream, total, Summary())


def predict_ray_to_file(
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
    skip_unreadable: bool = False,
    address: str | None = None,
    workers: int | None = None,
    key: str | Path | None = None,
    trust: bool = False,
    reporter: Reporter = SILENT,
) -> Summary:
    """Predicts over a cluster into the file that `predict_to_file` writes; either goes on with what the other began.

    Args:
        artifact: Folder of the artifact, on a file system that every node sees; likewise the images.
        images: As for `predict`.
        out: The file.
        overwrite: Begin again instead of going on.
        lines: `csv` or `jsonl`; None: by the ending of `out`.
        runtime: Engine; None: the first that can.
        device: `cpu` or `cuda`; each worker takes one GPU.
        threads: Threads and cores of one worker; None: 1.
        batch_size: Images run at once.
        skip_unreadable: Leave out images that cannot be read, with a warning; they are tried again next time.
        address: Of a running cluster; None: one is started here.
        workers: How many; None: one per `threads` cores of the cluster.
        key: Public key that must have signed the artifact, a file that every node sees.
        trust: Run native code in the artifact, whoever made it.
        reporter: Told of progress.

    Raises:
        MissingDependencyError: Ray is not installed.
        BadInputError: No image, an image cannot be read, or the file was written by another model.
        IntegrityError: The artifact or the file was changed.
        StorageError: The disk is full, read-only or failing; what is written stays, and the command can be repeated.
    """
    opened, engine = _opened(artifact, runtime, device, key, trust)
    signer = None if key is None else str(Path(key).resolve())
    job = _Job(
        opened, engine, device, threads or 1, batch_size, skip_unreadable, address, workers, reporter, signer, trust
    )
    provenance = provenance_of(opened, engine, device)
    return write_predictions(job, images, out, provenance, lines=lines, overwrite=overwrite)


def _opened(
    artifact: str | Path, runtime: str | None, device: str, key: str | Path | None, trust: bool
) -> tuple[Artifact, str]:
    """The artifact, and the engine that every worker will use."""
    opened = open_artifact(Path(artifact), key=key, trust=trust)
    return opened, runtimes.runtime_for(opened, runtime, device=device).name


class _Predictor:
    """An actor: the artifact, loaded once per worker.

    Args:
        artifact: Folder, seen by every node.
        runtime: Engine.
        device: `cpu` or `cuda`.
        threads: Threads of one batch.
        key: Public key that must have signed the artifact.
        trust: Run native code in the artifact.
    """

    def __init__(
        self, artifact: str, runtime: str, device: str, threads: int, key: str | None = None, trust: bool = False
    ) -> None:
        opened = open_artifact(Path(artifact), key=key, trust=trust)
        self._spec = opened.manifest.preprocess
        self._session = runtimes.load(opened, runtime, threads=threads, device=device)

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Paths and their places in; probabilities (N, classes), or the error of what cannot be read, out."""
        pixels, errors, packages = [], [], []
        blank = np.zeros((self._spec.image_size, self._spec.image_size, self._spec.channels), np.uint8)
        for path in batch["path"]:
            try:
                pixels.append(load_pixels(Path(str(path)), self._spec))
                problem = None
            except UnreadableImageError as error:
                pixels.append(blank)
                problem = error
            errors.append(str(problem or ""))
            packages.append(problem.packages if isinstance(problem, UndecodedImageError) else "")
        outputs = self._session.run(self._session.prepare(np.stack(pixels), self._spec))
        told = {"error": np.array(errors), "packages": np.array(packages)}
        return {**batch, "probabilities": self._session.probabilities(outputs), **told}


@dataclass(frozen=True)
class _Job:
    """What stays the same while images go by; see `ttl_deploy.workflows.predict.Predictor`."""

    artifact: Artifact
    runtime: str
    device: str
    threads: int
    batch_size: int
    skip_unreadable: bool
    address: str | None
    workers: int | None
    reporter: Reporter
    key: str | None = None
    trust: bool = False

    def predictions(
        self,
        images: Iterable[ImageRef],
        total: int | None,
        summary: Summary,
        done: Callable[[str], bool] | None = None,
    ) -> Iterator[Prediction]:
        cores = max(hardware.usable_cores(), (self.workers or 1) * self.threads)
        with self.reporter.task("predicting", total) as advance:
            wanted = still_wanted(images, done, summary, advance)
            first = list(islice(wanted, PORTION))
            if not first:
                return
            with ray_cluster(self.address, cores=cores) as driver:
                workers = self.workers or max(1, driver.cores // self.threads)
                portion = first
                while portion:
                    for image, probabilities, error, packages in self._mapped(driver, portion, workers):
                        advance(1, "")
                        if error:
                            self._leave_out(error, packages, summary)
                        else:
                            yield self._prediction(image, probabilities)
                    portion = list(islice(wanted, PORTION))
        summary.tell_undecoded(self.reporter)

    def _mapped(
        self, driver: RayDriver, images: list[ImageRef], workers: int
    ) -> Iterator[tuple[ImageRef, Any, str, str]]:
        """The images in their order, with their probabilities or the error of what cannot be read and what would."""
        paths = [str(Path(image.path).resolve()) for image in images]
        where = str(self.artifact.folder.resolve())
        predictor = (where, self.runtime, self.device, self.threads, self.key, self.trust)
        with closing(driver.stream(_predict_on_ray, paths, predictor, self.batch_size, workers)) as batches:
            for batch in batches:
                for place, probabilities, error, packages in batch:
                    yield images[place], probabilities, error, packages

    def _leave_out(self, error: str, packages: str, summary: Summary) -> None:
        if not self.skip_unreadable:
            raise UnreadableImageError(error)
        summary.leave_out(packages)
        self.reporter.warn(error)

    def _prediction(self, image: ImageRef, row: Any) -> Prediction:
        manifest, values = self.artifact.manifest, np.asarray(row)
        classes = manifest.model.classes
        (label,) = Multiclass(classes, manifest.operating_point).said(values[None])
        return Prediction(image.path, label, dict(zip(classes, map(float, values), strict=True)), image.id)


def _predict_on_ray(
    paths: list[str], predictor: tuple[str, str, str, int, str | None, bool], batch_size: int, workers: int
) -> Iterator[list[tuple[int, NDArray[np.float64], str, str]]]:
    """Runs in the driver: what `_Predictor` says of images, with their places, in their order."""
    data = _ray_data()
    context = data.DataContext.get_current()
    context.enable_progress_bars = False
    context.execution_options.preserve_order = True
    _, _, device, threads, _, _ = predictor
    rows = [{"place": place, "path": path} for place, path in enumerate(paths)]
    mapped = data.from_items(rows, override_num_blocks=_blocks(len(rows), batch_size, workers)).map_batches(
        _Predictor,
        fn_constructor_args=predictor,
        batch_size=batch_size,
        concurrency=workers,
        num_cpus=threads,
        num_gpus=1 if device == "cuda" else 0,
    )
    for batch in mapped.iter_batches(batch_size=None, batch_format="numpy"):
        errors, packages = (map(str, batch[name]) for name in ("error", "packages"))
        yield list(zip(map(int, batch["place"]), batch["probabilities"], errors, packages, strict=True))


def _ray_data() -> Any:
    try:
        import ray.data
    except ImportError as error:
        raise MissingDependencyError(
            f"Ray Data cannot be used: {error}", fix="pip install 'ttl-deploy[cluster]'"
        ) from error
    return ray.data


def _blocks(images: int, batch_size: int, workers: int) -> int:
    """Enough pieces for every worker, none smaller than a batch."""
    return max(1, min(4 * workers, images // batch_size))
