"""An .npz that is larger than memory should hold, or that lies: rows as they are, bounded memory, one clear line."""

import io
import pickle
import struct
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from odd_archives import of_two_disks

from ttl_deploy.data import npz_arrays
from ttl_deploy.data.npz_arrays import NpzArrays
from ttl_deploy.data.read_npz import read_npz
from ttl_deploy.errors import BadInputError

IMAGES = np.random.default_rng(0).integers(0, 256, (50, 7, 9, 3), dtype=np.uint8)
LABELS = np.arange(50)[:, None] % 2


def npy(values: NDArray[Any]) -> bytes:
    stream = io.BytesIO()
    np.lib.format.write_array(stream, values)
    return stream.getvalue()


def header(shape: tuple[int, ...], kind: str = "|u1", fortran: bool = False) -> bytes:
    stream = io.BytesIO()
    np.lib.format.write_array_header_1_0(stream, {"descr": kind, "fortran_order": fortran, "shape": shape})
    return stream.getvalue()


def archive(path: Path, members: list[tuple[str, bytes]], method: int = zipfile.ZIP_DEFLATED) -> Path:
    with zipfile.ZipFile(path, "w", method) as file:
        for name, content in members:
            file.writestr(name, content)
    return path


def usual(images: bytes | None = None, labels: bytes | None = None) -> list[tuple[str, bytes]]:
    return [("train_images.npy", images or npy(IMAGES)), ("train_labels.npy", labels or npy(LABELS))]


@pytest.mark.parametrize("write", [np.savez, np.savez_compressed])
def test_rows_in_any_order_are_those_of_the_array(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, write: Callable[..., None]
) -> None:
    """With blocks of 500 bytes a row of 189 lies in one or two of them."""
    monkeypatch.setattr(npz_arrays, "_BLOCK", 500)
    write(tmp_path / "a.npz", train_images=IMAGES, deep=IMAGES.astype(">u2") * 257)
    arrays = NpzArrays(tmp_path / "a.npz")
    for name, wanted in (("train_images", IMAGES), ("deep", IMAGES.astype(">u2") * 257)):
        rows = pickle.loads(pickle.dumps(arrays.rows(name)))
        rows.check()
        assert (rows.shape, rows.dtype, len(rows)) == (wanted.shape, wanted.dtype, 50)
        for row in (0, 49, 7, 8, 0, 31, *range(50)):
            np.testing.assert_array_equal(rows[row], wanted[row])
        np.testing.assert_array_equal(arrays.whole(name), wanted)


def test_an_image_has_the_digest_that_it_has_in_memory(tmp_path: Path) -> None:
    """So that pixel caches and divisions of earlier runs stay valid."""
    from ttl_deploy.data.items import ArraySource

    entries = read_npz(archive(tmp_path / "a.npz", usual()), None).entries
    assert [entry.label for entry in entries[:3]] == ["0", "1", "0"]
    for row in (0, 17):
        assert entries[row].source.digest() == ArraySource(IMAGES, row, "").digest()


def changed(path: Path, old: bytes, new: bytes) -> Path:
    """The archive with some bytes of its records changed wherever they are."""
    content = path.read_bytes()
    assert old in content
    path.write_bytes(content.replace(old, new))
    return path


def encrypted(path: Path) -> Path:
    """The same with the flag of encryption in every header."""
    content = bytearray(archive(path, usual()).read_bytes())
    for start, flags in ((b"PK\3\4", 6), (b"PK\1\2", 8)):
        place = content.find(start)
        while place >= 0:
            content[place + flags] |= 1
            place = content.find(start, place + 4)
    path.write_bytes(content)
    return path


def of_method(path: Path, method: int) -> Path:
    content = bytearray(archive(path, usual()).read_bytes())
    for start, where in ((b"PK\3\4", 8), (b"PK\1\2", 10)):
        place = content.find(start)
        while place >= 0:
            struct.pack_into("<H", content, place + where, method)
            place = content.find(start, place + 4)
    path.write_bytes(content)
    return path


def twice(path: Path) -> Path:
    with pytest.warns(UserWarning, match="Duplicate"):
        return archive(path, [*usual(), usual()[0]])


def cut(path: Path) -> Path:
    """Half of the images' bytes are zero, and the directory is whole."""
    content = bytearray(archive(path, usual(), zipfile.ZIP_STORED).read_bytes())
    content[3000:6000] = bytes(3000)
    path.write_bytes(content)
    return path


