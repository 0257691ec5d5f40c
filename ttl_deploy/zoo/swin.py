"""Swin-T (Liu 2021) as timm builds it: 12 blocks in 4 stages, a cut after each.

What merges patches between two stages is a unit too and no cut: it only serves the stage above. The last norm follows
any cut and gives channels first. At other image sizes timm makes the windows smaller where the maps are.
"""

from __future__ import annotations

from ttl_deploy.zoo.backbone import BACKBONES, Unit, mark_block_ends
from ttl_deploy.zoo.timm_network import TimmBackbone


class Swin(TimmBackbone):
    """One of the family.

    Args:
        name: timm's name.
        depths: Blocks per stage.
    """

    first_weight = "patch_embed.proj.weight"
    layout = "channels_last"
    unslimmed = "the heads of its attention have one width, and their number that of a stage"

    def __init__(self, name: str, depths: tuple[int, ...]) -> None:
        units = [Unit("stem", 0, "")]
        for stage, depth in enumerate(depths):
            merging = f"layers.{stage}.downsample"
            units += [Unit(merging, stage + 1, f"{merging}.", cut=False)] if stage else []
            names = [f"layers.{stage}.blocks.{i}" for i in range(depth)]
            units += [Unit(name, stage + 1, f"{name}.") for name in names]
        super().__init__(name, name, mark_block_ends(units), ["layers"], ["norm"])
        self.tail = Unit("norm", len(depths), "", cut=False)


BACKBONES.register("swin_tiny_patch4_window7_224", Swin("swin_tiny_patch4_window7_224", (2, 2, 6, 2)))
