"""PatchCamelyon's files: rows as they are stored, and everything that cannot be meant or trusted in one line."""

import pickle
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ttl_deploy.data.h5_arrays import H5Rows, is_h5
from ttl_deploy.data.manifest import read_dataset
from ttl_deploy.errors import BadInputError, MissingDependencyError
from ttl_deploy.parity.images import read_items
from ttl_deploy.tasks import Multiclass

h5py = pytest.importorskip("h5py")

X = np.random.default_rng(0).integers(0, 256, (6, 8, 8, 3), np.uint8)
Y = np.array([0, 1, 1, 0, 1, 0], np.uint8).reshape(6, 1, 1, 1)


def pair(folder: Path, side: str = "train", x: Any = X, y: Any = Y, **more: Any) -> Path:
    folder.mkdir(exist_ok=True)
    path = folder / f"camelyonpatch_level_2_split_{side}_x.h5"
    with h5py.File(path, "w") as file:
        file.create_dataset("x", data=x, **more)
    with h5py.File(folder / f"camelyonpatch_level_2_split_{side}_y.h5", "w") as file:
        file.create_dataset("y", data=y)
    return path


@pytest.mark.parametrize("chunks", [None, (4, 8, 8, 3), (1, 4, 8, 3)])
def test_rows_are_as_stored_in_any_order_and_in_another_process(tmp_path: Path, chunks: Any) -> None:
    rows = H5Rows(pair(tmp_path, chunks=chunks), "x")
    assert (rows.shape, rows.dtype, len(rows)) == (X.shape, np.uint8, 6)
    for row in (5, 0, 3, 3):
        np.testing.assert_array_equal(rows[row], X[row])
    sent = pickle.loads(pickle.dumps(rows))
    np.testing.assert_array_equal(sent[4], X[4])


def test_one_pair_alone_is_divided_anew(tmp_path: Path) -> None:
    data = read_dataset(pair(tmp_path, "valid"))
    assert data.labels.tolist() == Y.reshape(-1).tolist()
    assert {item.split for item in data.items} == {None}
    assert data.classes == ("0", "1")


def test_verify_takes_the_test_side(tmp_path: Path) -> None:
    pair(tmp_path / "set")
    pair(tmp_path / "set", "test", X[:2], Y[:2])
    items = read_items(tmp_path / "set", Multiclass(("0", "1"))).items
    assert [item.id for item in items] == ["test/00000", "test/00001"]


def test_a_folder_with_folders_is_no_such_set(tmp_path: Path) -> None:
    pair(tmp_path / "set")
    assert is_h5(tmp_path / "set")
    (tmp_path / "set" / "lesion").mkdir()
    assert not is_h5(tmp_path / "set")


def linked(path: Path) -> None:
    with h5py.File(path.with_name("other.h5"), "w") as file:
        file["x"] = X
    with h5py.File(path, "w") as file:
        file["x"] = h5py.ExternalLink("other.h5", "/x")


def virtual(path: Path) -> None:
    layout = h5py.VirtualLayout(X.shape, X.dtype)
    layout[:] = h5py.VirtualSource("other.h5", "x", X.shape)
    with h5py.File(path, "w") as file:
        file.create_virtual_dataset("x", layout)


def outside(path: Path) -> None:
    with h5py.File(path, "w") as file:
        file.create_dataset("x", X.shape, X.dtype, external=[("/etc/passwd", 0, X.nbytes)])


def group(path: Path) -> None:
    with h5py.File(path, "w") as file:
        file.create_group("x")


def named(path: Path) -> None:
    with h5py.File(path, "w") as file:
        file["images"] = X


def words(path: Path) -> None:
    with h5py.File(path, "w") as file:
        file["x"] = ["a", "b"]


def huge(path: Path) -> None:
    with h5py.File(path, "w") as file:
        file.create_dataset("x", (6, 2**20, 2**20, 3), np.uint8, chunks=(1, 1024, 1024, 3))


