"""What predicts is: a stream of images into a stream of answers in the same order, onto the screen or into a file.

Memory does not grow with the number of images.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from ttl_deploy import hardware
from ttl_deploy.artifact import Artifact
from ttl_deploy.errors import BadInputError
from ttl_deploy.prediction.file import PredictionFile, Provenance
from ttl_deploy.prediction.sources import ImageRef, ImageSources
from ttl_deploy.progress import Advance, Reporter
from ttl_deploy.spec import Placement, Table


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
    table: Table = Table(),
    kind: str = "image",
) -> Summary:
    """Adds predictions to a file, and skips the images whose rows are there.

    Args:
        predictor: Who predicts.
        images: As for `predict`.
        out: The file.
        provenance: What makes the rows.
        lines: `csv` or `jsonl`; None: by the ending of `out`.
        overwrite: Begin again instead of going on.
        table: How tables are read.
        kind: Of the inputs, as in `InputSpec`.

    Raises:
        BadInputError: As `predict` with a file.
    """
    stream, total = stream_of(images, predictor.reporter, table, kind)
    has_ids = isinstance(stream, ImageSources) and stream.has_ids
    summary = Summary()
    with PredictionFile(out, lines, provenance.classes, has_ids, provenance, overwrite=overwrite) as file:
        for prediction in predictor.predictions(stream, total, summary, file.take):
            file.write(prediction.image, prediction.id, prediction.label, prediction.probabilities)
            summary.written += 1
    return summary


def stream_of(
    images: Iterable[str], reporter: Reporter, table: Table = Table(), kind: str = "image"
) -> tuple[Iterable[ImageRef], int | None]:
    """The images and how many they are, if that can be known; tells of files that are none."""
    if isinstance(images, str):
        images = [images]
    if isinstance(images, Sequence):
        sources = ImageSources(images, table, kind)
        if table != Table() and not sources.has_tables:
            said = ", ".join(f"--{name.replace('_', '-')}" for name in sorted(table.model_fields_set))
            raise BadInputError("says how a table is read, and there is none", where=said, fix="pass a .csv")
        total = sources.count()
        if sources.passed_over:
            kinds = ", ".join(f"{count} {kind}" for kind, count in sorted(sources.passed_over.items()))
            reporter.info(f"passed over, as no images: {kinds}")
        return sources, total
    return (image for source in images for image in ImageSources([source], table, kind)), None


def provenance_of(artifact: Artifact, placement: Placement) -> Provenance:
    """What makes the rows of a file: this artifact in a chosen engine on a device."""
    manifest = artifact.manifest
    return Provenance(
        model_sha256=manifest.files[manifest.model_file].sha256,
        files={name: record.sha256 for name, record in manifest.files.items()},
        preprocess=manifest.preprocess.digest(),
        classes=manifest.model.classes,
        precision=manifest.precision,
        activation=manifest.activation,
        operating_point=manifest.operating_point,
        runtime=placement.runtime or "",
        device=placement.device,
        artifact=str(artifact.folder),
        hardware=hardware.describe().as_dict(),
        libraries=hardware.library_versions(),
    )


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
