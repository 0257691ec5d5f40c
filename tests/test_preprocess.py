"""The one preprocessing rule: whatever the file's kind, the same tensor; checked against torchvision and by hand."""

import io
import re
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image, ImageOps
from torchvision.transforms import v2

from ttl_deploy.errors import UnreadableImageError
from ttl_deploy.inputs.image import MAX_PIXELS, array_pixels, load_pixels, normalise
from ttl_deploy.spec import InputSpec, PreprocessSpec

SPEC = PreprocessSpec(image_size=32)
WHOLE = PreprocessSpec(image_size=32, crop="none")


@pytest.fixture
def grey() -> NDArray[np.uint8]:
    """A landscape of 48 x 70 smooth enough that resizing it is well defined, without symmetry."""
    rows, columns = np.mgrid[0:48, 0:70]
    return np.asarray(127 + 60 * np.sin(rows / 7) + 60 * np.cos(columns / 11 + rows / 30), dtype=np.uint8)


def encoded(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def variants(grey: NDArray[np.uint8]) -> dict[str, bytes]:
    """One picture in every way an archive may hold it."""
    plain = Image.fromarray(grey)
    turned = Image.Exif()
    turned[0x0112] = 6  # rotate by 90 degrees to see it upright
    ramp = [level for level in range(256) for _ in range(3)]
    palette = Image.fromarray(grey, "L").convert("P")
    palette.putdata(grey.ravel())
    palette.putpalette(ramp)
    return {
        "grey": encoded(plain),
        "RGB": encoded(plain.convert("RGB")),
        "RGBA": encoded(plain.convert("RGBA")),
        "grey with alpha": encoded(plain.convert("LA")),
        "palette": encoded(palette),
        "16 bit": encoded(Image.fromarray(grey.astype(np.uint16) * 257)),
        "EXIF-rotated": encoded(plain.transpose(Image.Transpose.ROTATE_90), exif=turned),
        "TIFF": encoded(plain, "TIFF"),
        "BMP": encoded(plain, "BMP"),
        "PNM": encoded(plain, "PPM"),
        "WebP": encoded(plain.convert("RGB"), "WEBP", lossless=True),
        "GIF": encoded(plain, "GIF"),
        "JPEG 2000": encoded(plain, "JPEG2000"),
    }


@pytest.mark.filterwarnings("ignore:'mode' parameter is deprecated:DeprecationWarning")
@pytest.mark.parametrize("spec", [SPEC, WHOLE], ids=["centre crop", "squeezed"])
def test_every_kind_of_file_becomes_the_same_tensor(grey: NDArray[np.uint8], spec: PreprocessSpec) -> None:
    pixels = {name: load_pixels(content, spec) for name, content in variants(grey).items()}
    for name, result in pixels.items():
        np.testing.assert_array_equal(result, pixels["grey"], err_msg=name)
    assert pixels["grey"].shape == (32, 32, 3)


def test_it_is_torchvisions_evaluation_transform(grey: NDArray[np.uint8]) -> None:
    colour = np.stack([grey, np.flip(grey, 0), np.flip(grey, 1)], axis=2)
    image = Image.fromarray(colour)
    reference = v2.Compose(
        [v2.CenterCrop(48), v2.Resize((32, 32), interpolation=v2.InterpolationMode.BILINEAR, antialias=True)]
    )
    theirs = v2.functional.normalize(
        v2.functional.to_dtype(v2.functional.to_image(reference(image)), torch.float32, scale=True),
        list(SPEC.mean),
        list(SPEC.std),
    )
    ours = normalise(load_pixels(encoded(image), SPEC)[None], SPEC)
    assert ours.dtype == np.float32
    assert ours.flags["C_CONTIGUOUS"]
    np.testing.assert_allclose(ours[0], theirs.numpy(), atol=2e-6)


def test_an_array_and_a_file_of_it_are_the_same(grey: NDArray[np.uint8]) -> None:
    np.testing.assert_array_equal(array_pixels(grey, SPEC, "a"), load_pixels(encoded(Image.fromarray(grey)), SPEC))
    deep = grey.astype(np.uint16) * 257
    np.testing.assert_array_equal(array_pixels(deep, SPEC, "a"), array_pixels(grey, SPEC, "a"))


def test_transparency_is_laid_over_black() -> None:
    image = Image.new("RGBA", (32, 32), (200, 100, 50, 0))
    image.paste((200, 100, 50, 128), (0, 0, 32, 16))
    pixels = load_pixels(encoded(image), SPEC)
    np.testing.assert_allclose(pixels[0, 0], [200 * 128 / 255, 100 * 128 / 255, 50 * 128 / 255], atol=1)
    assert pixels[31, 31].tolist() == [0, 0, 0]


def test_sixteen_bits_by_full_range_and_by_own_range() -> None:
    values = np.full((32, 32), 1000, dtype=np.uint16)
    values[:, 16:] = 3000
    content = encoded(Image.fromarray(values))
    full = load_pixels(content, SPEC)
    assert full[0, 0, 0] == round(1000 / 257)
    assert full[0, 31, 0] == round(3000 / 257)
    own = load_pixels(content, SPEC.model_copy(update={"high_bit_depth": "min-max"}))
    assert own[0, 0, 0] == 0
    assert own[0, 31, 0] == 255


def test_colour_becomes_luma_for_one_channel() -> None:
    content = encoded(Image.new("RGB", (32, 32), (255, 0, 0)))
    pixels = load_pixels(content, PreprocessSpec.of(InputSpec.image(32, 1)))
    assert pixels.shape == (32, 32, 1)
    assert pixels[0, 0, 0] == round(0.299 * 255)


def test_the_centre_square_leaves_the_odd_pixel_right() -> None:
    stripes = np.tile(np.arange(35, dtype=np.uint8) * 7, (32, 1))
    assert load_pixels(encoded(Image.fromarray(stripes)), SPEC)[0, :, 0].tolist() == (np.arange(1, 33) * 7).tolist()


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "0 bytes"),
        (b"this is no image at all", "is not an image"),
        (encoded(Image.new("L", (64, 64)))[:-40], "is damaged"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n", "is not an image"),
    ],
    ids=["empty", "text", "truncated", "a format that runs programs"],
)
def test_what_is_no_image_is_refused(tmp_path: Path, content: bytes, said: str) -> None:
    path = tmp_path / "scan.png"
    path.write_bytes(content)
    with pytest.raises(UnreadableImageError, match=said) as caught:
        load_pixels(path, SPEC)
    assert str(path) in str(caught.value)


