"""`ttl-deploy analyze`: everything that applies in one folder, the rest in a line, and what is refused at once."""

from __future__ import annotations

import csv
import json
import re
from pathlib import Path

import numpy as np
import pytest
from outlined import train_masks, write_pairs
from PIL import Image
from small import MODEL, PROTOCOL, but
from typer.main import get_command
from written_run import two_classes, write_run

from ttl_deploy.analysis.analyses import ANALYSES
from ttl_deploy.analysis.finding import Sheet
from ttl_deploy.cli.main import program, run
from ttl_deploy.data.prepared import read_split
from ttl_deploy.data.synthetic_ct import CLASSES, write_synthetic_ct
from ttl_deploy.spec import Data, Model
from ttl_deploy.training.train import train
from ttl_deploy.verbs import analyze as verb
from ttl_deploy.verbs.analyze import Analysed, analyze

OF_SEVERAL = ["agreement", "heads"]


def files_of(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


def whole(found: Analysed) -> None:
    """Every file that the page names is there and nothing else; every picture opens; CSV and JSON tell the same."""
    page = (found.out / "analysis.md").read_text()
    named = set(re.findall(r"\]\(([^)]*)\)", page))
    assert files_of(found.out) == named | {"analysis.md"}
    for name in found.found:
        record = json.loads((found.out / f"{name}.json").read_text())
        assert record["sentence"] in page
        for table, rows in record["tables"].items():
            with ((found.out / name).parent / f"{table}.csv").open(newline="") as handle:
                written = list(csv.DictReader(handle))
            assert [list(row.values()) for row in written] == [
                ["" if row[column] is None else str(row[column]) for column in written[0]] for row in rows
            ]
    for path in found.out.rglob("*.png"):
        assert np.asarray(Image.open(path).convert("L")).std() > 1
    for reason in found.left_out.values():
        assert f"Left out: {reason}" in page


def sheet_of(found: Analysed) -> list[str]:
    """The words below the pictures of Grad-CAM's sheet."""
    sheet = found.found["gradcam"].figures[""]
    assert isinstance(sheet, Sheet)
    return [tile.words for row in sheet.tiles for tile in row]


def test_all_of_one_run_leaves_out_what_compares_runs(trained: Path, pixel_cache: Path, tmp_path: Path) -> None:
    found = analyze(trained, out=tmp_path / "a", cache=pixel_cache)
    assert {*found.found, *OF_SEVERAL} == set(ANALYSES.names())
    assert sorted(found.left_out) == OF_SEVERAL
    assert "only one was given" in found.left_out["agreement"]
    whole(found)


def test_several_runs_have_a_folder_each_and_are_compared(trained: Path, run_copy: Path, tmp_path: Path) -> None:
    found = analyze([trained, run_copy], what="drift,agreement,convergence", out=tmp_path / "a")
    assert set(found.found) == {"tiny/drift", "run/drift", "agreement", "convergence"}
    assert found.found["agreement"].tables[""].as_dicts()[0]["agreement"] == 1
    whole(found)


def test_two_runs_of_one_name_are_told_apart(tmp_path: Path) -> None:
    for place, count in (("a", 0), ("b", 1)):
        (tmp_path / place).mkdir()
        write_run(tmp_path / place / "run", ("healthy", "ill"), two_classes()[0], two_classes(seed=count)[1])
    found = analyze([tmp_path / "a" / "run", tmp_path / "b" / "run"], what="agreement,convergence", out=tmp_path / "c")
    (row,) = found.found["agreement"].tables[""].as_dicts()
    assert (row["first"], row["second"]) == ("1-run", "2-run")
    assert {row["run"] for row in found.found["convergence"].tables[""].as_dicts()} == {"1-run", "2-run"}
    whole(found)


def test_the_same_command_gives_the_same_numbers(trained: Path, pixel_cache: Path, tmp_path: Path) -> None:
    for name in ("a", "b"):
        analyze(trained, what=["svcca", "cca"], out=tmp_path / name, cache=pixel_cache, images=20, seed=3)
    for file in ("svcca.csv", "cca.csv", "svcca.png"):
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()


def test_a_transformer_of_tokens_is_analysed_at_its_own_cuts(
    synthetic: Path, pixel_cache: Path, tmp_path: Path
) -> None:
    model = Model(backbone="deit_tiny_patch16_224", cut="blocks.1", image_size=32, weights="random")
    data = Data(path=synthetic / "labels.csv", cache=pixel_cache)
    folder = train(data, model, but(PROTOCOL, epochs=1), tmp_path / "deit").folder
    found = analyze(folder, out=tmp_path / "a", cache=pixel_cache)
    assert sorted(found.left_out) == OF_SEVERAL
    rows = found.found["knn"].tables[""].as_dicts()
    cuts = [row["cut"] for row in found.found["svcca"].tables[""].as_dicts()]
    assert cuts[-1] == "blocks.1"
    assert [(row["cut"], row["pooling"]) for row in rows] == [(c, p) for c in cuts for p in ("cls", "spatial", "both")]
    whole(found)


def test_windows_of_positions_are_analysed_channels_first(synthetic: Path, pixel_cache: Path, tmp_path: Path) -> None:
    """Swin gives (H, W, C): a mean over the wrong axes would have as many numbers as the image has rows."""
    model = Model(backbone="swin_tiny_patch4_window7_224", cut="block:1", image_size=32, weights="random")
    data = Data(path=synthetic / "labels.csv", cache=pixel_cache)
    folder = train(data, model, but(PROTOCOL, epochs=1), tmp_path / "swin").folder
    found = analyze(folder, what=["cca", "knn", "gradcam", "features", "fid"], out=tmp_path / "a", cache=pixel_cache)
    assert found.found["gradcam"].tables["runs"].as_dicts()[0]["grid"] == "8x8"
    rows = found.found["cca"].tables[""].as_dicts()
    seen = sum(row.side != "test" for row in read_split(folder / "split.csv"))
    assert rows[-1]["rows"] == 8 * 8 * seen
    assert {row["pooling"] for row in found.found["knn"].tables[""].as_dicts()} == {"mean"}


def test_a_network_of_volumes_is_analysed(tmp_path: Path) -> None:
    studies = write_synthetic_ct(tmp_path / "set", studies=32, size=(16, 32, 32))
    data = Data(path=studies / "labels.csv", classes=CLASSES, hu_window="-100,500", cache=tmp_path / "cache")
    model = Model(
        backbone="resnext3d50", method="ttl", cut="stem", weights="random", image_size=(16, 32, 32), channels=1
    )
    folder = train(data, model, but(PROTOCOL, epochs=1, batch_size=8), tmp_path / "run").folder
    found = analyze(folder, out=tmp_path / "a", cache=tmp_path / "cache")
    assert set(found.found) >= set(ANALYSES.names()) - {*OF_SEVERAL, "probe"}
    assert re.search(r"slice \d of 16", str(sheet_of(found)))
    whole(found)


def test_a_run_of_masks_says_what_does_not_apply_to_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("TTL_DEPLOY_CACHE", str(tmp_path / "cache"))
    (tmp_path / "pairs").mkdir()
    folder = train_masks(write_pairs(tmp_path / "pairs"), tmp_path / "run")
    found = analyze(folder, out=tmp_path / "a")
    assert set(found.left_out) == {*OF_SEVERAL, "gradcam", "knn", "probe"}
    assert "draws masks" in found.left_out["knn"]
    assert "dice" in found.found["reinit"].tables[""].columns
    whole(found)
    capsys.readouterr()
    assert run(["analyze", str(folder), "--what", "probe", "--out", str(tmp_path / "b")]) == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert "draws masks" in line
    assert not (tmp_path / "b").exists()


class Reached(BaseException):
    """Something slow began."""


def reached(*_: object, **__: object) -> None:
    raise Reached


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--what", "svca"], "unknown analysis 'svca'"),
        (["--what", "agreement"], "only one was given"),
        (["--what", "drift,agreement"], "only one was given"),
        (["--out", "."], "exists already"),
    ],
)
def test_what_does_not_apply_is_refused_before_anything(
    arguments: list[str],
    said: str,
    trained: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "kept").touch()
    monkeypatch.chdir(tmp_path)
    for place in ("analysis.subject.load_model", "analysis.subject.run_data", "verbs.analyze._looked"):
        monkeypatch.setattr(f"ttl_deploy.{place}", reached)
    assert run(["analyze", str(trained), *arguments]) == 2
    assert said in capsys.readouterr().err
    assert files_of(tmp_path) == {"kept"}


