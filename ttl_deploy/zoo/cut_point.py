"""A place where a backbone can be cut, as a fact. No torch."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class CutPoint:
    """A place after which everything may be dropped.

    Attributes:
        index: Position of the unit; 0 is the stem.
        name: Name of the last unit kept.
        block: Its block number.
        channels: Output channels.
        stride: Input size over feature size, rounded; within a slice where the input is a volume.
        ends_block: Whether a block ends here (the paper's coarse candidates, section 3.2).
    """

    index: int
    name: str
    block: int
    channels: int
    stride: int
    ends_block: bool
