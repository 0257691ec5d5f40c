"""`verify --criteria` and `dossier`: every criterion has its row, the verdict comes first, and the folder is whole."""

from __future__ import annotations

import json
import re
import shutil
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator
from outlined import train_masks, write_pairs
from sklearn.metrics import brier_score_loss, roc_auc_score

from ttl_deploy import files, signing
from ttl_deploy.artifact import open_artifact, update_manifest
from ttl_deploy.cli.main import run
from ttl_deploy.errors import IntegrityError
from ttl_deploy.formats.export_run import export_run
from ttl_deploy.pages.subject import subject_of_artifact
from ttl_deploy.parity.compare import _BOUNDED, _criteria, against_bound
from ttl_deploy.parity.verify import Check, verify
from ttl_deploy.spec import Bounds, read_criteria
from ttl_deploy.training.run import open_run, read_predictions
from ttl_deploy.verbs import bom
from ttl_deploy.verbs.acceptance import Acceptance, accept
from ttl_deploy.verbs.bench import bench

Judge = Callable[[str], Acceptance]
EASY = "minimum: {auroc: 0.0}\nmaximum: {parameters: 100000000}\n"


@pytest.fixture(scope="module")
def check(trained: Path, pixel_cache: Path) -> Check:
    return verify(trained / "onnx-fp32", cache=pixel_cache)


@pytest.fixture
def judge(check: Check, tmp_path: Path) -> Judge:
    def judged(text: str) -> Acceptance:
        path = tmp_path / "criteria.yaml"
        path.write_text(text)
        return accept(check, read_criteria(path))

    return judged


@pytest.fixture
def criteria(tmp_path: Path) -> Path:
    path = tmp_path / "criteria.yaml"
    path.write_text(EASY)
    return path


@pytest.fixture
def command(trained: Path, pixel_cache: Path, criteria: Path, tmp_path: Path) -> list[str]:
    given = ["--cache", str(pixel_cache), "--criteria", str(criteria), "--out", str(tmp_path / "out")]
    return ["dossier", str(trained / "onnx-fp32"), *given]


def row(found: Acceptance, criterion: str) -> Any:
    (only,) = [each for each in found.rows if each.criterion == criterion]
    return only


def test_a_floor_is_held_against_the_lower_end_unless_the_value_is_asked(judge: Judge, trained: Path) -> None:
    recorded = json.loads((trained / "metrics.json").read_text())["test"]
    value, (low, _high) = recorded["auroc"], recorded["auroc_interval"]
    between = (low + value) / 2
    held = row(judge(f"minimum: {{auroc: {low - 1e-3}}}"), "minimum.auroc")
    assert held.result == "held"
    assert held.interval == pytest.approx(recorded["auroc_interval"], abs=1e-4)
    assert row(judge(f"minimum: {{auroc: {between}}}"), "minimum.auroc").result == "not held"
    assert row(judge(f"by: value\nminimum: {{auroc: {between}}}"), "minimum.auroc").result == "held"


def test_what_is_seen_is_what_scikit_learn_says_of_the_run(judge: Judge, trained: Path) -> None:
    said = read_predictions(open_run(trained)).side("test")
    scores = 1 / (1 + np.exp(said.logits[:, 0] - said.logits[:, 1]))
    decided = scores >= 0.5
    found = judge("by: value\nminimum: {auroc: 0, sensitivity: 0, specificity: 0}\nmaximum: {brier: 1}")
    assert float(row(found, "minimum.auroc").seen) == pytest.approx(roc_auc_score(said.labels, scores), abs=1e-4)
    assert float(row(found, "minimum.sensitivity").seen) == pytest.approx(decided[said.labels == 1].mean(), abs=1e-4)
    assert float(row(found, "minimum.specificity").seen) == pytest.approx(
        1 - decided[said.labels == 0].mean(), abs=1e-4
    )
    assert float(row(found, "maximum.brier").seen) == pytest.approx(brier_score_loss(said.labels, scores), abs=1e-5)


