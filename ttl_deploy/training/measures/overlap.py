"""Masks: how far what is said and what was drawn overlap, for each image (paper, appendix A.2).

Dice is 2 |A and B| / (|A| + |B|), Jaccard |A and B| / |A or B|, both 1 where both masks are empty. The mean and the
standard deviation are over images, as the paper's can only be; intervals are by patient.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from ttl_deploy.spec import Record
from ttl_deploy.tasks import Labels, Task
from ttl_deploy.training.intervals import Interval, least_error_of
from ttl_deploy.training.measures import MEASURES, Measure, Rows
from ttl_deploy.training.resampling import Floats, numbered, totals

COLUMNS = ("pixels_both", "pixels_said", "pixels_drawn", "cross_entropy", "soft_dice")
SMOOTH = 1.0
"""Pixels that the soft Dice takes for inside on both sides, so that an empty mask has one too."""
_CELLS_AT_ONCE = 4_000_000


class MaskMetrics(Record):
    """All numbers of an evaluation of masks.

    Attributes:
        images: How many images.
        patients: How many patients; None where they are not known, so that every image counts as one.
        dice: Mean over the images.
        dice_std: Standard deviation over the images (n - 1).
        dice_interval: 95 % of the mean, percentiles of the bootstrap over patients.
        jaccard: Likewise.
        jaccard_std: Likewise.
        jaccard_interval: Likewise.
        least_dice: Of the worst image.
        cross_entropy: Mean over the images of the mean over their pixels, nats.
        bootstrap: How many resamples; 0 where there are none.
        seed: Seed of the resampling.
    """

    images: int
    patients: int | None
    dice: float
    dice_std: float | None
    dice_interval: Interval | None
    jaccard: float
    jaccard_std: float | None
    jaccard_interval: Interval | None
    least_dice: float
    cross_entropy: float
    bootstrap: int
    seed: int = 0
    caution: str | None = Field(default=None, exclude_if=lambda text: text is None)


def overlaps(both: NDArray[Any], said: NDArray[Any], drawn: NDArray[Any]) -> dict[str, Floats]:
    """Dice and Jaccard of each image, from how many pixels are inside both, what was said, and what was drawn."""
    both, total = np.asarray(both, dtype=np.float64), np.asarray(said, np.float64) + np.asarray(drawn, np.float64)
    empty = total == 0
    dice = np.where(empty, 1.0, 2 * both / np.where(empty, 1, total))
    return {"dice": dice, "jaccard": np.where(empty, 1.0, both / np.where(empty, 1, total - both))}


def packed(outputs: NDArray[Any]) -> NDArray[np.uint8]:
    """Which pixels are inside, eight to a byte: (N, bytes) of logits (N, 1, H, W)."""
    return np.packbits((np.asarray(outputs) >= 0).reshape(len(outputs), -1), axis=1)


def unpacked(masks: NDArray[np.uint8], size: Sequence[int]) -> NDArray[np.uint8]:
    """(N, H, W) of 0 and 1 of packed masks of a size (H, W)."""
    pixels = int(np.prod(size))
    return np.unpackbits(masks, axis=1, count=pixels).reshape(len(masks), *size)


def overlap_of(one: NDArray[np.uint8], other: NDArray[np.uint8]) -> Floats:
    """(N,) Dice of two sets of packed masks."""
    counts = (np.bitwise_count(masks).sum(axis=1, dtype=np.int64) for masks in (one & other, one, other))
    return overlaps(*counts)["dice"]


def means(values: Floats, groups: Sequence[str] | None, count: int, seed: int = 0) -> Floats:
    """The mean on resamples of whole patients.

    Args:
        values: (N,) or (N, M); the last axis stays.
        groups: The patient of each image; None: each image is one.
        count: How many resamples.
        seed: Of the resampling; the resamples depend on it and the groups alone.
    """
    clusters = numbered(groups, len(values))
    patients = int(clusters.max()) + 1
    sums, sizes = totals(values.reshape(len(values), -1), clusters), np.bincount(clusters).astype(np.float64)
    generator = np.random.default_rng(seed)
    parts = []
    step = max(1, _CELLS_AT_ONCE // patients)
    for start in range(0, count, step):
        drawn = generator.multinomial(patients, np.full(patients, 1 / patients), size=min(step, count - start))
        parts.append((drawn @ sums) / (drawn @ sizes)[:, None])
    found = np.concatenate(parts) if parts else np.empty((0, sums.shape[1]))
    return found.reshape(count, *values.shape[1:])


class Overlap(Measure):
    """Keeps how many pixels are inside, and the two parts of the loss."""

    def columns(self, task: Task) -> tuple[str, ...]:
        """See `COLUMNS`."""
        return COLUMNS

    def keep(self, task: Task, outputs: NDArray[np.float32], targets: NDArray[Any]) -> Rows:
        """See `COLUMNS`; the loss is computed in float64."""
        logits = outputs.reshape(len(outputs), -1).astype(np.float64)
        drawn = targets.reshape(len(targets), -1) > 0
        said = logits >= 0
        probabilities = task.probabilities(logits)
        entropy = (np.logaddexp(0, logits) - logits * drawn).mean(axis=1)
        together = (probabilities * drawn).sum(axis=1)
        soft = (2 * together + SMOOTH) / (probabilities.sum(axis=1) + drawn.sum(axis=1) + SMOOTH)
        counts = ((said & drawn).sum(axis=1), said.sum(axis=1), drawn.sum(axis=1))
        return np.stack([*counts, entropy, soft], axis=1).astype(np.float32)

    def masks(self, outputs: NDArray[np.float32]) -> NDArray[np.uint8] | None:
        """See `packed`."""
        return packed(outputs)

    def loss(self, rows: Rows) -> float | None:
        """Cross-entropy, and what the soft Dice lacks of 1."""
        return float((rows[:, 3].astype(np.float64) + 1 - rows[:, 4]).mean())

    def untellable(self, task: Task, labels: Labels) -> bool:
        """Never: a mask says something by itself."""
        return False

    def quick(self, task: Task, labels: Labels, rows: Rows) -> dict[str, float]:
        """See `Measure.quick`."""
        return {name: float(values.mean()) for name, values in _overlaps(rows).items()}

    def each(self, rows: Rows) -> dict[str, Floats]:
        """Dice and Jaccard."""
        return _overlaps(rows)

    def evaluate(
        self, task: Task, labels: Labels, rows: Rows, *, groups: Sequence[str] | None = None, bootstrap: int = 1000
    ) -> MaskMetrics:
        """See `Measure.evaluate`."""
        found: dict[str, Any] = {}
        values = _overlaps(rows)
        patients = None if groups is None else len(set(groups))
        several = (len(rows) if patients is None else patients) > 1
        for name, each in values.items():
            found[name] = float(each.mean())
            found[f"{name}_std"] = float(each.std(ddof=1)) if len(each) > 1 else None
            drawn = means(each, groups, bootstrap) if bootstrap and several else None
            found[f"{name}_interval"] = None if drawn is None else tuple(map(float, np.percentile(drawn, [2.5, 97.5])))
        return MaskMetrics(
            images=len(rows),
            patients=patients,
            least_dice=float(values["dice"].min()),
            cross_entropy=float(rows[:, 3].mean(dtype=np.float64)),
            bootstrap=bootstrap if several else 0,
            **found,
        )

    def resampled(
        self, task: Task, labels: Labels, rows: Rows, metric: str, *, groups: Sequence[str], bootstrap: int
    ) -> Floats:
        """See `Measure.resampled`."""
        return means(_overlaps(rows)[metric], groups, bootstrap)

    def floor(self, task: Task, labels: Labels, groups: Sequence[str]) -> float:
        """As of a proportion of as many patients."""
        return least_error_of(len(set(groups)))


def _overlaps(rows: Rows) -> dict[str, Floats]:
    return overlaps(rows[:, 0], rows[:, 1], rows[:, 2])


MEASURES.register("overlap", Overlap())
