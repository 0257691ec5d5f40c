"""`verify`: two models, the same images, one verdict. The work is the parity room's."""

from __future__ import annotations

from dataclasses import replace

from ttl_deploy.parity.verify import Check, verify
from ttl_deploy.runtime import RUNTIMES

__all__ = ["verify", "with_engines_told"]


def with_engines_told(result: Check) -> Check:
    """The result, which says where an artifact holds engines that were not what was judged: its graph was."""
    held = result.artifact.manifest.details.get("rtx")
    if held is None or RUNTIMES.get(result.runtime).part is not None:
        return result
    targets = ", ".join(held.get("targets", ()))
    note = (
        f"the graph was judged; its engines for {targets} are judged on such a card: verify --device cuda --trust there"
    )
    return replace(result, notes=(*result.notes, note))
