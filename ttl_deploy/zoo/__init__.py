"""The backbones, one file per family, each an ordered list of units and the cut points between them.

A family registers itself in `BACKBONES`; third parties do the same through the entry points `ttl_deploy.backbones`.
"""

from ttl_deploy.zoo.backbone import BACKBONES, Backbone, CutPoint, Unit

__all__ = ["BACKBONES", "Backbone", "CutPoint", "Unit"]
