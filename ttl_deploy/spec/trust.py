"""Whom a user trusts to have made an artifact."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import Field

from ttl_deploy.spec.record import Record
from ttl_deploy.spec.said import Said


class Trust(Record):
    """What an artifact has to show before it is used; by default it may come from anybody, and runs no native code."""

    key: Annotated[
        Path | None,
        Field(
            description="Public key (PEM): refuse an artifact that it has not signed, file by file, before anything of "
            "it is read (extra signing; see sign)."
        ),
    ] = None
    native_code: Annotated[
        bool,
        Field(
            description="Run native code in the artifact (TensorRT engines, AOTInductor packages), which may do "
            "whatever you may. Not needed for what --key has signed."
        ),
        Said(("--trust",)),
    ] = False
