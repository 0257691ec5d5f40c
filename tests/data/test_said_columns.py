"""What a user says of a table's columns and files, and each thing that cannot be meant, in one line."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from ttl_deploy.data.columns import Columns
from ttl_deploy.data.image_paths import ImagePaths
from ttl_deploy.data.items import Dataset
from ttl_deploy.data.manifest import dataset_of, read_dataset
from ttl_deploy.errors import BadInputError
from ttl_deploy.spec import Data


def picture(path: Path, value: int = 0) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("L", (8, 8), value).save(path)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for i in range(4):
        picture(tmp_path / "part_1" / "scans" / f"a{i}.png", i)
        picture(tmp_path / "part_2" / "scans" / f"b{i}.png", i)
    return tmp_path


def write(folder: Path, text: str, name: str = "labels.csv") -> Path:
    path = folder / name
    path.write_text(text)
    return path


def plain(folder: Path) -> Path:
    rows = "".join(f"a{i},{'xy'[i % 2]},hospital 1: P{i // 2}\n" for i in range(4))
    return write(folder, "name,kind,who\n" + rows)


def read(path: Path, **more: Any) -> Dataset:
    said = {"path_column": "name", "label_column": "kind", "path_template": "part_1/scans/{}.png"}
    return dataset_of(Data(path=path, **{**said, **more}))


def test_a_template_may_be_absolute_and_a_path_stays_as_it_is_seen_from_the_table(folder: Path) -> None:
    data = read(plain(folder), path_template=f"{folder}/part_1/scans/{{}}.png")
    assert [item.id for item in data.items] == [f"part_1/scans/a{i}.png" for i in range(4)]


def test_a_template_may_repeat_the_cell_and_leave_the_ending_out(folder: Path) -> None:
    picture(folder / "a" / "a.png")
    paths = ImagePaths(folder / "t.csv", "{}/{}.png")
    assert paths.of("a", "") == "a/a.png"
    data = read(plain(folder), path_template="part_1/scans/{}")
    assert data.items[3].id == "part_1/scans/a3.png"


def test_folders_of_a_pattern_are_looked_through(folder: Path) -> None:
    paths = ImagePaths(folder / "t.csv", "part_*/scans/{}")
    assert paths.of("b2.png", "") == "part_2/scans/b2.png"
    assert ImagePaths(folder / "t.csv", f"{folder}/*/{{}}").of("scans/b2.png", "") == "part_2/scans/b2.png"
    assert paths.of("c.png", "") == "part_*/scans/c.png"
    picture(folder / "part_1" / "scans" / "b0.png")
    paths = ImagePaths(folder / "t.csv", "part_*/scans/{}")
    with pytest.raises(BadInputError, match=r"t.csv:2: b0.png is in several folders: part_1/scans/b0.png, part_2"):
        paths.of("b0.png", "t.csv:2")


@pytest.mark.parametrize(
    ("template", "said"),
    [
        ("scans/a.png", r"--path-template: 'scans/a.png' has no \{\}; write \{\} where the cell belongs"),
        ("scans/{}_*.png", r"--path-template: .* has a wildcard beside or behind \{\}; leave \*"),
        (
            "prat_*/scans/{}",
            r"--path-template: 'prat_\*/scans/\{\}' is of no folder that there is; valid: part_1, part_2",
        ),
        (
            "part_1/{}.png",
            r"4 of 4 images listed are missing: part_1/a0.png.*; restore them or correct --path-template",
        ),
    ],
)
def test_templates_that_cannot_be_meant(folder: Path, template: str, said: str) -> None:
    with pytest.raises(BadInputError, match=said):
        read(plain(folder), path_template=template)


def test_patients_are_found_in_the_cells_of_a_column(folder: Path) -> None:
    data = read(plain(folder), patient_column="who", patient_pattern=r": (P\d+)")
    assert [item.patient for item in data.items] == ["P0", "P0", "P1", "P1"]
    with pytest.raises(
        BadInputError, match=r"labels.csv:2: --patient-pattern '\(Q\)' finds no patient in hospital 1: P0"
    ):
        read(plain(folder), patient_column="who", patient_pattern="(Q)")
    with pytest.raises(BadInputError, match="no column 'whom'; correct --patient-column; valid: name, kind, who"):
        read(plain(folder), patient_column="whom", patient_pattern=r": (P\d+)")


def one_hot(folder: Path, row: str = "a3,0,1,0\n") -> Path:
    return write(folder, "name,A,B,C\na0,1,0,0\na1,0,1.0,0\na2,1,0,0\n" + row)


def hot(path: Path, columns: str = "A,B", **more: Any) -> Dataset:
    return read(path, label_column=None, label_columns=columns, **more)


def test_the_column_that_is_1_is_the_class_in_the_order_that_is_said(folder: Path) -> None:
    assert hot(one_hot(folder)).labels.tolist() == [0, 1, 0, 1]
    turned = hot(one_hot(folder), "B,A")
    assert turned.classes == ("B", "A")
    assert turned.labels.tolist() == [1, 0, 1, 0]


@pytest.mark.parametrize(
    ("row", "columns", "said"),
    [
        ("a3,0,0,1\n", "A,B", "labels.csv:5: none of A, B is 1; name the column of its class with the others"),
        ("a3,1,1,0\n", "A,B", "labels.csv:5: A and B are 1; correct it; .* multilabel"),
        ("a3,,1,0\n", "A,B", "labels.csv:5: A is ''; write 1 in the column of the class"),
        ("a3,-1,1,0\n", "A,B", "labels.csv:5: A is '-1'"),
        ("a3,2,0,0\n", "A,B", "labels.csv:5: A is '2'"),
        ("a3,0,1,0\n", "A,Bee", "has no column 'Bee'; correct --label-columns; valid: name, A, B, C"),
        ("a3,0,1,0\n", "A,B,C", "class 'C' has no images; add images, or leave the class out"),
    ],
)
def test_one_hot_rows_that_cannot_be_meant(folder: Path, row: str, columns: str, said: str) -> None:
    with pytest.raises(BadInputError, match=said):
        hot(one_hot(folder, row), columns)


@pytest.mark.parametrize(("columns", "said"), [("A,A", "column 'A' is named twice"), ("A,", "a name is blank")])
def test_columns_are_named_once(folder: Path, columns: str, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        Data(path=folder, label_columns=columns)


def test_a_separator_that_is_said_divides_labels_and_the_usual_one_then_does_not(folder: Path) -> None:
    path = write(folder, "name,kind\na0,x / y\na1,y\na2,x\na3,z\n")
    data = read(path, task="multilabel", labels_separator="/")
    assert data.classes == ("x", "y", "z")
    assert data.labels.tolist() == [[1, 1, 0], [0, 1, 0], [1, 0, 0], [0, 0, 1]]
    assert "labels are divided at /" in data.reading.notes


@pytest.mark.parametrize(
    ("said", "words"),
    [
        ({"labels_separator": ";"}, "--labels-separator: every image has one label in this task"),
        ({"label_columns": "name,kind"}, "--label-column and --label-columns are both given"),
        (
            {"label_column": None, "label_columns": "kind", "labels_separator": ";", "task": "multilabel"},
            "--labels-separator divides one column, and --label-columns names several",
        ),
        ({"test_data": "t.csv", "split_column": "who"}, "--test-data and --split-column are both given"),
        ({"val_data": "t.csv"}, "--val-data: has no test side beside it; pass --test-data too"),
        ({"val_data": "t.csv", "test_data": "t.csv"}, "--test-data: is the validation side too"),
    ],
)
def test_what_contradicts_itself_is_refused(folder: Path, said: dict[str, Any], words: str) -> None:
    with pytest.raises(BadInputError, match=words):
        read(plain(folder), **said)


@pytest.mark.parametrize(
    ("said", "option"),
    [
        ({"path_template": "{}"}, "--path-template"),
        ({"label_columns": "A,B"}, "--label-columns"),
        ({"labels_separator": ";", "task": "multilabel"}, "--labels-separator"),
        ({"test_data": "labels.csv"}, "--test-data"),
        ({"path_column": "name"}, "--path-column"),
    ],
)
@pytest.mark.parametrize("kind", ["folder", "npz"])
def test_what_is_said_of_tables_is_refused_of_others(
    folder: Path, said: dict[str, Any], option: str, kind: str
) -> None:
    np.savez(folder / "set.npz", train_images=np.zeros((2, 8, 8), np.uint8), train_labels=np.arange(2))
    path = folder / "part_1" if kind == "folder" else folder / "set.npz"
    if "test_data" in said:
        said = {"test_data": plain(folder)}
    with pytest.raises(BadInputError, match=f"is no table; leave {option} out, or pass a .csv"):
        dataset_of(Data(path=path, **said))


def sides(folder: Path, test: str, name: str = "test.csv", **more: Any) -> Dataset:
    return read(plain(folder), test_data=write(folder, test, name), path_template="part_*/scans/{}.png", **more)


def test_tables_of_sides_are_read_as_the_first(folder: Path) -> None:
    val = write(folder, "name,kind,who\nb2,x,P9\nb3,y,P9\n", "dev.csv")
    data = sides(folder, "name,kind,who\nb0,x,P8\nb1,y,P8\n", val_data=val)
    assert [(item.id, item.split) for item in data.items[3:]] == [
        ("part_1/scans/a3.png", "train"),
        ("part_2/scans/b2.png", "val"),
        ("part_2/scans/b3.png", "val"),
        ("part_2/scans/b0.png", "test"),
        ("part_2/scans/b1.png", "test"),
    ]
    assert data.reading.notes[1:] == ("val side from dev.csv: 2 images", "test side from test.csv: 2 images")


def test_a_table_elsewhere_has_paths_as_seen_from_the_first(folder: Path) -> None:
    other = write(folder / "part_2", "path,label\nscans/b0.png,x\nscans/b1.png,y\n")
    first = write(folder / "part_1", "path,label,split\nscans/a0.png,x,test\nscans/a1.png,y,train\n")
    data = dataset_of(Data(path=first, test_data=other))
    assert [item.id for item in data.items] == [
        "scans/a0.png",
        "scans/a1.png",
        "../part_2/scans/b0.png",
        "../part_2/scans/b1.png",
    ]
    assert [item.split for item in data.items] == ["train", "train", "test", "test"]
    assert data.reading.unused == ("split",)


def test_a_list_names_images_of_the_table(folder: Path) -> None:
    data = sides(folder, "a1.png\n\npart_1/scans/a2.png\n", "test_list.txt")
    assert [item.split for item in data.items] == ["train", "test", "test", "train"]


@pytest.mark.parametrize(
    ("text", "name", "said"),
    [
        ("a9.png\n", "list.txt", r"list.txt:1: a9.png is none of the table's images"),
        ("\n", "list.txt", "list.txt: lists no images"),
        ("name,kind,who\na0,x,P8\n", "test.csv", "test.csv:2: .*a0.png is on two sides, here and in .*labels.csv:2"),
        ("name,kind\nb0,x\n", "test.csv", "no column 'who'"),
        ("x", "test.json", "test.json: is no table and no list; pass a .csv or a .txt of file names as --test-data"),
    ],
)
def test_files_of_sides_that_cannot_be_meant(folder: Path, text: str, name: str, said: str) -> None:
    with pytest.raises(BadInputError, match=said):
        sides(folder, text, name, patient_column="who")


def test_a_file_of_a_side_that_is_not_there_is_told_with_those_that_are(folder: Path) -> None:
    write(folder, "x", "valid.csv")
    with pytest.raises(
        BadInputError, match=r"vaild.csv: no such file; .* as --test-data; valid: labels.csv, valid.csv"
    ):
        read(plain(folder), test_data=folder / "vaild.csv")


def test_an_image_is_in_one_list(folder: Path) -> None:
    val = write(folder, "a1.png\n", "val.txt")
    with pytest.raises(BadInputError, match=r"test.txt:2: a1.png was listed in .*val.txt:1"):
        sides(folder, "a2.png\na1.png\n", "test.txt", val_data=val)


def test_a_tables_label_columns_are_those_of_the_first_table(folder: Path) -> None:
    first = write(folder, "path,A,B\npart_1/scans/a0.png,1,0\npart_1/scans/a1.png,0,1\n", "train.csv")
    test = write(folder, "path,A,B\npart_2/scans/b0.png,,1\npart_2/scans/b1.png,,0\n", "test.csv")
    data = dataset_of(Data(path=first, test_data=test, task="multilabel", unknown="zeros"))
    assert data.labels.tolist() == [[1, 0], [0, 1], [0, 1], [0, 0]]


def test_columns_say_which_options_are_of_tables() -> None:
    said = Columns(path="a", patient="", labels=("x",), template="{}")
    assert said.of_tables == ["--path-column", "--label-columns", "--path-template"]
    assert Columns().of_tables == []


def test_without_any_of_it_a_table_is_read_as_ever(folder: Path) -> None:
    path = write(folder, "path,label\npart_1/scans/a0.png,x\npart_2/scans/b0.png,y\n")
    data = read_dataset(path)
    assert data.reading.notes == ()
    assert (
        Data(path=path)
        .model_dump(mode="json")
        .keys()
        .isdisjoint({"path_template", "label_columns", "labels_separator", "val_data", "test_data"})
    )
