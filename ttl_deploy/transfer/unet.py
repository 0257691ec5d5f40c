"""The U-Net decoder as a head: it reads the last features of every resolution (Ronneberger 2015; paper, appendix A.2).

Cutting the encoder cuts the decoder with it. The paper's TTL-B1, B2 and B3 are the cuts after a ResNet-34's blocks 1, 2
and 3; any other cut will do. The blocks are segmentation-models-pytorch's, and its names: `decoder.blocks.0.conv1 …`.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ttl_deploy.errors import BadInputError
from ttl_deploy.transfer.heads import HEADS, TapHead
from ttl_deploy.transfer.taps import Place

_NARROWEST, _WIDEST = 16, 256
"""Channels of the decoder's last block, and of its widest; each block below the last has twice as many."""


class UnetHead(nn.Module):
    """Upsamples the deepest features step by step, joining those of each resolution, to a logit for every pixel.

    Args:
        channels: Of the features of each resolution, the finest first.
        outputs: Maps to give.
        size: (height, width) of the maps.
    """

    def __init__(self, channels: Sequence[int], outputs: int, size: Sequence[int]) -> None:
        from segmentation_models_pytorch.base.initialization import initialize_decoder, initialize_head
        from segmentation_models_pytorch.decoders.unet.decoder import UnetDecoder

        super().__init__()
        widths = decoder_channels(len(channels))
        # The decoder leaves out the first it is given, which stands for the image.
        self.decoder = UnetDecoder((0, *channels), widths, n_blocks=len(widths))
        self.segmentation_head = nn.Sequential(nn.Conv2d(widths[-1], outputs, kernel_size=3, padding=1))
        self._size = (int(size[0]), int(size[1]))
        initialize_decoder(self.decoder)
        initialize_head(self.segmentation_head)

    def forward(self, *features: Tensor) -> Tensor:
        """(N, outputs, height, width) logits of features, the finest first."""
        deepest, *skips = features[::-1]
        sizes = [(int(skip.shape[-2]), int(skip.shape[-1])) for skip in skips] + [self._size]
        maps: Tensor = deepest
        for block, skip, size in zip(self.decoder.blocks, [*skips, None], sizes, strict=True):
            maps = _enlarged(maps, size)
            joined = maps if skip is None else torch.cat([maps, skip], dim=1)
            maps = block.conv2(block.conv1(joined))
        logits: Tensor = self.segmentation_head(maps)
        return logits


def _enlarged(maps: Tensor, size: tuple[int, int]) -> Tensor:
    """Each pixel as a square of its own, cut to a size.

    By a factor and not to a size, which in an exported graph would hang on the batch and be known by running it only.
    """
    there = [int(side) for side in maps.shape[-2:]]
    factor = max(-(-wanted // side) for wanted, side in zip(size, there, strict=True))
    larger = nn.functional.interpolate(maps, scale_factor=float(factor), mode="nearest")
    return larger if [factor * side for side in there] == list(size) else larger[..., : size[0], : size[1]]


def decoder_channels(blocks: int) -> tuple[int, ...]:
    """Channels of each block, the deepest first: 256, 128, 64, 32, 16 of five (paper, appendix A.2)."""
    return tuple(min(_WIDEST, _NARROWEST * 2**step) for step in reversed(range(blocks)))


class _Unet(TapHead):
    """Reads the last features of every resolution below the image's own."""

    def taps(self, places: Sequence[Place], size: Sequence[int]) -> tuple[Place, ...]:
        """See `TapHead.taps`."""
        last = {place.shape[1:]: place for place in places}
        found = tuple(place for extent, place in last.items() if extent != tuple(size))
        if not found or any(len(place.shape) != 3 for place in found):
            raise BadInputError(
                "head unet reads feature maps, and there are none at this cut", fix="choose another cut"
            )
        return found

    def build(self, shapes: Sequence[Sequence[int]], outputs: int, size: Sequence[int]) -> nn.Module:
        """See `TapHead.build`."""
        return UnetHead([shape[0] for shape in shapes], outputs, size)


HEADS.register("unet", _Unet())