def test_starting_weights_that_are_gone_leave_only_what_needs_them_out(
    trained: Path, synthetic: Path, pixel_cache: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first = tmp_path / "first"
    first.mkdir()
    weights = first / "best.safetensors"
    weights.write_bytes((trained / "best.safetensors").read_bytes())
    data = Data(path=synthetic / "labels.csv", cache=pixel_cache)
    model = but(MODEL, cut="stem", weights=str(weights))
    folder = train(data, model, but(PROTOCOL, epochs=1), tmp_path / "run").folder
    weights.unlink()
    found = analyze(folder, out=tmp_path / "a", cache=pixel_cache)
    assert set(found.left_out) == {*OF_SEVERAL, "cca", "cka", "drift", "fid", "filters", "reinit", "svcca"}
    assert "no such file" in found.left_out["drift"]
    whole(found)
    assert run(["analyze", str(folder), "--what", "drift", "--out", str(tmp_path / "b")]) == 2
    assert "no such file" in capsys.readouterr().err


def test_images_that_are_gone_leave_out_what_looks_at_them(tmp_path: Path) -> None:
    made = write_run(tmp_path / "made", ("healthy", "ill"), *two_classes())
    found = analyze(made, what="all", out=tmp_path / "a")
    assert list(found.found) == ["convergence"]
    assert "no longer there" in found.left_out["knn"]


def test_runs_of_other_test_sides_are_not_compared(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    one = write_run(tmp_path / "one", ("healthy", "ill"), *two_classes(80))
    other = write_run(tmp_path / "other", ("healthy", "ill"), *two_classes(60))
    asked = ["analyze", str(one), str(other), "--out", str(tmp_path / "a")]
    assert run([*asked, "--what", "agreement"]) == 2
    assert "has another test side than one" in capsys.readouterr().err


def test_nothing_half_written_stays(
    trained: Path, pixel_cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "a"
    analyze(trained, what="drift", out=out)
    before = {file: (out / file).read_bytes() for file in files_of(out)}
    monkeypatch.setattr(verb, "picture", reached)
    with pytest.raises(Reached):
        analyze(trained, what="convergence", out=out, overwrite=True)
    assert {file: (out / file).read_bytes() for file in files_of(tmp_path / "a")} == before
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_help_names_every_analysis() -> None:
    command = get_command(program()).commands["analyze"]  # type: ignore[attr-defined]
    (option,) = [parameter for parameter in command.params if "--what" in parameter.opts]
    words = set(re.findall(r"[a-z]+", option.help))
    assert {*ANALYSES.names(), "all"} <= words


def test_json_says_what_was_found(trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["analyze", str(trained), "--what", "convergence", "--out", str(tmp_path / "a"), "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert list(said["found"]) == ["convergence"]
    assert said["left_out"] == {}
