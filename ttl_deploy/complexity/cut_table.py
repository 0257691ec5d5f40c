"""Costs of the zoo's cuts as they were counted before, so that listing them need not wait for PyTorch.

The table holds, for each backbone at the size of its pretraining, what `cut_costs` gives. It says what it was counted
with: the bytes of the code that builds and counts, and the libraries' versions. Where any of them is another, the
table is silent and everything is counted anew. `python benchmarks/cut_table.py` makes it. No torch.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ttl_deploy.aliases import meant
from ttl_deploy.spec import InputSpec, make_record
from ttl_deploy.zoo.cut_point import CutPoint

TABLE = Path(__file__).with_name("cut_table.json")
LIBRARIES = ("torch", "torchvision", "timm", "ptflops")

_PACKAGE = Path(__file__).parents[1]


@dataclass(frozen=True)
class CutCost:
    """What is kept when a backbone is cut, head not counted.

    Attributes:
        point: The cut.
        shape: Shape of the features there (channels, height, width), or (channels, tokens).
        parameters: Parameters up to the cut.
        macs: Multiply-adds up to the cut, for one image.
    """

    point: CutPoint
    shape: tuple[int, ...]
    parameters: int
    macs: int


def known_cuts(name: str, size: str | None) -> tuple[InputSpec, list[CutCost]] | None:
    """The input and the costs of every cut of a backbone, bottom first, where they are known.

    Args:
        name: Of the backbone, in any case.
        size: As for `InputSpec`; None: that of its pretraining.

    Returns:
        None where they have to be counted: another backbone or size, other code, or another version of a library.

    Raises:
        BadInputError: The size is not of the network's number of axes, or out of range.
    """
    table = json.loads(TABLE.read_bytes())
    entry = table["cuts"].get(meant(name, {}, table["cuts"]))
    if entry is None or table["counted_with"] != counted_with():
        return None
    native = InputSpec(**entry["input"])
    given = native if size is None else make_record(InputSpec, kind=native.kind, size=size, channels=native.channels)
    return (given, [_cost(row) for row in entry["cuts"]]) if given == native else None


def counted_with() -> dict[str, str]:
    """All that a count depends on besides backbone and input: the code's SHA-256, and versions of libraries."""
    digest = hashlib.sha256()
    for path in sorted((*_PACKAGE.glob("zoo/*.py"), *_PACKAGE.glob("complexity/*.py"))):
        digest.update(path.name.encode() + b"\0" + path.read_bytes())
    return {"code": digest.hexdigest(), **{library: _version(library) for library in LIBRARIES}}


def as_row(cost: CutCost) -> list[Any]:
    """A cost as the table holds it."""
    point = cost.point
    of_point = [point.index, point.name, point.block, point.channels, point.stride, int(point.ends_block)]
    return [*of_point, list(cost.shape), cost.parameters, cost.macs]


def _cost(row: list[Any]) -> CutCost:
    index, name, block, channels, stride, ends, shape, parameters, macs = row
    return CutCost(CutPoint(index, name, block, channels, stride, bool(ends)), tuple(shape), parameters, macs)


def _version(library: str) -> str:
    try:
        return importlib.metadata.version(library)
    except importlib.metadata.PackageNotFoundError:
        return ""
