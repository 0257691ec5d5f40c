"""Files that would take far more memory or time than they deserve: a result or one line, for every reader."""

import io
import os
import struct
import subprocess
import sys
import time
import tracemalloc
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageSequence
from test_dicom import RAMP, dicom
from test_preprocess import chunk, encoded, segment

from ttl_deploy.errors import UnreadableImageError
from ttl_deploy.inputs import image_bytes, pnm_samples, tiff_samples
from ttl_deploy.inputs.image import MAX_PIXELS, load_pixels
from ttl_deploy.spec import PreprocessSpec

pytest.importorskip("pydicom")

SPEC = PreprocessSpec(image_size=8, crop="none")
SIDE = 9400
"""Pixels along both sides of the largest square that is read."""
SMALL = Image.fromarray(np.arange(160, dtype=np.uint8).reshape(16, 10))
"""The 160 pixels that the headers below declare to be 9400 x 9400."""

RLE = "1.2.840.10008.1.2.5"


def declared(image: Image.Image, kind: str, old: bytes, new: bytes, **options: Any) -> bytes:
    content = encoded(image, kind, **options)
    assert old in content
    return content.replace(old, new)


def tiff(**options: Any) -> bytes:
    """A TIFF of one strip whose width, height and rows per strip say 9400."""
    content = encoded(SMALL, "TIFF", **options)
    for tag, old in ((256, 10), (257, 16), (278, 16)):
        for kind in (3, 4):
            content = content.replace(struct.pack("<HHII", tag, kind, 1, old), struct.pack("<HHII", tag, kind, 1, SIDE))
    assert content.count(struct.pack("<I", SIDE)) >= 2
    return content


