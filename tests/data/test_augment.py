"""Each step of augmentation does what its word says, to images whose answer is known."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from small import MODEL, PROTOCOL, but
from torch import Tensor
from torchvision.transforms import v2

from ttl_deploy.cli.main import run as cli
from ttl_deploy.data.augment import AUGMENTS, Augmentation
from ttl_deploy.data.movement import moved, movement
from ttl_deploy.errors import BadInputError
from ttl_deploy.spec import AugmentSpec, Data
from ttl_deploy.training.run import open_run
from ttl_deploy.training.train import check

SIZE = (64, 64)


def changed(steps: str, image: Tensor, seed: int = 0, border: str = "black") -> Tensor:
    spec = AugmentSpec(steps=steps, border=border)  # type: ignore[arg-type]
    (result,), _ = Augmentation(spec, image.shape[1:])(image[None], [seed])
    assert result.shape == image.shape
    assert result.dtype == torch.uint8
    return result


def a_disc(centre: tuple[float, float] = (0, 0)) -> Tensor:
    rows, columns = np.mgrid[-1:1:64j, -1:1:64j]
    disc = np.hypot(rows - centre[0], columns - centre[1]) < 0.4
    return torch.from_numpy(disc.astype(np.uint8) * 255)[None]


def place(image: Tensor) -> tuple[float, float]:
    weight = image[0].double().numpy()
    rows, columns = np.mgrid[0:64, 0:64]
    return float((rows * weight).sum() / weight.sum()), float((columns * weight).sum() / weight.sum())


def area(image: Tensor) -> float:
    return float((image > 127).sum())


def some_pixels(channels: int = 3) -> Tensor:
    return torch.from_numpy(np.random.default_rng(1).integers(0, 256, (channels, *SIZE), dtype=np.uint8))


def smooth(size: tuple[int, int]) -> Tensor:
    """Waves, of which two ways to interpolate differ little."""
    rows, columns = np.mgrid[0 : size[0], 0 : size[1]]
    planes = [128 + 100 * np.sin(rows / a + columns / b) for a, b in ((9, 7), (5, 11), (13, -6))]
    return torch.from_numpy(np.stack(planes).astype(np.uint8))


def test_the_papers_two_are_the_default_in_both_ways_of_saying_it() -> None:
    image = some_pixels()
    said, _ = Augmentation(AugmentSpec(), SIZE)(image[None], [4])
    assert torch.equal(said[0], changed("rotation=10,crop=0.8", image, 4))
    assert AugmentSpec().words == ("rotation=10.0", "crop=0.8")
    assert AugmentSpec(flip=0.5, rotation=0).words == ("crop=0.8", "hflip=0.5")


MOVES = {
    "rotation=30": v2.RandomAffine(30),
    "shift=0.2": v2.RandomAffine(0, translate=(0.2, 0.2)),
    "shear=25": v2.RandomAffine(0, shear=25),
    "zoom=0.3": v2.RandomAffine(0, scale=(0.7, 1.3)),
}


@pytest.mark.parametrize("step", MOVES)
@pytest.mark.parametrize("size", [(64, 64), (40, 72)])
def test_a_step_moves_an_image_as_torchvision_does_for_the_same_numbers(step: str, size: tuple[int, int]) -> None:
    image = smooth(size)
    for seed in range(5):
        torch.manual_seed(seed)
        drawn = MOVES[step].make_params([image])
        expected = v2.functional.affine(image, **drawn, interpolation=v2.InterpolationMode.BILINEAR)
        assert (changed(step, image, seed).int() - expected.int()).abs().max() <= 1


@pytest.mark.parametrize("size", [(64, 64), (40, 72)])
def test_a_crop_is_torchvisions_but_for_the_outermost_pixels(size: tuple[int, int]) -> None:
    image = smooth(size)
    for seed in range(5):
        torch.manual_seed(seed)
        part = v2.RandomResizedCrop(list(size), scale=(0.5, 1), ratio=(size[1] / size[0],) * 2).make_params([image])
        expected = v2.functional.resized_crop(image, **part, size=list(size), antialias=True)
        apart = (changed("crop=0.5", image, seed).int() - expected.int()).abs()
        assert apart[:, 1:-1, 1:-1].max() <= 1
        assert part["width"] < size[1]


def test_several_moves_are_one_in_the_order_in_which_they_are_said() -> None:
    """A quarter turn and then a shift, and the reverse, which lose nothing; and a shift out of sight and back."""
    disc = a_disc((0, 0.5))[None]
    turn, right = movement([(0, 1, 0), (-1, 0, 0)]), movement([(1, 0, -5), (0, 1, 0)])
    for first, second in ((turn, right), (right, turn)):
        assert torch.equal(moved(disc, [first @ second]), moved(moved(disc, [first]), [second]))
    assert not torch.equal(moved(disc, [turn @ right]), moved(disc, [right @ turn]))
    out, back = movement([(1, 0, -50), (0, 1, 0)]), movement([(1, 0, 50), (0, 1, 0)])
    assert torch.equal(moved(disc, [out @ back]), disc)
    mirrored = changed("zoom=0.2,hflip=1", disc[0], 2)
    assert (mirrored.int() - changed("zoom=0.2", disc[0], 2).flip(2).int()).abs().max() <= 1


def test_images_are_changed_alike_whatever_is_beside_them() -> None:
    images = torch.stack([smooth(SIZE), some_pixels(), smooth(SIZE).flip(1)])
    whole = Augmentation(AugmentSpec(steps="rotation=20,crop=0.7,jitter=0.3"), SIZE)  # type: ignore[arg-type]
    together, _ = whole(images, [5, 6, 7])
    for place_, seed in enumerate((5, 6, 7)):
        alone, _ = whole(images[place_ : place_ + 1], [seed])
        assert torch.equal(alone[0], together[place_])


def test_masks_and_slices_move_with_their_image() -> None:
    """A mask that is its image is its image moved; both slices of a volume are where the image alone is."""
    disc = a_disc((0.2, -0.3))
    whole = Augmentation(AugmentSpec(steps="rotation=40,crop=0.6,hflip=0.5,grey=1"), SIZE)  # type: ignore[arg-type]
    for seed in range(4):
        images, masks = whole(disc.expand(3, *SIZE)[None], [seed], disc[None] // 255)
        assert masks is not None and set(masks.unique().tolist()) == {0, 1}
        assert ((images[0, 0] > 127) == (masks[0, 0] > 0)).float().mean() > 0.995
        slices, _ = whole(torch.stack([disc.expand(3, *SIZE)] * 2)[None], [seed])
        assert torch.equal(slices[0, 0], images[0]) and torch.equal(slices[0, 1], images[0])


def test_the_global_generator_is_as_before() -> None:
    before = torch.get_rng_state()
    changed("rotation=10,jitter=0.2", some_pixels(), 9)
    assert torch.equal(torch.get_rng_state(), before)


def test_flips_mirror_as_often_as_they_should() -> None:
    image = some_pixels()
    assert torch.equal(changed("hflip=1", image), image.flip(2))
    assert torch.equal(changed("vflip=1", image), image.flip(1))
    assert torch.equal(changed("hflip=1,vflip=1", image), image.flip(1, 2))
    mirrored = sum(torch.equal(changed("vflip=0.3", image, seed), image.flip(1)) for seed in range(300))
    assert abs(mirrored - 90) < 4.5 * math.sqrt(300 * 0.3 * 0.7)


@pytest.mark.parametrize("border", ["black", "edge"])
def test_a_shift_is_at_most_its_part_of_each_side_and_moves_both_ways(border: str) -> None:
    """A disc that stays whole: its centre of mass moves by what the image does, in whole pixels."""
    moved = np.array([place(changed("shift=0.1", a_disc(), seed, border)) for seed in range(60)]) - 31.5
    assert np.abs(moved).max() <= 6.4 + 0.6
    assert (moved.max(0) > 4).all()
    assert (moved.min(0) < -4).all()


def test_a_zoom_changes_the_area_by_at_most_the_square_of_its_factor() -> None:
    areas = np.array([area(changed("zoom=0.2", a_disc(), seed)) for seed in range(60)]) / area(a_disc())
    assert 0.8**2 - 0.05 < areas.min() < 0.75
    assert 1.3 < areas.max() < 1.2**2 + 0.05


def test_a_shear_moves_rows_by_their_distance_from_the_middle() -> None:
    """A vertical line becomes slanted by at most the angle, and stays where it was in the middle."""
    line = torch.zeros(1, *SIZE, dtype=torch.uint8)
    line[:, :, 31:33] = 255
    slants = []
    for seed in range(40):
        sheared = changed("shear=20", line, seed)[0].double().numpy()
        centres = sheared @ np.arange(64) / sheared.sum(1)
        slants.append(math.degrees(math.atan(np.polyfit(np.arange(10, 54), centres[10:54], 1)[0])))
        assert centres[31] == pytest.approx(31.5, abs=0.7)
    assert max(map(abs, slants)) <= 20.5
    assert max(slants) > 12
    assert min(slants) < -12


def test_an_edge_continues_where_black_would_come_in() -> None:
    white = torch.full((1, *SIZE), 200, dtype=torch.uint8)
    for step in ("rotation=30", "shift=0.3", "shear=30", "zoom=0.5"):
        assert (changed(step, white, 3, "edge") == 200).all(), step
        assert (changed(step, white, 3)[0] == 0).any() or step == "zoom=0.5", step


def test_grey_is_the_luminance_in_every_channel() -> None:
    image = some_pixels()
    grey = changed("grey=1", image)
    assert torch.equal(grey[0], grey[1]) and torch.equal(grey[0], grey[2])
    weights = torch.tensor([0.299, 0.587, 0.114])[:, None, None]
    assert (grey[0].float() - (image * weights).sum(0)).abs().max() <= 1.5


def test_jitter_is_torchvisions_with_its_numbers_in_order() -> None:
    image = some_pixels()
    torch.manual_seed(0 ^ 1)
    expected = v2.RandomApply([v2.ColorJitter(0.2, 0.1, 0.3, 0.05)], p=1.0)(image)
    assert torch.equal(changed("jitter=0.2:0.1:0.3:0.05", image), expected)
    assert torch.equal(changed("jitter=0.9:0:0:0:0", image), image), "never"
    bright = [
        float(changed("jitter=0.2", torch.full((3, *SIZE), 100, dtype=torch.uint8), s)[0, 0, 0]) for s in range(40)
    ]
    assert 80 <= min(bright) < 90 < 110 < max(bright) <= 120


def test_a_crop_may_have_other_proportions_and_keeps_the_size() -> None:
    areas = [area(changed("crop=0.5:1", a_disc(), seed)) / area(a_disc()) for seed in range(40)]
    assert max(areas) < 2.1
    changed("crop=0.8:1.2:0.75:1.33", some_pixels())


def test_every_step_of_the_table_is_tried_here() -> None:
    assert set(AUGMENTS.names()) == {
        "rotation", "crop", "hflip", "vflip", "jitter", "grey", "shift", "shear", "zoom", "tilt", "slide", "dflip"
    }  # fmt: skip


@pytest.mark.parametrize(
    ("spec", "channels", "said"),
    [
        ({"steps": "flipp=1"}, 3, "unknown augmentation 'flipp'"),
        ({"steps": "hflip"}, 3, "'' is not 1 to 1 numbers"),
        ({"steps": "hflip=0.5:0.5"}, 3, "'0.5:0.5' is not 1 to 1 numbers"),
        ({"steps": "vflip=2"}, 3, "2 is not 0 to 1"),
        ({"steps": "zoom=nan"}, 3, "nan is not 0 to 0.9"),
        ({"steps": "jitter=0.2"}, 4, "of images of 1 or 3 channels, and these have 4"),
        ({"steps": "tilt=10"}, 3, "augmentation tilt=10: is of volumes, and these are images"),
    ],
)
def test_steps_that_cannot_be_are_one_line_before_data_is_read(
    spec: dict[str, str], channels: int, said: str, tmp_path: Path
) -> None:
    data, model = Data(path=tmp_path / "nothing.csv"), but(MODEL, channels=channels)
    with pytest.raises(BadInputError, match=said) as told:
        check(data, model, but(PROTOCOL, augment=spec))
    assert "\n" not in str(told.value)


def test_steps_and_what_they_stand_for_are_not_both_said(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli(["train", "x.csv", "--augment", "hflip=1", "--rotation", "5", "--out", "y"]) == 2
    assert "steps stand in place of rotation" in capsys.readouterr().err


def test_the_command_line_records_steps_and_a_run_without_them_says_nothing(
    synthetic: Path, pixel_cache: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = ["--backbone", "resnet18", "--cut", "stem", "--weights", "random", "--image-size", "32"]
    how = ["--epochs", "1", "--batch-size", "16", "--device", "cpu", "--precision", "fp32", "--cache", str(pixel_cache)]
    asked = ["--augment", "hflip=0.5, shift=0.1,jitter=0.2", "--border", "edge"]
    run = tmp_path / "run"
    assert cli(["train", str(synthetic), *model, *how, *asked, "--out", str(run)]) == 0
    capsys.readouterr()
    assert open_run(run).config.augment == AugmentSpec(steps=("hflip=0.5", "shift=0.1", "jitter=0.2"), border="edge")
    plain = tmp_path / "plain"
    assert cli(["train", str(synthetic), *model, *how, "--augment", "", "--out", str(plain)]) == 0
    assert open_run(plain).config.augment.words == ()
    assert not {"steps", "border"} & AugmentSpec().model_dump().keys()
