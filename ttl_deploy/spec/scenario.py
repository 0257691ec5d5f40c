"""How images come to a model whose latency is measured."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal, Self

from pydantic import Field, model_validator

from ttl_deploy.errors import BadInputError
from ttl_deploy.spec.record import Record, among
from ttl_deploy.spec.said import Said

_KINDS = ("single-stream", "offline", "server")
_QUERIES = 1024


class Scenario(Record):
    """A scenario of MLPerf Inference; what one does not read is refused beside it.

    Attributes:
        kind: `single-stream`: one call after the other on one batch. `offline`: `queries` images from a pool, in
            batches, as fast as they go. `server`: queries arrive at random and queue.
        queries: The search for the highest rate tries each rate with so many.
        latency_bound: Milliseconds; the server scenario needs one.
    """

    PANEL: ClassVar[str] = "Scenario"

    kind: Annotated[
        Literal["single-stream", "offline", "server"],
        among("scenario", _KINDS),
        Field(
            description="As in MLPerf Inference: single-stream, offline (throughput over many images in batches), or "
            "server (random arrivals that queue)."
        ),
        Said(("--scenario",)),
    ] = "single-stream"
    queries: Annotated[
        int | None, Field(ge=1, description="Images (offline) or arrivals (server)."), Said(default=f"{_QUERIES}")
    ] = None
    qps: Annotated[
        float | None,
        Field(ge=0.001, le=1e6, description="Arrivals per second (server)."),
        Said(default="search the highest rate that holds the bound"),
    ] = None
    latency_bound: Annotated[
        float | None,
        Field(
            ge=0.001,
            le=1e7,
            description="Milliseconds that the 99th percentile may take, queueing included (server).",
        ),
    ] = None
    seed: Annotated[
        int | None,
        Field(ge=0, description="Seed of the images' order (offline, server) and the arrivals (server)."),
        Said(default="0"),
    ] = None

    @model_validator(mode="after")
    def _reads_what_is_said(self) -> Self:
        if self.kind == "server" and self.latency_bound is None:
            raise BadInputError("the server scenario needs a latency bound", fix="pass --latency-bound MILLISECONDS")
        for option, value in (("--qps", self.qps), ("--latency-bound", self.latency_bound)):
            if value is not None and self.kind != "server":
                self._refuse(option, "server")
        for option, number in (("--queries", self.queries), ("--seed", self.seed)):
            if number is not None and self.kind == "single-stream":
                self._refuse(option, "server or offline")
        return self

    def _refuse(self, option: str, others: str) -> None:
        what = f"means nothing in scenario {self.kind}"
        raise BadInputError(what, where=option, fix=f"pass --scenario {others} too")

    @property
    def count(self) -> int:
        """Images of the offline scenario, or arrivals of the server scenario."""
        return self.queries or _QUERIES

    @property
    def draws(self) -> int:
        """Seed of what is drawn."""
        return self.seed or 0

    def part(self, rounds: int) -> Self:
        """One round's part of it: only the images of the offline scenario can be shared out."""
        return self.model_copy(update={"queries": -(-self.count // rounds)}) if self.kind == "offline" else self