def test_floating_point_images_need_their_own_range() -> None:
    content = encoded(Image.fromarray(np.linspace(0, 1, 32 * 32, dtype=np.float32).reshape(32, 32)), "TIFF")
    with pytest.raises(UnreadableImageError, match="min-max"):
        load_pixels(content, SPEC)
    own = load_pixels(content, SPEC.model_copy(update={"high_bit_depth": "min-max"}))
    assert (own.min(), own.max()) == (0, 255)


def test_arrays_that_are_no_images_are_refused() -> None:
    with pytest.raises(UnreadableImageError, match="shape"):
        array_pixels(np.zeros((4, 4, 2), dtype=np.uint8), SPEC, "row 3")
    with pytest.raises(UnreadableImageError, match="float32"):
        array_pixels(np.zeros((4, 4), dtype=np.float32), SPEC, "row 3")
    with pytest.raises(UnreadableImageError, match=f"{MAX_PIXELS:,}"):
        array_pixels(np.zeros((1, 1), dtype=np.uint8).repeat(MAX_PIXELS + 1, axis=1), SPEC, "row 3")


def chunk(kind: bytes, content: bytes, *, broken: bool = False) -> bytes:
    checksum = zlib.crc32(kind + content) ^ broken
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", checksum)


def segment(marker: int, content: bytes) -> bytes:
    return bytes([0xFF, marker]) + struct.pack(">H", len(content) + 2) + content


