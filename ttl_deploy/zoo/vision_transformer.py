"""DeiT-T, -S, -B (Touvron 2021) and ViT-S, -B (Dosovitskiy 2021) as timm builds them: 12 blocks, a cut after each.

They are one network with other weights. The stem cuts the image into patches of 16 pixels and adds class token and
position embedding; the last norm follows any cut.
"""

from __future__ import annotations

from ttl_deploy.zoo.backbone import BACKBONES, Unit
from ttl_deploy.zoo.timm_network import TimmBackbone

_DEPTH = 12

ONE_WIDTH = "every block adds to what the block below gave, and so all have one width"
"""Why a network whose blocks are not in stages has no slim form."""


class VisionTransformer(TimmBackbone):
    """One of the family.

    Args:
        name: timm's name.
    """

    first_weight = "patch_embed.proj.weight"
    layout = "tokens"
    prefix_tokens = 1
    class_token = True
    unslimmed = ONE_WIDTH

    def __init__(self, name: str) -> None:
        blocks = [Unit(f"blocks.{i}", i + 1, f"blocks.{i}.", ends_block=True) for i in range(_DEPTH)]
        super().__init__(name, name, [Unit("stem", 0, ""), *blocks], ["blocks"], ["norm"])
        self.tail = Unit("norm", _DEPTH, "", cut=False)


for _name in (
    "deit_tiny_patch16_224",
    "deit_small_patch16_224",
    "deit_base_patch16_224",
    "vit_small_patch16_224",
    "vit_base_patch16_224",
):
    BACKBONES.register(_name, VisionTransformer(_name))
