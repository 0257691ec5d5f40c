"""The options of the transfer methods, a record each."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar

from pydantic import Field

from ttl_deploy.spec.options import Offered, Options, OptionTable

TrainedLayers = Annotated[
    int | None,
    Field(
        ge=1,
        alias="trained_layers",
        description="lwft: number of layers to train, the head included, instead of --cut.",
    ),
]
Slim = Annotated[int, Field(ge=2, description="tf: divisor of the channels above the cut (2: the paper's halving).")]

METHOD_GROUP = "ttl_deploy.methods"
METHOD_OPTIONS = OptionTable("method", METHOD_GROUP, beside=("layers", "slim"))

MethodOptions = Annotated[
    dict[str, Any],
    # Left out where there are none, so that records of methods without any read as those of earlier versions do.
    Field(exclude_if=lambda options: not options, description="Options of another package's method, by name."),
    Offered(METHOD_OPTIONS, by="method"),
]


class TfOptions(Options):
    """Options of TransFusion."""

    OWNER: ClassVar[str | None] = "TransFusion"

    slim: Slim = 2


class LwftOptions(Options):
    """Options of layer-wise finetuning."""

    OWNER: ClassVar[str | None] = "LWFT"

    layers: TrainedLayers = None


METHOD_OPTIONS.add("ttl", Options)
METHOD_OPTIONS.add("tf", TfOptions)
METHOD_OPTIONS.add("lwft", LwftOptions)
METHOD_OPTIONS.add("ftl", Options)