PNG_METADATA = {
    "EXIF without its header": chunk(b"eXIf", b"\0\x08\0\2\1\x12\0\3" + bytes(20)),
    "EXIF that points outside": chunk(b"eXIf", b"II*\0\xff\xff\xff\x7f"),
    "a colour profile of 3 MB": chunk(b"iCCP", b"x\0\0" + zlib.compress(bytes(3_000_000))),
    "an empty colour profile": chunk(b"iCCP", b""),
    "XMP of 3 MB": chunk(b"iTXt", b"XML:com.adobe.xmp\0\1\0\0\0" + zlib.compress(b"x" * 3_000_000)),
    "text of 3 MB": chunk(b"zTXt", b"k\0\0" + zlib.compress(b"x" * 3_000_000)),
    "text packed in an unknown way": chunk(b"zTXt", b"k\0\5zzzz"),
    "70 MB of text": b"".join(chunk(b"tEXt", b"k%d\0" % i + b"y" * 1_000_000) for i in range(70)),
    "text with a wrong checksum": chunk(b"tEXt", b"k\0x", broken=True),
    "a private chunk with a wrong checksum": chunk(b"prVt", bytes(9), broken=True),
    "transparency with a wrong checksum": chunk(b"tRNS", b"\0\7", broken=True),
    "a resolution that is cut short": chunk(b"pHYs", b"\0"),
    "a gamma that is cut short": chunk(b"gAMA", b"\0"),
    "primaries that are cut short": chunk(b"cHRM", b"\0"),
    "an empty intent": chunk(b"sRGB", b""),
    "an animation that is cut short": chunk(b"acTL", b"\0"),
}

JPEG_METADATA = {
    "EXIF that is none": segment(0xE1, b"Exif\0\0" + b"\xde\xad" * 20),
    "EXIF that is cut short": segment(0xE1, b"Exif\0\0II*\0\x08\0\0\0\x09\0\x12\1\3\0\1"),
    "a colour profile that is cut short": segment(0xE2, b"ICC_PROFILE\0\1"),
    "Photoshop's resources cut short": segment(0xED, b"Photoshop 3.0\0008BIM\3\xed\0\0\0\0\0\x01a"),
    "JFIF that is cut short": segment(0xE0, b"JFIF\0"),
    "a comment of any bytes": segment(0xFE, b"\xff" * 300),
}


@pytest.mark.parametrize("name", PNG_METADATA)
def test_a_png_whose_metadata_is_broken_or_large_is_whole(grey: NDArray[np.uint8], name: str) -> None:
    for values in (grey, grey.astype(np.uint16) * 257):
        plain = encoded(Image.fromarray(values))
        changed = plain[:33] + PNG_METADATA[name] + plain[33:]
        np.testing.assert_array_equal(load_pixels(changed, SPEC), load_pixels(plain, SPEC))


@pytest.mark.parametrize("name", JPEG_METADATA)
def test_a_jpeg_whose_metadata_is_broken_is_whole(grey: NDArray[np.uint8], name: str) -> None:
    for mode in ("L", "RGB", "CMYK"):
        plain = encoded(Image.fromarray(grey).convert(mode), "JPEG")
        changed = plain[:2] + JPEG_METADATA[name] + plain[2:] + b"bytes behind the end"
        np.testing.assert_array_equal(load_pixels(changed, SPEC), load_pixels(plain, SPEC))


def test_what_is_transparent_and_upright_survives_broken_metadata(grey: NDArray[np.uint8], tmp_path: Path) -> None:
    turned = Image.Exif()
    turned[0x0112] = 6
    keyed = encoded(Image.fromarray(grey), transparency=int(grey[3, 3]), exif=turned)
    changed = keyed[:33] + PNG_METADATA["a private chunk with a wrong checksum"] + keyed[33:]
    (tmp_path / "a.png").write_bytes(changed)
    np.testing.assert_array_equal(load_pixels(tmp_path / "a.png", SPEC), load_pixels(keyed, SPEC))
    assert (load_pixels(keyed, SPEC) != load_pixels(encoded(Image.fromarray(grey)), SPEC)).any()


@pytest.mark.parametrize("damage", ["header", "data", "order"])
def test_a_png_whose_pixels_are_broken_is_refused(grey: NDArray[np.uint8], damage: str) -> None:
    plain = bytearray(encoded(Image.fromarray(grey)))
    data = plain.index(b"IDAT")
    if damage == "header":
        plain[20] ^= 1
    elif damage == "data":
        plain[data + 50] ^= 255
    else:
        del plain[data - 4 : -12]
    extra = PNG_METADATA["text with a wrong checksum"]
    for content in (bytes(plain), bytes(plain[:33] + extra + plain[33:])):
        with pytest.raises(UnreadableImageError, match="damaged"):
            load_pixels(content, SPEC)


