"""What the network loses when one of its units is put back to its initial values (Matsoukas 2022, Figure 5)."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager

from ttl_deploy.analysis.analyses import ANALYSES, IMAGES, START, of_a_run
from ttl_deploy.analysis.finding import Finding, Lines, Series, Table
from ttl_deploy.analysis.scoring import refuse_untellable, title_of
from ttl_deploy.analysis.subject import Subject
from ttl_deploy.training.measures import measure_of
from ttl_deploy.training.train import predict_fp32
from ttl_deploy.transfer import TransferModel
from ttl_deploy.zoo import Unit


@contextmanager
def put_back(model: TransferModel, start: TransferModel, unit: Unit) -> Iterator[None]:
    """A model with the weights and statistics that a unit had before training; as it was when the block ends."""
    kept = copy.deepcopy(model.unit(unit).state_dict())
    model.unit(unit).load_state_dict(start.unit(unit).state_dict())
    try:
        yield
    finally:
        model.unit(unit).load_state_dict(kept)


def look(subject: Subject) -> Finding:
    """The task's metrics on the test side, a unit at a time."""
    rows = subject.side("test")
    refuse_untellable(subject, rows)
    model, units = copy.deepcopy(subject.trained), subject.trained.chain
    whole, found = _metrics(subject, model), {}
    with subject.reporter.task("one layer put back at a time", len(units)) as advance:
        for unit in units:
            with put_back(model, subject.start, unit):
                found[unit.name] = _metrics(subject, model)
            advance(1, unit.name)
    metric, metrics = subject.run.task.SELECTS, tuple(whole)
    values = {name: one[metric] for name, one in found.items()}
    worst = min(values, key=lambda name: values[name])
    table = [(name, *(one[m] for m in metrics), one[metric] - whole[metric]) for name, one in found.items()]
    return Finding(
        f"{title_of(metric)} {whole[metric]:.3f} as trained; putting {worst} back costs most ({values[worst]:.3f}).",
        {"": Table.of(("layer", *metrics, f"{metric}_change"), table)},
        {
            "": Lines(
                tuple(values),
                (Series.of("one layer put back", values.values()),),
                f"{title_of(metric)} on the test side",
                levels={"as trained": whole[metric]},
            )
        },
        {"images": len(rows), metric: whole[metric]},
        {"": "What it costs to put one layer back to its start"},
    )


def _metrics(subject: Subject, model: TransferModel) -> dict[str, float]:
    rows, task = subject.side("test"), subject.run.task
    said = predict_fp32(model, subject.prepared, "test", subject.config, rows)
    return measure_of(task).quick(task, said.labels, said.logits)


ANALYSES.register("reinit", of_a_run(look, START, IMAGES))
