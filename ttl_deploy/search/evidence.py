"""What one finetuned whole network says about every cut: linear probes on its features, and SVCCA before and after."""

from __future__ import annotations

import itertools
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ttl_deploy import files
from ttl_deploy.analysis.features import pooled_features, sampled_features
from ttl_deploy.analysis.probe import probe
from ttl_deploy.analysis.reuse import Reuse
from ttl_deploy.analysis.svcca import random_coefficients, svcca
from ttl_deploy.search.score import metric_of
from ttl_deploy.search.trial import limited_threads, patients_of
from ttl_deploy.spec import Record
from ttl_deploy.training.run import open_run, run_data
from ttl_deploy.training.train import load_model, starting_model

_MOST_IMAGES = 4000
"""More images make SVCCA slower and not surer: it looks at about 20,000 places in all."""


class ProbeRecord(Record):
    """A classifier on the features at one cut.

    Attributes:
        cut: Name.
        value: Metric on the validation side.
        resamples: The same on resamples of patients.
    """

    cut: str
    value: float
    resamples: tuple[float, ...]


class ReuseRecord(Record):
    """SVCCA at one cut; see `Reuse`."""

    cut: str
    coefficients: tuple[float, ...]
    random: tuple[float, ...]

    def as_reuse(self) -> Reuse:
        """The comparison."""
        return Reuse(self.cut, self.coefficients, self.random)


class Evidence(Record):
    """What was found, and how long it took.

    Attributes:
        seconds: Wall-clock time.
        probes: Bottom first; empty where not asked for.
        reuses: Likewise.
    """

    seconds: float
    probes: tuple[ProbeRecord, ...] = ()
    reuses: tuple[ReuseRecord, ...] = ()


@dataclass(frozen=True)
class Inquiry:
    """A look into a trained whole network.

    Attributes:
        kind: `probes` or `reuses`.
        run: Folder of the run.
        cuts: Names, bottom first.
        blocks: Block number of each.
        metric: Of the probes.
        record: File of the result.
        cache: Folder of the pixel cache.
        threads: Of PyTorch.
    """

    kind: str
    run: Path
    cuts: Sequence[str]
    blocks: Sequence[int]
    metric: str
    record: Path
    cache: Path | None
    threads: int


def look(inquiry: Inquiry) -> Evidence:
    """Answers an inquiry; an answered one is only read."""
    if inquiry.record.exists():
        return Evidence.model_validate(json.loads(inquiry.record.read_text()))
    begun = time.monotonic()
    with limited_threads(inquiry.threads):
        found = {"probes": _probes, "reuses": _reuses}[inquiry.kind](inquiry)
    evidence = Evidence(seconds=round(time.monotonic() - begun, 3), **{inquiry.kind: found})
    files.write_json(inquiry.record, evidence.model_dump(mode="json"))
    return evidence


def _probes(inquiry: Inquiry) -> tuple[ProbeRecord, ...]:
    """A logistic regression per cut: fitted to the training side, valued on the validation side."""
    run = open_run(inquiry.run)
    prepared = run_data(run, cache=inquiry.cache)
    patients = patients_of(run)
    sides = {side: prepared.indices(side) for side in ("train", "val")}
    model = load_model(run)
    features = {side: pooled_features(model, inquiry.cuts, prepared, rows, run.config) for side, rows in sides.items()}
    groups = {side: [patients[prepared.ids[i]] for i in rows] for side, rows in sides.items()}
    labels = {side: prepared.labels[rows] for side, rows in sides.items()}
    found = []
    for cut in inquiry.cuts:
        probabilities = probe(
            features["train"][cut], labels["train"], groups["train"], features["val"][cut], len(prepared.classes)
        )
        value, resamples = metric_of(labels["val"], probabilities, groups["val"], inquiry.metric)
        found.append(ProbeRecord(cut=cut, value=value, resamples=resamples))
    return tuple(found)


def _reuses(inquiry: Inquiry) -> tuple[ReuseRecord, ...]:
    """SVCCA between the features before and after training, block by block to bound the memory."""
    run = open_run(inquiry.run)
    prepared = run_data(run, cache=inquiry.cache)
    rows = np.flatnonzero(prepared.sides != "test")
    if len(rows) > _MOST_IMAGES:
        rows = np.sort(np.random.default_rng(run.config.seed).choice(rows, _MOST_IMAGES, replace=False))
    models = (starting_model(run), load_model(run))
    by_shape: dict[tuple[int, int], tuple[float, ...]] = {}
    found = []
    for _block, group in itertools.groupby(zip(inquiry.blocks, inquiry.cuts, strict=True), key=lambda pair: pair[0]):
        cuts = [cut for _number, cut in group]
        for cut, (before, after) in sampled_features(models, cuts, prepared, rows, run.config).items():
            shape = before.shape[0], before.shape[1]
            if shape not in by_shape:
                chance = random_coefficients(shape[0], (shape[1], shape[1]), seed=run.config.seed)
                by_shape[shape] = tuple(chance.tolist())
            coefficients = tuple(svcca(before, after).tolist())
            found.append(ReuseRecord(cut=cut, coefficients=coefficients, random=by_shape[shape]))
    return tuple(found)