@pytest.mark.parametrize("orientation", range(10))
@pytest.mark.parametrize("kind", ["PNG", "JPEG", "TIFF", "WEBP"])
def test_upright_is_what_pillow_calls_upright(
    grey: NDArray[np.uint8], orientation: int, kind: str, tmp_path: Path
) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    content = encoded(Image.fromarray(grey).convert("RGB"), kind, exif=exif)
    with Image.open(io.BytesIO(content)) as image:
        wanted = encoded(ImageOps.exif_transpose(image).convert("RGB"))
    np.testing.assert_array_equal(load_pixels(content, SPEC), load_pixels(wanted, SPEC))
    (tmp_path / "image").write_bytes(content)
    np.testing.assert_array_equal(load_pixels(tmp_path / "image", SPEC), load_pixels(wanted, SPEC))


def tiff(
    values: NDArray[Any], bits: int, photometric: int, order: str = "<", tags: tuple[tuple[int, ...], ...] = ()
) -> bytes:
    """An uncompressed TIFF written by hand (TIFF 6.0): samples packed, the most significant bit first."""
    height, width = values.shape[:2]
    samples = 1 if values.ndim == 2 else values.shape[2]
    if bits == 16:
        data = values.astype(f"{order}u2").tobytes()
    else:
        rows = values.reshape(height, -1)
        data = np.packbits((rows[..., None] >> np.arange(bits)[::-1] & 1).reshape(height, -1), axis=1).tobytes()
    head = 8 + len(data) + len(data) % 2
    depth = (258, 3, 1, bits) if samples == 1 else (258, 3, samples, head)
    known = ((256, 4, 1, width), (257, 4, 1, height), depth, (259, 3, 1, 1), (262, 3, 1, photometric))
    known += ((273, 4, 1, 8), (277, 3, 1, samples), (278, 4, 1, height), (279, 4, 1, len(data)))
    entries = sorted((*known, *tags))
    packed = b"".join(
        struct.pack(f"{order}HHI", *entry[:3])
        + (struct.pack(f"{order}HH", entry[3], 0) if entry[1:3] == (3, 1) else struct.pack(f"{order}I", entry[3]))
        for entry in entries
    )
    depths = struct.pack(f"{order}{samples}H", *[bits] * samples) + bytes(samples % 2 * 2)
    start = head + len(depths)
    mark = b"II*\0" if order == "<" else b"MM\0*"
    body = mark + struct.pack(f"{order}I", start) + data + bytes(len(data) % 2) + depths
    return body + struct.pack(f"{order}H", len(entries)) + packed + bytes(4)


