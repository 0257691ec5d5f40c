"""Steps that move a volume through its slices, beside SciPy's interpolation and what can be said without any."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import ndimage
from scipy.spatial.transform import Rotation
from small import MODEL, PROTOCOL, but
from torch import Tensor

from ttl_deploy.data.augment import Augmentation
from ttl_deploy.data.movement import composed, moved, movement
from ttl_deploy.errors import MissingDependencyError
from ttl_deploy.spec import AugmentSpec, Data
from ttl_deploy.training.train import check

pytest.importorskip("monai")

SIZE = (12, 20, 28)


def waves() -> Tensor:
    """(D, 2, H, W): smooth, so that two ways to interpolate differ little."""
    z, y, x = np.mgrid[0 : SIZE[0], 0 : SIZE[1], 0 : SIZE[2]]
    planes = [128 + 100 * np.sin(z / a + y / b + x / c) for a, b, c in ((5, 9, 7), (-6, 11, 8))]
    return torch.from_numpy(np.stack(planes, axis=1).astype(np.uint8))


def changed(steps: str, volume: Tensor, seed: int = 0, border: str = "black") -> Tensor:
    spec = AugmentSpec(steps=steps, border=border)  # type: ignore[arg-type]
    (result,), _ = Augmentation(spec, (volume.shape[0], *volume.shape[2:]))(volume[None], [seed])
    assert result.shape == volume.shape and result.dtype == torch.uint8
    return result


def by_scipy(channel: Tensor, back: np.ndarray, border: str) -> np.ndarray:
    """(D, H, W) read where `back`, a matrix of (z, y, x) about the centre, says."""
    middle = (np.array(SIZE) - 1) / 2
    return ndimage.affine_transform(
        channel.numpy().astype(float), back, middle - back @ middle, order=1, mode=border, cval=0.0
    )


@pytest.mark.parametrize(("border", "scipys"), [("black", "grid-constant"), ("edge", "nearest")])
def test_a_movement_in_space_is_scipys_trilinear_interpolation(border: str, scipys: str) -> None:
    """A turn about an oblique axis, every direction another, so that no two axes can be exchanged unseen."""
    turn = Rotation.from_euler("xyz", (11, -23, 37), degrees=True).as_matrix()
    whole = np.eye(4)
    whole[:3, :3] = turn
    (found,) = moved(waves()[None], [whole], edge=border == "edge")
    back = turn[::-1, ::-1]
    for channel in range(2):
        expected = by_scipy(waves()[:, channel], back, scipys)
        assert np.abs(found[:, channel].numpy() - expected).max() <= 1


def test_in_the_plane_it_is_each_slice_as_an_image() -> None:
    flat, volume = movement([(0.9, 0.2, 3), (-0.1, 1.1, -2)]), waves()
    still = composed([np.eye(4), flat])
    assert still.shape == (4, 4)
    (in_space,), (alone,) = moved(volume[None], [still]), moved(volume[None], [flat])
    assert (in_space.int() - alone.int()).abs().max() <= 1
    assert (alone.int() - volume.int()).abs().max() > 50
    assert np.array_equal(composed([flat, flat]), flat @ flat)


def test_slices_are_mirrored_and_slid_whole() -> None:
    volume = waves()
    assert torch.equal(changed("dflip=1", volume), volume.flip(0))
    assert torch.equal(changed("dflip=0", volume), volume)
    assert torch.equal(changed("dflip=1,hflip=1", volume), volume.flip(0, 3))
    seen = set()
    for seed in range(40):
        slid = changed("slide=0.25", volume, seed)
        (by,) = (k for k in range(-3, 4) if torch.equal(slid, _slid(volume, k)))
        seen.add(by)
    assert seen == set(range(-3, 4))


def _slid(volume: Tensor, by: int) -> Tensor:
    empty = torch.zeros_like(volume)
    if by >= 0:
        empty[by:] = volume[: len(volume) - by]
    else:
        empty[:by] = volume[-by:]
    return empty


def test_a_tilt_is_at_most_so_many_degrees_about_the_axes_of_a_slice() -> None:
    """A bright plane, once in the middle slice, is fitted after it: its normal leaves the slices' by the two angles."""
    plane = torch.zeros(41, 1, 40, 40, dtype=torch.uint8)
    plane[20] = 255
    slopes = []
    for seed in range(40):
        weights = changed("tilt=20", plane, seed)[:, 0, 8:32, 8:32].double().numpy()
        heights = np.tensordot(np.arange(41.0), weights, 1) / weights.sum(0)
        slopes.append([np.degrees(np.arctan(np.gradient(heights, axis=axis).mean())) for axis in (0, 1)])
    for angles in np.array(slopes).T:
        assert -21.5 < angles.min() < -12 and 12 < angles.max() < 21.5


def test_air_or_the_edge_comes_in_from_outside() -> None:
    white = torch.full((8, 1, 16, 16), 200, dtype=torch.uint8)
    assert (changed("tilt=60,slide=0.5", white, 3) == 0).any()
    assert (changed("tilt=60,slide=0.5", white, 3, "edge") == 200).all()


def test_volumes_are_changed_alike_whatever_is_beside_them_and_masks_with_them() -> None:
    volumes = torch.stack([waves(), waves().flip(0)])
    whole = Augmentation(AugmentSpec(steps="rotation=20,tilt=15,slide=0.2,hflip=0.5"), SIZE)  # type: ignore[arg-type]
    together, _ = whole(volumes, [5, 6])
    alone = [whole(volume[None], [seed])[0][0] for volume, seed in zip(volumes, (5, 6), strict=True)]
    assert all(torch.equal(one, other) for one, other in zip(together, alone, strict=True))
    assert not any(torch.equal(one, other) for one, other in pairwise([*together, *volumes]))
    inside = (waves()[:, :1] > 150).to(torch.uint8)
    seen, mask = whole(inside[None] * 255, [5], inside[None])
    assert mask is not None and set(mask.unique().tolist()) == {0, 1}
    assert ((seen > 127) == (mask > 0)).float().mean() > 0.97


def test_without_monai_it_is_said_before_data_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = but(MODEL, backbone="r3d_18", cut="layer1", image_size="8x32x32", channels=1)
    data, how = Data(path=tmp_path / "nothing.csv"), but(PROTOCOL, augment={"steps": "tilt=10"})
    check(data, model, how)
    monkeypatch.setattr("ttl_deploy.data.augment.find_spec", lambda name: None)
    with pytest.raises(MissingDependencyError, match="augmentation tilt=10: MONAI") as told:
        check(data, model, how)
    assert "\n" not in str(told.value)