def png(width: int, height: int, data: bytes, kind: int = 0, bits: int = 8) -> bytes:
    head = struct.pack(">IIBBBBB", width, height, bits, kind, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", data) + chunk(b"IEND", b"")


def rle(*segments: bytes, starts: tuple[int, ...] | None = None, **tags: Any) -> bytes:
    from pydicom.encaps import encapsulate

    lengths = np.cumsum([64, *(len(one) for one in segments)])[:-1]
    offsets = starts or tuple(int(length) for length in lengths)
    frame = struct.pack("<16I", len(offsets), *offsets, *[0] * (15 - len(offsets))) + b"".join(segments)
    return dicom(RAMP, **({"syntax": RLE, "PixelData": encapsulate([frame])} | tags))


def packed(values: bytes) -> bytes:
    """A segment of runs of one byte each."""
    return b"".join(bytes([0, value]) for value in values)


def encapsulated(picture: bytes, syntax: str, **tags: Any) -> bytes:
    from pydicom.encaps import encapsulate

    eight = np.zeros((16, 10), np.uint8)
    return dicom(eight, **({"syntax": f"1.2.840.10008.1.2.4.{syntax}", "PixelData": encapsulate([picture])} | tags))


def one_tile() -> bytes:
    """The first of sixteen tiles."""
    content = encoded(Image.new("L", (512, 512), 7), "JPEG2000", tile_size=(128, 128), no_jp2=True)
    second = content.index(b"\xff\x90", content.index(b"\xff\x90") + 2)
    load_pixels(content, SPEC)
    return content[:second] + b"\xff\xd9"


WIDE = struct.pack(">HH", SIDE, SIDE)

FEW: dict[str, Callable[[], bytes]] = {
    "PNG": lambda: png(SIDE, SIDE, zlib.compress(bytes(160))),
    "JPEG": lambda: declared(SMALL, "JPEG", struct.pack(">HH", 16, 10), WIDE),
    "progressive JPEG": lambda: declared(SMALL, "JPEG", struct.pack(">HH", 16, 10), WIDE, progressive=True),
    "GIF": lambda: declared(SMALL, "GIF", struct.pack("<HH", 10, 16), struct.pack("<HH", SIDE, SIDE)),
    "GIF of a small frame": lambda: encoded(SMALL, "GIF").replace(
        struct.pack("<HH", 10, 16), struct.pack("<HH", SIDE, SIDE), 1
    ),
    "BMP": lambda: declared(SMALL, "BMP", struct.pack("<II", 10, 16), struct.pack("<II", SIDE, SIDE)),
    "TIFF": tiff,
    "TIFF of LZW": lambda: tiff(compression="tiff_lzw"),
    "TIFF of Deflate": lambda: tiff(compression="tiff_adobe_deflate"),
    "TIFF of PackBits": lambda: tiff(compression="packbits"),
    "PGM": lambda: b"P5 9400 9400 255\n" + bytes(160),
    "PGM in words": lambda: b"P2 9400 9400 255\n" + b"0 " * 160,
    "PBM": lambda: b"P4 9400 9400\n" + bytes(160),
    "JPEG 2000": lambda: (
        encoded(SMALL, "JPEG2000")
        .replace(struct.pack(">II", 10, 16), struct.pack(">II", SIDE, SIDE))
        .replace(struct.pack(">II", 16, 10), struct.pack(">II", SIDE, SIDE))
    ),
    "JPEG 2000 of one tile": one_tile,
    "DICOM": lambda: dicom(np.zeros((16, 10), np.uint8), Rows=SIDE, Columns=SIDE),
    "DICOM of RLE": lambda: rle(packed(bytes(160)), packed(bytes(160)), Rows=SIDE, Columns=SIDE),
    "DICOM of JPEG": lambda: encapsulated(encoded(SMALL, "JPEG"), "50", Rows=SIDE, Columns=SIDE),
    "DICOM of JPEG 2000": lambda: encapsulated(encoded(SMALL, "JPEG2000"), "90", Rows=SIDE, Columns=SIDE),
}


@pytest.mark.parametrize("name", FEW)
def test_a_header_of_far_more_pixels_than_there_are_is_refused(name: str) -> None:
    started = time.process_time()
    with pytest.raises(UnreadableImageError) as caught:
        load_pixels(FEW[name](), SPEC, where="a.x")
    assert str(caught.value).startswith("a.x: ")
    assert "\n" not in str(caught.value)
    assert time.process_time() - started < 5


def scans(count: int) -> bytes:
    content = encoded(SMALL, "JPEG", progressive=True)
    last = content.rindex(b"\xff\xda")
    return content[:-2] + content[last:-2] * count + b"\xff\xd9"


def jpeg2000(style: bytes) -> bytes:
    """A codestream of one empty tile of 4000 x 4000 pixels.

    Its coding style ends as given: levels, code block, two bytes, precincts.
    """
    size = struct.pack(">HIIIIIIIIH", 0, 4000, 4000, 0, 0, 4000, 4000, 0, 0, 1) + b"\7\1\1"
    siz = b"\xff\x51" + struct.pack(">H", len(size) + 2) + size
    payload = bytes([len(style) > 5, 0, 0, 1, 0]) + style
    tile = b"\xff\x90" + struct.pack(">HHIBB", 10, 0, 14, 0, 1) + b"\xff\x93"
    return b"\xff\x4f" + siz + b"\xff\x52" + struct.pack(">H", len(payload) + 2) + payload + tile + b"\xff\xd9"


def items(count: int) -> bytes:
    """A DICOM file whose unread sequence has empty items."""
    content = dicom(RAMP)
    place = content.index(b"\x28\0\x02\0US")
    sequence = struct.pack("<HH2sHI", 8, 0x1115, b"SQ", 0, 0xFFFFFFFF)
    sequence += struct.pack("<HHI", 0xFFFE, 0xE000, 0) * count + struct.pack("<HHI", 0xFFFE, 0xE0DD, 0)
    return content[:place] + sequence + content[place:]


def deflated() -> bytes:
    """Zeros whose transfer syntax stands behind 5,000 bytes of another tag of the file meta group."""
    content = dicom(RAMP, syntax="1.2.840.10008.1.2.1.99")
    place = content.index(b"\2\0\x10\0UI")
    private = struct.pack("<HH2sHI", 2, 1, b"OB", 0, 5000) + bytes(5000)
    compressor = zlib.compressobj(9, zlib.DEFLATED, -15)
    bomb = b"".join(compressor.compress(bytes(2**20)) for _ in range(64)) + compressor.flush()
    end = content.index(b"1.2.840.10008.1.2.1.99") + 22
    return content[:place] + private + content[place:end] + bomb


BOMBS: dict[str, tuple[Callable[[], bytes], str]] = {
    "deflated DICOM": (deflated, "deflated"),
    "RLE beyond its size": (lambda: rle(b"\x81\0" * 1_000_000, b"\x81\0" * 1_000_000), ""),
    "RLE of one segment many times": (
        lambda: rle(
            b"\x81\0" * 1_000_000,
            starts=(64,) * 12,
            Rows=5000,
            Columns=5000,
            SamplesPerPixel=3,
            PhotometricInterpretation="RGB",
            BitsAllocated=32,
        ),
        "",
    ),
    "RLE that runs backwards": (lambda: rle(packed(bytes(64)) * 2, starts=(192, 64)), "in ascending order"),
    "DICOM of a larger JPEG": (
        lambda: encapsulated(encoded(Image.new("L", (4000, 4000)), "JPEG"), "50"),
        "4000 x 4000",
    ),
    "DICOM of a JPEG of many scans": (lambda: encapsulated(scans(2000), "50"), "more than 100 scans"),
    "DICOM of 64 bits": (lambda: dicom(RAMP, Rows=7000, Columns=7000, BitsAllocated=64), "bytes of pixels"),
    "DICOM of many items": (lambda: items(100_000), "so many elements"),
    "DICOM of a large tag": (
        lambda: dicom(RAMP, RedPaletteColorLookupTableData=bytes(2**22)),
        "RedPaletteColorLookupTableData has 4,194,304 bytes",
    ),
    "JPEG of many scans": (lambda: scans(2000), "more than 100 scans"),
    "JPEG of many segments": (
        lambda: b"\xff\xd8" + segment(0xE1, b"Exif\0\0x") * 5000 + encoded(SMALL, "JPEG")[2:],
        "more than 4,096 segments",
    ),
    "JPEG 2000 of small precincts": (lambda: jpeg2000(b"\1\4\4\0\1\x00\x00"), "precincts and code blocks"),
    "JPEG 2000 whose tile part ends before its data": (
        lambda: jpeg2000(b"\1\4\4\0\1").replace(b"\xff\x93", segment(0x64, bytes(20)) + b"\xff\x93"),
        "damaged",
    ),
    "JPEG 2000 of many samples": (lambda: jpeg2000(b"\1\4\4\0\1").replace(b"\0\1\7", b"\0\7\7"), "samples"),
}


@pytest.mark.parametrize("name", BOMBS)
def test_what_would_grow_far_beyond_its_size_is_refused_or_read_at_once(name: str) -> None:
    make, said = BOMBS[name]
    content = make()
    started = time.process_time()
    if said:
        with pytest.raises(UnreadableImageError, match=said):
            load_pixels(content, SPEC)
    else:
        try:
            load_pixels(content, SPEC)
        except UnreadableImageError as error:
            assert "\n" not in str(error)
    assert time.process_time() - started < 5


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"\xff\xd8\xff\xe0", "2,147,483,648 bytes, more than the limit"),
        (b"\x89PNG\r\n\x1a\n", "2,147,483,648 bytes, more than the limit"),
        (dicom(RAMP), "2,147,483,648 bytes, far more than the 128 of the pixels"),
        (dicom(RAMP, NumberOfFrames=9), "holds 9 frames"),
    ],
    ids=["JPEG", "PNG", "DICOM", "DICOM of frames"],
)
def test_a_file_far_longer_than_any_image_is_not_read_whole(content: bytes, said: str, tmp_path: Path) -> None:
    """Two gibibytes, of which a file system with holes stores only the beginning."""
    (tmp_path / "a.x").write_bytes(content)
    os.truncate(tmp_path / "a.x", 2**31)
    with pytest.raises(UnreadableImageError, match=said):
        load_pixels(tmp_path / "a.x", SPEC)


