"""Predicting an archive over a cluster: Ray Data maps batches of images over actors that each hold the artifact.

Reads, preprocesses and predicts as `predict` does, on as many nodes as there are, and writes the same resumable file;
needs the extra `cluster`. An archive goes to the cluster in portions, so memory does not grow with it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ttl_deploy import runtime as runtimes
from ttl_deploy.artifact import Artifact, open_artifact
from ttl_deploy.cores import usable_cores
from ttl_deploy.cut_search.engines import ray_cluster
from ttl_deploy.cut_search.ray_driver import RayDriver
from ttl_deploy.errors import MissingDependencyError, UndecodedImageError, UnreadableImageError
from ttl_deploy.inputs.reading import load_input
from ttl_deploy.prediction.predictor import Prediction, Summary, still_wanted
from ttl_deploy.prediction.sources import ImageRef
from ttl_deploy.progress import Reporter
from ttl_deploy.spec import Placement, Stream, Trust
from ttl_deploy.tasks import Task, task_of

PORTION = 50_000
"""Images that go to the cluster at once: their paths fill megabytes, and starting the actors again costs seconds."""


class _Predictor:
    """An actor: the artifact, loaded once per worker.

    Args:
        artifact: Folder, seen by every node.
        placement: Engine, device, and threads of one batch.
        trust: Whose artifact it may be.
    """

    def __init__(self, artifact: str, placement: Placement, trust: Trust) -> None:
        opened = open_artifact(Path(artifact), trust=trust)
        self._spec = opened.manifest.preprocess
        self._session = runtimes.load(opened, placement)

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Paths and their places in; probabilities (N, classes), or the error of what cannot be read, out."""
        pixels, errors, packages = [], [], []
        blank = np.zeros(self._spec.input.array_shape, np.uint8)
        for path in batch["path"]:
            try:
                pixels.append(load_input(Path(str(path)), self._spec))
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
class RayPredictor:
    """Maps images over the workers of a Ray cluster.

    Attributes:
        artifact: On a file system that every node sees, as the images are.
        placement: Engine of every worker; on `cuda` each takes one GPU. Threads are the cores of one; None: 1.
        stream: How images go through them; workers None: one per `threads` cores of the cluster.
        trust: Whose artifact it may be; the key is a file that every node sees.
        reporter: Told of progress.
    """

    artifact: Artifact
    placement: Placement
    stream: Stream
    trust: Trust
    reporter: Reporter

    @property
    def threads(self) -> int:
        """Threads and cores of one worker."""
        return self.placement.threads or 1

    def predictions(
        self,
        images: Iterable[ImageRef],
        total: int | None,
        summary: Summary,
        done: Callable[[str], bool] | None = None,
    ) -> Iterator[Prediction]:
        """See `Predictor`."""
        cores = max(usable_cores(), (self.stream.workers or 1) * self.threads)
        with self.reporter.task("predicting", total) as advance:
            wanted = still_wanted(images, done, summary, advance)
            first = list(islice(wanted, PORTION))
            if not first:
                return
            with ray_cluster(self.stream.address, cores=cores) as driver:
                workers = self.stream.workers or max(1, driver.cores // self.threads)
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
        key = None if self.trust.key is None else self.trust.key.resolve()
        predictor = (
            str(self.artifact.folder.resolve()),
            self.placement.replace(threads=self.threads),
            self.trust.model_copy(update={"key": key}),
        )
        with closing(driver.stream(_predict_on_ray, paths, predictor, self.stream.batch_size, workers)) as batches:
            for batch in batches:
                for place, probabilities, error, packages in batch:
                    yield images[place], probabilities, error, packages

    def _leave_out(self, error: str, packages: str, summary: Summary) -> None:
        if not self.stream.skip_unreadable:
            raise UnreadableImageError(error)
        summary.leave_out(packages)
        self.reporter.warn(error)

    @cached_property
    def _task(self) -> Task:
        return task_of(self.artifact.manifest.model, self.artifact.manifest.operating_point)

    def _prediction(self, image: ImageRef, row: Any) -> Prediction:
        values = np.asarray(row)
        (label,) = self._task.said(values[None])
        return Prediction(image.path, label, dict(zip(self._task.classes, map(float, values), strict=True)), image.id)


def _predict_on_ray(
    paths: list[str], predictor: tuple[str, Placement, Trust], batch_size: int, workers: int
) -> Iterator[list[tuple[int, NDArray[np.float64], str, str]]]:
    """Runs in the driver: what `_Predictor` says of images, with their places, in their order."""
    data = _ray_data()
    context = data.DataContext.get_current()
    context.enable_progress_bars = False
    context.execution_options.preserve_order = True
    _, placement, _ = predictor
    rows = [{"place": place, "path": path} for place, path in enumerate(paths)]
    mapped = data.from_items(rows, override_num_blocks=_blocks(len(rows), batch_size, workers)).map_batches(
        _Predictor,
        fn_constructor_args=predictor,
        batch_size=batch_size,
        concurrency=workers,
        num_cpus=placement.threads,
        num_gpus=1 if placement.device == "cuda" else 0,
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
