"""Where a model runs."""

from __future__ import annotations

from typing import Annotated, Any, Self

from pydantic import BeforeValidator, Field

from ttl_deploy.aliases import device_of
from ttl_deploy.spec.record import Record
from ttl_deploy.spec.said import Said


class Placement(Record):
    """The engine, the device and the threads of a model; the default is the CPU with all that it has."""

    runtime: Annotated[
        str | None,
        Field(description="Engine, such as onnxruntime or openvino."),
        Said(default="the one parity was judged in"),
    ] = None
    device: Annotated[
        str,
        BeforeValidator(lambda word: device_of(word) if isinstance(word, str) else word),
        Field(description="cpu or cuda."),
    ] = "cpu"
    threads: Annotated[int | None, Field(ge=1, description="Threads for one batch."), Said(default="one per core")] = (
        None
    )

    def replace(self, **changes: Any) -> Self:
        """This placement but for some of its fields."""
        return type(self)(**{**self.model_dump(), **changes})