def test_a_png_that_inflates_beyond_its_size_is_the_picture_of_its_size() -> None:
    rows = b"".join(b"\0" + bytes(range(16 * row, 16 * row + 16)) for row in range(16))
    compressor = zlib.compressobj(9)
    bomb = compressor.compress(rows) + compressor.compress(bytes(2**26)) + compressor.flush()
    plain = load_pixels(png(16, 16, zlib.compress(rows)), SPEC)
    np.testing.assert_array_equal(load_pixels(png(16, 16, bomb), SPEC), plain)


def test_a_tiff_whose_tags_share_their_bytes_is_not_copied_for_each() -> None:
    """3,000 tags of the same megabyte, which would be 3 GB."""
    content = encoded(SMALL, "TIFF")
    (start,) = struct.unpack_from("<I", content, 4)
    (count,) = struct.unpack_from("<H", content, start)
    entries = content[start + 2 : start + 2 + 12 * count]
    shared = len(content)
    more = b"".join(struct.pack("<HHII", 40000 + tag, 1, 2**20, shared) for tag in range(3000))
    directory = struct.pack("<H", count + 3000) + entries + more + bytes(4)
    bomb = content[:4] + struct.pack("<I", shared + 2**20) + content[8:] + bytes(2**20) + directory
    tracemalloc.start()
    try:
        np.testing.assert_array_equal(load_pixels(bomb, SPEC), load_pixels(content, SPEC))
        assert tracemalloc.get_traced_memory()[1] < 50e6
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("tail", [0, 1, 30])
def test_rle_is_what_was_packed(tail: int) -> None:
    """High bytes first; a last run beyond the image, or bytes behind the last, are no pixels."""
    high, low = (RAMP >> 8).astype("u1").tobytes(), (RAMP & 255).astype("u1").tobytes()
    found = load_pixels(rle(packed(high) + packed(bytes(tail)), packed(low) + packed(bytes(tail))), SPEC)
    np.testing.assert_array_equal(found, load_pixels(dicom(RAMP), SPEC))


