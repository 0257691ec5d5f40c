"""The backbones, one file per family, each an ordered list of units and the cut points between them.

A family registers itself in `BACKBONES`; third parties do the same through the entry points `ttl_deploy.backbones`.
Each name is imported on first use: `ttl_deploy.zoo.cut_point`, a cut as a fact, needs no torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ttl_deploy.zoo.backbone import BACKBONES, Backbone, Unit
    from ttl_deploy.zoo.cut_point import CutPoint

__all__ = ["BACKBONES", "Backbone", "CutPoint", "Unit"]

_HOMES = {"BACKBONES": "backbone", "Backbone": "backbone", "CutPoint": "cut_point", "Unit": "backbone"}


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
