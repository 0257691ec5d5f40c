"""How the reused units start, one file for each way: as in the source, drawn with its statistics, or as built.

A choice is words for runs of units from the bottom up, `weights:block:2+stats`: each but the last ends at a unit.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor, nn

from ttl_deploy.errors import BadInputError, near
from ttl_deploy.registry import Registry
from ttl_deploy.zoo import Backbone, Unit


@dataclass(frozen=True)
class Part:
    """A run of units with random weights, to be changed in place.

    Attributes:
        units: Each unit's prefix of names in the network's state dict and its module, bottom first.
        source: The source's tensors of these units that have their shapes, by network name; empty where none is read.
        first_weight: Name of the convolution that reads the image, whether it is in this part or not.
    """

    units: Sequence[tuple[str, nn.Module]]
    source: Mapping[str, Tensor]
    first_weight: str

    def tensors(self) -> dict[str, Tensor]:
        """All tensors but the counters of batch norms, which are no weights, by their names in the network."""
        return {
            prefix + name: tensor
            for prefix, module in self.units
            for name, tensor in module.state_dict(keep_vars=True).items()
            if not name.endswith("num_batches_tracked")
        }

    def modules(self) -> Iterator[tuple[str, nn.Module]]:
        """Every module that holds parameters itself, with the prefix of their names in the network."""
        for prefix, unit in self.units:
            for name, module in unit.named_modules():
                if next(module.parameters(recurse=False), None) is not None:
                    yield f"{prefix}{name}." if name else prefix, module


@dataclass(frozen=True)
class Filled:
    """What became of a part's tensors; those that are not named are as they were built.

    Attributes:
        taken: Names of those that are the source's.
        drawn: Of those that were drawn or computed anew.
        reset: Of norms' that were set to 1 and 0.
        missing: Of those that the source should have had.
    """

    taken: tuple[str, ...] = ()
    drawn: tuple[str, ...] = ()
    reset: tuple[str, ...] = ()
    missing: tuple[str, ...] = ()

    def __add__(self, other: Filled) -> Filled:
        return Filled(
            self.taken + other.taken,
            self.drawn + other.drawn,
            self.reset + other.reset,
            self.missing + other.missing,
        )


@dataclass(frozen=True)
class Init:
    """A way to start.

    Attributes:
        fill: Changes a part in place; draws from PyTorch's global generator.
        reads: Whether it needs a source of weights.
        copies: Whether the units then have them, and are not new.
    """

    fill: Callable[[Part], Filled]
    reads: bool = False
    copies: bool = False


INITS: Registry[Init] = Registry("initialisation", "ttl_deploy.transfer.inits", entry_points="ttl_deploy.inits")


def divided(init: str, backbone: Backbone) -> list[tuple[Init, tuple[Unit, ...]]]:
    """The ways of a choice, each with its run of the network's units; together they are all units.

    Raises:
        BadInputError: An unknown way, a unit that the network does not have, or units that do not rise.
    """
    parts, begin = [], 0
    *lower, last = init.split("+")
    for words in lower:
        name, _, place = words.partition(":")
        way = INITS.get(name.strip())
        end = _end(place.strip(), init, backbone)
        if end <= begin:
            raise BadInputError(f"{place!r} is not above what is before it", where=_where(init), fix=_FIX)
        parts.append((way, backbone.all_units[begin:end]))
        begin = end
    if ":" in last:
        what = f"nothing is said of the layers above {last.partition(':')[2]!r}"
        raise BadInputError(what, where=_where(init), fix=f"add one of {', '.join(INITS.names())}: {init}+random")
    return [*parts, (INITS.get(last.strip()), backbone.all_units[begin:])]


_FIX = "for example weights:block:2+stats"


def _where(init: str) -> str:
    return f"init {init}"


def _end(place: str, init: str, backbone: Backbone) -> int:
    """How many units, from the bottom, end with the one that is meant."""
    if not place:
        raise BadInputError("no layer is named at which the lower way ends", where=_where(init), fix=_FIX)
    text = place.removeprefix(backbone.container)
    matches = [index for index, unit in enumerate(backbone.all_units) if _is_meant(unit, index, text)]
    if not matches:
        names = [unit.name for unit in backbone.all_units]
        raise BadInputError(
            f"{place!r} is no layer or block of {backbone.name}",
            where=_where(init),
            fix=f"{near(text, names)}; `ttl-deploy cuts {backbone.name}` lists the cuts",
        )
    return matches[-1] + 1


def _is_meant(unit: Unit, index: int, text: str) -> bool:
    if text.startswith("block:"):
        return text == f"block:{unit.block}"
    if text.isdecimal():
        return index == int(text)
    return unit.name == text or unit.name.startswith(text + ".")
