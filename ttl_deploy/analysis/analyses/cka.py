"""Linear CKA of every pair of cuts, before training and after it, and before and before (Matsoukas 2022, Fig. 3).

Images go through in batches of 64, of which nothing but a Gram matrix per cut is kept.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from ttl_deploy.analysis.analyses import ANALYSES, IMAGES, START, of_a_run
from ttl_deploy.analysis.cka import BATCH, LEAST, Alignment
from ttl_deploy.analysis.features import Pass
from ttl_deploy.analysis.finding import Finding, Lines, Map, Maps, Series, Table
from ttl_deploy.analysis.subject import Subject
from ttl_deploy.data.torch_data import ImageBatches
from ttl_deploy.errors import BadInputError

Gram = NDArray[np.float64]


def gram(_cut: str, features: Tensor) -> Gram:
    """Inner products (N, N) of images' features less their mean: no CKA changes, and float32 is exact enough."""
    flat = features.flatten(1).float()
    flat = flat - flat.mean(0)
    return np.asarray((flat @ flat.T).double().cpu().numpy())


def look(subject: Subject) -> Finding:
    """Whole batches only: a smaller last one would count as much as a whole one."""
    rows = subject.seen
    if len(rows) < LEAST:
        what = f"needs {LEAST} images outside the test side, and there are {len(rows)}"
        raise BadInputError(what, where=subject.run.folder, fix="pass a run with more images")
    rows = rows[: max(len(rows) // BATCH * BATCH, min(len(rows), BATCH))]
    across, within = _aligned(subject, rows)
    both = {"before-after": across, "before-before": within}
    tables = {name: _table(subject.cuts, alignment) for name, alignment in both.items()}
    return Finding(
        _sentence(subject.cuts, np.diag(across.ratio_of_means)),
        {"": _diagonal(subject.cuts, across), **tables},
        {"": _lines(subject.cuts, across), "pairs": _maps(subject.cuts, across, within)},
        {"images": len(rows), "batches": across.batches},
        {"": "Features before and after training (CKA)", "pairs": "Every cut beside every other (CKA)"},
    )


def _aligned(subject: Subject, rows: NDArray[np.int64]) -> tuple[Alignment, Alignment]:
    images = ImageBatches(subject.prepared, subject.prepared.shown(rows), subject.config.preprocess)
    shared = (subject.cuts, images, subject.config, gram, BATCH)
    before, after = Pass(subject.start, *shared, reporter=subject.reporter), Pass(subject.trained, *shared)
    across, within = Alignment(), Alignment()
    for first, second in zip(before, after, strict=True):
        own = [first[cut] for cut in subject.cuts]
        across.add(own, [second[cut] for cut in subject.cuts])
        within.add(own, own)
    return across, within


def _table(cuts: Sequence[str], alignment: Alignment) -> Table:
    means, ratios = alignment.ratio_of_means, alignment.mean_of_ratios
    rows = [(one, other, means[i, k], ratios[i, k]) for i, one in enumerate(cuts) for k, other in enumerate(cuts)]
    return Table.of(("first", "second", "cka", "cka_mean_of_batches"), rows)


def _diagonal(cuts: Sequence[str], across: Alignment) -> Table:
    means, ratios = np.diag(across.ratio_of_means), np.diag(across.mean_of_ratios)
    return Table.of(("cut", "cka", "cka_mean_of_batches"), zip(cuts, means, ratios, strict=True))


def _lines(cuts: Sequence[str], across: Alignment) -> Lines:
    series = (
        Series.of("HSIC averaged first", np.diag(across.ratio_of_means)),
        Series.of("mean of the batches", np.diag(across.mean_of_ratios)),
    )
    return Lines(tuple(cuts), series, "CKA before and after training", span=(min(0.0, _least(series)), 1.02))


def _least(series: Sequence[Series]) -> float:
    return min((value for line in series for value in line.values if value is not None), default=0.0)


def _maps(cuts: Sequence[str], across: Alignment, within: Alignment) -> Maps:
    names = tuple(cuts)
    maps = (
        Map("before and after training", names, names, across.ratio_of_means, "after training"),
        Map("before and before", names, names, within.ratio_of_means, "before training"),
    )
    return Maps(maps, upward="before training")


def _sentence(cuts: Sequence[str], diagonal: NDArray[np.float64]) -> str:
    least = int(np.nanargmin(diagonal)) if np.isfinite(diagonal).any() else 0
    return (
        f"CKA of a cut before and after training {diagonal[0]:.2f} at {cuts[0]} and {diagonal[-1]:.2f} at {cuts[-1]}, "
        f"least at {cuts[least]} ({diagonal[least]:.2f})."
    )


ANALYSES.register("cka", of_a_run(look, START, IMAGES))
