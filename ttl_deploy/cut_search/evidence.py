"""What one finetuned whole network says about every cut: linear probes on its features, and SVCCA before and after."""

from __future__ import annotations

import contextlib
import itertools
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError

from ttl_deploy import files
from ttl_deploy.analysis.features import pooled_features, sampled_features
from ttl_deploy.analysis.networks import UNRELATED, unrelated
from ttl_deploy.analysis.probe import probe
from ttl_deploy.analysis.reuse import Reuse, reuse_of
from ttl_deploy.complexity import count
from ttl_deploy.cut_search.score import metric_of
from ttl_deploy.cut_search.trial import limited_threads, patients_of
from ttl_deploy.data.prepared import read_split
from ttl_deploy.documents import read_json
from ttl_deploy.spec import Record
from ttl_deploy.training.run import open_run, run_data
from ttl_deploy.training.train import load_model, starting_model
from ttl_deploy.transfer import weightless

_MOST_IMAGES = 8000
"""SVCCA looks at one place of each image; so many are several times the channels of the widest networks' top."""


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
    unrelated: tuple[float, ...]
    gaussian: tuple[float, ...]
    rows: int
    components: int

    def as_reuse(self) -> Reuse:
        """The comparison."""
        return Reuse(**self.model_dump())


class Evidence(Record):
    """What was found, and how long it took.

    Attributes:
        seconds: Wall-clock time.
        cpu_seconds: Processor time.
        work: Multiply-adds of the passes through the networks.
        probes: Bottom first; empty where not asked for.
        reuses: Likewise.
    """

    seconds: float
    cpu_seconds: float = 0.0
    work: float = 0.0
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
    """Answers an inquiry; an answered one is only read, unless an earlier version answered it in another way."""
    if inquiry.record.exists():
        content = read_json(inquiry.record, fix="remove it: it is then found again")
        with contextlib.suppress(ValidationError):
            return Evidence.model_validate(content)
    begun, burnt = time.monotonic(), time.process_time()
    with limited_threads(inquiry.threads):
        found = {"probes": _probes, "reuses": _reuses}[inquiry.kind](inquiry)
    evidence = Evidence(
        seconds=round(time.monotonic() - begun, 3),
        cpu_seconds=round(time.process_time() - burnt, 3),
        work=_work(inquiry),
        **{inquiry.kind: found},
    )
    files.write_json(inquiry.record, evidence.model_dump(mode="json"))
    return evidence


def _work(inquiry: Inquiry) -> float:
    """Of the whole network's passes: one over training and validation images, or one in each of four networks."""
    run = open_run(inquiry.run)
    images = sum(row.side != "test" for row in read_split(run.split))
    networks = 1 if inquiry.kind == "probes" else 2 + len(UNRELATED)
    macs = count(weightless(run.config.model), run.config.model.input_shape).macs
    return float(networks * min(images, _MOST_IMAGES if networks > 1 else images) * macs)


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
            features["train"][cut], labels["train"], groups["train"], features["val"][cut], prepared.task
        )
        value, resamples = metric_of(labels["val"], probabilities, groups["val"], prepared.task, inquiry.metric)
        found.append(ProbeRecord(cut=cut, value=value, resamples=resamples))
    return tuple(found)


def _reuses(inquiry: Inquiry) -> tuple[ReuseRecord, ...]:
    """SVCCA between the features before and after training, block by block to bound the memory."""
    run = open_run(inquiry.run)
    prepared = run_data(run, cache=inquiry.cache)
    rows = np.flatnonzero(prepared.sides != "test")
    if len(rows) > _MOST_IMAGES:
        rows = np.sort(np.random.default_rng(run.config.seed).choice(rows, _MOST_IMAGES, replace=False))
    models = [starting_model(run), load_model(run), *unrelated(run)]
    found = []
    for _block, group in itertools.groupby(zip(inquiry.blocks, inquiry.cuts, strict=True), key=lambda pair: pair[0]):
        cuts = [cut for _number, cut in group]
        for cut, features in sampled_features(models, cuts, prepared, rows, run.config).items():
            found.append(_reuse(cut, features, run.config.seed))
    return tuple(found)


def _reuse(cut: str, features: Sequence[NDArray[np.float32]], seed: int) -> ReuseRecord:
    """Of the features at a cut before and after training, and of two unrelated networks."""
    return ReuseRecord(**asdict(reuse_of(cut, features, seed)))
