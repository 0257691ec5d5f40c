"""The first filters of a network before and after training, as pictures (Raghu 2019, Fig. 5; Juodelyte 2023)."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from ttl_deploy.analysis.analyses import ANALYSES, START, of_a_run
from ttl_deploy.analysis.finding import Finding, Grids, Table
from ttl_deploy.analysis.subject import Subject
from ttl_deploy.errors import BadInputError
from ttl_deploy.zoo import BACKBONES

SHOWN = 36

_GREY_OR_COLOUR = (1, 3)

Floats = NDArray[np.float64]


def pictures(filters: Floats) -> Floats:
    """Filters (N, C, *positions) as pictures (N, H, W, 1 or 3), each from its least value, 0, to its largest, 1.

    Of a filter of volumes the middle slice is shown, and of other channels than one or three their mean.
    """
    flat = filters
    while flat.ndim > 4:
        flat = flat[:, :, flat.shape[2] // 2]
    if flat.shape[1] not in _GREY_OR_COLOUR:
        flat = flat.mean(axis=1, keepdims=True)
    moved = np.moveaxis(flat, 1, -1)
    least, most = (extreme(moved, axis=(1, 2, 3), keepdims=True) for extreme in (np.min, np.max))
    return np.asarray((moved - least) / np.where(most > least, most - least, 1.0))


def look(subject: Subject) -> Finding:
    """Also how far each of all filters moved, in parts of its length, and the cosine with what it was."""
    before, after = (_first(subject, model.network_state()) for model in (subject.start, subject.trained))
    old, new = before.reshape(len(before), -1), after.reshape(len(after), -1)
    lengths = np.linalg.norm(old, axis=1)
    with np.errstate(divide="ignore", invalid="ignore"):
        moved = np.linalg.norm(new - old, axis=1) / lengths
        cosines = (old * new).sum(axis=1) / (lengths * np.linalg.norm(new, axis=1))
    table = Table.of(("filter", "moved", "cosine"), zip(range(len(old)), moved, cosines, strict=True))
    grids = Grids((("before training", pictures(before[:SHOWN])), ("after training", pictures(after[:SHOWN]))))
    return Finding(
        f"The median of {len(old)} first filters moved by {np.nanmedian(moved):.1%} of its length, the most by "
        f"{np.nanmax(moved):.1%}.",
        {"": table},
        {"": grids},
        {"shown": min(SHOWN, len(old))},
        {"": "The first filters before and after training"},
    )


def _first(subject: Subject, state: dict[str, Tensor]) -> Floats:
    name = BACKBONES.get(subject.config.model.backbone).first_weight
    weight = state.get(name)
    if weight is None or weight.ndim < 4:
        what = f"begins with no convolution whose filters could be shown ({name})"
        raise BadInputError(what, where=subject.run.folder, fix="pass a run of another network")
    return weight.double().cpu().numpy()


ANALYSES.register("filters", of_a_run(look, START))