def test_what_cannot_be_judged_says_why_and_is_never_held(judge: Judge) -> None:
    found = judge("minimum: {dice: 0.1}\nbounds: {max_kappa_drop: 0.1}")
    for name in ("minimum.dice", "bounds.max_kappa_drop"):
        assert row(found, name).result == "cannot be judged"
        assert row(found, name).why
    assert found.result == "inconclusive"


@pytest.mark.parametrize("metric", ["balanced_accuracy", "sensitivity_at_90_specificity"])
def test_a_floor_of_a_share_is_held_against_its_lower_end(metric: str, judge: Judge) -> None:
    def judged(least: float) -> Any:
        return row(judge(f"minimum: {{{metric}: {least}}}"), f"minimum.{metric}")

    found = judged(0)
    assert found.result == "held"
    low, high = found.interval
    assert low < float(found.seen) < high
    assert judged(low + 1e-3).result == "not held"


def test_size_and_cost_are_those_of_the_artifact(judge: Judge, trained: Path) -> None:
    folder = trained / "onnx-fp32"
    listed = open_artifact(folder).manifest.files
    size = sum((folder / name).stat().st_size for name in listed if not name.endswith(".md")) / 2**20
    found = judge(f"maximum: {{size_mib: {size + 1e-3}, parameters: 1, macs: 1}}")
    assert row(found, "maximum.size_mib").result == "held"
    assert row(judge(f"maximum: {{size_mib: {size - 1e-3}}}"), "maximum.size_mib").result == "not held"
    assert row(found, "maximum.parameters").result == row(found, "maximum.macs").result == "not held"
    assert found.result == "fail"


def test_every_bound_has_a_measure_and_every_measure_a_bound(check: Check) -> None:
    assert set(_BOUNDED) == set(Bounds.model_fields)
    bounds = Bounds().filled("fp32")
    named = {measure for measures in _BOUNDED.values() for measure in measures}
    assert {each.measure for each in _criteria(check.comparison, bounds)} <= named
    (drop,) = against_bound(check.comparison, bounds, "max_auroc_drop")
    change = check.comparison.changes.auroc
    assert change.interval is not None and change.difference is not None
    assert drop.number == -change.difference
    assert drop.interval == (-change.interval[1], -change.interval[0])


