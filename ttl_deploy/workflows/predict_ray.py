"""Predicting an archive over a cluster: Ray Data maps batches of images over actors that each hold the artifact.

Reads, preprocesses and predicts as `predict` does, on as many nodes as there are; needs the extra `cluster`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ttl_deploy import hardware
from ttl_deploy.artifact import open_artifact
from ttl_deploy.errors import MissingDependencyError, UnreadableImageError
from ttl_deploy.preprocess import load_pixels
from ttl_deploy.progress import SILENT, Reporter
from ttl_deploy.runtime import load
from ttl_deploy.search.engines import ray_cluster
from ttl_deploy.workflows.predict import Prediction, find_images


class _Predictor:
    """An actor: the artifact, loaded once per worker.

    Args:
        artifact: Folder, seen by every node.
        runtime: Engine; None: the first that can.
        device: `cpu` or `cuda`.
        threads: Threads of one batch.
    """

    def __init__(self, artifact: str, runtime: str | None, device: str, threads: int) -> None:
        opened = open_artifact(Path(artifact))
        self._spec = opened.manifest.preprocess
        self._session = load(opened, runtime, threads=threads, device=device)

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Paths and their places in; probabilities (N, classes), or the error of what cannot be read, out."""
        pixels, errors = [], []
        blank = np.zeros((self._spec.image_size, self._spec.image_size, self._spec.channels), np.uint8)
        for path in batch["path"]:
            try:
                pixels.append(load_pixels(Path(str(path)), self._spec))
                errors.append("")
            except UnreadableImageError as error:
                pixels.append(blank)
                errors.append(str(error))
        outputs = self._session.run(self._session.prepare(np.stack(pixels), self._spec))
        return {**batch, "probabilities": self._session.probabilities(outputs), "error": np.array(errors)}


def predict_ray(
    artifact: str | Path,
    images: Sequence[str],
    *,
    runtime: str | None = None,
    device: str = "cpu",
    threads: int | None = None,
    batch_size: int = 8,
    skip_unreadable: bool = False,
    address: str | None = None,
    workers: int | None = None,
    reporter: Reporter = SILENT,
) -> Iterator[Prediction]:
    """Class probabilities of images, in their order; the same as `predict` gives with the same threads.

    Args:
        artifact: Folder of the artifact, on a file system that every node sees; likewise the images.
        images: Files, folders or patterns.
        runtime: Engine; None: the first that can.
        device: `cpu` or `cuda`; each worker takes one GPU.
        threads: Threads and cores of one worker; None: 1.
        batch_size: Images run at once.
        skip_unreadable: Leave out images that cannot be read, with a warning, instead of stopping.
        address: Of a running cluster; None: one is started here.
        workers: How many; None: one per `threads` cores of the cluster.
        reporter: Told of progress.

    Raises:
        MissingDependencyError: Ray is not installed.
        BadInputError: No image, or an image cannot be read.
    """
    opened = open_artifact(Path(artifact))
    paths = find_images(images)
    cores = threads or 1
    arguments = (str(opened.folder.resolve()), runtime, device, cores)
    with (
        ray_cluster(address, cores=max(hardware.usable_cores(), (workers or 1) * cores)) as ray,
        reporter.task("predicting", len(paths)) as advance,
    ):
        count = workers or max(1, int(ray.cluster_resources().get("CPU", 1)) // cores)
        data = _ray_data()
        data.DataContext.get_current().enable_progress_bars = False
        rows = [{"place": i, "path": str(path.resolve())} for i, path in enumerate(paths)]
        mapped = data.from_items(rows, override_num_blocks=_blocks(len(rows), batch_size, count)).map_batches(
            _Predictor,
            fn_constructor_args=arguments,
            batch_size=batch_size,
            concurrency=count,
            num_cpus=cores,
            num_gpus=1 if device == "cuda" else 0,
        )
        answers: dict[int, dict[str, Any]] = {}
        for row in mapped.iter_rows():
            if row["error"] and not skip_unreadable:
                raise UnreadableImageError(row["error"])
            answers[int(row["place"])] = row
            advance(1, "")
    yield from _in_order(paths, answers, opened.manifest.model.classes, reporter)


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


def _in_order(
    paths: Sequence[Path], answers: dict[int, dict[str, Any]], classes: Sequence[str], reporter: Reporter
) -> Iterator[Prediction]:
    for place, path in enumerate(paths):
        row = answers[place]
        if row["error"]:
            reporter.warn(row["error"])
            continue
        values = np.asarray(row["probabilities"])
        yield Prediction(str(path), classes[int(values.argmax())], dict(zip(classes, map(float, values), strict=True)))
