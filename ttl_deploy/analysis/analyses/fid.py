"""How far apart the images of data sets lie: the Fréchet distance of their features (Matsoukas 2022, section 2).

Between the training and test sides of all runs, each set of images once; of one run it shows whether its test side is
another kind of image than it was trained on. The features are of the first run's network before its first step, at its
topmost cut and pooled. The published distance (FID) is of Inception-v3's; of other features its digits do not compare.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ttl_deploy.analysis.analyses import ANALYSES, IMAGES, START, Need, of_all_runs
from ttl_deploy.analysis.features import Floats, pooled_features
from ttl_deploy.analysis.finding import Finding, Map, Maps, Table
from ttl_deploy.analysis.frechet import by_chance, frechet
from ttl_deploy.analysis.subject import Indices, Subject
from ttl_deploy.errors import BadInputError

DRAWS = 10
"""Times that images are dealt out anew."""
SIDES = {"train": "training side", "test": "test side"}

_INCEPTION = ("inception_v3", 2048)


def _same_input(subjects: Sequence[Subject]) -> None:
    first = subjects[0]
    for subject in subjects[1:]:
        if subject.config.preprocess.input != first.config.preprocess.input:
            what = f"reads images of another size or kind than {first.name}, whose network looks at all of them"
            raise BadInputError(what, where=subject.run.folder, fix="pass runs of images of one size")


def _start_of_first(subjects: Sequence[Subject]) -> None:
    START.check(subjects[:1])


SAME_INPUT = Need(_same_input, 2)
"""Images of one shape, so that one network reads all."""
FIRST_START = Need(_start_of_first, START.order)
"""The starting weights of the first run."""


@dataclass(frozen=True, eq=False)
class Cloud:
    """A set of images.

    Attributes:
        name: What it is called.
        features: (N, D) of them.
        patients: Of each image; its id where nobody is known.
    """

    name: str
    features: Floats
    patients: tuple[str, ...]


def look(subjects: Sequence[Subject]) -> Finding:
    """Of every pair of sets, beside what comes of dealing both sets' patients out anew: sizes alone make a distance."""
    clouds = _clouds(subjects)
    pairs = list(itertools.combinations(range(len(clouds)), 2))
    if not pairs:
        raise BadInputError("there is but one set of images", where=subjects[0].run.folder, fix="pass another run")
    found = {pair: frechet(*(clouds[k].features for k in pair)) for pair in pairs}
    chance = {pair: _chance(clouds[pair[0]], clouds[pair[1]], subjects[0].asked.seed) for pair in pairs}
    columns = ("first", "second", "images_first", "images_second", "distance", "chance_mean", "chance_most")
    rows = [
        (*(clouds[k].name for k in p), *(len(clouds[k].features) for k in p), found[p], np.mean(drawn), max(drawn))
        for p, drawn in chance.items()
    ]
    first = subjects[0]
    features = clouds[0].features.shape[1]
    facts = {"backbone": first.config.model.backbone, "cut": first.cuts[-1], "features": features, "draws": DRAWS}
    return Finding(
        _sentence(first, clouds, found, chance),
        {"": Table.of(columns, rows)},
        {"": _maps(clouds, found, {pair: float(np.mean(drawn)) for pair, drawn in chance.items()})},
        facts,
        {"": "How far apart the images of the sides lie (Fréchet distance)"},
    )


def _clouds(subjects: Sequence[Subject]) -> list[Cloud]:
    """The sides of all runs, the same images once."""
    met: dict[frozenset[str], Cloud] = {}
    several = len({subject.prepared.digests for subject in subjects}) > 1
    for subject in subjects:
        for side, words in SIDES.items():
            rows = subject.side(side)
            key = frozenset(subject.prepared.digests[i] for i in rows)
            if len(rows) > 1 and key not in met:
                met[key] = _cloud(subjects[0], subject, rows, f"{subject.name}, {words}" if several else words)
    return list(met.values())


def _cloud(first: Subject, subject: Subject, rows: Indices, name: str) -> Cloud:
    cut, images = first.cuts[-1], subject.prepared
    found = pooled_features(first.start, [cut], images, rows, first.config, reporter=subject.reporter)[cut]
    return Cloud(name, found, tuple(images.patients[i] or images.ids[i] for i in rows))


def _chance(first: Cloud, second: Cloud, seed: int) -> list[float]:
    groups = np.unique((*first.patients, *second.patients), return_inverse=True)[1].astype(np.int64)
    return by_chance(first.features, second.features, seed, DRAWS, groups)


def _maps(clouds: Sequence[Cloud], found: dict[tuple[int, int], float], chance: dict[tuple[int, int], float]) -> Maps:
    names = tuple(cloud.name for cloud in clouds)
    both = [("Fréchet distance", found), ("if dealt out by chance, mean", chance)]
    most = max((*found.values(), *chance.values(), 1e-12))
    return Maps(
        tuple(Map(title, names, names, _matrix(values, len(names))) for title, values in both), written=True, most=most
    )


def _matrix(values: dict[tuple[int, int], float], count: int) -> NDArray[np.float64]:
    matrix = np.zeros((count, count))
    for (i, k), value in values.items():
        matrix[i, k] = matrix[k, i] = value
    return matrix


def _sentence(
    first: Subject,
    clouds: Sequence[Cloud],
    found: dict[tuple[int, int], float],
    chance: dict[tuple[int, int], list[float]],
) -> str:
    farthest = max(found, key=lambda pair: found[pair])
    one, other = (clouds[k] for k in farthest)
    features, drawn = one.features.shape[1], chance[farthest]
    of = "" if len(found) == 1 else f" of {len(found)} pairs the largest,"
    least = min(len(cloud.features) for cloud in clouds)
    few = (
        f" Of {least} images for {features} features the distance comes out too large, and chance's likewise."
        if least <= features
        else ""
    )
    return (
        f"Fréchet distance in the {features} features of {first.config.model.backbone} after {first.cuts[-1]}, as "
        f"{first.name} began:{of} {found[farthest]:.3g} between {one.name} ({len(one.features)} images) and "
        f"{other.name} ({len(other.features)}); {min(drawn):.3g} to {max(drawn):.3g} where their patients are "
        f"dealt out by chance.{few} {_published(first, features)}"
    )


def _published(first: Subject, features: int) -> str:
    if (first.config.model.backbone, features) == _INCEPTION:
        return "The published FID is of such features with other weights: it compares in kind, not in its digits."
    return "It is not the published FID, which is of Inception-v3's 2048 features."


ANALYSES.register("fid", of_all_runs(look, SAME_INPUT, FIRST_START, IMAGES))