def many(path: Path) -> None:
    with h5py.File(path.with_name(path.name.replace("_x", "_y")), "w") as file:
        file.create_dataset("y", (6, 2**25), np.uint8, chunks=(1, 1024))


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-700])


def torn(path: Path) -> None:
    with h5py.File(path, "w") as file:
        file.create_dataset("x", data=X, chunks=(6, 8, 8, 3), compression="gzip")
    content = bytearray(path.read_bytes())
    content[-200:-100] = b"\xff" * 100
    path.write_bytes(content)


def text(path: Path) -> None:
    path.write_text("no HDF5")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (linked, "x is no array of this file"),
        (virtual, "x is no array of this file"),
        (outside, "x is no array of this file"),
        (group, "x is no array of this file"),
        (named, "x is not there; found: images"),
        (words, "x is of type object"),
        (huge, "in too large parts"),
        (cut, "is damaged: "),
        (torn, "is damaged: "),
        (text, "is damaged: "),
        (lambda path: path.unlink(), "no such file or folder"),
        (lambda path: path.with_name(path.name.replace("_x", "_y")).unlink(), "has no .*train_y.h5 beside it"),
        (lambda path: pair(path.parent, x=X.astype(np.float32)), "images of type float32"),
        (lambda path: pair(path.parent, y=Y[:3]), "6 images but 3 labels"),
        (many, "y has the shape"),
    ],
)
def test_files_that_cannot_be_meant(tmp_path: Path, change: Callable[[Path], object], said: str) -> None:
    path = pair(tmp_path)
    change(path)
    with pytest.raises(BadInputError, match=said) as told:
        read_dataset(path)
    assert "\n" not in str(told.value)


def test_names_that_say_no_side_or_the_same_are_told(tmp_path: Path) -> None:
    path = pair(tmp_path / "set", "zug")
    with pytest.raises(BadInputError, match=r"zug_x.h5: its name does not say what it holds; name it as PatchCamelyon"):
        read_dataset(path.parent)
    path.unlink()
    pair(tmp_path / "set", "val")
    pair(tmp_path / "set", "valid")
    with pytest.raises(BadInputError, match=r"valid_x.h5: is of the side val, as .*split_val_x.h5"):
        read_dataset(path.parent)


def test_files_that_are_still_packed_are_told(tmp_path: Path) -> None:
    (tmp_path / "camelyonpatch_level_2_split_train_x.h5.gz").write_bytes(b"\x1f\x8b")
    with pytest.raises(BadInputError, match=r"train_x.h5.gz: is packed; unpack it and those beside it: gunzip"):
        read_dataset(tmp_path)


def test_patients_are_in_the_table_beside_it(tmp_path: Path) -> None:
    from ttl_deploy.data.columns import Columns

    path = pair(tmp_path)
    with pytest.raises(BadInputError, match=r"has no camelyonpatch\w+_train_meta\.csv beside it"):
        read_dataset(tmp_path, columns=Columns(patient="wsi"))
    path.with_name("camelyonpatch_level_2_split_train_meta.csv").write_text(
        ",wsi\n" + "".join(f"{i},slide {i // 2}\n" for i in range(6))
    )
    data = read_dataset(tmp_path, columns=Columns(patient="WSI"))
    assert [item.patient for item in data.items] == [f"slide {i // 2}" for i in range(6)]
    with pytest.raises(BadInputError, match=r"meta.csv: has no column 'slide'; valid: wsi"):
        read_dataset(tmp_path, columns=Columns(patient="slide"))
    with pytest.raises(BadInputError, match="is no table; leave --path-column out"):
        read_dataset(tmp_path, columns=Columns(path="x"))


def test_without_h5py_one_line_names_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = pair(tmp_path)
    monkeypatch.setitem(sys.modules, "h5py", None)
    with pytest.raises(MissingDependencyError, match=r"train_x.h5: reading it needs h5py; pip install h5py"):
        read_dataset(path)
