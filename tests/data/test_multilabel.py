"""Images that may have several labels: every layout that such sets come in, and refusing what cannot be meant."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from ttl_deploy.data.columns import Columns
from ttl_deploy.data.items import Dataset
from ttl_deploy.data.manifest import dataset_of, read_dataset
from ttl_deploy.errors import BadInputError
from ttl_deploy.spec import Data, TaskSpec
from ttl_deploy.tasks import UNKNOWN

SEVERAL = TaskSpec(kind="multilabel")
ORDINAL = TaskSpec(kind="ordinal")

CHEXPERT = """Path,Sex,Age,Frontal/Lateral,No Finding,Cardiomegaly,Edema,Patient
scans/0.png,Male,68,Frontal,1.0,,,p0
scans/1.png,Female,7,Lateral,0.0,1.0,-1.0,p0
scans/2.png,Male,51,Frontal,0,-1.0,1.0,p1
scans/3.png,Male,44,Frontal,0.0,0.0,0.0,p2
scans/4.png,Male,44,Frontal,,,,p3
"""


def table(folder: Path, text: str, images: int = 6) -> Path:
    (folder / "scans").mkdir(exist_ok=True)
    for i in range(images):
        Image.new("L", (8, 8), i).save(folder / "scans" / f"{i}.png")
    path = folder / "labels.csv"
    path.write_text(text)
    return path


def cells(folder: Path, *labels: str) -> Path:
    """A table with a label column."""
    rows = "".join(f'scans/{i}.png,"{label}"\n' for i, label in enumerate(labels))
    return table(folder, "path,label\n" + rows, len(labels))


def read(path: Path, classes: Sequence[str] | None = None, **more: Any) -> Dataset:
    return read_dataset(path, task=SEVERAL, classes=classes, **more)


def words(data: Dataset) -> list[str]:
    return [data.task.text(item.label) for item in data.items]


def test_labels_joined_in_one_cell(tmp_path: Path) -> None:
    rows = ["Cardiomegaly|Effusion", "No Finding", "Effusion", "", "Mass|Cardiomegaly", "nan"]
    text = "Image Index,Finding Labels,Patient ID\n" + "".join(
        f"scans/{i}.png,{row},{i}\n" for i, row in enumerate(rows)
    )
    data = read(table(tmp_path, text), columns=Columns(path="Image Index", label="Finding Labels"))
    assert data.classes == ("Cardiomegaly", "Effusion", "Mass")
    assert [item.label for item in data.items] == [(1, 1, 0), (0, 0, 0), (0, 1, 0), (0, 0, 0), (1, 0, 1)]
    assert [item.id for item in data.items] == [f"scans/{i}.png" for i in range(5)]
    assert data.reading.columns == {"path": "Image Index", "label": "Finding Labels", "patient": "Patient ID"}
    assert "images left out, because no label of theirs is known: 1" in data.reading.merged
    assert data.reading.notes == ("no label where the data says No Finding (1)",)
    assert data.counts == {"Cardiomegaly": 2, "Effusion": 2, "Mass": 1}


def test_a_word_for_none_is_a_label_where_the_user_names_it_so(tmp_path: Path) -> None:
    data = read(cells(tmp_path, "A", "No Finding", "normal"), ["A", "No finding"])
    assert [item.label for item in data.items] == [(1, 0), (0, 1), (0, 0)]


@pytest.mark.parametrize("sign", [";", ","])
def test_another_sign_divides_labels_where_the_classes_leave_no_doubt(tmp_path: Path, sign: str) -> None:
    path = cells(tmp_path, f"A{sign} B", "A", f"C{sign}B", "none")
    data = read(path, ["A", "B", "C"])
    assert words(data) == ["A|B", "A", "B|C", ""]
    assert data.reading.notes[0] == f"labels are divided at {sign}"
    whole = read(path, [f"A{sign} B", "A", f"C{sign}B"])
    assert words(whole) == [f"A{sign} B", "A", f"C{sign}B", ""]
    assert read(path).classes == ("A", f"A{sign} B", f"C{sign}B")


def test_a_sign_in_a_name_that_is_not_said_to_divide_is_told(tmp_path: Path) -> None:
    (told,) = read(cells(tmp_path, "A; B", "A")).reading.merged
    assert told == "label 'A; B' is read as one: name the labels with --classes where it is several"


def test_signs_are_labels_and_a_question_mark_is_none_that_is_known(tmp_path: Path) -> None:
    data = read(cells(tmp_path, "+", "-", "?", "+|-"))
    assert words(data) == ["+", "-", "+|-"]


def test_writings_of_a_label_are_one(tmp_path: Path) -> None:
    data = read(cells(tmp_path, "Mass|edema", "mass", "Edema|MASS", "Mass", "edema"))
    assert data.classes == ("Mass", "edema")
    assert [item.label for item in data.items] == [(1, 1), (1, 0), (1, 1), (1, 0), (0, 1)]
    assert "class Mass is written in 3 ways: MASS (1), Mass (2), mass (1)" in data.reading.merged


def test_one_label_alone_is_yes_or_no(tmp_path: Path) -> None:
    data = read(cells(tmp_path, "lesion", "normal", "lesion"), ["lesion"])
    assert [item.label for item in data.items] == [(1,), (0,), (1,)]


def test_a_label_that_is_no_class_is_refused_or_dropped_and_its_image_kept(tmp_path: Path) -> None:
    path = cells(tmp_path, "A|Mass", "Mass", "A", "none", "Hernia|Mass")
    with pytest.raises(BadInputError, match=r"labels.csv:2: label 'Mass' is not one of the classes \(A\)"):
        read(path, ["A"], options=True)
    data = read(path, ["A"], ignore_other_labels=True)
    assert [item.label for item in data.items] == [(1,), (0,), (1,), (0,), (0,)]
    assert "labels left out, their images kept: Mass (3), Hernia (1)" in data.reading.notes
    assert data.reading.left_out == {}


@pytest.mark.parametrize(
    ("policy", "labels"),
    [
        ("ignore", [(1, -1, -1), (0, 1, -1), (0, -1, 1), (0, 0, 0)]),
        ("zeros", [(1, 0, 0), (0, 1, 0), (0, 0, 1), (0, 0, 0), (0, 0, 0)]),
        ("ones", [(1, 1, 1), (0, 1, 1), (0, 1, 1), (0, 0, 0), (1, 1, 1)]),
    ],
)
def test_a_column_for_each_label(tmp_path: Path, policy: str, labels: list[tuple[int, ...]]) -> None:
    path = table(tmp_path, CHEXPERT)
    data = read(path, unknown=policy)
    assert data.classes == ("No Finding", "Cardiomegaly", "Edema")
    assert [item.label for item in data.items] == labels
    assert [item.patient for item in data.items] == ["p0", "p0", "p1", "p2", "p3"][: len(labels)]
    assert data.reading.columns == {"path": "Path", "patient": "Patient"}
    assert data.reading.unused == ("Sex", "Age", "Frontal/Lateral")
    assert data.reading.notes == ("labels from the columns No Finding, Cardiomegaly, Edema",)
    assert [m for m in data.reading.merged if "left out" in m] == (
        ["images left out, because no label of theirs is known: 1"] if policy == "ignore" else []
    )
    asked = Data(path=path, task="multilabel", unknown=policy)
    assert [item.label for item in dataset_of(asked).items] == labels


def test_classes_name_the_columns_in_their_order(tmp_path: Path) -> None:
    data = read(table(tmp_path, CHEXPERT), ["edema", "Cardiomegaly"])
    assert data.classes == ("edema", "Cardiomegaly")
    assert [item.label for item in data.items] == [(UNKNOWN, 1), (1, UNKNOWN), (0, 0)]
    assert data.reading.unused == ("Sex", "Age", "Frontal/Lateral", "No Finding")


def test_classes_that_name_columns_go_before_a_column_of_labels_that_is_not_named(tmp_path: Path) -> None:
    path = table(tmp_path, "path,label,A,B\nscans/0.png,B,1,0\nscans/1.png,A,0,1\n")
    assert words(read(path, ["A", "B"])) == ["A", "B"]
    assert words(read(path, ["A", "B"], columns=Columns(label="label"))) == ["B", "A"]
    assert words(read(path)) == ["B", "A"]
    assert words(read(path, columns=Columns(label=""))) == ["A", "B"]


@pytest.mark.parametrize("cell", ["2", "x", "0.5", "yes", "1.5", "--1"])
def test_a_cell_that_is_no_mark_is_refused_with_its_line(tmp_path: Path, cell: str) -> None:
    path = table(tmp_path, f"path,A,B\nscans/0.png,1,0\nscans/1.png,{cell},1\n")
    with pytest.raises(BadInputError, match=rf"labels.csv:3: A is '{cell}'; write 1 for yes, 0 for no"):
        read(path, ["A", "B"])


@pytest.mark.parametrize(
    ("text", "classes", "said"),
    [
        ("path,A,B\nscans/0.png,1,0\nscans/1.png,0,1\n", ["A", "C"], "has no column 'C'; valid: path, A, B"),
        ("path,A,A\nscans/0.png,1,0\nscans/1.png,0,1\n", ["A"], "has the column A twice"),
        ("path,A,A\nscans/0.png,1,0\nscans/1.png,0,1\n", None, "has the column A twice"),
        ("path,A,B\nscans/0.png,x,y\n", None, "has no column label"),
        ("path,A,B\nscans/0.png,,-1\n", None, "has no column label"),
        ("path,A|B\nscans/0.png,1\nscans/1.png,0\n", None, "label 'A|B' holds"),
        ("path,A,B\nscans/0.png,1,1\nscans/1.png,1,0\n", None, "every image has 'A'"),
        ("path,A,B\nscans/0.png,1,1\nscans/1.png,,0\n", None, "no image is known to be without 'A', of 1 nothing"),
        ("path,A,B\nscans/0.png,0,1\nscans/1.png,-1,0\n", None, "class 'A' has no images"),
        ("path,A,B\nscans/0.png,-1,\nscans/1.png,,nan\n", ["A", "B"], "of no image any label is known"),
        ("path,label\nscans/0.png,A\nscans/1.png,A|none\n", None, r"labels.csv:3: the label 'A|none' contradicts"),
        ("path,label\nscans/0.png,A\nscans/1.png,A|?A\n", None, r"labels.csv:3: the label 'A|?A' contradicts"),
        ("path,label\nscans/0.png,A\nscans/1.png,B\n", ["A", "?B"], "or begins with '?'"),
        ("path,label\nscans/0.png,none\nscans/1.png,normal\n", None, "has 0 classes"),
        ("path,label\nscans/0.png,A\nscans/1.png,none\n", ["A", "A"], "class 'A' is given twice"),
    ],
)
def test_labels_that_cannot_be_meant(tmp_path: Path, text: str, classes: list[str] | None, said: str) -> None:
    with pytest.raises(BadInputError) as refusal:
        read(table(tmp_path, text), classes)
    assert said in str(refusal.value)
    assert "\n" not in str(refusal.value)


def test_what_a_division_writes_is_read_as_it_was(tmp_path: Path) -> None:
    data = read(cells(tmp_path, "A|?C", "", "C", "?A", "B"))
    assert data.classes == ("A", "B", "C")
    assert words(data) == ["A|?C", "", "C", "?A", "B"]
    assert words(read(data.path, unknown="zeros")) == ["A", "", "C", "", "B"]


def test_a_folder_is_the_one_label_of_its_images(tmp_path: Path) -> None:
    for name in ("A/0.png", "B/1.png", "normal/2.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        Image.new("L", (8, 8)).save(tmp_path / name)
    data = read(tmp_path)
    assert data.classes == ("A", "B")
    assert [item.label for item in data.items] == [(1, 0), (0, 1), (0, 0)]


def arrays(path: Path, **labels: Any) -> Path:
    images = {f"{side}_images": np.zeros((len(values), 8, 8), np.uint8) for side, values in labels.items()}
    np.savez(path / "set.npz", **images, **{f"{side}_labels": np.array(values) for side, values in labels.items()})
    return path / "set.npz"


def test_an_array_with_a_column_for_each_label(tmp_path: Path) -> None:
    path = arrays(tmp_path, train=[[1, 0, 1], [0, 1, 0]], val=[[0, 0, 0]], test=[[1, 1, 1]])
    data = read(path)
    assert data.classes == ("0", "1", "2")
    assert [item.label for item in data.items] == [(1, 0, 1), (0, 1, 0), (0, 0, 0), (1, 1, 1)]
    assert [item.split for item in data.items] == ["train", "train", "val", "test"]
    assert read(path, ["none", "B", "C"]).counts == {"none": 2, "B": 2, "C": 2}


def test_an_array_with_unknown_labels(tmp_path: Path) -> None:
    path = arrays(tmp_path, train=[[1.0, np.nan], [0.0, 1.0], [np.nan, -1.0], [1.0, 0.0]])
    assert [item.label for item in read(path).items] == [(1, UNKNOWN), (0, 1), (1, 0)]
    assert [item.label for item in read(path, unknown="zeros").items] == [(1, 0), (0, 1), (0, 0), (1, 0)]


@pytest.mark.parametrize("labels", [[1, 0, 1], [[1], [0], [1]]])
def test_an_array_of_one_label(tmp_path: Path, labels: list[Any]) -> None:
    path = arrays(tmp_path, train=labels)
    assert [item.label for item in read(path, ["lesion"]).items] == [(1,), (0,), (1,)]
    assert [item.label for item in read(path, ["healthy", "lesion"]).items] == [(0, 1), (1, 0), (0, 1)]
    with pytest.raises(BadInputError, match="say with --classes what 1 means"):
        read(path)


@pytest.mark.parametrize(
    ("labels", "classes", "said"),
    [
        ({"train": [[1, 2], [0, 1]]}, None, r"train_labels[0, 1] is 2; write 1 for yes"),
        ({"train": [[1, 0.5], [0, 1]]}, None, r"train_labels[0, 1] is 0.5"),
        ({"train": [[1, 0], [0, 1]]}, ["A"], "train_labels is 2 wide, where the labels are A"),
        ({"train": [[1, 0], [0, 1]], "test": [[1], [0]]}, None, "test_labels is 1 wide, where the labels are 0, 1"),
        ({"train": [["a", "b"]]}, None, "expected 1, 0 and -1"),
        ({"train": [[[1]]]}, None, "expected (N, K)"),
        ({"train": [0.0, np.nan]}, ["A", "B"], "not numbers"),
    ],
)
def test_arrays_of_labels_that_cannot_be_meant(
    tmp_path: Path, labels: dict[str, Any], classes: list[str] | None, said: str
) -> None:
    with pytest.raises(BadInputError) as refusal:
        read(arrays(tmp_path, **labels), classes)
    assert said in str(refusal.value)


@pytest.mark.parametrize("found", [None, ("No Finding", "Cardiomegaly", "Edema")])
def test_a_table_is_read_again_by_the_columns_and_classes_of_its_record(
    tmp_path: Path, found: tuple[str, ...] | None
) -> None:
    first = read(table(tmp_path, CHEXPERT), found)
    used = first.reading.columns
    again = read(
        first.path,
        first.classes,
        columns=Columns(used.get("path"), used.get("label"), patient="", split=""),
        ignore_other_labels=True,
    )
    assert [(i.id, i.label) for i in again.items] == [(i.id, i.label) for i in first.items]


def test_grades_are_in_the_order_of_their_numbers_or_of_the_user(tmp_path: Path) -> None:
    path = cells(tmp_path, "10", "2", "2.0", "1")
    assert read_dataset(path, task=ORDINAL).classes == ("1", "2", "10")
    assert [item.label for item in read_dataset(path, task=ORDINAL).items] == [2, 1, 1, 0]
    assert read_dataset(path, task=ORDINAL, classes=["10", "1", "2"]).classes == ("10", "1", "2")


@pytest.mark.parametrize("name", ["1", "9"])
def test_positive_grades_that_begin_nowhere_are_refused_with_the_option(tmp_path: Path, name: str) -> None:
    with pytest.raises(BadInputError, match=rf"--positive-from: .*begin with one of 2, 10, not with '{name}'"):
        read_dataset(cells(tmp_path, "10", "2", "1"), task=TaskSpec(kind="ordinal", positive_from=name))
