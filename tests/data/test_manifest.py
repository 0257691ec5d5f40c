"""Reading data sets as users have them, and refusing what cannot be meant."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ttl_deploy.data.columns import Columns
from ttl_deploy.data.manifest import read_dataset
from ttl_deploy.errors import BadInputError
from ttl_deploy.spec import PreprocessSpec

SHARED = Path(__file__).parents[3] / "shared" / "data"


def image(path: Path, level: int = 0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("L", (8, 8), level).save(path)
    return path


def table(folder: Path, text: str, images: int = 4) -> Path:
    for i in range(images):
        image(folder / "scans" / f"{i}.png", i)
    path = folder / "labels.csv"
    path.write_text(text)
    return path


def test_a_csv_with_patients_and_splits(tmp_path: Path) -> None:
    path = table(
        tmp_path,
        "\ufeffPath;Label;patient_id;split\nscans/0.png;ill;p1;train\nscans/1.png;well;;valid\n"
        "scans\\2.png;ill;p2;TEST\n\n./scans/3.png;well;p1;train\n",
    )
    data = read_dataset(path)
    assert data.classes == ("ill", "well")
    assert [item.id for item in data.items] == [f"scans/{i}.png" for i in range(4)]
    assert [item.patient for item in data.items] == ["p1", None, "p2", "p1"]
    assert [item.split for item in data.items] == ["train", "val", "test", "train"]
    assert data.counts == {"ill": 2, "well": 2}


def test_classes_in_the_users_order_and_others_left_out(tmp_path: Path) -> None:
    path = table(tmp_path, "path,label\nscans/0.png,a\nscans/1.png,b\nscans/2.png,c\n")
    data = read_dataset(path, classes=["c", "a"], ignore_other_labels=True)
    assert [(item.id, item.label) for item in data.items] == [("scans/0.png", 1), ("scans/2.png", 0)]


def test_grades_are_sorted_by_value(tmp_path: Path) -> None:
    path = table(tmp_path, "path,label\nscans/0.png,grade10\nscans/1.png,grade2\n")
    assert read_dataset(path).classes == ("grade2", "grade10")


def test_a_folder_per_class_with_and_without_sides(tmp_path: Path) -> None:
    for name in ("ill/a.png", "ill/deep/b.JPG", "well/c.png", "well/.hidden.png", "well/notes.txt"):
        path = tmp_path / "plain" / name
        image(path) if path.suffix != ".txt" else path.write_text("x")
    plain = read_dataset(tmp_path / "plain")
    assert [item.id for item in plain.items] == ["ill/a.png", "ill/deep/b.JPG", "well/c.png"]
    assert plain.classes == ("ill", "well")
    for name in ("train/ill/a.png", "train/well/b.png", "test/ill/c.png", "test/well/d.png"):
        image(tmp_path / "sides" / name)
    assert {item.split for item in read_dataset(tmp_path / "sides").items} == {"train", "test"}


def test_medmnists_layout(tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    arrays = {}
    for side, count in (("train", 6), ("val", 2), ("test", 4)):
        arrays[f"{side}_images"] = generator.integers(0, 256, (count, 28, 28), dtype=np.uint8)
        arrays[f"{side}_labels"] = (np.arange(count) % 2)[:, None]
    np.savez_compressed(tmp_path / "set.npz", **arrays)
    data = read_dataset(tmp_path / "set.npz", classes=["normal", "pneumonia"])
    assert data.classes == ("normal", "pneumonia")
    assert [item.split for item in data.items] == ["train"] * 6 + ["val"] * 2 + ["test"] * 4
    assert [item.label for item in data.items[:4]] == [0, 1, 0, 1]
    pixels = data.items[8].source.pixels(PreprocessSpec(image_size=28))
    np.testing.assert_array_equal(pixels[:, :, 1], arrays["test_images"][0])


def test_patients_from_a_pattern(tmp_path: Path) -> None:
    for name in ("ill/P01_a.png", "ill/P01_b.png", "well/P02_a.png"):
        image(tmp_path / name)
    data = read_dataset(tmp_path, patient_pattern=r"(P\d+)_")
    assert [item.patient for item in data.items] == ["P01", "P01", "P02"]
    with pytest.raises(BadInputError, match="finds no patient"):
        read_dataset(tmp_path, patient_pattern=r"(X\d+)_")


@pytest.mark.parametrize("first", ["sep=;", '"sep=;"', "SEP=;\r"])
def test_a_first_line_of_excel_that_names_the_separator(tmp_path: Path, first: str) -> None:
    data = read_dataset(table(tmp_path, f"{first}\npath;label;note\nscans/0.png;a;x, y\nscans/1.png;b;1,5\n"))
    assert [item.id for item in data.items] == ["scans/0.png", "scans/1.png"]


def test_a_named_separator_goes_before_a_guessed_one(tmp_path: Path) -> None:
    data = read_dataset(table(tmp_path, "sep=|\npath|label|a;b;c;d\nscans/0.png|a|\nscans/1.png|b|\n"))
    assert data.classes == ("a", "b")


@pytest.mark.parametrize("encoding", ["utf-16", "utf-8-sig", "utf-8"])
@pytest.mark.parametrize("separator", [",", ";", "\t"])
def test_tables_as_excel_saves_them(tmp_path: Path, encoding: str, separator: str) -> None:
    text = "path,label,patient\nscans\\0.png,größe,Ä1\nscans\\1.png,b,\n,,\n".replace(",", separator)
    path = table(tmp_path, "")
    path.write_bytes(text.encode(encoding))
    data = read_dataset(path)
    assert data.classes == ("b", "größe")
    assert [item.patient for item in data.items] == ["Ä1", None]


def test_cells_beyond_the_header_that_are_blank_do_no_harm(tmp_path: Path) -> None:
    assert len(read_dataset(table(tmp_path, "path,label\nscans/0.png,a,,,\nscans/1.png,b,\n")).items) == 2


def test_paths_without_an_ending_are_the_one_image_of_that_name(tmp_path: Path) -> None:
    data = read_dataset(table(tmp_path, "path,label\nscans/0,a\nscans\\1,b\n./scans/2.png,b\n"))
    assert [item.id for item in data.items] == ["scans/0.png", "scans/1.png", "scans/2.png"]
    assert "2 paths have no ending: 0 is read as 0.png" in data.reading.merged[0]
    (tmp_path / "scans" / "0.jpg").write_bytes(b"x")
    with pytest.raises(BadInputError, match=r"labels.csv:2: 0 may be 0.jpg or 0.png"):
        read_dataset(tmp_path / "labels.csv")


def test_a_path_with_another_case_or_ending_gets_its_hint(tmp_path: Path) -> None:
    with pytest.raises(BadInputError, match=r"beside 0.PNG there is 0.png"):
        read_dataset(table(tmp_path, "path,label\nscans/0.PNG,a\nscans/1.png,b\n"))
    with pytest.raises(BadInputError, match=r"beside 0.jpeg there is 0.png"):
        read_dataset(table(tmp_path, "path,label\nscans/0.jpeg,a\nscans/1.png,b\n"))


ARCHIVES = ["PatientID", "patientId", "Patient ID", "patient", "Subject", "subject_id", "participant_id", "PATIENT_id"]


@pytest.mark.parametrize("column", [*ARCHIVES, "patient-id", "Subject ID", "pid", "person_id"])
def test_the_column_of_patients_by_the_names_that_archives_use(tmp_path: Path, column: str) -> None:
    path = table(tmp_path, f"path,label,{column}\nscans/0.png,a,P1\nscans/1.png,b,P2\n")
    data = read_dataset(path)
    assert [item.patient for item in data.items] == ["P1", "P2"]
    assert data.reading.columns["patient"] == column.strip()


def test_columns_that_the_user_names(tmp_path: Path) -> None:
    text = "file;dx;owner;fold\nscans/0.png;a;P1;train\nscans/1.png;b;P2;test\n"
    columns = Columns(path="FILE", label="dx", patient="owner", split="fold")
    data = read_dataset(table(tmp_path, text), columns=columns)
    assert [(i.id, i.label, i.patient, i.split) for i in data.items] == [
        ("scans/0.png", 0, "P1", "train"),
        ("scans/1.png", 1, "P2", "test"),
    ]
    with pytest.raises(BadInputError, match="no column 'ownr'; correct --patient-column; valid: file, dx, owner, fold"):
        read_dataset(table(tmp_path, text), columns=Columns(path="file", label="dx", patient="ownr"))


def test_two_columns_that_may_be_the_patient_are_a_question(tmp_path: Path) -> None:
    path = table(tmp_path, "path,label,patient_id,Subject ID\nscans/0.png,a,1,9\nscans/1.png,b,2,9\n")
    with pytest.raises(BadInputError, match="be the patient: patient_id, Subject ID; name the right one: --patient"):
        read_dataset(path, options=True)
    with pytest.raises(BadInputError, match="rename all but the right one"):
        read_dataset(path)
    chosen = read_dataset(path, columns=Columns(patient="Subject ID"))
    assert [item.patient for item in chosen.items] == ["9", "9"]
    assert [item.patient for item in read_dataset(path, columns=Columns(patient="")).items] == [None, None]


def test_seven_and_seven_point_zero_are_one_patient(tmp_path: Path) -> None:
    path = table(tmp_path, "path,label,patient_id\nscans/0.png,a,7\nscans/1.png,b,7.0\nscans/2.png,b, 8 \n")
    data = read_dataset(path)
    assert [item.patient for item in data.items] == ["7", "7", "8"]
    assert "patient 7 is written in 2 ways (7, 7.0)" in data.reading.merged[0]


def test_words_for_nothing_are_unknown_patients_not_one(tmp_path: Path) -> None:
    rows = "".join(f"scans/{i}.png,{'ab'[i % 2]},{word}\n" for i, word in enumerate(["nan", "NaN", "None", "", "N/A"]))
    data = read_dataset(table(tmp_path, "path,label,patient_id\n" + rows, images=5))
    assert [item.patient for item in data.items] == [None] * 5


@pytest.mark.parametrize(
    ("labels", "classes"), [("0 0.0 1 1.0", ("0", "1")), ("Normal normal ill ill", ("Normal", "ill"))]
)
def test_a_class_written_in_two_ways_is_one(tmp_path: Path, labels: str, classes: tuple[str, ...]) -> None:
    rows = "".join(f"scans/{i}.png, {label} \n" for i, label in enumerate(labels.split()))
    data = read_dataset(table(tmp_path, "path,label\n" + rows))
    assert data.classes == classes
    assert [item.label for item in data.items] == [0, 0, 1, 1]
    assert f"class {classes[0]} is written in 2 ways" in data.reading.merged[0]


def test_class_folders_of_two_sides_written_in_two_ways_are_one_class(tmp_path: Path) -> None:
    for name in ("train/Normal/0.png", "train/ill/1.png", "test/normal/2.png", "test/Ill/3.png"):
        image(tmp_path / name)
    assert len(read_dataset(tmp_path).classes) == 2


def test_classes_that_the_user_names_decide_the_writing(tmp_path: Path) -> None:
    path = table(tmp_path, "path,label\nscans/0.png,normal\nscans/1.png,NORMAL\nscans/2.png,1.0\n")
    assert [item.label for item in read_dataset(path, classes=["1", "Normal"]).items] == [1, 1, 0]
    apart = read_dataset(path, classes=["normal", "NORMAL", "1"])
    assert [item.label for item in apart.items] == [0, 1, 2]


@pytest.mark.parametrize("word", ["nan", "NaN", "null", "N/A", "None", ""])
def test_a_label_that_says_nothing_is_no_class(tmp_path: Path, word: str) -> None:
    path = table(tmp_path, f"path,label\nscans/0.png,a\nscans/1.png,b\nscans/2.png,{word}\n")
    with pytest.raises(BadInputError, match=r"labels.csv:4: the label is "):
        read_dataset(path, options=True)
    left = read_dataset(path, classes=["a", "b"], ignore_other_labels=True)
    assert [item.id for item in left.items] == ["scans/0.png", "scans/1.png"]
    assert left.reading.left_out == {word: 1}
    if word:
        assert read_dataset(path, classes=["a", "b", word]).classes == ("a", "b", word)


def test_patients_and_labels_of_arrays(tmp_path: Path) -> None:
    images = np.random.default_rng(0).integers(0, 256, (4, 8, 8), dtype=np.uint8)
    owners = np.array([7.0, 7.0, np.nan, 8.0])
    labels = np.array([0.0, 1.0, 1.0, 0.0])
    np.savez(tmp_path / "set.npz", train_images=images, train_labels=labels, train_patient_ids=owners, extra=labels)
    data = read_dataset(tmp_path / "set.npz")
    assert data.classes == ("0", "1")
    assert [item.patient for item in data.items] == ["7.0", "7.0", None, "8.0"]
    assert data.reading.unused == ("extra",)
    np.savez(tmp_path / "nan.npz", train_images=images, train_labels=owners)
    with pytest.raises(BadInputError, match="not numbers"):
        read_dataset(tmp_path / "nan.npz")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "lists no images"),
        ("path,label\n", "lists no images"),
        ("file,label\nscans/0.png,a\n", "no column path"),
        ("path,label,path\nscans/0.png,a,b\n", "column path twice"),
        ("path,label\nscans/0.png,\n", r"labels.csv:2: the label is blank"),
        ("path,label\nscans/0.png,a,more\n", "3 cells where the header has 2"),
        ("path,label\nscans/0.png,a\nscans/0.png,b\n", "listed twice, as 'a' and as 'b'"),
        ("path,label,split\nscans/0.png,a,trian\n", "unknown split 'trian'"),
        ("path,label\nscans/0.png,a\nscans/1.png,a\n", "has 1 class"),
        ("path,label\nscans/0.png,a\nscans/9.png,b\n", "1 of 2 images listed is missing: scans/9.png"),
    ],
)
def test_tables_that_cannot_be_meant(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(BadInputError, match=said):
        read_dataset(table(tmp_path, text))


@pytest.mark.parametrize(
    ("arrays", "said"),
    [
        ({"images": np.zeros((2, 8, 8), np.uint8)}, "no array train_images"),
        ({"train_images": np.zeros((2, 8, 8), np.uint8)}, "no array train_labels"),
        ({"train_images": np.zeros((2, 8, 8)), "train_labels": np.zeros(2, int)}, "type float64"),
        ({"train_images": np.zeros((2, 8, 8), np.uint8), "train_labels": np.zeros(3, int)}, "2 images but 3 labels"),
        (
            {"train_images": np.zeros((2, 8, 8, 28), np.uint8), "train_labels": np.zeros(2, int)},
            "volumes with a backbone of volumes",
        ),
        ({"train_images": np.zeros((2, 8, 8), np.uint8), "train_labels": np.zeros((2, 5), int)}, "5 labels per image"),
        ({"train_images": np.array([None, 1]), "train_labels": np.zeros(2, int)}, "never executed"),
    ],
)
def test_arrays_that_cannot_be_meant(tmp_path: Path, arrays: dict[str, np.ndarray], said: str) -> None:
    np.savez(tmp_path / "set.npz", **arrays)
    with pytest.raises(BadInputError, match=said):
        read_dataset(tmp_path / "set.npz")


@pytest.mark.skipif(not SHARED.is_dir(), reason="the real x-rays are not beside the project")
def test_the_real_x_rays() -> None:
    data = read_dataset(SHARED / "cxr3" / "labels.csv")
    assert data.counts == {"covid": 93, "no_finding": 390, "pneumonia": 386}
    assert data.has_patients
