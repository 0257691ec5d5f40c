"""Nearest neighbours at every cut: the training side votes on the test side (Matsoukas 2022, Fig. 6)."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from ttl_deploy.analysis.analyses import ANALYSES, ANSWERS, IMAGES, of_a_run
from ttl_deploy.analysis.features import Floats, Pass, numbers
from ttl_deploy.analysis.finding import Finding, Lines, Series, Table
from ttl_deploy.analysis.knn import NEIGHBOURS, vote
from ttl_deploy.analysis.scoring import refuse_untellable, scores, title_of
from ttl_deploy.analysis.subject import Subject
from ttl_deploy.data.torch_data import ImageBatches
from ttl_deploy.zoo import BACKBONES


def poolings(features: Tensor, prefix: int) -> dict[str, Tensor]:
    """Embeddings (N, C) of features (N, C, *positions) by name.

    The mean over all positions; where some precede those of the image, as a class token does, also the first of them by
    itself and the mean over the image's.
    """
    flat = features.flatten(2)
    if not prefix:
        return {"mean": flat.mean(2)}
    return {"cls": flat[:, :, 0], "spatial": flat[:, :, prefix:].mean(2), "both": flat.mean(2)}


def look(subject: Subject) -> Finding:
    """Cosine, `NEIGHBOURS` neighbours or all there are, votes of exp(cosine / 0.1); scored by the task's metrics."""
    bank, queries = subject.side("train"), subject.side("test")
    refuse_untellable(subject, queries)
    known, asked = _embeddings(subject, bank), _embeddings(subject, queries)
    labels, task = subject.prepared.labels[bank], subject.run.task
    found = {
        cut: {name: scores(subject, queries, vote(one, labels, asked[cut][name], task)) for name, one in ways.items()}
        for cut, ways in known.items()
    }
    k = min(NEIGHBOURS, len(bank))
    return Finding(
        _sentence(subject, found, k, len(bank)),
        {"": _table(subject, found)},
        {"": _lines(subject, found)},
        {"bank": len(bank), "queries": len(queries), "neighbours": k},
        {"": "What nearest neighbours get out of each cut"},
    )


def _embeddings(subject: Subject, rows: NDArray[np.int64]) -> dict[str, dict[str, Floats]]:
    prefix = BACKBONES.get(subject.config.model.backbone).prefix_tokens
    images = ImageBatches(subject.prepared, subject.prepared.shown(rows), subject.config.preprocess)

    def reduce(_cut: str, features: Tensor) -> dict[str, Floats]:
        return {name: numbers(one) for name, one in poolings(features, prefix).items()}

    parts = list(Pass(subject.trained, subject.cuts, images, subject.config, reduce, reporter=subject.reporter))
    return {
        cut: {name: np.concatenate([part[cut][name] for part in parts]) for name in parts[0][cut]}
        for cut in subject.cuts
    }


_Found = Mapping[str, Mapping[str, Mapping[str, float]]]
"""Metrics by cut and pooling."""


def _table(subject: Subject, found: _Found) -> Table:
    metrics = subject.run.task.METRICS
    rows = [(cut, way, *(m[name] for name in metrics)) for cut, ways in found.items() for way, m in ways.items()]
    return Table.of(("cut", "pooling", *metrics), rows)


def _lines(subject: Subject, found: _Found) -> Lines:
    metric = subject.run.task.SELECTS
    series = [Series.of(way, [ways[way][metric] for ways in found.values()]) for way in found[subject.cuts[0]]]
    return Lines(subject.cuts, tuple(series), f"{title_of(metric)} of nearest neighbours")


def _sentence(subject: Subject, found: _Found, k: int, bank: int) -> str:
    metric = subject.run.task.SELECTS
    values = {(cut, way): m[metric] for cut, ways in found.items() for way, m in ways.items()}
    cut, way = max(values, key=lambda place: values[place])
    of = "" if way == "mean" else f" ({way})"
    fewer = f", {k} because the training side has no more" if k < NEIGHBOURS else ""
    first = max(found[subject.cuts[0]].values(), key=lambda m: m[metric])[metric]
    return (
        f"{title_of(metric)} of {k} nearest neighbours{fewer}: {first:.3f} at {subject.cuts[0]}, "
        f"best {values[cut, way]:.3f} at {cut}{of}; {bank} images vote."
    )


ANALYSES.register("knn", of_a_run(look, ANSWERS, IMAGES))
