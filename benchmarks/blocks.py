"""How often a benchmark measures each way: often enough for the ratio of two to have an interval."""

from __future__ import annotations

import argparse

from ttl_deploy.latency.duel import LEAST_BLOCKS


def enough_blocks(said: str) -> int:
    """A number of blocks or rounds, as an option's type.

    Raises:
        ArgumentTypeError: Too few for an interval of 95 %, or no whole number.
    """
    if not said.isdecimal() or int(said) < LEAST_BLOCKS:
        raise argparse.ArgumentTypeError(f"{said}: a ratio has an interval of 95 % from {LEAST_BLOCKS} on")
    return int(said)
