"""Between which two models of a chain the logits first part by more than they may, and whether they are only swapped.

Facts in, a finding in words out. No torch.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from ttl_deploy.parity.compare import same
from ttl_deploy.parity.graphs import GraphComparison
from ttl_deploy.parity.shift import SMALLEST_SPREAD
from ttl_deploy.spec import Record
from ttl_deploy.tasks import Labels, Task

FP32_LOGIT_BOUND = 2e-4
"""What a step between fp32 and fp32 may change a logit by, in units of the logits' spread: above what another order of
summation was seen to move the worst of hundreds of images by, below what float16 weights move it by."""
LOW_PRECISION_LOGIT_BOUND = 0.25
"""The same for a step into or inside a lower precision, which moves every logit by design."""


@dataclass(frozen=True)
class Stage:
    """One model of the chain.

    Attributes:
        name: What it is.
        precision: `fp32`, or what it computes in.
        logits: (N, classes), of the same input as all others.
    """

    name: str
    precision: str
    logits: NDArray[np.float32]


class Step(Record):
    """From one stage to the next.

    Attributes:
        start: The stage before.
        end: The stage after.
        difference: Largest difference of a logit; None where one is not finite.
        bound: What it may be: `FP32_LOGIT_BOUND` or `LOW_PRECISION_LOGIT_BOUND` times the spread of the logits.
        agreement: Fraction of images with the same decision.
        exceeds: Whether the difference is larger.
    """

    start: str
    end: str
    difference: float | None
    bound: float
    agreement: float
    exceeds: bool


class Location(Record):
    """Where a difference comes from.

    Attributes:
        kind: `classes` (the records name them in another order), `preprocessing` (the records differ), `swapped` (the
            outputs are permuted), `step` (a step of the chain), `nowhere` (every step is within its bound).
        sentence: The finding in one line.
        images: How many images the chain ran on.
        steps: The chain.
        graph: The inside of the step, where it can be seen.
    """

    kind: Literal["classes", "preprocessing", "swapped", "step", "nowhere"]
    sentence: str
    images: int = 0
    steps: tuple[Step, ...] = ()
    graph: GraphComparison | None = None


def steps_of(stages: Sequence[Stage], task: Task, most: float | None = None) -> tuple[Step, ...]:
    """Compares each stage with the one before.

    Args:
        stages: The chain; the spread of the first one's logits is the unit of the bounds.
        task: What the logits mean, and where it decides.
        most: The largest difference allowed in that unit; None: by the precision of each step.
    """
    spread = max(float(np.nan_to_num(stages[0].logits.astype(np.float64).std(axis=0)).max()), SMALLEST_SPREAD)
    return tuple(_step(*pair, task, spread, most) for pair in itertools.pairwise(stages))


def first_exceeding(steps: Sequence[Step]) -> int | None:
    """Position of the first step whose difference is larger than it may be."""
    return next((i for i, step in enumerate(steps) if step.exceeds), None)


def permutation(reference: NDArray[np.float32], candidate: NDArray[np.float32], bound: float) -> list[int] | None:
    """The order in which the candidate's outputs are the reference's; None where no other order than theirs fits.

    Args:
        reference: (N, K).
        candidate: (N, K).
        bound: Largest difference of a logit with which it fits.
    """
    from scipy.optimize import linear_sum_assignment

    if not (np.isfinite(reference).all() and np.isfinite(candidate).all()):
        return None
    gaps = np.abs(reference[:, :, None].astype(np.float64) - candidate[:, None, :]).max(axis=0)
    order = [int(k) for k in linear_sum_assignment(gaps)[1]]
    if order == sorted(order) or max(gaps[k, order[k]] for k in range(len(order))) > bound:
        return None
    return order


def _step(before: Stage, after: Stage, task: Task, spread: float, most: float | None) -> Step:
    low = {before.precision, after.precision} != {"fp32"}
    factor = most or (LOW_PRECISION_LOGIT_BOUND if low else FP32_LOGIT_BOUND)
    finite = np.isfinite(before.logits).all() and np.isfinite(after.logits).all()
    difference = float(np.abs(before.logits - after.logits).max()) if finite else None
    return Step(
        start=before.name,
        end=after.name,
        difference=difference,
        bound=factor * spread,
        agreement=float(same(_decided(before, task), _decided(after, task)).mean()),
        exceeds=difference is None or difference > factor * spread,
    )


def _decided(stage: Stage, task: Task) -> Labels:
    """What is no number decides like zero; such a step exceeds its bound anyway."""
    return task.decide_by_logits(np.nan_to_num(stage.logits.astype(np.float64)))
