"""No cell of a CSV that this package writes is run as a formula, and what it reads back is what it was given."""

import csv
import io
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ttl_deploy import files
from ttl_deploy.artifact import Artifact
from ttl_deploy.prediction.file import PredictionFile
from ttl_deploy.prediction.predict import predict
from ttl_deploy.prediction.predictor import provenance_of
from ttl_deploy.spec import Placement

FORMULAS = ("=1+2", "+SUM(A1)", "-cmd|' /C calc'!A0", "@SUM(1)", "\t=1", "\r=1", "\n=1", "\uff1d1+2", "'=1", "''@x")
PLAIN = ("-0.5", "+3", "1e-5", "-inf", "a=b", "'quoted'", "", "scan-1.png", "'")


def read_back(row: str) -> list[str]:
    (cells,) = csv.reader(io.StringIO(row, newline=""))
    return cells


@pytest.mark.parametrize("cell", FORMULAS)
def test_text_that_begins_like_a_formula_gets_an_apostrophe(cell: str) -> None:
    assert read_back(files.csv_row([cell, "x"])) == [f"'{cell}", "x"]


@pytest.mark.parametrize("cell", PLAIN)
def test_numbers_and_other_text_stay(cell: str) -> None:
    assert read_back(files.csv_row([cell, "x"])) == [cell, "x"]


@given(st.lists(st.text(alphabet="'=+-@\t\r\n\uff20a1. ,\"", max_size=6), min_size=2, max_size=3))
def test_what_is_read_back_is_what_was_given(cells: list[str]) -> None:
    assert files.plain_cells(read_back(files.csv_row(cells))) == cells


def test_rows_of_images_called_like_formulas_are_found_again(artifact: Artifact, tmp_path: Path) -> None:
    """By id and by path, in a file that an earlier version wrote too."""
    out, classes = tmp_path / "out.csv", artifact.manifest.model.classes
    provenance = provenance_of(artifact, Placement(runtime="onnxruntime"))
    with PredictionFile(out, None, classes, True, provenance) as file:
        for name in FORMULAS:
            file.write("a.png", name, "ill", dict.fromkeys(classes, 1 / 3))
        file.write("=b.png", None, "ill", dict.fromkeys(classes, 1 / 3))
    shown = out.read_text()
    assert "\n'=1+2,a.png,ill,0.333333," in shown
    with PredictionFile(out, None, classes, True, provenance) as file:
        assert all(file.take(name) for name in (*FORMULAS, "=b.png"))
    out.write_text(shown.replace("\n'=1+2,", "\n=1+2,"))
    with PredictionFile(out, None, classes, True, provenance) as file:
        assert file.take("=1+2")


def test_a_table_of_ids_that_are_formulas_is_gone_on_with(artifact: Artifact, synthetic: Path, tmp_path: Path) -> None:
    scans = sorted(synthetic.glob("*/*.png"))[:3]
    table, out = tmp_path / "t.csv", tmp_path / "out.csv"
    table.write_text("path,id\n" + "".join(f"{scan},={n}\n" for n, scan in enumerate(scans)))
    assert predict(artifact.folder, [str(table)], out=out).written == 3
    assert predict(artifact.folder, [str(table)], out=out).present == 3


def test_a_run_keeps_ids_and_classes_that_are_formulas(tmp_path: Path) -> None:
    from types import SimpleNamespace
    from typing import Any, cast

    from ttl_deploy.tasks import Multiclass
    from ttl_deploy.training.run import Predictions, read_predictions, write_predictions

    task = Multiclass(("=good", "-bad"))
    predictions = Predictions(
        ("=1", "-2"), ("val", "test"), np.array([0, 1]), np.array([[0.5, -1], [-2, 3]], dtype=np.float32)
    )
    write_predictions(tmp_path, task, predictions)
    assert "'=1,val,'=good,0.5,-1\n-2,test,'-bad,-2,3\n" in (tmp_path / "predictions.csv").read_text()
    run = SimpleNamespace(folder=tmp_path, task=task)
    found = read_predictions(cast(Any, run))
    assert (found.ids, found.labels.tolist(), found.logits.tolist()) == (
        predictions.ids,
        [0, 1],
        predictions.logits.tolist(),
    )
