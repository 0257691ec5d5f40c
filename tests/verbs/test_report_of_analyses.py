"""What `analyze` found stands in the report of the very models that it looked at, and nowhere else."""

import base64
import io
import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from written_run import write_run

from ttl_deploy.errors import BadInputError
from ttl_deploy.training.run import finished_run
from ttl_deploy.verbs.analyze import analyze
from ttl_deploy.verbs.report import report

FIRST_FILTERS = "The first filters before and after training"


@pytest.fixture(scope="module")
def looked(trained: Path, pixel_cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("looked") / "analysis"
    return analyze(trained, what="convergence,filters", out=out, cache=pixel_cache).out


@pytest.fixture
def other(tmp_path: Path) -> Path:
    """A run of other weights."""
    labels = np.arange(40, dtype=np.int64) // 4 % 2
    logits = np.random.default_rng(0).normal(size=(40, 2)).astype(np.float32)
    return write_run(tmp_path / "other", ("a", "b"), labels, logits)


def test_the_pictures_and_their_numbers_are_in_the_page(trained: Path, looked: Path, tmp_path: Path) -> None:
    page = report([trained, looked], out=tmp_path / "page.html").out.read_text()
    assert "What training did to its layers" in page
    pictures = re.findall(r'<img alt="([^"]+)" src="data:image/png;base64,iVBOR', page)
    assert pictures == ["How soon training was good enough", FIRST_FILTERS]
    record = json.loads((looked / "filters.json").read_text())
    assert record["weights"] == [finished_run(trained).metrics()["weights_sha256"]]
    words = report([trained, looked], out=tmp_path / "page.md").out.read_text()
    assert record["sentence"] in words
    assert (looked / "filters.csv").read_text().splitlines()[0] in words


def test_the_sentence_stands_beside_the_main_picture(trained: Path, looked: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(looked, copy)
    for kind in ("png", "csv"):
        shutil.copy(copy / f"filters.{kind}", copy / f"filters-all.{kind}")
    record = json.loads((copy / "filters.json").read_text())
    pictures = {"filters-all.png": "filters-all.csv", **record["pictures"]}
    (copy / "filters.json").write_text(json.dumps({**record, "pictures": pictures}))
    page = report([trained, copy], out=tmp_path / "page.html").out.read_text()
    assert re.findall(r'<img alt="([^"]*filters[^"]*)"', page) == [FIRST_FILTERS, "filters, all"]
    main, more = page.index(f'alt="{FIRST_FILTERS}"'), page.index(f"More of: {FIRST_FILTERS}.")
    assert page.index(record["sentence"][:30]) < main < more


def test_the_analysis_page_says_what_is_shown(looked: Path) -> None:
    page = (looked / "analysis.md").read_text()
    assert f"## filters: {FIRST_FILTERS}\n" in page
    assert f"![{FIRST_FILTERS}](filters.png)" in page


def test_a_picture_of_an_earlier_version_is_headed_by_its_name(trained: Path, looked: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(looked, copy)
    record = json.loads((copy / "filters.json").read_text())
    del record["titles"]
    (copy / "filters.json").write_text(json.dumps(record))
    page = report([trained, copy], out=tmp_path / "page.html").out.read_text()
    assert 'alt="filters"' in page
    assert FIRST_FILTERS not in page


def test_a_large_picture_is_compressed_in_the_page_and_looks_the_same(
    trained: Path, looked: Path, tmp_path: Path
) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(looked, copy)
    noise = np.random.default_rng(0).integers(90, 110, (300, 300, 3), dtype=np.uint8)
    Image.fromarray(noise).save(copy / "filters.png")
    page = report([trained, copy], out=tmp_path / "page.html").out.read_text()
    (found,) = re.findall(r'<img alt="The first filters[^"]*" src="data:image/webp;base64,([^"]+)"', page)
    assert len(found) < (copy / "filters.png").stat().st_size / 2
    with Image.open(io.BytesIO(base64.b64decode(found))) as shown:
        assert np.abs(np.asarray(shown).astype(int) - noise).mean() < 8


def test_what_is_of_several_models_is_told_once_of_them_all(
    trained: Path, looked: Path, other: Path, tmp_path: Path
) -> None:
    both = tmp_path / "both"
    shutil.copytree(looked, both)
    record = json.loads((both / "filters.json").read_text())
    weights = [finished_run(run).metrics()["weights_sha256"] for run in (trained, other)]
    (both / "filters.json").write_text(json.dumps({**record, "weights": weights, "sentence": "both differ"}))
    words = report([trained, other, both], out=tmp_path / "page.md").out.read_text()
    assert words.index("How the models differ") < words.index("both differ")
    assert words.count("both differ") == 1
    assert "both differ" not in report([trained, both], out=tmp_path / "one.md").out.read_text()
    for file in both.glob("convergence*"):
        file.unlink()
    with pytest.raises(BadInputError, match="both: compares these models with others that are not here; pass all the"):
        report([trained, both], out=tmp_path / "two.md")


def test_an_analysis_of_other_models_is_refused(looked: Path, other: Path, tmp_path: Path) -> None:
    with pytest.raises(BadInputError, match="analysis: looked at none of these models"):
        report([other, looked], out=tmp_path / "page.html")


@pytest.mark.parametrize("gone", ["filters.png", "filters.csv"])
def test_a_file_that_is_gone_is_one_line(trained: Path, looked: Path, tmp_path: Path, gone: str) -> None:
    folder = tmp_path / "analysis"
    shutil.copytree(looked, folder)
    (folder / gone).unlink()
    with pytest.raises(BadInputError, match=f"filters.json: names a file that cannot be read: .*{gone}"):
        report([trained, folder], out=tmp_path / "page.html")


def test_a_folder_without_records_is_refused(trained: Path, tmp_path: Path) -> None:
    (tmp_path / "analysis").mkdir()
    (tmp_path / "analysis" / "analysis.md").touch()
    with pytest.raises(BadInputError, match="holds no analysis"):
        report([trained, tmp_path / "analysis"], out=tmp_path / "page.html")


def test_a_picture_that_is_cut_off_is_one_line(trained: Path, looked: Path, tmp_path: Path) -> None:
    folder = tmp_path / "analysis"
    shutil.copytree(looked, folder)
    for kept in (20, 1000):
        (folder / "filters.png").write_bytes((looked / "filters.png").read_bytes()[:kept])
        with pytest.raises(BadInputError, match=r"filters.json: names a file that cannot be read") as told:
            report([trained, folder], out=tmp_path / "page.html")
        assert "\n" not in str(told.value)