def test_rle_of_an_odd_image_may_be_filled_within_its_last_run() -> None:
    values = np.full((7, 7), 1234, np.uint16)
    high, low = bytes([257 - 50, 1234 >> 8]), bytes([257 - 50, 1234 & 255])
    found = load_pixels(rle(high, low, Rows=7, Columns=7), SPEC)
    np.testing.assert_array_equal(found, load_pixels(dicom(values), SPEC))


@pytest.mark.parametrize(("magic", "most"), [(b"P5", 100), (b"P5", 4095), (b"P6", 100), (b"P6", 1000)])
def test_pnm_of_any_largest_value_is_what_pillow_makes_of_it_and_in_bounds(magic: bytes, most: int) -> None:
    """A sample at a time, sixteen million would take a quarter of a minute."""
    count = 40 * 40 * (3 if magic == b"P6" else 1)
    values = (np.arange(count) * 7 % (most + 2)).astype(">u2" if most > 255 else "u1").tobytes()
    with Image.open(io.BytesIO(magic + b" 40 40 %d\n" % most + values)) as image:
        ours = pnm_samples.scaled(image, io.BytesIO(magic + b" 40 40 %d\n" % most + values))
        assert ours is not None
        assert ours.mode == image.mode
        np.testing.assert_array_equal(np.asarray(ours), np.asarray(image))
    started = time.process_time()
    load_pixels(magic + b" 2000 2000 %d\n" % most + bytes(4_000_000 * (len(values) // 1600)), SPEC)
    assert time.process_time() - started < 5


def test_pnm_in_text_has_a_bound() -> None:
    with pytest.raises(UnreadableImageError, match="10,000,000 samples in text"):
        load_pixels(b"P3 2000 2000 255\n" + b"0 " * 100, SPEC)


def frames(kind: str, count: int = 3, **options: Any) -> bytes:
    pictures = [Image.new("L", (16, 16), shade) for shade in range(0, 60 * count, 60)]
    return encoded(pictures[0], kind, save_all=True, append_images=pictures[1:], **options)


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        ("TIFF", "holds 3 frames"),
        ("GIF", "holds several frames"),
        ("PNG", "holds 3 frames"),
        ("WEBP", "holds 3 frames"),
    ],
)
def test_several_frames_are_refused_as_those_of_dicom_are(kind: str, said: str) -> None:
    with pytest.raises(UnreadableImageError, match=said) as caught:
        load_pixels(frames(kind), SPEC)
    with pytest.raises(UnreadableImageError) as dicoms:
        load_pixels(dicom(RAMP, NumberOfFrames=3), SPEC)
    assert caught.value.fix == dicoms.value.fix
    with Image.open(io.BytesIO(frames(kind))) as image:
        assert len(list(ImageSequence.Iterator(image))) == 3
    load_pixels(frames(kind, count=1), SPEC)


@pytest.mark.parametrize("big", [False, True])
def test_smaller_copies_in_a_tiff_are_no_frames(big: bool) -> None:
    content = frames("TIFF", big_tiff=big, tiffinfo={254: 1})
    assert tiff_samples.frames(io.BytesIO(content)) == 1
    load_pixels(content, SPEC)
    assert tiff_samples.frames(io.BytesIO(frames("TIFF", big_tiff=big))) == 3


def test_directories_in_a_circle_are_counted_once() -> None:
    content = bytearray(encoded(SMALL, "TIFF"))
    (start,) = struct.unpack_from("<I", content, 4)
    (count,) = struct.unpack_from("<H", content, start)
    struct.pack_into("<I", content, start + 2 + 12 * count, start)
    assert tiff_samples.frames(io.BytesIO(bytes(content))) == 1
    np.testing.assert_array_equal(load_pixels(bytes(content), SPEC), load_pixels(encoded(SMALL, "TIFF"), SPEC))


def test_the_size_of_what_is_compressed_is_read_without_decoding() -> None:
    for kind in ("JPEG", "JPEG2000"):
        for mode, samples in (("L", 1), ("RGB", 3)):
            assert image_bytes.coded_size(encoded(SMALL.convert(mode), kind)) == (10, 16, samples)
            assert image_bytes.excess(encoded(SMALL.convert(mode), kind)) is None
    assert image_bytes.coded_size(b"no image") is None


PEAK = """
import re, sys
from pathlib import Path
from ttl_deploy.inputs.image import load_pixels
from ttl_deploy.spec import PreprocessSpec

load_pixels(Path(sys.argv[1]), PreprocessSpec(image_size=8, crop="none"))
print(int(re.search(r"VmHWM:\\s*(\\d+)", Path("/proc/self/status").read_text())[1]) // 1024)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
@pytest.mark.parametrize("kind", ["DICOM", "16-bit grey PNG"])
def test_the_largest_image_takes_less_than_two_gibibytes(kind: str, tmp_path: Path) -> None:
    """Measured in a process of its own; float64 of one such image alone would be 0.7 GB, and there were four."""
    side = int(MAX_PIXELS**0.5)
    if kind == "DICOM":
        runs = b"\x81\0" * (side * side // 128 + 1)
        content = rle(runs, runs, Rows=side, Columns=side)
    else:
        compressor, row = zlib.compressobj(1), bytes(2 * side + 1)
        data = b"".join(compressor.compress(row) for _ in range(side)) + compressor.flush()
        content = png(side, side, data, bits=16)
    (tmp_path / "a").write_bytes(content)
    done = subprocess.run([sys.executable, "-c", PEAK, str(tmp_path / "a")], capture_output=True, text=True, check=True)
    assert int(done.stdout) < 2048
