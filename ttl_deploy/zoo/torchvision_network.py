"""What the families that torchvision builds have in common: its networks with other input channels, and its weights."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn
from torchvision import models

from ttl_deploy.zoo.backbone import Backbone
from ttl_deploy.zoo.fetch import fetch_file
from ttl_deploy.zoo.kaiming import kaiming


class TorchvisionBackbone(Backbone):
    """A network of torchvision.

    Args:
        name: torchvision's name.
        weights: Its weight enum's member.
        options: What torchvision's constructor is given.
    """

    def __init__(self, name: str, weights: str, **options: Any) -> None:
        self.name = name
        self._weights = weights
        self._options = options

    def network(self, channels: int) -> Any:
        """The library's network with random weights, its first convolution for so many channels."""
        network = models.get_model(self.name, weights=None, **self._options)
        if channels != 3:
            widen_input(network, self.first_weight.removesuffix(".weight"), channels)
        return network

    def pretrained(self) -> Mapping[str, Tensor]:
        """See `Backbone.pretrained`."""
        return fetch_file(self.name, models.get_weight(self._weights).url)


def widen_input(network: nn.Module, name: str, channels: int) -> None:
    """Puts a new convolution, for other input channels, in the place of the first one."""
    old: Any = network.get_submodule(name)
    biased = old.bias is not None
    new = nn.Conv2d(channels, old.out_channels, old.kernel_size, old.stride, old.padding, bias=biased)
    network.set_submodule(name, kaiming(new))
