"""Floors of subgroups: a row for each group, by its own images alone, and what is not there is told before anything."""

from __future__ import annotations

import csv
import json
import shutil
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.metrics import recall_score, roc_auc_score
from small import MODEL, PROTOCOL, but

from ttl_deploy.cli.main import run
from ttl_deploy.data.synthetic import write_synthetic
from ttl_deploy.errors import BadInputError
from ttl_deploy.formats.export_run import export_run
from ttl_deploy.parity.verify import Check, verify
from ttl_deploy.spec import CriteriaFile, Data, read_criteria
from ttl_deploy.training.train import train
from ttl_deploy.verbs.acceptance import Acceptance, Row, accept

Judge = Callable[[str], Acceptance]


def cells_of(table: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(table.read_text().splitlines()))


def sex(patient: int) -> str:
    return "" if patient % 9 == 0 else "fm"[patient // 2 % 2]


@pytest.fixture(scope="module")
def clinic(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """200 images with the sex of their patient, a ward of one class alone, and a scanner of few patients."""
    folder = write_synthetic(tmp_path_factory.mktemp("clinic") / "data", images=200, size=32, seed=7)
    rows = cells_of(folder / "labels.csv")
    table = folder / "wards.csv"
    with table.open("w", newline="") as handle:
        out = csv.writer(handle)
        out.writerow(("path", "label", "patient_id", "sex", "ward", "scanner", "empty"))
        for row in rows:
            patient = int(row["patient_id"][1:])
            ward = "well" if row["label"] == "healthy" and patient % 4 == 1 else "mixed"
            cells = (sex(patient), ward, "old" if patient < 9 else "new", "")
            out.writerow((row["path"], row["label"], row["patient_id"], *cells))
    return table


@pytest.fixture(scope="module")
def divided(trained: Path, pixel_cache: Path, clinic: Path) -> Check:
    columns = {"sex": (), "ward": (), "scanner": ()}
    return verify(trained / "onnx-fp32", data=clinic, subgroups=columns, cache=pixel_cache)


@pytest.fixture
def judge(divided: Check, tmp_path: Path) -> Judge:
    def judged(text: str) -> Acceptance:
        return accept(divided, written(tmp_path, text))

    return judged


def written(folder: Path, text: str) -> CriteriaFile:
    path = folder / "criteria.yaml"
    path.write_text(text)
    return read_criteria(path)


def rows_of(found: Acceptance) -> dict[str, Row]:
    """The rows of groups, by their names."""
    return {row.criterion: row for row in found.rows if row.criterion.startswith("subgroups.")}


def own(check: Check, table: Path, column: str, value: str) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Labels, and probabilities of the second class, of the images whose cell is a value."""
    cells = {row["path"]: row[column] for row in cells_of(table)}
    keep = [k for k, image in enumerate(check.sides.said.ids) if cells[image] == value]
    logits = check.sides.said.logits[keep].astype(np.float64)
    return check.sides.said.labels[keep], 1 / (1 + np.exp(logits[:, 0] - logits[:, 1]))


def test_what_is_seen_of_a_group_is_what_scikit_learn_says_of_its_images(
    judge: Judge, divided: Check, clinic: Path
) -> None:
    found = rows_of(judge("by: value\nsubgroups: {sex: {minimum: {auroc: 0, sensitivity: 0, specificity: 0}}}"))
    assert [name for name in found if name.endswith("auroc")] == [
        f"subgroups.sex.{group}.minimum.auroc" for group in ("f", "m", "not said")
    ]
    for group, value in (("f", "f"), ("m", "m"), ("not said", "")):
        labels, scores = own(divided, clinic, "sex", value)
        seen = {name: float(found[f"subgroups.sex.{group}.minimum.{name}"].seen) for name in ("auroc", "sensitivity")}
        assert seen["auroc"] == pytest.approx(roc_auc_score(labels, scores), abs=1e-4)
        assert seen["sensitivity"] == pytest.approx(recall_score(labels, scores >= 0.5), abs=1e-4)
        told = found[f"subgroups.sex.{group}.minimum.auroc"].group
        assert told is not None
        assert (told.column, told.name, told.images) == ("sex", group, len(labels))


def test_one_group_below_its_floor_fails_all(judge: Judge, divided: Check, clinic: Path) -> None:
    aurocs = {group: roc_auc_score(*own(divided, clinic, "sex", group)) for group in "fm"}
    low, high = sorted(aurocs, key=lambda group: aurocs[group])
    between = (aurocs[low] + aurocs[high]) / 2
    found = judge(f"by: value\nsubgroups: {{sex: {{groups: {{f: {{auroc: {between}}}, m: {{auroc: {between}}}}}}}}}")
    rows = rows_of(found)
    assert rows[f"subgroups.sex.{low}.minimum.auroc"].result == "not held"
    assert rows[f"subgroups.sex.{high}.minimum.auroc"].result == "held"
    assert len(rows) == 2
    assert found.result == "fail"


def test_a_floor_is_held_against_the_lower_end_unless_the_column_asks_for_the_value(judge: Judge) -> None:
    low, value = _interval_and_value(judge)
    between = (low + value) / 2
    name = "subgroups.sex.f.minimum.auroc"
    by_interval = f"subgroups: {{sex: {{groups: {{f: {{auroc: {between}}}}}}}}}"
    assert rows_of(judge(by_interval))[name].result == "not held"
    assert rows_of(judge(by_interval.replace("{sex: {", "{sex: {by: value, ")))[name].result == "held"
    assert rows_of(judge(f"by: value\n{by_interval}"))[name].result == "held"
    assert judge(f"by: value\n{by_interval.replace('{sex: {', '{sex: {by: interval, ')}").result == "fail"


def _interval_and_value(judge: Judge) -> tuple[float, float]:
    row = rows_of(judge("subgroups: {sex: {minimum: {auroc: 0}}}"))["subgroups.sex.f.minimum.auroc"]
    assert row.interval is not None
    assert row.interval[0] < float(row.seen)
    return row.interval[0], float(row.seen)


def test_a_group_of_one_class_or_of_few_patients_cannot_be_judged(judge: Judge) -> None:
    found = judge("by: value\nsubgroups: {ward: {minimum: {auroc: 0.0}}, scanner: {minimum: {auroc: 0.0}}}")
    rows = rows_of(found)
    results = {name: row.result for name, row in rows.items()}
    assert results == {
        "subgroups.ward.mixed.minimum.auroc": "held",
        "subgroups.ward.well.minimum.auroc": "cannot be judged",
        "subgroups.scanner.new.minimum.auroc": "held",
        "subgroups.scanner.old.minimum.auroc": "cannot be judged",
    }
    assert "not defined" in rows["subgroups.ward.well.minimum.auroc"].why
    assert "of 8 patients: fewer than 10 patients tell too little" in rows["subgroups.scanner.old.minimum.auroc"].why
    assert found.result == "inconclusive"


def test_the_difference_from_the_reference_is_bounded_in_a_group(judge: Judge, divided: Check, clinic: Path) -> None:
    found = judge("subgroups: {sex: {bounds: {max_probability_difference: 1.0e-9, min_label_agreement: 0.5}}}")
    cells = {row["path"]: row["sex"] for row in cells_of(clinic)}
    places = [k for k, image in enumerate(divided.sides.said.ids) if cells[image] == "f"]
    sides = (divided.sides.reference, divided.sides.said)
    first, second = (np.exp(side.logits[places].astype(np.float64)) for side in sides)
    moved = np.abs(first / first.sum(1, keepdims=True) - second / second.sum(1, keepdims=True)).max()
    row = rows_of(found)["subgroups.sex.f.bounds.max_probability_difference"]
    assert float(row.seen.split()[-1]) == pytest.approx(moved, rel=1e-3)
    assert row.result == "not held"
    assert rows_of(found)["subgroups.sex.f.bounds.min_label_agreement"].result == "held"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{sx: {minimum: {auroc: 0.8}}}", ("has no column 'sx'", "sex")),
        ("{sex: {groups: {d: {auroc: 0.8}}}}", ("whose sex is 'd'", "valid: f, m, not said")),
        ("{empty: {minimum: {auroc: 0.8}}}", ("column empty says nothing", "filled in")),
        ("{patient_id: {minimum: {auroc: 0.8}}}", ("different values", "at most 12")),
    ],
)
def test_what_is_not_there_is_told_before_an_image_is_read(
    trained: Path, clinic: Path, tmp_path: Path, text: str, words: tuple[str, ...]
) -> None:
    file = written(tmp_path, f"subgroups: {text}")
    with pytest.raises(BadInputError) as refused:
        verify(trained / "onnx-fp32", data=clinic, subgroups=file.subgroups, cache=tmp_path / "cache")
    assert str(clinic) in str(refused.value)
    assert all(word in str(refused.value) for word in words), str(refused.value)
    assert not (tmp_path / "cache").exists()


def test_images_that_no_table_lists_have_no_subgroups(trained: Path, clinic: Path, tmp_path: Path) -> None:
    with pytest.raises(BadInputError, match="is no table, so it has no columns"):
        verify(trained / "onnx-fp32", data=clinic.parent, subgroups={"sex": ()}, cache=tmp_path / "cache")


def test_console_page_json_and_dossier_have_a_line_for_each_group(
    trained: Path, pixel_cache: Path, clinic: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = written(tmp_path, "by: value\nsubgroups: {sex: {minimum: {auroc: 1.0}}}").path
    given = ["--data", str(clinic), "--cache", str(pixel_cache), "--criteria", str(path)]
    page, names = tmp_path / "page.html", [f"subgroups.sex.{group}.minimum.auroc" for group in ("f", "m", "not said")]
    assert run(["verify", str(trained / "onnx-fp32"), *given, "--report", str(page)]) == 1
    said = capsys.readouterr().out
    assert all(f"{name} not held" in said and name in page.read_text() for name in names)
    assert run(["verify", str(trained / "onnx-fp32"), *given, "--json"]) == 1
    rows = json.loads(capsys.readouterr().out)["criteria"]["rows"]
    assert [row["criterion"] for row in rows] == ["parity", *names]
    assert "group" not in rows[0]
    assert (rows[1]["group"]["column"], rows[1]["group"]["name"]) == ("sex", "f")
    assert run(["dossier", str(trained / "onnx-fp32"), *given, "--out", str(tmp_path / "out")]) == 1
    text = (tmp_path / "out" / "dossier.md").read_text()
    assert text.split("\n\n")[2].startswith("FAIL.")
    assert all(name in text for name in names)


def test_the_run_s_own_test_side_is_divided_by_its_table_where_that_moved(
    trained: Path, clinic: Path, synthetic: Path, pixel_cache: Path, tmp_path: Path
) -> None:
    moved = tmp_path / "moved"
    moved.mkdir()
    for name in ("healthy", "lesion"):
        (moved / name).symlink_to(synthetic / name)
    header, *lines = (synthetic / "labels.csv").read_text().splitlines()
    cells = [f"{line},{'ab'[k % 2]}" for k, line in enumerate(lines)]
    (moved / "labels.csv").write_text("\n".join([f"{header},site", *cells]) + "\n")
    check = verify(trained / "onnx-fp32", data=moved / "labels.csv", subgroups={"site": ()}, cache=pixel_cache)
    assert check.record.split == "test"
    sites = {line.split(",")[0]: line[-1] for line in cells}
    for part in check.parts["site"]:
        assert {sites[check.sides.said.ids[k]] for k in part.places} == {part.name}
    assert sum(len(part.places) for part in check.parts["site"]) == len(check.sides.said.ids)


def test_a_test_side_with_a_table_of_its_own_is_divided_by_that(
    clinic: Path, pixel_cache: Path, tmp_path: Path
) -> None:
    """The tables lie in folders of their own, and only the test side's has the column."""
    tables = {"train": tmp_path / "ours" / "train.csv", "test": tmp_path / "theirs" / "test.csv"}
    rows = cells_of(clinic)
    for side, table in tables.items():
        shutil.copytree(clinic.parent, table.parent, ignore=shutil.ignore_patterns("*.csv"))
        columns = ["path", "label", "patient_id", *(["sex"] if side == "test" else [])]
        with table.open("w", newline="") as handle:
            out = csv.DictWriter(handle, columns, extrasaction="ignore")
            out.writeheader()
            out.writerows(row for row in rows if (int(row["patient_id"][1:]) % 6 < 2) == (side == "test"))
    data = Data(path=tables["train"], test_data=tables["test"], cache=pixel_cache)
    made = train(data, MODEL, but(PROTOCOL, epochs=1), tmp_path / "run")
    artifact = export_run(made.folder, cache=pixel_cache).folder
    found = verify(artifact, subgroups={"sex": ()}, cache=pixel_cache)
    groups = {part.name: len(part.places) for part in found.parts["sex"]}
    expected = Counter(row["sex"] or "not said" for row in cells_of(tables["test"]))
    assert groups == dict(expected)
    assert len(groups) == 3
    moved = Path(shutil.move(tmp_path / "ours", tmp_path / "later" / "ours"))
    shutil.move(tmp_path / "theirs", moved.parent / "theirs")
    again = verify(artifact, data=moved / "train.csv", subgroups={"sex": ()}, cache=pixel_cache)
    assert {part.name: len(part.places) for part in again.parts["sex"]} == groups


def test_a_check_that_was_not_divided_is_refused_before_anything_is_measured(divided: Check, tmp_path: Path) -> None:
    file = written(tmp_path, "subgroups: {sex: {minimum: {auroc: 0.1}}}")
    with pytest.raises(BadInputError, match=r"criteria by sex, and the check was not divided by that"):
        accept(replace(divided, parts={}), file)
