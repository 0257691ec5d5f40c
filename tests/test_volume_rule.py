"""How a study becomes the input of a network, against hand-computed values and torch's own filter."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from tests.studies import hounsfield, write_series
from ttl_deploy.errors import UnreadableImageError
from ttl_deploy.inputs.image import normalise
from ttl_deploy.inputs.study import Study
from ttl_deploy.inputs.volume import array_pixels, load_volume, study_pixels
from ttl_deploy.spec import InputSpec, PreprocessSpec, VolumeSpec, make_record


def rule(size: tuple[int, int, int], channels: int = 1, crop: str = "center", **volume: object) -> PreprocessSpec:
    given = InputSpec(kind="volume", channels=channels, size=size)
    return PreprocessSpec.of(given, crop=crop, volume=make_record(VolumeSpec, **volume))


def test_the_window_becomes_0_to_255_rounded_half_up() -> None:
    values = np.full((8, 8, 8), -100, np.int16)
    values[0, 0, :6] = (-1000, 0, 1, 400, 900, 3000)
    found = array_pixels(values, rule((8, 8, 8), window=(-100, 900)), "x")
    # 0: 25.5, 1: 25.755, 400: 127.5.
    assert found[0, 0, :7, 0].tolist() == [0, 26, 26, 128, 255, 255, 0]


def test_a_study_is_resized_as_torch_does_with_antialiasing() -> None:
    values = hounsfield(19, 31, 31)
    found = array_pixels(values, rule((8, 12, 12), window=(-300, 1500)), "x")[..., 0].astype(np.float64)
    shown = torch.from_numpy(np.clip((values.astype(np.float32) + 300) / 1800 * 255, 0, 255))
    planes = torch.nn.functional.interpolate(shown[None], size=(12, 12), mode="bilinear", antialias=True)[0]
    along = torch.nn.functional.interpolate(
        planes.reshape(19, 144)[None, None], size=(8, 144), mode="bilinear", antialias=True
    )[0, 0].reshape(8, 12, 12)
    assert np.abs(found - along.numpy()).max() < 0.51


def test_the_crop_keeps_proportions_or_squeezes() -> None:
    values = np.zeros((8, 8, 24), np.uint8)
    values[:, :, 8:16] = 200
    assert (array_pixels(values, rule((8, 8, 8)), "x") == 200).all()
    squeezed = array_pixels(values, rule((8, 8, 8), crop="none"), "x")[0, 0, :, 0]
    assert squeezed[0] == 0
    assert squeezed[4] == 200


def test_uint8_are_pixels_and_are_not_windowed() -> None:
    values = np.random.default_rng(0).integers(0, 256, (8, 8, 8), np.uint8)
    np.testing.assert_array_equal(array_pixels(values, rule((8, 8, 8), window=(0, 5)), "x")[..., 0], values)


def test_a_spacing_brings_millimetres_to_voxels_and_takes_the_centre() -> None:
    """16 x 8 x 32 voxels of 1 x 2 x 1 mm, at 2 mm each: 8 x 8 x 16 voxels, of which 8 x 16 x 8 are asked."""
    values = np.zeros((16, 8, 32), np.float32)
    values[:, :, 8:24] = 255
    study = Study(values, (1.0, 2.0, 1.0))
    found = study_pixels(study, rule((8, 16, 8), window=(0, 255), spacing=(2, 2, 2)), "x")[..., 0]
    assert (found[:, :4] == 0).all(), "above the slice is nothing, which is black"
    assert (found[:, 12:] == 0).all()
    middle = found[:, 4:12]
    assert (middle[:, :, 1:-1] == 255).all()
    assert (middle[:, :, 0] > 200).all(), "columns 4 to 12 of 16, at whose border the filter sees black"


def test_a_spacing_needs_a_study_that_says_its_own(tmp_path: Path) -> None:
    asked = rule((8, 16, 16), spacing=(2.5, 1, 1))
    with pytest.raises(UnreadableImageError, match="does not say how many millimetres its voxels are"):
        array_pixels(np.zeros((8, 16, 16), np.int16), asked, "x")
    write_series(tmp_path / "s", hounsfield(8, 16, 16))
    plain = load_volume(tmp_path / "s", rule((8, 16, 16)))
    np.testing.assert_array_equal(load_volume(tmp_path / "s", asked), plain)


def test_grey_is_repeated_and_other_channels_are_an_arrays() -> None:
    grey = np.random.default_rng(0).integers(0, 256, (8, 8, 8), np.uint8)
    three = array_pixels(grey, rule((8, 8, 8), 3), "x")
    np.testing.assert_array_equal(three, np.repeat(grey[..., None], 3, axis=-1))
    two = np.stack([grey, 255 - grey], axis=-1)
    np.testing.assert_array_equal(array_pixels(two, rule((8, 8, 8), 2), "x"), two)
    with pytest.raises(UnreadableImageError, match="is no volume of 2 channels; give"):
        array_pixels(grey, rule((8, 8, 8), 2), "x")


def test_values_that_are_no_numbers_are_refused() -> None:
    values = np.zeros((8, 8, 8), np.float32)
    values[3, 3, 3] = np.nan
    with pytest.raises(UnreadableImageError, match="not finite"):
        array_pixels(values, rule((8, 8, 8)), "x")


def test_normalising_is_torchs() -> None:
    asked = rule((8, 9, 10), 3)
    pixels = np.random.default_rng(0).integers(0, 256, (2, 8, 9, 10, 3), np.uint8)
    wanted = (torch.from_numpy(pixels).permute(0, 4, 1, 2, 3) / 255 - torch.tensor(asked.mean).view(3, 1, 1, 1)) / (
        torch.tensor(asked.std).view(3, 1, 1, 1)
    )
    np.testing.assert_allclose(normalise(pixels, asked), wanted.numpy(), atol=1e-5)


@pytest.mark.parametrize(
    ("volume", "said"),
    [
        ({"window": (5, 5)}, "the window 5 to 5 is empty"),
        ({"window": "900,-100"}, "the window 900 to -100 is empty"),
        ({"window": "a,b"}, "'a,b' is not 2 numbers with commas between"),
        ({"spacing": "1,1"}, "'1,1' is not 3 numbers"),
        ({"spacing": (0, 1, 1)}, "between 0.01 and 100 millimetres"),
    ],
)
def test_what_is_no_rule_is_refused(volume: dict[str, object], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        VolumeSpec.model_validate(volume)


def test_a_rule_is_of_volumes_where_the_input_is() -> None:
    with pytest.raises(ValidationError, match="volume is given, and the input is of kind image"):
        PreprocessSpec(volume=VolumeSpec())
    given = rule((8, 8, 8), window=(0, 80))
    assert PreprocessSpec.model_validate(given.model_dump(mode="json")) == given
    assert given.pixel_digest() != rule((8, 8, 8)).pixel_digest()
    assert "volume" not in PreprocessSpec().model_dump()
