"""The one preprocessing rule: whatever the file's kind, the same tensor; checked against torchvision and by hand."""

import io
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from torchvision.transforms import v2

from ttl_deploy.errors import UnreadableImageError
from ttl_deploy.preprocess import MAX_PIXELS, array_pixels, load_pixels, normalise
from ttl_deploy.spec import PreprocessSpec

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
    pixels = load_pixels(content, PreprocessSpec.of(32, 1))
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
