"""Two models' masks of the same images: how far they overlap, and what that does to their overlap with the drawn ones.

The comparison's agreement is of pixels; the images on which two masks overlap least come first. No torch.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ttl_deploy.data.prepared import Prepared
from ttl_deploy.parity.compare import WORST, Comparison
from ttl_deploy.parity.paired import Change, Changes
from ttl_deploy.parity.run_session import logit_batches
from ttl_deploy.runtime import Session
from ttl_deploy.spec import PreprocessSpec
from ttl_deploy.training.measures import measure_of
from ttl_deploy.training.measures.overlap import means, overlap_of, overlaps
from ttl_deploy.training.resampling import Floats
from ttl_deploy.training.run import Predictions

BATCH = 16


def masks_said(session: Session, prepared: Prepared, ids: Sequence[str], preprocess: PreprocessSpec) -> Predictions:
    """What a session says of some images: rows of `overlap.COLUMNS`, and packed masks.

    Args:
        session: Runs them.
        prepared: Holds the images; without drawn masks, rows count as if nothing were inside.
        ids: Which of them.
        preprocess: Their normalisation.
    """
    task, indices = prepared.task, prepared.positions(ids)
    groups = [indices[start : start + BATCH] for start in range(0, len(indices), BATCH)]
    measure, rows, masks = measure_of(task), [], []
    outputs = logit_batches(session, (prepared.pixels(group) for group in groups), preprocess)
    for group, logits in zip(groups, outputs, strict=True):
        targets = prepared.targets(group) if prepared.masks is not None else np.zeros(logits.shape, dtype=np.uint8)
        # What is no number is outside, and told by its cross-entropy, which is none either.
        rows.append(measure.keep(task, logits, targets))
        said = measure.masks(np.nan_to_num(logits, nan=-1.0))
        assert said is not None
        masks.append(said)
    return Predictions(
        tuple(ids), ("test",) * len(ids), prepared.labels[indices], np.concatenate(rows), np.concatenate(masks)
    )


def compare_masks(
    reference: Predictions,
    candidate: Predictions,
    *,
    labelled: bool,
    pixels: int,
    groups: Sequence[str] | None,
    bootstrap: int = 1000,
    seed: int = 0,
) -> Comparison:
    """Compares what two models say of the same images.

    Args:
        reference: Of the reference.
        candidate: Of the candidate, the same images in the same order.
        labelled: Whether masks were drawn, so that the rows count.
        pixels: Of one mask.
        groups: The patient of each image; None: not known.
        bootstrap: Resamples for the interval.
        seed: Seed of the resampling.

    Raises:
        ValueError: There is no image, or the masks are of other sizes.
    """
    if reference.masks is None or candidate.masks is None or reference.masks.shape != candidate.masks.shape:
        raise ValueError("the two say masks of other sizes")
    if not len(reference.masks):
        raise ValueError("there is no image to compare on")
    each = overlap_of(reference.masks, candidate.masks)
    differing = np.bitwise_count(reference.masks ^ candidate.masks).sum(axis=1, dtype=np.int64)
    finite = np.isfinite(reference.logits).all(axis=1) & np.isfinite(candidate.logits).all(axis=1)
    ranking = np.where(finite, each, -1.0)
    return Comparison(
        images=len(each),
        not_finite=int((~finite).sum()),
        max_difference=None,
        mean_difference=None,
        p50_difference=None,
        p95_difference=None,
        p99_difference=None,
        spread=None,
        disagreements=int((differing > 0).sum()),
        label_agreement=1 - float(differing.sum()) / (len(each) * pixels),
        auroc=(None, None),
        auprc=(None, None),
        worst=tuple(int(i) for i in np.argsort(ranking, kind="stable")[:WORST]),
        labelled=labelled,
        changes=_changes(reference, candidate, groups, bootstrap, seed) if labelled else Changes(),
        overlap=(float(each.mean()), float(each.min())),
    )


def drawn_dice(said: Predictions) -> Floats:
    """(N,) Dice of what was said with what was drawn."""
    return overlaps(*said.logits.T[:3])["dice"]


def _changes(
    reference: Predictions, candidate: Predictions, groups: Sequence[str] | None, bootstrap: int, seed: int
) -> Changes:
    before, after = (overlaps(*said.logits.T[:3]) for said in (reference, candidate))
    several = len(set(groups)) > 1 if groups is not None else len(reference.ids) > 1
    count = bootstrap if several else 0
    found = {}
    for name in before:
        moved = after[name] - before[name]
        drawn = means(moved, groups, count, seed)
        low, high = np.percentile(drawn, [2.5, 97.5]) if count else (0.0, 0.0)
        found[name] = Change(
            reference=float(before[name].mean()),
            candidate=float(after[name].mean()),
            difference=float(moved.mean()),
            interval=(float(low), float(high)) if count else None,
        )
    return Changes(**found, patients=None if groups is None else len(set(groups)), bootstrap=count, seed=seed)
