"""The backbones, one file per family, each an ordered list of units and the cut points between them.

A family registers itself in `BACKBONES`; third parties do the same through the entry points `ttl_deploy.backbones`.
Each name is imported on first use: `ttl_deploy.zoo.cut_point`, a cut as a fact, needs no torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ttl_deploy.first_use import on_first_use

if TYPE_CHECKING:
    from ttl_deploy.zoo.backbone import BACKBONES, Backbone, Unit
    from ttl_deploy.zoo.cut_point import CutPoint

__all__ = ["BACKBONES", "Backbone", "CutPoint", "Unit"]

_HOMES = {"BACKBONES": "backbone", "Backbone": "backbone", "CutPoint": "cut_point", "Unit": "backbone"}

__getattr__ = on_first_use(__name__, _HOMES)
