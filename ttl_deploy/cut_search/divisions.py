"""Further divisions of the training and validation images, for cuts that one validation side cannot tell apart.

The test side stays what it is in every one of them: nothing is chosen by it, nor trained on it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ttl_deploy.data.folds import grouped_folds
from ttl_deploy.data.prepared import Prepared, write_split


def write_divisions(prepared: Prepared, folder: Path, count: int) -> list[Path]:
    """Writes up to `count` further divisions as `split.csv` files; fewer where there are too few patients.

    Args:
        prepared: The images in their first division.
        folder: For `1.csv`, `2.csv` …
        count: How many.
    """
    paths = []
    for number, sides in enumerate(_further_sides(prepared, count), start=1):
        paths.append(folder / f"{number}.csv")
        if not paths[-1].exists():
            folder.mkdir(parents=True, exist_ok=True)
            write_split(paths[-1], replace(prepared, sides=sides))
    return paths


def _further_sides(prepared: Prepared, count: int) -> Iterator[NDArray[np.str_]]:
    """Parts of the training side, by patient and stratified, that take the validation side's place in turn.

    As large as the validation side, or as `count` parts have to be; the first validation side is trained on instead.
    """
    training = prepared.indices("train")
    groups = _groups(prepared)[training]
    parts = max(count, 2, round(len(training) / max(1, len(prepared.indices("val")))))
    strata = prepared.task.strata(prepared.labels)
    if len(np.unique(groups)) < parts or np.bincount(strata[training]).max() < parts:
        return
    # In the order of the patients, as the shuffles depend on that of the rows.
    order = training[np.lexsort((training, groups))]
    folds = grouped_folds(strata[order], _groups(prepared)[order], parts, seed=0)
    for part in range(min(count, parts)):
        sides = np.where(prepared.sides == "test", "test", "train").astype("<U5")
        sides[order[folds == part]] = "val"
        whole = set(strata.tolist())
        if all(set(strata[sides == side].tolist()) == whole for side in ("train", "val")):
            yield sides


def _groups(prepared: Prepared) -> NDArray[np.str_]:
    """What stays together: a patient's images, and identical ones with those of a patient who has one of them."""
    owners = {
        digest: patient
        for digest, patient in sorted(zip(prepared.digests, prepared.patients, strict=True), key=str)
        if patient is not None
    }
    pairs = zip(prepared.digests, prepared.patients, strict=True)
    return np.array([f"patient {p}" if (p := patient or owners.get(digest)) else digest for digest, patient in pairs])
