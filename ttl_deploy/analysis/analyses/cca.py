"""Mean CCA over random channels before and after training (Juodelyte 2023, section 3.1).

As many images as give about `ROWS` positions, all of them rows; the rows of one image resemble each other, so that the
curve is to be read against that of two random networks.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from ttl_deploy.analysis.analyses import ANALYSES, IMAGES, START, of_a_run
from ttl_deploy.analysis.features import Floats, Pass, numbers, shapes_at
from ttl_deploy.analysis.finding import Finding, Lines, Series, Table
from ttl_deploy.analysis.networks import unrelated
from ttl_deploy.analysis.reuse import ROWS_PER_COMPONENT
from ttl_deploy.analysis.subject import Subject
from ttl_deploy.analysis.svcca import cca
from ttl_deploy.data.torch_data import ImageBatches
from ttl_deploy.progress import SILENT, Reporter
from ttl_deploy.transfer import TransferModel

ROWS = 20_000
"""Positions of a comparison, at most where an image has fewer."""
CHANNELS = 64
DRAWS = 5


@dataclass
class Draw:
    """Channels and numbers of images by cut; the same for every network.

    Attributes:
        channels: Which, by cut.
        images: How many, by cut: the first of the pass.
        left: Of these, how many are still to come.
    """

    channels: Mapping[str, NDArray[np.int64]]
    images: Mapping[str, int]
    left: dict[str, int] = field(default_factory=dict)

    def begin(self) -> None:
        """Before a pass."""
        self.left = dict(self.images)

    def reduce(self, cut: str, features: Tensor) -> Floats:
        """(rows, channels) of the images of a batch that are wanted."""
        taken = features[: self.left[cut]].flatten(2)
        self.left[cut] -= len(taken)
        return numbers(taken[:, self.channels[cut].tolist()].transpose(1, 2).flatten(0, 1))


def drawn(shapes: Mapping[str, tuple[int, ...]], images: int, generator: np.random.Generator, rows: int = ROWS) -> Draw:
    """Channels and images for features (C, *positions) by cut.

    Args:
        shapes: Of one image's features.
        images: How many there are.
        generator: Draws the channels.
        rows: Positions of all images together; at least one image is taken.
    """
    channels = {c: np.sort(generator.permutation(shape[0])[:CHANNELS]) for c, shape in shapes.items()}
    counts = {c: min(images, max(1, rows // int(np.prod(shape[1:])))) for c, shape in shapes.items()}
    return Draw(channels, counts)


def gathered(
    model: TransferModel, draw: Draw, images: ImageBatches, subject: Subject, reporter: Reporter = SILENT
) -> dict[str, Floats]:
    """(rows, channels) by cut."""
    draw.begin()
    parts: dict[str, list[Floats]] = {cut: [] for cut in draw.images}
    for found in Pass(model, list(draw.images), images, subject.config, draw.reduce, reporter=reporter):
        for cut, rows in found.items():
            parts[cut].append(rows)
    return {cut: np.concatenate(rows) for cut, rows in parts.items()}


def mean_cca(x: NDArray[np.floating], y: NDArray[np.floating]) -> float:
    """The mean of the coefficients; NaN where the rows are too few to tell, or one side does not vary."""
    if len(x) < ROWS_PER_COMPONENT * max(x.shape[1], y.shape[1]) or not (np.ptp(x) and np.ptp(y)):
        return float("nan")
    return float(cca(x, y).mean())


def look(subject: Subject) -> Finding:
    """The mean of `DRAWS` draws of images and channels, and the least and the most of them."""
    own, null, rows = _values(subject)
    table = Table.of(
        ("cut", "rows", "mean", "least", "most", "unrelated_mean"),
        [(c, rows[c], np.mean(own[c]), np.min(own[c]), np.max(own[c]), np.mean(null[c])) for c in subject.cuts],
    )
    series = (
        Series.of("before and after training", [np.mean(own[c]) for c in subject.cuts]),
        Series.of("two random networks", [np.mean(null[c]) for c in subject.cuts]),
    )
    figure = Lines(subject.cuts, series, f"mean CCA of {CHANNELS} channels", span=(0, 1.02))
    facts = {"images": len(subject.seen), "channels": CHANNELS, "draws": DRAWS}
    return Finding(_sentence(series, subject.cuts), {"": table}, {"": figure}, facts)


def _values(subject: Subject) -> tuple[dict[str, list[float]], dict[str, list[float]], dict[str, int]]:
    shapes, available = shapes_at(subject.trained, subject.cuts), subject.seen
    models = [subject.start, subject.trained, *unrelated(subject.run)]
    own: dict[str, list[float]] = {cut: [] for cut in subject.cuts}
    null: dict[str, list[float]] = {cut: [] for cut in subject.cuts}
    rows = dict.fromkeys(subject.cuts, 0)
    for number in range(DRAWS):
        generator = np.random.default_rng((subject.asked.seed, number))
        draw = drawn(shapes, len(available), generator)
        order = generator.permutation(available)[: max(draw.images.values())]
        images = ImageBatches(subject.prepared, subject.prepared.shown(order), subject.config.preprocess)
        before, after, one, another = (gathered(model, draw, images, subject, subject.reporter) for model in models)
        for cut in subject.cuts:
            own[cut].append(mean_cca(before[cut], after[cut]))
            null[cut].append(mean_cca(one[cut], another[cut]))
            rows[cut] = len(before[cut])
    return own, null, rows


def _sentence(series: Sequence[Series], cuts: Sequence[str]) -> str:
    own, null = (line.values for line in series)
    known = [place for place, value in enumerate(own) if value is not None and null[place] is not None]
    if not known:
        return "too few images to tell at any cut."
    bottom, top = known[0], known[-1]
    few = f"; too few images to tell at {len(own) - len(known)} of {len(own)} cuts" if len(known) < len(own) else ""
    return (
        f"mean CCA before and after training {own[bottom]:.2f} at {cuts[bottom]} and {own[top]:.2f} at {cuts[top]} "
        f"(two random networks: {null[bottom]:.2f} and {null[top]:.2f}){few}."
    )


ANALYSES.register("cca", of_a_run(look, START, IMAGES))
