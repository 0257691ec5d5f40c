"""A series goes on only with the plan it was begun with: two configurations in one mean would be of nothing."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from ttl_deploy.cli.main import run as call
from ttl_deploy.data.columns import Columns
from ttl_deploy.errors import BadInputError, IntegrityError
from ttl_deploy.spec import SplitSpec
from ttl_deploy.training import series
from ttl_deploy.training.series import train_incremental, train_series
from ttl_deploy.training.train import DataOptions, Request

REQUEST = Request(
    backbone="resnet18",
    method="ttl",
    cut="layer1.0",
    image_size=32,
    weights="random",
    device="cpu",
    precision="fp32",
    settings={"epochs": 1, "batch_size": 32, "learning_rate": 1e-3},
)


@pytest.fixture
def data(synthetic: Path, pixel_cache: Path) -> DataOptions:
    return DataOptions(synthetic / "labels.csv", cache=pixel_cache)


@pytest.fixture
def no_training(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only the plan is looked at."""
    monkeypatch.setattr(series, "_one", lambda *_arguments: None)
    monkeypatch.setattr(series, "_summarise", lambda *_arguments, **_more: {"done": True})


def settings(**changes: Any) -> Request:
    return replace(REQUEST, settings={**(REQUEST.settings or {}), **changes})


CHANGES: list[tuple[str, Callable[..., Any]]] = [
    ("request.settings.learning_rate was 0.001, now 0.01", lambda: {"request": settings(learning_rate=1e-2)}),
    ("request.settings.epochs was 1, now 2", lambda: {"request": settings(epochs=2)}),
    ("request.settings.seed was not given, now 3", lambda: {"request": settings(seed=3)}),
    ("request.cut was 'layer1.0', now 'layer1.1'", lambda: {"request": replace(REQUEST, cut="layer1.1")}),
    ("request.backbone was 'resnet18', now 'resnet34'", lambda: {"request": replace(REQUEST, backbone="resnet34")}),
    ("request.image_size was 32, now 48", lambda: {"request": replace(REQUEST, image_size=48)}),
    ("split.seed was 0, now 1", lambda: {"split": SplitSpec(seed=1)}),
]


@pytest.mark.parametrize("kind", [{"repeats": 2}, {"folds": 3}])
@pytest.mark.parametrize(("said", "change"), CHANGES)
def test_another_plan_in_the_same_folder_is_refused_and_the_field_named(
    data: DataOptions, tmp_path: Path, no_training: None, kind: dict[str, int], said: str, change: Callable[..., Any]
) -> None:
    first = {"request": REQUEST, "split": SplitSpec(), **kind}
    out = tmp_path / "series"
    train_series(data, out=out, **first)  # type: ignore[arg-type]
    before = (out / "series.json").read_bytes()
    with pytest.raises(BadInputError, match="holds another series") as error:
        train_series(data, out=out, **{**first, **change()})
    assert said in str(error.value)
    assert (out / "series.json").read_bytes() == before
    assert train_series(data, out=out, **first) == {"done": True}  # type: ignore[arg-type]
    assert train_series(data, out=out, overwrite=True, **{**first, **change()}) == {"done": True}


def test_a_series_reads_the_columns_that_the_user_names(
    data: DataOptions, tmp_path: Path, no_training: None, synthetic: Path
) -> None:
    text = (synthetic / "labels.csv").read_text()
    table = tmp_path / "data" / "other-names.csv"
    shutil.copytree(synthetic, tmp_path / "data")
    table.write_text(text.replace("path,label", "file,finding", 1))
    named = replace(data, path=table, columns=Columns(path="file", label="finding"))
    assert train_series(named, REQUEST, tmp_path / "series", split=SplitSpec(), repeats=2) == {"done": True}
    with pytest.raises(BadInputError, match=r"data\.columns\.label was 'finding', now 'other'"):
        named = replace(named, columns=Columns(path="file", label="other"))
        table.write_text(text.replace("path,label", "file,other", 1))
        train_series(named, REQUEST, tmp_path / "series", split=SplitSpec(), repeats=2)


