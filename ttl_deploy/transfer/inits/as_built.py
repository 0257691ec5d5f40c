"""The network's own random weights: what is above transferred weights in weight transfusion (Raghu 2019, section 5)."""

from __future__ import annotations

from ttl_deploy.transfer.inits import INITS, Filled, Init, Part


def fill(part: Part) -> Filled:
    """Leaves all as it was built."""
    return Filled()


INITS.register("random", Init(fill))