def truncated(path: Path) -> Path:
    content = archive(path, usual()).read_bytes()
    path.write_bytes(content[: len(content) // 2])
    return path


def lying_directory(path: Path) -> Path:
    """The header and both records declare 6 GB of pixels, which a few bytes of Deflate do not hold."""
    claim = header((2**31, 1, 1))
    size = 2**31 + len(claim)
    archive(path, usual(claim + bytes(100_000)))
    return changed(path, struct.pack("<I", len(claim) + 100_000), struct.pack("<I", size))


def two_disks(path: Path) -> Path:
    path.write_bytes(of_two_disks(archive(path, usual()).read_bytes()))
    return path


def objects(path: Path) -> Path:
    np.savez(path, train_images=np.array([{}, None], dtype=object), train_labels=LABELS)
    return path


BROKEN: dict[str, tuple[Callable[[Path], Path], str]] = {
    "encrypted": (encrypted, "train_labels is encrypted|train_images is encrypted"),
    "bzip2": (lambda p: archive(p, usual(), zipfile.ZIP_BZIP2), r"compressed by method 12 \(bzip2\)"),
    "lzma": (lambda p: archive(p, usual(), zipfile.ZIP_LZMA), r"compressed by method 14 \(lzma\)"),
    "method 99": (lambda p: of_method(p, 99), "compressed by method 99"),
    "objects": (objects, "pickled objects"),
    "cut short": (truncated, "not an .npz|damaged"),
    "other bytes": (cut, "train_images is damaged: its checksum differs"),
    "two disks": (two_disks, "damaged: zipfiles that span multiple disks"),
    "two of a name": (twice, "2 arrays named train_images"),
    "a shape too large": (
        lambda p: archive(p, usual(header((2**40, 8, 8)) + bytes(64))),
        r"declares shape \(1099511627776, 8, 8\)",
    ),
    "a shape too small": (lambda p: archive(p, usual(header((2, 2, 2)) + bytes(64))), "8 bytes, and has 64"),
    "a shape below zero": (lambda p: archive(p, usual(header((-1, 2, 2)) + bytes(64))), "shape"),
    "sizes that cannot be": (lying_directory, r"declares 2,147,483,\d+ bytes in"),
    "no array": (lambda p: archive(p, usual(b"hello")), "train_images is damaged"),
    "structured values": (lambda p: archive(p, usual(npy(np.zeros(3, [("a", "u1")])))), "values of type"),
    "an empty member": (lambda p: archive(p, [("train_images.npy", b""), usual()[1]]), "train_images is damaged"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_an_npz_that_cannot_be_read_is_one_line_that_names_it(tmp_path: Path, name: str) -> None:
    make, said = BROKEN[name]
    path = make(tmp_path / "a.npz")
    with pytest.raises(BadInputError, match=said) as caught:
        read_npz(path, None)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert caught.value.fix


def test_images_in_fortran_order_are_loaded_up_to_a_bound(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = archive(tmp_path / "a.npz", usual(npy(np.asfortranarray(IMAGES))))
    np.testing.assert_array_equal(NpzArrays(path).rows("train_images")[7], IMAGES[7])
    monkeypatch.setattr(npz_arrays, "_MOST_WHOLE", 5000)
    with pytest.raises(BadInputError, match="ascontiguousarray"):
        read_npz(path, None)


def test_labels_are_loaded_up_to_a_bound(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(npz_arrays, "_MOST_WHOLE", 5000)
    path = archive(tmp_path / "a.npz", usual(labels=npy(np.zeros(1000, "i8"))))
    with pytest.raises(BadInputError, match="train_labels has 8,000 bytes, more than the 5,000"):
        read_npz(path, None)


def test_a_million_images_are_the_most(tmp_path: Path) -> None:
    count = npz_arrays.MOST_IMAGES + 1
    path = archive(tmp_path / "a.npz", usual(npy(np.zeros((count, 1, 1), "u1")), npy(np.zeros(count, "u1"))))
    with pytest.raises(BadInputError, match="more than the 1,000,000"):
        read_npz(path, None)


PEAK = """
import re, sys
from pathlib import Path
from ttl_deploy.data.read_npz import read_npz

def peak():
    return int(re.search(r"VmHWM:\\s*(\\d+)", Path("/proc/self/status").read_text())[1]) // 1024

before = peak()
entries = read_npz(Path(sys.argv[1]), None).entries
digests = {entry.source.digest() for entry in entries}
print(len(digests), peak() - before)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_a_file_of_sixty_megabytes_takes_half_of_that(tmp_path: Path, method: int) -> None:
    """Measured in a process of its own, from listing the images to having read every one.

    By VmHWM, as the peak that `getrusage` gives begins with that of the process which started this one.
    """
    images = np.random.default_rng(0).integers(0, 256, (400, 224, 224, 3), dtype=np.uint8)
    path = tmp_path / "a.npz"
    with zipfile.ZipFile(path, "w", method, compresslevel=0) as file:
        file.writestr("train_images.npy", npy(images))
        file.writestr("train_labels.npy", npy(np.arange(400)))
    assert path.stat().st_size > 55e6
    done = subprocess.run([sys.executable, "-c", PEAK, str(path)], capture_output=True, text=True, check=True)
    count, grown = map(int, done.stdout.split())
    assert count == 400
    assert grown < 30