def test_a_latency_is_measured_in_the_engine_of_the_check(judge: Judge, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: dict[str, Any] = {}

    def measured(paths: Any, **given: Any) -> Any:
        asked.update(given)
        return bench(paths, **{**given, "rounds": 1, "min_seconds": 0.1})

    monkeypatch.setattr("ttl_deploy.verbs.acceptance.bench", measured)
    found = row(judge("maximum: {latency_p95_ms: 100000}"), "maximum.latency_p95_ms")
    assert asked["runtime"] == ["onnxruntime"]
    assert float(found.seen) > 0
    assert "onnxruntime" in found.why and "samples" in found.why


def test_verify_follows_the_criteria_and_refuses_what_contradicts_them(
    trained: Path, pixel_cache: Path, criteria: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    page = tmp_path / "report.html"
    call = ["verify", str(trained / "onnx-fp32"), "--cache", str(pixel_cache), "--criteria", str(criteria)]
    assert run([*call, "--json", "--report", str(page)]) == 0
    content = json.loads(capsys.readouterr().out)["criteria"]
    assert content["sha256"] == files.sha256(criteria)
    assert [each["criterion"] for each in content["rows"]] == ["parity", "minimum.auroc", "maximum.parameters"]
    assert content["sha256"] in page.read_text()
    assert "minimum.auroc" in page.read_text()
    assert run([*call, "--max-auroc-drop", "0.5"]) == 2
    assert "--max-auroc-drop: contradicts" in capsys.readouterr().err
    criteria.write_text("maximum: {parameters: 1}")
    assert run(call) == 1
    assert "maximum.parameters not held" in capsys.readouterr().out
    criteria.write_text("minimum: {dice: 0.1}")
    assert run(call) == 1
    assert run([*call, "--allow-inconclusive"]) == 0


def test_the_folder_holds_all_and_its_hashes_are_those_of_the_files(command: list[str], tmp_path: Path) -> None:
    assert run(command) == 0
    out = tmp_path / "out"
    assert {path.name for path in out.iterdir()} == {
        *("dossier.md", "dossier.html", "verify.json", "verify.html", "criteria.yaml", "hashes.json", "bom.cdx.json"),
    }
    artifact = Path(command[1])
    hashes = json.loads((out / "hashes.json").read_text())
    assert (out / "criteria.yaml").read_text() == EASY
    assert hashes["criteria"] == files.sha256(out / "criteria.yaml")
    assert hashes["artifact"]["manifest.json"]["sha256"] == files.sha256(artifact / "manifest.json")
    assert hashes["run"]["best.safetensors"]["sha256"] == files.sha256(artifact.parent / "best.safetensors")
    text = (out / "dossier.md").read_text()
    assert text.index("PASS.") < text.index("##")
    assert hashes["run"]["predictions.csv"]["sha256"] in text
    page = (out / "dossier.html").read_text()
    assert not re.findall(r'(?:src|href)="(?!#|data:)', page)
    assert run(command) == 2
    assert run([*command, "--overwrite"]) == 0


def test_the_weights_that_training_began_with_are_told(
    run_copy: Path, command: list[str], pixel_cache: Path, tmp_path: Path
) -> None:
    record = json.loads((run_copy / "metrics.json").read_text())
    (run_copy / "metrics.json").write_text(json.dumps({**record, "start_sha256": "5e" * 32}))
    export_run(run_copy, cache=pixel_cache, overwrite=True)
    assert run([command[0], str(run_copy / "onnx-fp32"), *command[2:]]) == 0
    out = tmp_path / "out"
    assert json.loads((out / "hashes.json").read_text())["start"] == "5e" * 32
    assert f"{'5e' * 32} (of the file)" in (out / "dossier.md").read_text()
    properties = json.loads((out / "bom.cdx.json").read_text())["metadata"]["component"]["properties"]
    assert {"name": "ttl-deploy:start-sha256", "value": "5e" * 32} in properties


def test_a_failure_is_the_first_thing_said(command: list[str], criteria: Path, tmp_path: Path) -> None:
    criteria.write_text("maximum: {parameters: 1}")
    assert run(command) == 1
    text = (tmp_path / "out" / "dossier.md").read_text()
    assert text.split("\n\n")[2].startswith("FAIL. Of 2 criteria 1 held, 1 not held")
    assert json.loads((tmp_path / "out" / "verify.json").read_text())["criteria"]["result"] == "fail"


@pytest.mark.parametrize("refused", [False, True])
def test_an_artifact_without_a_passed_check_is_told_at_the_top(
    refused: bool, command: list[str], trained: Path, tmp_path: Path
) -> None:
    copy = Path(shutil.copytree(trained, tmp_path / "run"))
    opened = open_artifact(copy / "onnx-fp32")
    parity = opened.manifest.parity
    assert parity is not None
    changed = parity.model_copy(update={"verdict": "fail", "reason": "it was another"}) if refused else None
    update_manifest(opened, parity=changed)
    command[1] = str(opened.folder)
    assert run(command) == (1 if refused else 0)
    lead = (tmp_path / "out" / "dossier.md").read_text().split("\n\n")[2]
    assert lead.startswith("FAIL." if refused else "PASS.")
    assert ("REFUSED when it was exported: it was another" if refused else "has no parity record") in lead


def test_an_artifact_outside_its_run_needs_the_run(
    command: list[str], trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command[1] = str(shutil.copytree(trained / "onnx-fp32", tmp_path / "alone"))
    assert run(command) == 2
    assert "--run" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
    assert run([*command, "--run", str(trained)]) == 0
    assert "split.csv" in (tmp_path / "out" / "dossier.md").read_text()


def test_another_folder_is_left_alone(command: list[str], tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.txt").write_text("all of it")
    assert run([*command, "--overwrite"]) == 2
    assert (tmp_path / "out" / "thesis.txt").read_text() == "all of it"


def test_a_signed_dossier_shows_any_change(command: list[str], tmp_path: Path) -> None:
    pytest.importorskip("model_signing")
    public = signing.new_key(tmp_path / "k.pem")
    assert run([*command, "--sign-key", str(tmp_path / "k.pem")]) == 0
    out = tmp_path / "out"
    assert set(signing.signed_files(out, public)) == {path.name for path in out.iterdir()} - {signing.SIGNATURE}
    (out / "dossier.md").write_text("PASS.")
    with pytest.raises(IntegrityError, match="is not what was signed"):
        signing.signed_files(out, public)


def test_the_bill_of_materials_is_valid_and_the_same_again(trained: Path) -> None:
    subject = subject_of_artifact(trained / "onnx-fp32")
    when = datetime(2026, 1, 1, tzinfo=UTC)
    text = bom.model_bom(subject, {"result": "pass"}, now=when)
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(text) is None
    assert bom.model_bom(subject, {"result": "pass"}, now=when) == text
    content = json.loads(text)
    model = content["metadata"]["component"]
    assert model["type"] == "machine-learning-model"
    assert model["hashes"] == [{"alg": "SHA-256", "content": files.sha256(trained / "onnx-fp32" / "model.onnx")}]
    recorded = json.loads((trained / "metrics.json").read_text())["test"]["auroc"]
    measured = {each["type"]: each for each in model["modelCard"]["quantitativeAnalysis"]["performanceMetrics"]}
    assert float(measured["auroc"]["value"]) == pytest.approx(recorded, abs=1e-5)
    packages = {each["name"]: each for each in content["components"]}
    assert packages["numpy"]["version"] == np.__version__
    assert all(each["licenses"] for each in packages.values())
    (needs,) = [each["dependsOn"] for each in content["dependencies"] if each["ref"] == "model"]
    assert [ref.partition("@")[0] for ref in needs] == ["ttl-deploy"]


def test_without_the_extra_one_line_says_how_to_get_it(
    command: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "cyclonedx.model.bom", None)
    assert run(command) == 2
    assert "pip install 'ttl-deploy[dossier]'" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_masks_are_held_against_the_drawn_ones(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "pairs").mkdir()
    folder = train_masks(write_pairs(tmp_path / "pairs"), tmp_path / "masks")
    run(["export", str(folder), "--out", str(folder / "onnx")])
    table = tmp_path / "pairs" / "pairs.csv"
    header, *lines = table.read_text().splitlines()
    table.write_text("\n".join([f"{header},site", *(f"{line},{'ab'[k % 2]}" for k, line in enumerate(lines))]))
    recorded = json.loads((folder / "metrics.json").read_text())["test"]
    criteria = tmp_path / "criteria.yaml"
    site = "{minimum: {dice: 0}, bounds: {max_dice_drop: 0.1}}"
    criteria.write_text(
        f"minimum: {{dice: 0, least_dice: 0, auroc: 0}}\nbounds: {{max_dice_drop: 0.1}}\nsubgroups: {{site: {site}}}"
    )
    capsys.readouterr()
    run(["dossier", str(folder / "onnx"), "--criteria", str(criteria), "--out", str(tmp_path / "out"), "--json"])
    rows = {each["criterion"]: each for each in json.loads(capsys.readouterr().out)["criteria"]["rows"]}
    assert float(rows["minimum.dice"]["seen"]) == pytest.approx(recorded["dice"], abs=1e-3)
    assert rows["minimum.auroc"]["result"] == "cannot be judged"
    assert "Dice" in rows["bounds.max_dice_drop"]["seen"]
    worst = rows["minimum.least_dice"]
    assert (worst["result"], "by: value" in worst["why"]) == ("cannot be judged", True)
    groups = [rows[f"subgroups.site.{name}.minimum.dice"] for name in "ab"]
    total = sum(float(row["seen"]) * row["group"]["images"] for row in groups)
    assert total / sum(row["group"]["images"] for row in groups) == pytest.approx(recorded["dice"], abs=1e-3)
    assert "Dice" in rows["subgroups.site.a.bounds.max_dice_drop"]["seen"]
    assert "minimum.dice" in (tmp_path / "out" / "verify.html").read_text()