def test_incremental_keeps_its_plan_too(data: DataOptions, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Finished:
        name = "layers-1"

        def metrics(self) -> dict[str, Any]:
            return {"val": {"auprc": 1.0}}

    monkeypatch.setattr(series, "_one", lambda *_arguments: Finished())
    monkeypatch.setattr(series, "_summarise", lambda *_arguments, **_more: {"done": True})
    request = replace(REQUEST, method="lwft", cut=None)
    arguments: dict[str, Any] = {"split": SplitSpec(), "target_auprc": 0.5}
    train_incremental(data, request, tmp_path / "s", **arguments)
    train_incremental(data, request, tmp_path / "s", **arguments)
    with pytest.raises(BadInputError, match=r"target_auprc was 0\.5, now 0\.9"):
        train_incremental(data, request, tmp_path / "s", **{**arguments, "target_auprc": 0.9})
    changed = replace(request, settings={**(request.settings or {}), "batch_size": 8})
    with pytest.raises(BadInputError, match=r"request\.settings\.batch_size was 32, now 8"):
        train_incremental(data, changed, tmp_path / "s", **arguments)


def test_changed_images_and_changed_starting_weights_are_another_plan(
    synthetic: Path, pixel_cache: Path, tmp_path: Path, no_training: None
) -> None:
    images = Path(shutil.copytree(synthetic, tmp_path / "images"))
    data = DataOptions(images / "labels.csv", cache=pixel_cache)
    weights = tmp_path / "start.safetensors"
    save_file({"w": np.zeros(2, np.float32)}, weights)
    request = replace(REQUEST, weights=str(weights))
    train_series(data, request, tmp_path / "s", split=SplitSpec(), repeats=2)
    save_file({"w": np.ones(2, np.float32)}, weights)
    with pytest.raises(BadInputError, match=r"request\.weights was"):
        train_series(data, request, tmp_path / "s", split=SplitSpec(), repeats=2)
    save_file({"w": np.zeros(2, np.float32)}, weights)
    train_series(data, request, tmp_path / "s", split=SplitSpec(), repeats=2)
    first, second = sorted((images / "lesion").iterdir())[:2]
    first.write_bytes(second.read_bytes())
    with pytest.raises(BadInputError, match=r"data\.digest was"):
        train_series(data, request, tmp_path / "s", split=SplitSpec(), repeats=2)


def test_a_series_of_an_older_version_is_compared_in_what_it_recorded_and_says_so(
    data: DataOptions, tmp_path: Path, no_training: None
) -> None:
    class Told:
        lines: list[str] = []  # noqa: RUF012 - one test long

        def warn(self, text: str) -> None:
            self.lines.append(text)

    out = tmp_path / "s"
    out.mkdir()
    old = {"repeats": 2, "folds": None, "members": ["repeat-0", "repeat-1"]}
    (out / "series.json").write_text(json.dumps(old))
    told: Any = Told()
    train_series(data, REQUEST, out, split=SplitSpec(), repeats=2, reporter=told)
    assert len(told.lines) == 1
    assert "did not record its options" in told.lines[0]
    with pytest.raises(BadInputError, match="holds another series: members was"):
        train_series(data, REQUEST, out, split=SplitSpec(), repeats=3)
    (out / "series.json").write_text("[]")
    with pytest.raises(IntegrityError, match="no plan of a series"):
        train_series(data, REQUEST, out, split=SplitSpec(), repeats=2)


def test_the_command_says_it_in_one_line_with_exit_code_2(
    synthetic: Path, pixel_cache: Path, tmp_path: Path, no_training: None, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "s"
    train_series(DataOptions(synthetic / "labels.csv", cache=pixel_cache), REQUEST, out, split=SplitSpec(), repeats=2)
    command = ["train", str(synthetic / "labels.csv"), "--out", str(out), "--repeats", "2", "--device", "cpu"]
    more = ["--backbone", "resnet18", "--cut", "layer1.0", "--weights", "random", "--cache", str(pixel_cache)]
    assert call([*command, *more]) == 2
    said = capsys.readouterr().err.strip().splitlines()[-1]
    assert "holds another series" in said
    assert "--overwrite" in said
