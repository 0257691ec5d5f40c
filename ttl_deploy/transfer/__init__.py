"""Transfer methods: (backbone, cut, head) becomes a `TransferModel` that holds only the layers it runs.

A method is a `Plan`: which units take the source's weights, which are slimmed, which stay frozen, and at which
learning rate each learns. One file per method registers it in `METHODS`.
"""

from ttl_deploy.transfer.initialise import LoadReport, initialise
from ttl_deploy.transfer.model import METHODS, Plan, TransferModel, build, build_unfilled, resolve, weightless

__all__ = [
    "METHODS",
    "LoadReport",
    "Plan",
    "TransferModel",
    "build",
    "build_unfilled",
    "initialise",
    "resolve",
    "weightless",
]
