"""The least time a network can take on a device: its operations by the peak rate, or its bytes by the bandwidth.

Convention: one multiply-add is 2 operations. MACs are counted as ptflops counts them, batch norms included, which an
engine folds away (about 1 % of a ResNet), and an algorithm that multiplies less (Winograd) may go below: but for
these, a lower bound.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod

from ttl_deploy.spec import Record

OPERATIONS_PER_MAC = 2
BYTES = {"fp32": 4, "tf32": 4, "bf16": 2, "fp16": 2, "int8": 1}
"""Bytes of a weight by precision."""

_FLOAT32 = 4
_MIB = 2**20


class Peaks(Record):
    """What a device can do at most.

    Attributes:
        gop_s: Thousand millions of operations per second by precision, 2 per multiply-add.
        gb_s: Memory bandwidth, 10^9 bytes per second.
        cache_mib: Last-level cache: so much of a network need not be read again for the next batch.
    """

    gop_s: Mapping[str, float]
    gb_s: float
    cache_mib: float = 0.0


@dataclass(frozen=True)
class Work:
    """What a network asks of a device for one batch.

    Attributes:
        macs: Multiply-adds for one image.
        parameters: Parameters.
        precision: Precision of the weights and the products.
        batch: Images.
        input_shape: Shape of one input.
        outputs: Numbers given for one image.
    """

    macs: int
    parameters: int
    precision: str
    batch: int
    input_shape: tuple[int, ...]
    outputs: int

    @property
    def operations(self) -> int:
        """Operations for the batch."""
        return OPERATIONS_PER_MAC * self.macs * self.batch

    @property
    def bytes(self) -> int:
        """Weights once, inputs and logits in float32; activations are supposed to stay in a cache."""
        images = self.batch * (prod(self.input_shape) + self.outputs) * _FLOAT32
        return self.parameters * BYTES.get(self.precision, _FLOAT32) + images


@dataclass(frozen=True)
class Floor:
    """A lower bound of a latency.

    Attributes:
        ms: Milliseconds per batch.
        limit: `operations` or `memory`, whichever takes longer.
    """

    ms: float
    limit: str


def floor(work: Work, peaks: Peaks) -> Floor | None:
    """The least time for a batch; None where the device's rate at this precision is not known."""
    rate = peaks.gop_s.get(work.precision)
    if rate is None:
        return None
    compute = work.operations / (rate * 1e6)
    memory = max(0.0, work.bytes - peaks.cache_mib * _MIB) / (peaks.gb_s * 1e6)
    return Floor(max(compute, memory), "operations" if compute >= memory else "memory")
