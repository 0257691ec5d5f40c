"""Whether a folder that several trainings share was begun with the same options as are given now."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ttl_deploy.errors import BadInputError
from ttl_deploy.spec import Data

PLAN_VERSION = 2
"""Of the plan in a search's or series' folder; other versions called its values otherwise."""


def plan_of(data: Data) -> dict[str, Any]:
    """What of the data's options decides a training, in plain types; where the cache is does not."""
    return {**data.model_dump(mode="json", exclude={"cache", "path"}), "path": str(data.path.resolve())}


def refuse_other_plan(out: Path, kind: str, before: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """Runs of two plans would end in one result.

    Args:
        out: The folder.
        kind: What it holds, for the error: `search` or `series`.
        before: The plan in the folder, nested, in plain types.
        now: The plan that is asked for.

    Raises:
        BadInputError: A value differs (the error names it and both values), or the plan is of an earlier version.
    """
    if before.get("version") != PLAN_VERSION:
        raise BadInputError(
            f"holds a {kind} that another version began, which alone can go on with it",
            where=out,
            fix="choose another --out, or pass --overwrite to replace it",
        )
    old, new = flat(before), flat(now)
    for name in sorted(old.keys() | new.keys()):
        if old.get(name) != new.get(name):
            raise BadInputError(
                f"holds another {kind}: {name} was {_shown(old, name)}, now {_shown(new, name)}",
                where=out,
                fix="choose another --out, or pass --overwrite to replace it",
            )


def flat(plan: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """A nested plan as one level, `protocol.seed` and the like."""
    found: dict[str, Any] = {}
    for name, value in plan.items():
        found |= flat(value, f"{prefix}{name}.") if isinstance(value, dict) else {f"{prefix}{name}": value}
    return found


def _shown(values: Mapping[str, Any], name: str) -> str:
    return repr(values[name]) if name in values else "not given"
