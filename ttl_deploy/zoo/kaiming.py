"""Random weights of layers that the zoo builds beside those of a library."""

from __future__ import annotations

from torch import nn


def kaiming(module: nn.Module) -> nn.Module:
    """Draws the convolutions' weights (He 2015, fan out) and sets their biases to zero."""
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d | nn.Conv3d):
            nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
    return module
