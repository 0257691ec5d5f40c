"""What a parity check stands on cannot be forged: a run's files against their hashes, each other and the artifact."""

from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from ttl_deploy import files
from ttl_deploy.artifact import open_artifact
from ttl_deploy.cli.main import run as call
from ttl_deploy.errors import IntegrityError
from ttl_deploy.formats.export_run import export_run
from ttl_deploy.parity.verify import verify
from ttl_deploy.training.run import METRICS, PREDICTIONS, SPLIT, finished_run
from ttl_deploy.training.train import resume

Rows = list[dict[str, str]]
Change = Callable[[Rows], Any]


def changed(path: Path, change: Change) -> None:
    """Rewrites a CSV; the change may return other rows."""
    with path.open(newline="") as handle:
        reader = csv.DictReader(handle)
        rows, columns = list(reader), list(reader.fieldnames or ())
    result = change(rows)
    with path.open("w", newline="") as handle:
        writer = csv.DictWriter(handle, columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows if result is None else result)


def forget_hashes(run: Path) -> None:
    """The run as an older version, which recorded none, would have left it."""
    metrics = json.loads((run / METRICS).read_text())
    metrics.pop("files", None)
    files.write_json(run / METRICS, metrics)
    manifest = run / "onnx-fp32" / "manifest.json"
    content = json.loads(manifest.read_text())
    content["source"].pop("metrics_sha256", None)
    manifest.write_text(json.dumps(content))


def rename(rows: Rows) -> None:
    for row in rows:
        row["split"] = "test" if row["split"] == "val" else row["split"]


def double(rows: Rows) -> Rows:
    return [*rows, *(row for row in rows if row["split"] == "test")]


def relabel(rows: Rows) -> None:
    row = next(row for row in rows if row["split"] == "test")
    row["label"] = "healthy" if row["label"] == "lesion" else "lesion"


def drop(rows: Rows) -> Rows:
    first = next(row for row in rows if row["split"] == "test")
    return [row for row in rows if row is not first]


def swap_logits(rows: Rows) -> None:
    for row in rows:
        row["logit_healthy"], row["logit_lesion"] = row["logit_lesion"], row["logit_healthy"]


def scale_logits(rows: Rows) -> None:
    for row in rows:
        row["logit_healthy"], row["logit_lesion"] = (str(float(row[f"logit_{c}"]) * 5) for c in ("healthy", "lesion"))


def stranger(rows: Rows) -> None:
    rows[0]["id"] = "somewhere/else.png"


def no_number(rows: Rows) -> None:
    rows[-1]["logit_lesion"] = "nan"


def without_test(rows: Rows) -> Rows:
    return [row for row in rows if row["split"] != "test"]


FORGED: list[tuple[str, Change, str]] = [
    (PREDICTIONS, rename, "on the side test, the division on val"),
    (PREDICTIONS, double, "twice"),
    (PREDICTIONS, relabel, "labels the image"),
    (PREDICTIONS, drop, "lacks the image"),
    (PREDICTIONS, swap_logits, "AUROC on the val side, metrics.json says"),
    (PREDICTIONS, scale_logits, "BRIER on the val side, metrics.json says"),
    (PREDICTIONS, stranger, "holds the image somewhere/else.png"),
    (PREDICTIONS, no_number, "no number"),
    (SPLIT, without_test, "has no test side"),
    (SPLIT, double, "twice"),
    (SPLIT, relabel, "labels the image"),
    (SPLIT, rename, "the division on test"),
]


@pytest.mark.parametrize(("name", "change", "said"), FORGED)
def test_a_changed_file_is_refused_by_its_hash(run_copy: Path, name: str, change: Change, said: str) -> None:
    changed(run_copy / name, change)
    with pytest.raises(IntegrityError, match=r"has changed since the evaluation \(its SHA-256 differs\)") as error:
        verify(run_copy / "onnx-fp32")
    assert name in str(error.value)


@pytest.mark.parametrize(("name", "change", "said"), FORGED)
def test_without_hashes_the_files_contradict_each_other(
    run_copy: Path, pixel_cache: Path, name: str, change: Change, said: str
) -> None:
    forget_hashes(run_copy)
    changed(run_copy / name, change)
    with pytest.raises(IntegrityError, match=said):
        verify(run_copy / "onnx-fp32", cache=pixel_cache)


