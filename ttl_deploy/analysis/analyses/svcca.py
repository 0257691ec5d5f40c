"""SVCCA before and after training at every cut, beside two networks that share nothing (Peng 2023, Figures 3, 4, 7)."""

from __future__ import annotations

from collections.abc import Sequence

from ttl_deploy.analysis.analyses import ANALYSES, IMAGES, START, of_a_run
from ttl_deploy.analysis.features import sampled_features
from ttl_deploy.analysis.finding import Finding, Lines, Panels, Series, Table
from ttl_deploy.analysis.networks import unrelated
from ttl_deploy.analysis.reuse import ROWS_PER_COMPONENT, Reuse, detect_cut, reuse_of
from ttl_deploy.analysis.subject import Subject

_KINDS = ("coefficients", "unrelated", "gaussian")
_NAMES = ("before and after training", "two random networks", "Gaussian features")


def look(subject: Subject) -> Finding:
    """One position of each image that is not of the test side, as the search's strategy `svcca` takes them."""
    models = [subject.start, subject.trained, *unrelated(subject.run)]
    rows = subject.seen
    features = sampled_features(
        models, subject.cuts, subject.prepared, rows, subject.config, seed=subject.asked.seed, reporter=subject.reporter
    )
    reuses = [reuse_of(cut, found, subject.run.config.seed) for cut, found in features.items()]
    cut = detect_cut(reuses)
    return Finding(
        _sentence(reuses, cut),
        {"": _means(reuses), "coefficients": _coefficients(reuses)},
        {"": _lines(reuses, cut), "coefficients": _panels([r for r in reuses if r.cut in subject.ends])},
        {"images": len(rows), "reuse_ends_after": cut},
        {"": "Features before and after training (SVCCA)", "coefficients": "Their coefficients at each block (SVCCA)"},
    )


def _sentence(reuses: Sequence[Reuse], cut: str | None) -> str:
    bottom, top = reuses[0], reuses[-1]
    told = (
        f"Mean coefficient before and after training {bottom.mean:.2f} at {bottom.cut} and {top.mean:.2f} at {top.cut} "
        f"(two random networks: {bottom.unrelated_mean:.2f} and {top.unrelated_mean:.2f})"
    )
    if cut is None:
        few = next(reuse for reuse in reuses if not reuse.tells)
        needed = ROWS_PER_COMPONENT * few.components
        return f"{told}; too few images to tell where reuse ends: {few.rows}, and {few.cut} needs {needed}."
    return f"{told}; by the overlap of the coefficients with those of random networks, reuse ends after {cut}."


def _means(reuses: Sequence[Reuse]) -> Table:
    columns = ("cut", "mean", "unrelated_mean", "gaussian_mean", "overlap", "images", "components", "tells")
    return Table.of(
        columns,
        [(r.cut, r.mean, r.unrelated_mean, r.gaussian_mean, r.overlap, r.rows, r.components, r.tells) for r in reuses],
    )


def _coefficients(reuses: Sequence[Reuse]) -> Table:
    rows = [
        (reuse.cut, kind, index, value)
        for reuse in reuses
        for kind in _KINDS
        for index, value in enumerate(getattr(reuse, kind))
    ]
    return Table.of(("cut", "between", "index", "coefficient"), rows)


def _lines(reuses: Sequence[Reuse], cut: str | None) -> Lines:
    means = ("mean", "unrelated_mean", "gaussian_mean")
    series = [Series.of(name, [getattr(r, mean) for r in reuses]) for name, mean in zip(_NAMES, means, strict=True)]
    series.append(Series.of("overlap with random", [reuse.overlap for reuse in reuses]))
    mark = None if cut is None else (cut, "reuse ends")
    return Lines(tuple(r.cut for r in reuses), tuple(series), "mean SVCCA coefficient", mark=mark, span=(0, 1.02))


def _panels(reuses: Sequence[Reuse]) -> Panels:
    panels = tuple(
        (r.cut, tuple(Series.of(name, getattr(r, kind)) for name, kind in zip(_NAMES, _KINDS, strict=True)))
        for r in reuses
    )
    return Panels(panels, "index / number of coefficients", "SVCCA coefficient")


ANALYSES.register("svcca", of_a_run(look, START, IMAGES))
