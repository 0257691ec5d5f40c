"""`--recipe` from the command line to the files of a run, and the paper's rows beside it."""

import contextlib
import io
import json
from pathlib import Path

import pytest
import yaml

from ttl_deploy.cli.main import run
from ttl_deploy.spec import Data, Model, Network, Protocol
from ttl_deploy.spec.search import SearchProtocol
from ttl_deploy.training.run import open_run
from ttl_deploy.verbs.search import search
from ttl_deploy.verbs.train import train

TINY = (
    "--backbone",
    "cbr_tiny",
    "--weights",
    "random",
    "--image-size",
    "32",
    "--task",
    "multiclass",
    "--device",
    "cpu",
)
SHORT = ("--epochs", "1", "--batch-size", "32")


@pytest.fixture(scope="module")
def single(synthetic: Path, pixel_cache: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str, str]:
    """A run under a recipe, and what was printed."""
    out, printed, told = tmp_path_factory.mktemp("recipe") / "run", io.StringIO(), io.StringIO()
    arguments = ["train", str(synthetic / "labels.csv"), "--cache", str(pixel_cache), "--out", str(out)]
    with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(told):
        assert run([*arguments, *TINY, *SHORT, "--recipe", "transfusion", "--repeats", "1"]) == 0, told.getvalue()
    return out, printed.getvalue(), told.getvalue()


def test_a_run_records_its_recipe_and_what_it_said(single: tuple[Path, str, str]) -> None:
    folder, _printed, _told = single
    content = yaml.safe_load((folder / "config.yaml").read_text())
    assert content["recipe"] == "transfusion"
    assert (content["model"]["method"], content["model"]["image_size"], content["batch_size"]) == ("ftl", 32, 32)
    assert open_run(folder).config.recipe == "transfusion"


def test_a_run_without_a_recipe_has_neither_word_nor_rows(trained: Path) -> None:
    assert "recipe" not in yaml.safe_load((trained / "config.yaml").read_text())
    assert "paper" not in json.loads((trained / "metrics.json").read_text())


def test_what_the_paper_leaves_open_is_told_before_and_its_rows_are_printed_after(
    single: tuple[Path, str, str],
) -> None:
    folder, printed, told = single
    assert told.startswith("recipe transfusion: grades of diabetic retinopathy")
    assert "  left open: optimizer, rate, schedule" in told
    auroc = open_run(folder).metrics()["test"]["auroc"]
    (line,) = [line for line in printed.splitlines() if line.strip().startswith("Transfusion 1: CBR-Tiny Random Init")]
    assert "0.958 ± 0.0003" in line
    assert f"{auroc:.4f}" in line
    assert "there: images of RETINA, weights random" in printed
    assert "and not as the recipe says task multiclass, image_size 32" in printed


def test_metrics_have_the_rows_and_the_run_can_still_be_read(single: tuple[Path, str, str]) -> None:
    paper = open_run(single[0]).metrics()["paper"]
    assert paper["recipe"] == "transfusion"
    (row,) = paper["rows"]
    assert (row["printed"], row["network"], row["metric"]) == ("95.8% ± 0.03", "cbr_tiny ftl", "auroc")
    assert len(row["interval"]) == 2