@pytest.mark.parametrize(("name", "change", "said"), FORGED)
def test_hashes_that_were_renewed_do_not_help(
    run_copy: Path, pixel_cache: Path, name: str, change: Change, said: str
) -> None:
    """The artifact holds the hash of `metrics.json`; a run without an artifact still contradicts itself."""
    changed(run_copy / name, change)
    metrics = json.loads((run_copy / METRICS).read_text())
    metrics["files"][name] = files.sha256(run_copy / name)
    files.write_json(run_copy / METRICS, metrics)
    with pytest.raises(IntegrityError, match=said):
        verify(run_copy / "onnx-fp32", cache=pixel_cache)


def test_forged_metrics_are_refused_by_the_artifact(run_copy: Path, pixel_cache: Path) -> None:
    metrics = json.loads((run_copy / METRICS).read_text())
    files.write_json(run_copy / METRICS, metrics | {"seconds": 1.0})
    with pytest.raises(IntegrityError, match=r"metrics\.json was another file"):
        verify(run_copy / "onnx-fp32", cache=pixel_cache)
    assert finished_run(run_copy).hashes_recorded


@pytest.mark.parametrize("recorded", [True, False])
def test_another_crop_in_the_configuration_is_refused(run_copy: Path, pixel_cache: Path, recorded: bool) -> None:
    if not recorded:
        forget_hashes(run_copy)
    config = yaml.safe_load((run_copy / "config.yaml").read_text())
    config["preprocess"]["crop"] = "none"
    (run_copy / "config.yaml").write_text(yaml.safe_dump(config))
    said = "has changed since the evaluation" if recorded else "under another configuration"
    with pytest.raises(IntegrityError, match=said):
        verify(run_copy / "onnx-fp32", cache=pixel_cache)


def test_every_reader_of_a_finished_run_refuses_in_one_line(
    run_copy: Path, pixel_cache: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    changed(run_copy / PREDICTIONS, scale_logits)
    alone = Path(shutil.copytree(run_copy / "onnx-fp32", run_copy.parent / "alone"))
    cache = ["--cache", str(pixel_cache)]
    for command in (
        ["verify", str(run_copy / "onnx-fp32"), *cache],
        ["verify", str(alone), "--against", str(run_copy), *cache],
        ["export", str(run_copy), "--out", str(run_copy.parent / "out"), *cache],
        ["bench", str(run_copy)],
    ):
        assert call(command) == 2, command
        said = capsys.readouterr().err.strip()
        assert "predictions.csv: has changed since the evaluation" in said.splitlines()[-1], command
        assert "unforeseen" not in said
    assert not (run_copy.parent / "out").exists()


def test_an_older_run_still_verifies_and_says_what_is_not_recorded(run_copy: Path, pixel_cache: Path) -> None:
    assert verify(run_copy / "onnx-fp32", cache=pixel_cache).notes == ()
    forget_hashes(run_copy)
    result = verify(run_copy / "onnx-fp32", cache=pixel_cache)
    assert result.verdict.result == "pass"
    assert len(result.notes) == 2
    assert "recorded no hash of its predictions and split" in result.notes[0]
    assert "did not record the hash of the run's metrics.json" in result.notes[1]


def test_the_recorded_hashes_are_the_files(trained: Path) -> None:
    metrics = json.loads((trained / METRICS).read_text())
    assert metrics["files"] == {n: files.sha256(trained / n) for n in ("config.yaml", "split.csv", "predictions.csv")}
    source = open_artifact(trained / "onnx-fp32").manifest.source
    assert source.metrics_sha256 == files.sha256(trained / METRICS)


def test_a_setting_that_a_later_version_adds_changes_no_digest(run_copy: Path, pixel_cache: Path) -> None:
    """An older run's `config.yaml` lacks it; the digest is the file's."""
    config = yaml.safe_load((run_copy / "config.yaml").read_text())
    assert config.pop("cached_gib") == 8.0
    (run_copy / "config.yaml").write_text(yaml.safe_dump(config, sort_keys=False))
    forget_hashes(run_copy)
    export_run(run_copy, out=run_copy / "again", cache=pixel_cache)
    assert finished_run(run_copy).config_digest() != finished_run(run_copy).config.digest()
    assert verify(run_copy / "again", cache=pixel_cache).verdict.result == "pass"
    assert verify(run_copy / "onnx-fp32", cache=pixel_cache).verdict.result == "pass"


def test_going_on_with_a_finished_run_keeps_the_evaluation_that_artifacts_name(
    run_copy: Path, pixel_cache: Path
) -> None:
    before = (run_copy / METRICS).read_bytes()
    resume(run_copy, cache=pixel_cache)
    assert (run_copy / METRICS).read_bytes() == before
    changed(run_copy / PREDICTIONS, scale_logits)
    resume(run_copy, cache=pixel_cache)
    finished_run(run_copy)
