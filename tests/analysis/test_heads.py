"""Heads compared over the cuts, on runs whose metrics are made up."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from written_run import two_classes, write_run

from ttl_deploy.analysis.analyses import ANALYSES
from ttl_deploy.analysis.analyses.heads import HEADS, WHOLE
from ttl_deploy.analysis.finding import Lines
from ttl_deploy.analysis.subject import Subject
from ttl_deploy.errors import BadInputError
from ttl_deploy.training.run import METRICS, finished_run

CLASSES = ("healthy", "ill")


def subject(folder: Path, head: str, cut: str | None, auprc: float, **more: str) -> Subject:
    write_run(folder, CLASSES, *two_classes())
    path = folder / METRICS
    record = json.loads(path.read_text())
    record["test"].update(auprc=auprc, auroc=auprc / 2)
    run = finished_run(folder)
    path.write_text(json.dumps(record))
    model = run.config.model.model_copy(update={"head": head, "cut": cut, **more})
    return Subject(replace(run, config=run.config.model_copy(update={"model": model})))


def test_heads_stand_beside_each_other_at_every_cut(tmp_path: Path) -> None:
    """In the network's order, not the runs'; two seeds of one place are a mean, and a place without runs is a gap."""
    given = [("gap", None, 0.7), ("gap", "layer1.0", 0.8), ("gap", "layer1.0", 0.84), ("flatten", "layer1.0", 0.9)]
    given += [("gap", "stem", 0.5), ("flatten", "stem", 0.6)]
    subjects = [subject(tmp_path / str(k), *one) for k, one in enumerate(given)]
    HEADS.check(subjects)
    finding = ANALYSES.get("heads").look(subjects)
    figure = finding.figures["auprc"]
    assert isinstance(figure, Lines)
    assert figure.places == ("stem", "layer1.0", WHOLE)
    assert [line.name for line in figure.series] == [
        "gap, best 0.820 after layer1.0",
        "flatten, best 0.900 after layer1.0",
    ]
    assert [[v and round(v, 6) for v in line.values] for line in figure.series] == [[0.5, 0.82, 0.7], [0.6, 0.9, None]]
    other = finding.figures["auroc"]
    assert isinstance(other, Lines)
    assert np.allclose(np.array(other.series[0].values, dtype=np.float64), [0.25, 0.41, 0.35])
    rows = {(row["head"], row["cut"]): row for row in finding.tables[""].as_dicts()}
    assert rows["gap", "layer1.0"]["runs"] == 2
    assert (rows["gap", "layer1.0"]["auprc_least"], rows["gap", "layer1.0"]["auprc_most"]) == (0.8, 0.84)
    assert "AUPRC at its best: 0.820 (mean of 2 runs, 0.800 to 0.840) with gap after layer1.0" in finding.sentence
    assert "0.080 apart" in finding.sentence


def test_one_head_or_another_network_is_refused(tmp_path: Path) -> None:
    same = [subject(tmp_path / name, "gap", cut, 0.8) for name, cut in (("a", "stem"), ("b", "layer1.0"))]
    with pytest.raises(BadInputError, match="all runs have the head gap"):
        HEADS.check(same)
    other = subject(tmp_path / "c", "flatten", "stem", 0.8, backbone="resnet50")
    with pytest.raises(BadInputError, match="c: differs from a in more than head and cut"):
        HEADS.check([*same, other])
