"""The command `predict`: an artifact and images in, answers out, as a stream or into a file to go on with."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import overload

from ttl_deploy import runtime as runtimes
from ttl_deploy.artifact import open_artifact
from ttl_deploy.errors import BadInputError
from ttl_deploy.prediction.dicom_seg import Algorithm
from ttl_deploy.prediction.local import LocalPredictor
from ttl_deploy.prediction.masks import refuse_masks
from ttl_deploy.prediction.predictor import (
    Prediction,
    Predictor,
    Summary,
    provenance_of,
    stream_of,
    write_predictions,
)
from ttl_deploy.progress import SILENT, Reporter
from ttl_deploy.spec import Placement, Stream, Table, Trust
from ttl_deploy.tasks import possible_task

_Begin = Callable[[], AbstractContextManager[Predictor]]


@overload
def predict(
    artifact: str | Path,
    images: Iterable[str],
    *,
    out: None = None,
    placement: Placement = Placement(),
    stream: Stream = Stream(),
    trust: Trust = Trust(),
    table: Table = Table(),
    reporter: Reporter = SILENT,
) -> Iterator[Prediction]: ...


@overload
def predict(
    artifact: str | Path,
    images: Iterable[str],
    *,
    out: str | Path,
    overwrite: bool = False,
    lines: str | None = None,
    placement: Placement = Placement(),
    stream: Stream = Stream(),
    trust: Trust = Trust(),
    table: Table = Table(),
    reporter: Reporter = SILENT,
) -> Summary: ...


def predict(
    artifact: str | Path,
    images: Iterable[str],
    *,
    out: str | Path | None = None,
    overwrite: bool = False,
    lines: str | None = None,
    placement: Placement = Placement(),
    stream: Stream = Stream(),
    trust: Trust = Trust(),
    table: Table = Table(),
    reporter: Reporter = SILENT,
) -> Iterator[Prediction] | Summary:
    """Class probabilities of images, in their order, as a stream: a million images need no more memory than a hundred.

    With `out` they go into a file, with which a killed command can go on: images whose rows are there are skipped.
    What was begun on this machine may be gone on with over a cluster, and the other way round.

    Args:
        artifact: Folder of the artifact; for a cluster on a file system that every node sees, likewise the images.
        images: Files, folders, patterns or CSV files with the column `path` and, where wanted, `id`. An iterator is
            taken as it comes, one source after the other, and nothing is counted beforehand.
        out: The file; beside it `OUT.meta.json` says which model, engine and machine made it. None: a stream.
        overwrite: Begin the file again instead of going on.
        lines: Of the file, `csv` or `jsonl`; None: by the ending of `out`, csv where it says nothing.
        placement: Where the model runs. On a cluster each worker takes one GPU where the device is `cuda`, and as many
            cores as threads, 1 where they are None.
        stream: How the images go through it, here or over a cluster.
        trust: Whose artifact it may be; for a cluster, the key is a file that every node sees.
        table: How CSV files are read.
        reporter: Told of progress.

    Returns:
        The predictions; with `out`, how many rows were written.

    A model that says masks writes them into the folder `stream.masks`; a prediction's label is then its mask's path,
    and its one number the share of the image that is inside.

    Raises:
        BadInputError: No image, an image cannot be read, or the file was written by another model.
        IntegrityError: The artifact or the file was changed, the artifact is not signed by the key, or is native code
            that nobody answers for.
        MissingDependencyError: Ray is not installed.
        StorageError: The disk is full, read-only or failing; what is written stays, and the command can be repeated.
    """
    opened = open_artifact(Path(artifact), trust=trust)
    task = possible_task(opened.manifest.model, opened.manifest.operating_point)
    refuse_masks(task, stream)
    if opened.manifest.preprocess.windows is not None and stream.engine != "local":
        what = "studies read in windows are not predicted over a cluster"
        raise BadInputError(what, where="--engine", fix="pass --engine local")
    chosen = placement.replace(runtime=runtimes.runtime_for(opened, placement).name)

    @contextmanager
    def here() -> Iterator[Predictor]:
        with runtimes.load(opened, chosen) as session:
            yield LocalPredictor(opened.manifest.preprocess, session, stream, reporter, Algorithm.of(opened))

    def there() -> AbstractContextManager[Predictor]:
        from ttl_deploy.prediction.cluster import RayPredictor

        return nullcontext(RayPredictor(opened, chosen, stream, trust, reporter))

    kind = opened.manifest.model.input.kind
    begin = here if stream.engine == "local" else there
    if out is None:
        return _streamed(begin, images, reporter, table, kind)
    with begin() as predictor:
        made_by = provenance_of(opened, chosen)
        return write_predictions(
            predictor, images, Path(out), made_by, lines=lines, overwrite=overwrite, table=table, kind=kind
        )


def _streamed(
    begin: _Begin, images: Iterable[str], reporter: Reporter, table: Table, kind: str
) -> Iterator[Prediction]:
    refs, total = stream_of(images, reporter, table, kind)
    with begin() as predictor:
        yield from predictor.predictions(refs, total, Summary())
