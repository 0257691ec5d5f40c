"""A small model and a short training, which tests change as they need."""

from __future__ import annotations

from typing import Any, TypeVar

from ttl_deploy.spec import InputSpec, Model, Network, Protocol, Record
from ttl_deploy.spec.search import SearchProtocol

AnyRecord = TypeVar("AnyRecord", bound=Record)

MODEL = Model(backbone="resnet18", cut="layer1.0", image_size=32, weights="random")
PROTOCOL = Protocol(epochs=3, batch_size=16, learning_rate=1e-3, device="cpu", precision="fp32")
NETWORK = Network(backbone="resnet18", image_size=32, weights="random")
TRIALS = SearchProtocol(epochs=2, batch_size=16, learning_rate=1e-3, device="cpu", precision="fp32")


def but(record: AnyRecord, **changes: Any) -> AnyRecord:
    """The record with other values, which are judged as when it is made; what was not said stays unsaid."""
    said = {name: getattr(record, name) for name in record.model_fields_set}
    return type(record)(**{**said, **changes})


LEAST = {"inception_v3": 75}
"""Pixels that a network needs where it needs more than others."""


def small_input(backbone: str, side: int) -> InputSpec:
    """A square image of a side, or a flat volume of eight slices of it, as the backbone takes."""
    from ttl_deploy.zoo import BACKBONES  # PyTorch, which reads what `conftest` sets

    network, side = BACKBONES.get(backbone), max(side, LEAST.get(backbone, 0))
    return network.input_spec((8, side, side) if network.dims == 3 else side)


TWINS = frozenset(
    {
        "vgg16_bn",
        "mobilenet_v3_large",
        "regnet_y_1_6gf",
        "deit_small_patch16_224",
        "deit_base_patch16_224",
        "vit_small_patch16_224",
        "vit_base_patch16_224",
    }
)
"""Networks of the same units as another of their family, which stands for them where a test takes long."""


def unlike() -> list[str]:
    """The networks of the zoo but for those for which another stands."""
    from ttl_deploy.zoo import BACKBONES  # PyTorch, which reads what `conftest` sets

    return [name for name in BACKBONES.names() if name not in TWINS]