def test_the_runs_config_repeats_it_word_for_word(
    single: tuple[Path, str, str], pixel_cache: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = single[0] / "config.yaml"
    arguments = ["train", "--config", str(config), "--repeats", "1", "--cache", str(pixel_cache), "--json"]
    assert run([*arguments, "--out", str(tmp_path / "again")]) == 0, capsys.readouterr().err
    assert (tmp_path / "again" / "config.yaml").read_text() == config.read_text()
    assert json.loads(capsys.readouterr().out)["paper"]["recipe"] == "transfusion"


def test_a_recipe_asks_for_its_repeats_and_its_rows_are_beside_their_mean(
    synthetic: Path, pixel_cache: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    own = tmp_path / "ours.toml"
    own.write_text(
        'title = "ours"\nsource = "our clinic"\nbeside = [{ table = "Transfusion 1" }]\n'
        '[model]\nmethod = "ftl"\n[series]\nrepeats = 2\n'
    )
    arguments = ["train", str(synthetic / "labels.csv"), "--cache", str(pixel_cache), "--out", str(tmp_path / "series")]
    assert run([*arguments, *TINY, *SHORT, "--recipe", str(own), "--json"]) == 0
    summary = json.loads(capsys.readouterr().out)
    assert summary["runs"] == ["repeat-0", "repeat-1"]
    (row,) = summary["paper"]["rows"]
    assert (row["ours"], row["deviation"]) == (summary["test"]["auroc"]["mean"], summary["test"]["auroc"]["std"])
    assert "2 runs on test images of labels.csv" in summary["paper"]["differs"]
    assert open_run(tmp_path / "series" / "repeat-1").config.recipe == str(own.resolve())


def test_folds_of_a_recipe_can_be_more_or_none(
    synthetic: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []
    monkeypatch.setattr("ttl_deploy.training.series.train_series", lambda *_, **said: asked.append(said) or {})
    monkeypatch.setattr("ttl_deploy.verbs.train.train", lambda *_, **__: asked.append("one"))
    monkeypatch.setattr("ttl_deploy.cli.commands.train._show", lambda *_: None)
    monkeypatch.setattr("ttl_deploy.cli.commands.train._show_summary", lambda *_: None)
    for more in ((), ("--folds", "3", "--fold-holds", "test"), ("--folds", "1")):
        arguments = ["train", str(synthetic), "--out", str(tmp_path / "out"), *TINY, "--recipe", "radimagenet", *more]
        assert run(arguments) == 0
    assert [(said["folds"], said["fold_holds"], said["repeats"]) for said in asked[:2]] == [
        (5, "val+test", 1),
        (3, "test", 1),
    ]
    assert asked[2] == "one"


@pytest.mark.parametrize("command", ["train", "search"])
@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--recipe", "lungseg"), "unknown recipe 'lungseg'; nearest: lung-seg"),
        (("--recipe", "pe-ct", "--backbone", "resnet50"), "recipe pe-ct: is of volumes, and backbone resnet50"),
        (("--recipe", "lung-seg", "--task", "multiclass"), "pass --head gap"),
        (("--recipe", "ttl", "--task", "segmentation", "--cut", "stem"), "is not monitored by 'auprc'"),
    ],
)
def test_what_does_not_fit_is_one_line_before_images_are_read(
    command: str,
    options: tuple[str, ...],
    said: str,
    synthetic: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr("ttl_deploy.data.manifest.read_dataset", lambda *_, **__: pytest.fail("the images were read"))
    cut = ("--cut", "stem") if command == "train" and "--cut" not in options else ()
    given = [option for option in options if command == "train" or option not in ("--cut", "stem")]
    assert run([command, str(synthetic), "--out", str(tmp_path / "out"), "--weights", "random", *given, *cut]) == 2
    last = capsys.readouterr().err.strip().splitlines()[-1]
    assert last.startswith("error: ")
    assert said in last
    assert not (tmp_path / "out").exists()


def test_the_functions_of_python_take_recipes_too(
    synthetic: Path, pixel_cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = Data(path=synthetic / "labels.csv", cache=pixel_cache, task="multiclass")
    model = Model(backbone="cbr_tiny", weights="random", image_size=32)
    made = train(data, model, Protocol(recipe="transfusion", epochs=1, device="cpu"), tmp_path / "run")
    assert (made.config.model.method, made.metrics()["paper"]["recipe"]) == ("ftl", "transfusion")
    taken = []
    monkeypatch.setattr("ttl_deploy.cut_search.search.search", lambda *given, **_: taken.extend(given))
    search(data, Network(), SearchProtocol(recipe="radimagenet"), tmp_path / "search")
    assert (taken[1].method, taken[2].learning_rate) == ("ftl", 1e-5)