DEEP = (np.arange(32 * 32, dtype=np.uint16) * 4).reshape(32, 32)
"""0 to 4092, of 12 bits."""
FLAT = PreprocessSpec.of(InputSpec.image(32, 1), crop="none")


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("bits", [8, 10, 12, 14, 16])
@pytest.mark.parametrize("photometric", [0, 1])
def test_depth_and_photometric_meaning_of_tiff_survive(order: str, bits: int, photometric: int) -> None:
    """Each value by hand: v of 2^bits - 1, and what is left of it where 0 is white."""
    top = 2**bits - 1
    values = (np.arange(32 * 32) * top // 1023).reshape(32, 32).astype(np.uint16)
    shown = values / top if photometric else 1 - values / top
    found = load_pixels(tiff(values, bits, photometric, order), FLAT)[..., 0]
    np.testing.assert_allclose(found, shown * 255, atol=0.5 + 1e-9)


@pytest.mark.parametrize("photometric", [0, 1])
def test_the_own_range_of_a_tiff_in_which_zero_is_white_is_inverted(photometric: int) -> None:
    spec = FLAT.model_copy(update={"high_bit_depth": "min-max"})
    found = load_pixels(tiff(DEEP // 2 + 100, 12, photometric), spec)[..., 0]
    assert (found[0, 0], found[-1, -1]) == ((0, 255) if photometric else (255, 0))
    floats = encoded(Image.fromarray(DEEP.astype(np.float32)), "TIFF")
    white = floats.replace(struct.pack("<HHII", 262, 3, 1, 1), struct.pack("<HHII", 262, 3, 1, 0))
    assert white != floats
    np.testing.assert_allclose(load_pixels(white, spec), 255 - load_pixels(floats, spec).astype(int), atol=1)


@pytest.mark.parametrize(("largest", "top"), [(4095, 4095), (16383, 16383), (4092, 65535), (1023, 65535), (0, 65535)])
@pytest.mark.parametrize("tag", [281, 341])
def test_twelve_bits_in_sixteen_are_told_by_the_largest_sample(tag: int, largest: int, top: int) -> None:
    """All ones say how many bits there are, unless a value contradicts them; any other number is a statistic."""
    found = load_pixels(tiff(DEEP, 16, 1, tags=((tag, 3, 1, largest),)), FLAT)[..., 0]
    np.testing.assert_allclose(found, DEEP / top * 255, atol=0.5 + 1e-9)


def test_colour_tiff_of_twelve_bits_is_scaled() -> None:
    values = np.stack([DEEP, DEEP[::-1], DEEP.T], axis=2)
    found = load_pixels(tiff(values, 12, 2), PreprocessSpec(image_size=32, crop="none"))
    np.testing.assert_allclose(found, values / 4095 * 255, atol=1)


def png16(values: NDArray[Any], bits: int | None) -> bytes:
    plain = encoded(Image.fromarray(values.astype(np.uint16)))
    return plain if bits is None else plain[:33] + chunk(b"sBIT", bytes([bits])) + plain[33:]


@pytest.mark.parametrize("bits", [10, 12, 14, 15])
def test_a_png_of_fewer_significant_bits_is_scaled_to_them(bits: int) -> None:
    """By the specification the samples were scaled up; where an encoder left that out, `sBIT` still says the depth."""
    top = 2**bits - 1
    raw = (np.arange(32 * 32, dtype=np.int64) * top // 1023).reshape(32, 32)
    wanted = raw / top * 255
    ways = {
        "as they are": raw,
        "zeros below": raw << (16 - bits),
        "in proportion": np.floor(raw * 65535 / top + 0.5),
        "repeated": raw << (16 - bits) | raw >> (2 * bits - 16),
    }
    for way, values in ways.items():
        found = load_pixels(png16(values, bits), FLAT)[..., 0]
        np.testing.assert_allclose(found, wanted, atol=1, err_msg=way)
    dark = np.floor((raw % 200) * 65535 / top + 0.5)
    np.testing.assert_array_equal(load_pixels(png16(dark, bits), FLAT), load_pixels(png16(dark, None), FLAT))


def test_a_kind_of_tiff_that_is_not_read_is_told_as_such() -> None:
    content = tiff(DEEP, 16, 1, tags=((339, 3, 1, 6),))
    with pytest.raises(UnreadableImageError, match="a kind that is not read"):
        load_pixels(content, FLAT)


@pytest.mark.parametrize(
    ("size", "drawn", "left", "top", "width", "height"),
    [((16, 32), (40, 60), 0, 5, 60, 30), ((32, 16), (40, 60), 20, 0, 20, 40), ((16, 32), (41, 61), 0, 5, 61, 30)],
)
def test_the_centre_has_the_proportions_of_the_input(
    size: tuple[int, int], drawn: tuple[int, int], left: int, top: int, width: int, height: int
) -> None:
    """By hand: (H, W) of the input, of the picture, and what is cut out of it."""
    values = np.random.default_rng(0).integers(0, 256, (*drawn, 3), dtype=np.uint8)
    cut = values[top : top + height, left : left + width]
    wanted = np.asarray(Image.fromarray(cut).resize(size[::-1], Image.Resampling.BILINEAR))
    found = array_pixels(values, PreprocessSpec(input=InputSpec.image(size)), "drawn")
    np.testing.assert_array_equal(found, wanted)
    assert found.shape == (*size, 3)


@pytest.mark.parametrize(("drawn", "first"), [((417, 60), "height"), ((60, 417), "width"), ((40, 11), "height")])
def test_the_side_that_is_resized_first_is_that_of_the_rule(drawn: tuple[int, int], first: str) -> None:
    """Step 9: the two orders round differently in between, and Pillow's versions do not agree on one."""
    values = np.random.default_rng(1).integers(0, 256, drawn, dtype=np.uint8)
    picture = Image.fromarray(values)
    by_hand = {}
    for name, between in (("width", (32, drawn[0])), ("height", (drawn[1], 32))):
        step = picture.resize(between, Image.Resampling.BILINEAR)
        by_hand[name] = np.asarray(step.resize((32, 32), Image.Resampling.BILINEAR))
    assert not np.array_equal(by_hand["width"], by_hand["height"])
    np.testing.assert_array_equal(array_pixels(values, FLAT, "drawn")[..., 0], by_hand[first])


def test_channels_that_are_no_colours_are_resized_each_by_itself() -> None:
    """What a grey picture of each would give, with 16 bits over their full range, or over each channel's own."""
    values = np.random.default_rng(2).integers(0, 60_000, (50, 70, 2), dtype=np.uint16)
    for depth in ("full-range", "min-max"):
        two = PreprocessSpec.of(InputSpec.image((20, 30), 2), high_bit_depth=depth)
        one = PreprocessSpec.of(InputSpec.image((20, 30), 1), high_bit_depth=depth)
        found = array_pixels(values, two, "drawn")
        for channel in range(2):
            np.testing.assert_array_equal(found[..., channel], array_pixels(values[..., channel], one, "drawn")[..., 0])
    four = PreprocessSpec.of(InputSpec.image(32, 4), crop="none")
    opaque = np.full((32, 32, 4), 200, np.uint8)
    opaque[..., 3] = 0
    assert array_pixels(opaque, four, "drawn")[0, 0].tolist() == [200, 200, 200, 0]  # not transparent


def saved(array: NDArray[Any]) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


@pytest.mark.parametrize("order", ["C", "F"])
def test_a_file_of_an_array_is_the_array(tmp_path: Path, order: str) -> None:
    values = np.random.default_rng(3).integers(0, 256, (20, 30, 5), dtype=np.uint8)
    spec = PreprocessSpec.of(InputSpec.image((16, 24), 5))
    np.save(tmp_path / "five.npy", np.asarray(values, order=order))  # type: ignore[call-overload]
    wanted = array_pixels(values, spec, "drawn")
    np.testing.assert_array_equal(load_pixels(tmp_path / "five.npy", spec), wanted)
    np.testing.assert_array_equal(load_pixels((tmp_path / "five.npy").read_bytes(), spec), wanted)
    grey = PreprocessSpec.of(InputSpec.image(16, 1))
    plain = load_pixels(saved(values[..., 0]), grey)
    np.testing.assert_array_equal(plain, load_pixels(encoded(Image.fromarray(values[..., 0])), grey))


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (saved(np.zeros((8, 8, 3), np.uint8)), "has not the 2 channels"),
        (saved(np.zeros((8, 8), np.uint8)), "has not the 2 channels"),
        (saved(np.zeros((0, 8, 2), np.uint8)), "has not the 2 channels"),
        (saved(np.zeros((8, 8, 2))), "type float64"),
        (saved(np.zeros((8, 8, 2), np.uint8))[:-1], "declares"),
        (saved(np.zeros((8, 8, 2), np.uint8)) + b"x", "declares"),
        (saved(np.zeros((8, 8, 2), np.uint8)).replace(b"(8, 8, 2)", b"(8, 8, 9)"), "declares"),
        (saved(np.zeros((8, 8, 2), np.uint8)).replace(b"'|u1'", b"'|O1'"), "damaged"),
        (b"\x93NUMPY\x09\x00" + bytes(20), "version"),
        (b"\x93NUMPY", "damaged"),
        (b"\x93NUMPY\x01\x00\xff\xff{", "damaged"),
    ],
)
def test_an_array_that_is_no_input_is_refused(content: bytes, said: str) -> None:
    with pytest.raises(UnreadableImageError, match=re.escape(said)) as caught:
        load_pixels(content, PreprocessSpec.of(InputSpec.image(32, 2)), where="a.npy")
    assert "a.npy" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_picture_has_not_the_channels_of_an_array() -> None:
    with pytest.raises(UnreadableImageError, match=r"takes 2 channels.*\.npy"):
        load_pixels(encoded(Image.new("RGB", (40, 40))), PreprocessSpec.of(InputSpec.image(32, 2)), where="a.png")
