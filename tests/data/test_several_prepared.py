"""Images with several labels, from the table through the pixels to `split.csv` and back."""

import hashlib
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from listening import Listener
from PIL import Image

from ttl_deploy.data.columns import Columns
from ttl_deploy.data.manifest import read_dataset
from ttl_deploy.data.prepared import Prepared, prepare, prepare_like, read_split, write_split
from ttl_deploy.data.understood import read_columns, write_understood
from ttl_deploy.errors import BadInputError
from ttl_deploy.spec import PreprocessSpec, SplitSpec, TaskSpec

SPEC = PreprocessSpec(image_size=16)
SEVERAL = TaskSpec(kind="multilabel")
HEADER = "Path,PatientID,Age,Edema,Mass\n"
MARKS = ("1,0", "0,1", "1,1", "0,0", "-1,1", "0,")


@pytest.fixture
def table(tmp_path: Path) -> Path:
    """Sixty images of thirty patients, ten of each of `MARKS`; one without a known label, one a copy of the first."""
    rows = []
    for i in range(60):
        pixels = np.random.default_rng(i).integers(0, 256, (16, 16), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"{i}.png")
        rows.append(f"{i}.png,P{i // 2},{i},{MARKS[i % 6]}\n")
    for name in ("blank", "copy"):
        Image.fromarray(np.random.default_rng(0).integers(0, 256, (16, 16), dtype=np.uint8)).save(
            tmp_path / f"{name}.png"
        )
    path = tmp_path / "labels.csv"
    path.write_text(HEADER + "".join(rows) + "blank.png,P0,1,,-1\ncopy.png,P0,1,0,0\n")
    return path


def prepared(path: Path, folder: Path, listener: Listener | None = None) -> Prepared:
    data = read_dataset(path, task=SEVERAL)
    return prepare(data, SPEC, SplitSpec(), cache_folder=folder / "cache", reporter=listener or Listener())


def test_an_image_counts_for_each_of_its_labels_and_once_for_all(table: Path, tmp_path: Path) -> None:
    listener = Listener()
    found = prepared(table, tmp_path, listener)
    assert found.understood is not None
    record = found.understood.record()
    assert {name: row["images"]["all"] for name, row in record["classes"].items()} == {"Edema": 20, "Mass": 30}
    assert record["images"]["all"] == 61
    assert record["unknown_labels"] == {"Edema": 10, "Mass": 10}
    assert record["columns"] == {"path": "Path", "patient": "PatientID"}
    assert record["columns_not_used"] == ["Age"]
    assert record["notes"] == ["labels from the columns Edema, Mass"]
    first = listener.said[0].splitlines()
    assert first[1].split() == ["class", "images", "patients", "train", "val", "test", "unknown"]
    assert [line.split()[:2] for line in first[2:5]] == [["Edema", "20"], ["Mass", "30"], ["all", "61"]]
    assert first[2].split()[-1] == "10"
    assert "  labels from the columns Edema, Mass" in first
    assert "images left out, because no label of theirs is known: 1" in listener.warned
    assert "2 images are the same as one with another label: 0.png (Edema) = copy.png (none)" in listener.warned


def test_a_division_is_read_back_with_every_label_and_doubt(table: Path, tmp_path: Path) -> None:
    first = prepared(table, tmp_path)
    assert first.labels.shape == (61, 2)
    write_split(tmp_path / "split.csv", first)
    rows = read_split(tmp_path / "split.csv")
    assert [row.label for row in rows[:6]] == ["Edema", "Mass", "Edema|Mass", "", "?Edema|Mass", "?Mass"]
    assert first.understood is not None
    write_understood(tmp_path / "data.json", first.understood)
    used = read_columns(tmp_path / "data.json")
    data = read_dataset(
        table,
        task=SEVERAL,
        classes=first.classes,
        ignore_other_labels=True,
        columns=Columns(used.get("path"), used.get("label"), patient="", split=""),
    )
    again = prepare_like(data, SPEC, tmp_path / "split.csv", cache_folder=tmp_path / "cache")
    np.testing.assert_array_equal(again.labels, first.labels)
    assert again.sides.tolist() == first.sides.tolist()
    assert again.patients == first.patients
    assert again.data_digest() == first.data_digest()


def test_a_label_that_is_no_longer_unknown_is_another_label(table: Path, tmp_path: Path) -> None:
    first = prepared(table, tmp_path)
    write_split(tmp_path / "split.csv", first)
    table.write_text(table.read_text().replace("4.png,P2,4,-1,1", "4.png,P2,4,0,1"))
    data = read_dataset(table, task=SEVERAL)
    with pytest.raises(BadInputError, match=r"1 labelled otherwise since \(4.png\)"):
        prepare_like(data, SPEC, tmp_path / "split.csv", cache_folder=tmp_path / "cache")


def test_the_digest_of_exclusive_classes_is_over_their_names(tmp_path: Path) -> None:
    rows = []
    for i in range(30):
        pixels = np.random.default_rng(i).integers(0, 256, (16, 16), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"{i}.png")
        rows.append(f"{i}.png,{'ab'[i % 2]},{i}\n")
    (tmp_path / "labels.csv").write_text("path,label,patient_id\n" + "".join(rows))
    data = read_dataset(tmp_path / "labels.csv")
    found = prepare(data, SPEC, SplitSpec(), cache_folder=tmp_path / "cache")
    whole = hashlib.sha256()
    for name, digest, patient in sorted(zip(found.ids, found.digests, found.patients, strict=True)):
        facts = [name, digest, "ab"[int(name.removesuffix(".png")) % 2], patient]
        whole.update(json.dumps(facts).encode() + b"\n")
    assert found.data_digest() == whole.hexdigest()
    assert replace(found, sides=found.sides[::-1]).data_digest() == found.data_digest()
    assert found.understood is not None
    assert not {"notes", "unknown_labels"} & found.understood.record().keys()
