"""Reading data sets as users have them, and refusing what cannot be meant."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

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
            {"train_images": np.zeros((2, 8, 8, 8), np.uint8), "train_labels": np.zeros(2, int)},
            "volumes not yet",
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
