"""What `ttl-deploy bench` measured, read back from its file. No torch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import ConfigDict, Field

from ttl_deploy import documents
from ttl_deploy.errors import BadInputError
from ttl_deploy.latency.measure import Measurement
from ttl_deploy.spec import Record, read_record

_AGAIN = "measure again with `ttl-deploy bench ARTIFACT --out FILE`"


class Speed(Record):
    """A measured model in one engine; see `ttl_deploy.verbs.bench.BenchRow`.

    Attributes:
        model: What it is, in words.
        role: `own`, or `whole` for the network that it was compared with.
        parameters: Of the model.
        macs: Multiply-adds for one image.
        ratio: Speed by that of the whole network in PyTorch; None where that was not measured.
        ratio_inconclusive: Whether the machine was too disturbed for the ratio.
        measurement: The latency, with all samples.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    model: str
    role: str
    parameters: int
    macs: int
    ratio: float | None = None
    ratio_inconclusive: bool = False
    measurement: Measurement


class _File(Record):
    model_config = ConfigDict(frozen=True, extra="ignore")

    rows: tuple[Speed, ...] = Field(min_length=1)
    hardware: dict[str, Any] = Field(default_factory=dict)


def read_speeds(path: Path) -> tuple[Speed, ...]:
    """The rows of a file.

    Raises:
        BadInputError: It is not what `bench` writes.
        DamagedError: It is damaged.
    """
    content = documents.read_object(path, "result of bench", fix=_AGAIN)
    if "rows" not in content:
        raise BadInputError("is no result of `ttl-deploy bench`", where=path, fix="pass the file of its --out")
    return read_record(_File, content, path, fix=_AGAIN).rows
