"""Where a head may read a chain of units: after each unit, and within those that are plain sequences of layers.

A ResNet's stem halves the image twice, and what a decoder wants lies between the two.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from torch import nn

from ttl_deploy.zoo.backbone import trace_shapes


@dataclass(frozen=True)
class Place:
    """A place in a chain.

    Attributes:
        unit: Name of the unit's module in the chain.
        part: Its child after which it is; empty: after the whole unit.
        shape: Of the features there, without the batch.
    """

    unit: str
    part: str
    shape: tuple[int, ...]


def places_of(chain: Mapping[str, nn.Module], shape: Sequence[int]) -> list[Place]:
    """Every place of a chain, bottom first.

    Args:
        chain: The units' modules by name.
        shape: Of one input without the batch.

    Raises:
        BadInputError: The input is too small for the chain.
    """
    found: list[Place] = []
    for name, module in chain.items():
        parts = dict(module.named_children()) if is_sequence(module) else {}
        shapes = trace_shapes(parts.values() or [module], shape)
        *inner, shape = shapes
        found += [Place(name, part, form) for part, form in zip(parts, inner, strict=False)]
        found.append(Place(name, "", tuple(shape)))
    return found


def is_sequence(module: nn.Module) -> bool:
    """Whether a module does nothing but run its children one after the other."""
    return isinstance(module, nn.Sequential) and type(module).forward is nn.Sequential.forward and len(module) > 0


def steps(unit: nn.Module, parts: frozenset[str]) -> Iterator[tuple[str, nn.Module]]:
    """The modules to run for a unit, with the part that each ends; the whole unit at once where no part is read.

    Args:
        unit: Of the chain.
        parts: Those of its parts that are read.
    """
    if parts <= {""}:
        yield "", unit
        return
    *inner, last = unit.named_children()
    yield from inner
    yield "", last[1]
