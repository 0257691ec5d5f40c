"""Mean CCA over random channels before and after training (Juodelyte 2023, section 3.1).

As many images as give about `ROWS` positions, all of them rows; the rows of one image resemble each other, so that the
curve is to be read against that of two random networks.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

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
from ttl_deploy.transfer import TransferModel

ROWS = 20_000
"""Positions of a comparison, at most where an image has fewer."""
CHANNELS = 64
DRAWS = 5


@dataclass(frozen=True)
class Sample:
    """What is taken at a cut.

    Attributes:
        channels: Which.
        images: Which of the pass, in order; of each all positions.
    """

    channels: NDArray[np.int64]
    images: NDArray[np.int64]

    def of(self, features: Tensor, begin: int) -> Floats:
        """(rows, channels) of features (N, C, *positions) whose first image is the `begin`-th of the pass."""
        inside = self.images[(self.images >= begin) & (self.images < begin + len(features))] - begin
        taken = features.flatten(2)[inside[:, None], self.channels]
        return numbers(taken.transpose(1, 2).flatten(0, 1))


def samples(
    shapes: Mapping[str, tuple[int, ...]], images: int, seed: int, rows: int = ROWS
) -> dict[str, tuple[Sample, ...]]:
    """`DRAWS` samples by cut, each of as many images as have so many positions together, and of at least one.

    Args:
        shapes: (C, *positions) of one image's features by cut.
        images: How many there are.
        seed: Of the draws.
        rows: Positions of a sample.
    """
    generator = np.random.default_rng(seed)

    def draw(channels: int, positions: int) -> Sample:
        count = min(images, max(1, rows // positions))
        return Sample(_some(generator, channels, min(channels, CHANNELS)), _some(generator, images, count))

    places = {cut: int(np.prod(shape[1:])) for cut, shape in shapes.items()}
    return {cut: tuple(draw(shape[0], places[cut]) for _ in range(DRAWS)) for cut, shape in shapes.items()}


def _some(generator: np.random.Generator, of: int, count: int) -> NDArray[np.int64]:
    return np.sort(generator.permutation(of)[:count]).astype(np.int64)


def gathered(subject: Subject, model: TransferModel, taken: Mapping[str, Sequence[Sample]]) -> dict[str, list[Floats]]:
    """(rows, channels) of each sample by cut, of the images on which networks are compared."""
    rows = subject.seen
    images = ImageBatches(subject.prepared, subject.prepared.shown(rows), subject.config.preprocess)
    parts: dict[str, list[list[Floats]]] = {cut: [[] for _ in own] for cut, own in taken.items()}
    begun = dict.fromkeys(taken, 0)

    def reduce(cut: str, features: Tensor) -> None:
        for part, sample in zip(parts[cut], taken[cut], strict=True):
            part.append(sample.of(features, begun[cut]))
        begun[cut] += len(features)

    for _nothing in Pass(model, list(taken), images, subject.config, reduce, reporter=subject.reporter):
        pass
    return {cut: [np.concatenate(part) for part in lists] for cut, lists in parts.items()}


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
    titles = {"": "Features before and after training (CCA)"}
    return Finding(_sentence(series, subject.cuts), {"": table}, {"": figure}, facts, titles)


def _values(subject: Subject) -> tuple[dict[str, list[float]], dict[str, list[float]], dict[str, int]]:
    taken = samples(shapes_at(subject.trained, subject.cuts), len(subject.seen), subject.asked.seed)
    own, rows = _compared(subject, subject.start, subject.trained, taken)
    one, another = unrelated(subject.run)
    null, _same = _compared(subject, one, another, taken)
    return own, null, rows


def _compared(
    subject: Subject, first: TransferModel, second: TransferModel, taken: Mapping[str, Sequence[Sample]]
) -> tuple[dict[str, list[float]], dict[str, int]]:
    """Mean CCA of each sample, and the rows of one, by cut."""
    one, other = gathered(subject, first, taken), gathered(subject, second, taken)
    values = {cut: [mean_cca(x, y) for x, y in zip(one[cut], other[cut], strict=True)] for cut in taken}
    return values, {cut: len(one[cut][0]) for cut in taken}


def _sentence(series: Sequence[Series], cuts: Sequence[str]) -> str:
    own, null = (line.values for line in series)
    known = [place for place, value in enumerate(own) if value is not None and null[place] is not None]
    if not known:
        return "Too few images to tell at any cut."
    bottom, top = known[0], known[-1]
    few = f"; too few images to tell at {len(own) - len(known)} of {len(own)} cuts" if len(known) < len(own) else ""
    return (
        f"Mean CCA before and after training {own[bottom]:.2f} at {cuts[bottom]} and {own[top]:.2f} at {cuts[top]} "
        f"(two random networks: {null[bottom]:.2f} and {null[top]:.2f}){few}."
    )


ANALYSES.register("cca", of_a_run(look, START, IMAGES))
