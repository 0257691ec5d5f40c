"""A series goes on only with the plan it was begun with: two configurations in one mean would be of nothing."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file
from small import MODEL, PROTOCOL, but

from ttl_deploy.cli.main import run as call
from ttl_deploy.errors import BadInputError, IntegrityError
from ttl_deploy.spec import Data
from ttl_deploy.training import series
from ttl_deploy.training.series import train_incremental, train_series

PLAN = but(PROTOCOL, epochs=1, batch_size=32)


@pytest.fixture
def data(synthetic: Path, pixel_cache: Path) -> Data:
    return Data(path=synthetic / "labels.csv", cache=pixel_cache)


@pytest.fixture
def no_training(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only the plan is looked at."""
    monkeypatch.setattr(series, "_one", lambda *_arguments: None)
    monkeypatch.setattr(series, "_summarise", lambda *_arguments, **_more: {"done": True})


CHANGES: list[tuple[str, dict[str, dict[str, Any]]]] = [
    ("protocol.learning_rate was 0.001, now 0.01", {"protocol": {"learning_rate": 1e-2}}),
    ("protocol.epochs was 1, now 2", {"protocol": {"epochs": 2}}),
    ("protocol.seed was 0, now 3", {"protocol": {"seed": 3}}),
    ("model.cut was 'layer1.0', now 'layer1.1'", {"model": {"cut": "layer1.1"}}),
    ("model.backbone was 'resnet18', now 'resnet34'", {"model": {"backbone": "resnet34"}}),
    ("model.image_size was 32, now 48", {"model": {"image_size": 48}}),
    ("data.split_seed was 0, now 1", {"data": {"split_seed": 1}}),
]


@pytest.mark.parametrize("kind", [{"repeats": 2}, {"folds": 3}])
@pytest.mark.parametrize(("said", "change"), CHANGES)
def test_another_plan_in_the_same_folder_is_refused_and_the_field_named(
    data: Data, tmp_path: Path, no_training: None, kind: dict[str, int], said: str, change: dict[str, Any]
) -> None:
    first: dict[str, Any] = {"data": data, "model": MODEL, "protocol": PLAN, "out": tmp_path / "series", **kind}
    other = {**first, **{name: but(first[name], **changes) for name, changes in change.items()}}
    out = tmp_path / "series"
    train_series(**first)
    before = (out / "series.json").read_bytes()
    with pytest.raises(BadInputError, match="holds another series") as error:
        train_series(**other)
    assert said in str(error.value)
    assert (out / "series.json").read_bytes() == before
    assert train_series(**first) == {"done": True}
    assert train_series(overwrite=True, **other) == {"done": True}


def test_a_series_reads_the_columns_that_the_user_names(
    data: Data, tmp_path: Path, no_training: None, synthetic: Path
) -> None:
    text = (synthetic / "labels.csv").read_text()
    table = tmp_path / "data" / "other-names.csv"
    shutil.copytree(synthetic, tmp_path / "data")
    table.write_text(text.replace("path,label", "file,finding", 1))
    named = but(data, path=table, path_column="file", label_column="finding")
    assert train_series(named, MODEL, PLAN, tmp_path / "series", repeats=2) == {"done": True}
    with pytest.raises(BadInputError, match=r"data\.label_column was 'finding', now 'other'"):
        named = but(named, label_column="other")
        table.write_text(text.replace("path,label", "file,other", 1))
        train_series(named, MODEL, PLAN, tmp_path / "series", repeats=2)


def test_incremental_keeps_its_plan_too(data: Data, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Finished:
        name = "layers-1"

        def metrics(self) -> dict[str, Any]:
            return {"val": {"auprc": 1.0}}

    monkeypatch.setattr(series, "_one", lambda *_arguments: Finished())
    monkeypatch.setattr(series, "_summarise", lambda *_arguments, **_more: {"done": True})
    model = but(MODEL, method="lwft", cut=None)
    train_incremental(data, model, PLAN, tmp_path / "s", target_auprc=0.5)
    train_incremental(data, model, PLAN, tmp_path / "s", target_auprc=0.5)
    with pytest.raises(BadInputError, match=r"target_auprc was 0\.5, now 0\.9"):
        train_incremental(data, model, PLAN, tmp_path / "s", target_auprc=0.9)
    with pytest.raises(BadInputError, match=r"protocol\.batch_size was 32, now 8"):
        train_incremental(data, model, but(PLAN, batch_size=8), tmp_path / "s", target_auprc=0.5)


def test_changed_images_and_changed_starting_weights_are_another_plan(
    synthetic: Path, pixel_cache: Path, tmp_path: Path, no_training: None
) -> None:
    images = Path(shutil.copytree(synthetic, tmp_path / "images"))
    data = Data(path=images / "labels.csv", cache=pixel_cache)
    weights = tmp_path / "start.safetensors"
    save_file({"w": np.zeros(2, np.float32)}, weights)
    model = but(MODEL, weights=str(weights))
    train_series(data, model, PLAN, tmp_path / "s", repeats=2)
    save_file({"w": np.ones(2, np.float32)}, weights)
    with pytest.raises(BadInputError, match=r"model\.weights was"):
        train_series(data, model, PLAN, tmp_path / "s", repeats=2)
    save_file({"w": np.zeros(2, np.float32)}, weights)
    train_series(data, model, PLAN, tmp_path / "s", repeats=2)
    first, second = sorted((images / "lesion").iterdir())[:2]
    first.write_bytes(second.read_bytes())
    with pytest.raises(BadInputError, match=r"data\.digest was"):
        train_series(data, model, PLAN, tmp_path / "s", repeats=2)


def test_a_series_of_another_version_is_left_to_that_version(data: Data, tmp_path: Path, no_training: None) -> None:
    out = tmp_path / "s"
    out.mkdir()
    old = {"repeats": 2, "folds": None, "members": ["repeat-0", "repeat-1"]}
    (out / "series.json").write_text(json.dumps(old))
    with pytest.raises(BadInputError, match=r"series that another version began, .*choose another --out"):
        train_series(data, MODEL, PLAN, out, repeats=2)
    (out / "series.json").write_text("[]")
    with pytest.raises(IntegrityError, match="no plan of a series"):
        train_series(data, MODEL, PLAN, out, repeats=2)


def test_the_command_says_it_in_one_line_with_exit_code_2(
    synthetic: Path, pixel_cache: Path, tmp_path: Path, no_training: None, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "s"
    train_series(Data(path=synthetic / "labels.csv", cache=pixel_cache), MODEL, PLAN, out, repeats=2)
    command = ["train", str(synthetic / "labels.csv"), "--out", str(out), "--repeats", "2", "--device", "cpu"]
    more = ["--backbone", "resnet18", "--cut", "layer1.0", "--weights", "random", "--cache", str(pixel_cache)]
    assert call([*command, *more]) == 2
    said = capsys.readouterr().err.strip().splitlines()[-1]
    assert "holds another series" in said
    assert "--overwrite" in said
