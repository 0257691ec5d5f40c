"""Folders as archives have them: sides by many names, what systems leave behind, and links."""

from pathlib import Path

import pytest
from PIL import Image

from ttl_deploy.data.listing import side_of
from ttl_deploy.data.manifest import read_dataset
from ttl_deploy.data.read_folder import is_leftover
from ttl_deploy.data.splits import divide
from ttl_deploy.errors import BadInputError
from ttl_deploy.spec import SplitSpec


def image(path: Path, level: int = 0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("L", (8, 8), level).save(path)
    return path


def folder_of(root: Path, *names: str) -> Path:
    for level, name in enumerate(names):
        image(root / name, level)
    return root


@pytest.mark.parametrize(
    ("train", "test"),
    [("Training", "Testing"), ("TRAIN", "TEST"), ("train", "dev"), ("train_set", "test_set"), ("train-data", "Valid")],
)
def test_sides_by_many_names(tmp_path: Path, train: str, test: str) -> None:
    data = read_dataset(folder_of(tmp_path, *(f"{side}/{c}/0.png" for side in (train, test) for c in "ab")))
    assert data.classes == ("a", "b")
    other = "test" if "test" in test.lower() else "val"
    assert [item.split for item in data.items] == [
        "train" if item.id.startswith(train) else other for item in data.items
    ]


@pytest.mark.parametrize("name", ["trainer", "tester", "detest", "trained", "contest", "testis", "value", "device"])
def test_a_class_whose_name_begins_like_a_side_is_a_class(name: str) -> None:
    assert side_of(name) is None


def test_sides_without_validation_divide_the_training_side_and_say_so(tmp_path: Path) -> None:
    names = [f"Training/{c}/{i}.png" for c in "ab" for i in range(20)]
    names += [f"Testing/{c}/{i}.png" for c in "ab" for i in range(5)]
    division = divide(read_dataset(folder_of(tmp_path, *names)), SplitSpec())
    assert division.sides.count("test") == 10
    assert division.sides.count("val") > 0
    assert any("taken from training" in note for note in division.notes)


@pytest.mark.parametrize("other", ["unlabeled", "holdout", "extra"])
def test_sides_beside_another_folder_are_a_question(tmp_path: Path, other: str) -> None:
    folder_of(tmp_path, *(f"{side}/{c}/0.png" for side in ("train", "val", "test", other) for c in "ab"))
    with pytest.raises(BadInputError, match=f"test, train, val are sides of a division, {other} beside") as told:
        read_dataset(tmp_path)
    assert "CSV" in str(told.value)
    assert "\n" not in str(told.value)


def test_sides_inside_the_classes(tmp_path: Path) -> None:
    data = read_dataset(folder_of(tmp_path, *(f"{c}/{side}/0.png" for c in "ab" for side in ("train", "test"))))
    assert data.classes == ("a", "b")
    assert {item.id: item.split for item in data.items} == {
        f"{c}/{side}/0.png": side for c in "ab" for side in ("train", "test")
    }


def test_a_training_folder_alone_is_no_division(tmp_path: Path) -> None:
    data = read_dataset(folder_of(tmp_path, "train/a/0.png", "train/b/1.png"))
    assert data.classes == ("a", "b")
    assert {item.split for item in data.items} == {None}


def test_a_set_one_folder_deeper_is_pointed_at(tmp_path: Path) -> None:
    folder_of(tmp_path, "archive/a/0.png", "archive/b/1.png")
    with pytest.raises(BadInputError, match=f"pass {tmp_path / 'archive'}"):
        read_dataset(tmp_path)


LEFTOVERS = [
    "@eaDir",
    "__MACOSX",
    ".hidden",
    ".ipynb_checkpoints",
    "$RECYCLE.BIN",
    "System Volume Information",
    "#recycle",
]


@pytest.mark.parametrize("name", LEFTOVERS)
def test_what_systems_leave_behind_is_no_class_and_holds_no_image(tmp_path: Path, name: str) -> None:
    folder_of(tmp_path, "a/0.png", "b/1.png", f"{name}/a/2.png", f"a/{name}/3.png", f"{name}/4.png")
    data = read_dataset(tmp_path)
    assert data.classes == ("a", "b")
    assert [item.id for item in data.items] == ["a/0.png", "b/1.png"]
    assert data.reading.passed_over["system folder"] == 2


def test_files_passed_over_are_counted_by_kind(tmp_path: Path) -> None:
    folder_of(tmp_path, "a/0.png", "b/1.png", "a/._0.png")
    for name in ("a/Thumbs.db", "a/.DS_Store", "a/notes.TXT", "b/x.txt", "b/scan.nii.gz", "readme.md"):
        (tmp_path / name).write_bytes(b"x")
    (tmp_path / "a" / "gone.png").symlink_to(tmp_path / "nowhere.png")
    data = read_dataset(tmp_path)
    assert len(data.items) == 2
    assert data.reading.passed_over == {
        "hidden or system file": 3,
        ".txt": 2,
        ".gz": 1,
        ".md": 1,
        "broken link": 1,
    }


def test_linked_folders_and_files_are_followed(tmp_path: Path) -> None:
    store = folder_of(tmp_path / "store", "p0/0.png", "p1/1.png", "loose.png")
    root = folder_of(tmp_path / "set", "a/0.png", "b/1.png")
    (root / "a" / "p0").symlink_to(store / "p0")
    (root / "a" / "linked.png").symlink_to(store / "loose.png")
    (root / "c").symlink_to(store / "p1")
    assert [item.id for item in read_dataset(root).items] == [
        "a/0.png",
        "a/linked.png",
        "a/p0/0.png",
        "b/1.png",
        "c/1.png",
    ]


def test_links_in_circles_end_and_bring_no_other_class(tmp_path: Path) -> None:
    root = folder_of(tmp_path / "set", "a/deep/0.png", "b/1.png")
    for name, target in (("a/self", "a"), ("a/up", "."), ("a/deep/around", "a"), ("b/above", "..")):
        (root / name).symlink_to(root / target)
    data = read_dataset(root)
    assert [item.id for item in data.items] == ["a/deep/0.png", "b/1.png"]
    assert data.reading.passed_over == {"folder linked twice or around itself": 4}


def test_a_real_folder_that_is_reached_twice_is_read_once(tmp_path: Path) -> None:
    store = folder_of(tmp_path / "store", "p0/0.png")
    root = folder_of(tmp_path / "set", "a/0.png", "b/1.png")
    for name in ("first", "second"):
        (root / "a" / name).symlink_to(store / "p0")
    assert [item.id for item in read_dataset(root).items] == ["a/0.png", "a/first/0.png", "b/1.png"]


def test_an_ordinary_name_is_not_left_over() -> None:
    assert not any(map(is_leftover, ["a", "macosx", "recycle", "db", "_a", "covid-19", "0"]))
