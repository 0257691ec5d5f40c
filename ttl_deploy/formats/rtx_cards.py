"""Which cards TensorRT for RTX builds for, and what each can be given: a table of architecture by precision.

An engine is built for one architecture, by its compute capability, and runs on no other. No torch and no TensorRT here:
what cannot be had is refused before a run is opened.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from ttl_deploy.errors import BadInputError, near
from ttl_deploy.formats.kit.build_engine import GENERATIONS, REFUSED, named

PRECISIONS = ("fp32", "fp16", "bf16", "int8")


def architectures(said: str, *, any_gpu: bool = False) -> tuple[str, ...]:
    """The architectures that a user names, each once, in the order in which they are said.

    Args:
        said: Architectures (`sm86`), compute capabilities (`8.6`) or devices of `export/targets/`, with commas between.
        any_gpu: Whether those that TensorRT for RTX builds nothing for may be named too.

    Raises:
        BadInputError: A name is none of them, or the library builds nothing for it.
    """
    names = [word.strip().casefold() for word in said.split(",") if word.strip()]
    if not names:
        raise BadInputError("names no card", where="--for", fix=f"pass {', '.join(GENERATIONS)} or a device's name")
    found = {_architecture(name): name for name in names}
    if not any_gpu:
        for architecture, name in found.items():
            _refuse_unbuilt(architecture, name)
    return tuple(found)


def refuse(precision: str, wanted: Iterable[str]) -> None:
    """Refuses a precision that one of the architectures cannot be given.

    Args:
        precision: One of `PRECISIONS`.
        wanted: Of `GENERATIONS`.

    Raises:
        BadInputError: With the reason and the way out.
    """
    names = tuple(wanted)
    for name in names:
        reason = REFUSED.get((name, precision))
        if reason is None:
            continue
        others = [other for other in names if (other, precision) not in REFUSED]
        alone = f", and {precision} for {','.join(others)} in an export of its own" if others else ""
        raise BadInputError(
            f"{precision} cannot be had for {name}: {reason}", where="--for", fix=f"pass --precision fp16{alone}"
        )


def _architecture(name: str) -> str:
    from ttl_deploy.latency.targets import load_targets

    devices = {target.name: target.compute_capability for target in load_targets()}
    if name in devices:
        found = devices[name]
        if found is None:
            raise BadInputError(f"{name} is no NVIDIA GPU", where="--for", fix=_BUILDS)
        return named(found)
    written = re.fullmatch(r"(?:sm_?)?(\d+)\.?(\d)", name)
    if written is None:
        raise BadInputError(f"unknown card {name!r}", where="--for", fix=near(name, (*GENERATIONS, *devices)))
    return f"sm{written[1]}{written[2]}"


def _refuse_unbuilt(architecture: str, name: str) -> None:
    if architecture in GENERATIONS:
        return
    said = name if name == architecture else f"{name} ({architecture})"
    raise BadInputError(
        f"TensorRT for RTX builds nothing for {said}",
        where="--for",
        fix=f"{_BUILDS}; full TensorRT on that machine: --format trt --defer-build",
    )


_BUILDS = f"it builds for {', '.join(GENERATIONS)}"
