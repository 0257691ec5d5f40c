"""Grad-CAM (Selvaraju 2017): where in an image the features lie that speak for a class, by captum's `LayerGradCam`.

Each channel's mean gradient weighs its map, and what is below 0 is dropped. Tokens are laid on the image's grid; those
before them, as a class token, belong to no place and are left out of the mean.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from ttl_deploy.analysis.networks import parted
from ttl_deploy.errors import BadInputError
from ttl_deploy.kept_memory import freed_memory_kept
from ttl_deploy.transfer import TransferModel
from ttl_deploy.zoo import BACKBONES

Floats = NDArray[np.float64]

_ENLARGE = {1: "linear", 2: "bilinear", 3: "trilinear"}


class Above(nn.Module):
    """What a model makes of a unit's features, with the maps that Grad-CAM weighs laid open on the way.

    Args:
        model: The model.
        cut: Name of the unit.
    """

    def __init__(self, model: TransferModel, cut: str) -> None:
        super().__init__()
        self.below, self.rest = parted(model, cut)
        self.maps = nn.Identity()
        backbone = BACKBONES.get(model.spec.backbone)
        self._layout, self._prefix, self._size = backbone.layout, backbone.prefix_tokens, model.spec.input.size

    def forward(self, features: Tensor) -> Tensor:
        """Logits of features as the unit gives them."""
        if self._layout == "channels_first":
            return torch.as_tensor(self.rest(self.maps(features)))
        first = features.movedim(-1, 1)
        if self._layout == "channels_last":
            return torch.as_tensor(self.rest(self.maps(first).movedim(1, -1)))
        before, tokens = first[..., : self._prefix], first[..., self._prefix :]
        maps = self.maps(tokens.reshape(*tokens.shape[:2], *grid_of(tokens.shape[-1], self._size)))
        return torch.as_tensor(self.rest(torch.cat((before, maps.flatten(2)), dim=2).movedim(1, -1)))


def grid_of(tokens: int, size: Sequence[int]) -> tuple[int, int]:
    """Rows and columns of an image's tokens.

    Args:
        tokens: How many.
        size: (height, width) of the image.

    Raises:
        BadInputError: They are no grid of the image's proportions.
    """
    rows = round(math.sqrt(tokens * size[-2] / size[-1]))
    if not rows or tokens % rows:
        raise BadInputError(f"{tokens} tokens are no grid over an image of {size[-2]}x{size[-1]} pixels")
    return rows, tokens // rows


def weighed(above: Above, images: Tensor, classes: Tensor, *, signed: bool = False) -> Tensor:
    """The maps (N, *positions) of a class for each image.

    Args:
        above: In evaluation mode, on the images' device.
        images: (N, C, *size).
        classes: (N,) number of the output that is explained.
        signed: Keep what speaks against it.
    """
    from captum.attr import LayerGradCam

    with freed_memory_kept(images.device.type == "cpu"):
        with torch.no_grad():
            features = above.below(images)
        camera = LayerGradCam(above, above.maps)
        found = camera.attribute(features.requires_grad_(), target=classes, relu_attributions=not signed)
        return torch.as_tensor(found).detach()[:, 0]


def enlarged(maps: Tensor, size: Sequence[int]) -> Tensor:
    """Maps (N, *positions) as large as the images."""
    return functional.interpolate(maps[:, None], tuple(size), mode=_ENLARGE[len(size)], align_corners=False)[:, 0]


def pooled(maps: Tensor, grid: Sequence[int]) -> Tensor:
    """Maps (N, *positions) as means over the cells of a coarser grid."""
    return functional.interpolate(maps[:, None], tuple(grid), mode="area")[:, 0]


def concentration(maps: NDArray[np.floating], areas: Sequence[float]) -> Floats:
    """How much of a map lies where most of it lies: (N, areas) share of it in so much of the area.

    Where it is even, the area itself; NaN where it is empty.

    Args:
        maps: (N, *positions), not below 0.
        areas: Fractions, 0 to 1.
    """
    flat = -np.sort(-maps.reshape(len(maps), -1).astype(np.float64), axis=1)
    held = np.concatenate((np.zeros((len(flat), 1)), flat.cumsum(axis=1)), axis=1)
    across = np.linspace(0, 1, held.shape[1])
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.array([np.interp(areas, across, one) / one[-1] for one in held]).reshape(len(maps), len(areas))
