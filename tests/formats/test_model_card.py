"""The model card says what the run's own files say, and marks what only a person can say."""

import json
import re
from pathlib import Path

from ttl_deploy import files
from ttl_deploy.artifact import open_artifact
from ttl_deploy.formats.model_card import CARD, model_card
from ttl_deploy.training.run import finished_run, open_run


def test_it_is_in_the_artifact_with_its_hash(trained: Path) -> None:
    artifact = open_artifact(trained / "onnx-fp32")
    assert artifact.manifest.files[CARD].sha256 == files.sha256(artifact.folder / CARD)


def test_its_numbers_are_the_runs(trained: Path) -> None:
    text = (trained / "onnx-fp32" / CARD).read_text()
    metrics = json.loads((trained / "metrics.json").read_text())
    test = metrics["test"]
    low, high = test["auroc_interval"]
    assert f"{test['auroc']:.4f} [{low:.4f}, {high:.4f}]" in text
    assert f"| test | {metrics['images']['test']} | {test['patients']} |" in text
    assert f"| parameters | {metrics['parameters']} |" in text
    assert "resnet18, TTL, cut at layer1.1" in text
    assert "by patient: no patient is on two sides" in text
    for row in test["per_class"]:
        assert f"| {row['name']} | {row['images']} | {row['auroc']:.4f} |" in text


def test_few_patients_of_a_class_are_told(trained: Path) -> None:
    text = (trained / "onnx-fp32" / CARD).read_text()
    test = json.loads((trained / "metrics.json").read_text())["test"]
    assert (test["caution"] is not None) == ("too few to rely on any metric" in text)
    assert "bootstrap intervals" not in text, "AUROC's are DeLong's"


def test_gaps_are_marked_and_nothing_leaks(trained: Path) -> None:
    text = (trained / "onnx-fp32" / CARD).read_text()
    gaps = re.findall(r"^\*\*FILL IN\*\* (.*)$", text, re.MULTILINE)
    assert any("licence" in gap for gap in gaps)
    assert any("what the model is for" in gap for gap in gaps)
    assert str(trained.parent) not in text
    assert "{" not in text.replace("`", "")
    assert max(len(re.findall(r"\n\n\n", text)), 0) == 0


def test_the_same_run_gives_the_same_card(trained: Path) -> None:
    run = finished_run(trained)
    facts = {"format": "onnx", "precision": "fp32", "parameters": 1, "macs": 2}
    assert model_card(run, **facts) == model_card(run, **facts)  # type: ignore[arg-type]


def test_without_patients_it_warns(run_copy: Path) -> None:
    split = run_copy / "split.csv"
    lines = [line.split(",") for line in split.read_text().splitlines()]
    place = lines[0].index("patient_id")
    rows = [lines[0], *([*line[:place], "", *line[place + 1 :]] for line in lines[1:])]
    split.write_text("\n".join(",".join(row) for row in rows) + "\n")
    text = model_card(open_run(run_copy), format="onnx", precision="fp32", parameters=1, macs=1)
    assert "images of one patient may be on two sides" in text
    assert "| unknown |" in text
