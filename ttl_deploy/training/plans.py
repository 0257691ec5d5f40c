"""Whether a folder that several trainings share was begun with the same options as are given now."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from ttl_deploy.errors import BadInputError


def refuse_other_plan(
    out: Path, kind: str, before: Mapping[str, Any], now: Mapping[str, Any], *, recorded: Collection[str] | None = None
) -> None:
    """Runs of two plans would end in one result.

    Args:
        out: The folder.
        kind: What it holds, for the error: `search` or `series`.
        before: The plan in the folder, nested, in plain types.
        now: The plan that is asked for.
        recorded: Names, as in `flat`, that may be compared beside those of `before`; None: all of `now`.

    Raises:
        BadInputError: A value differs; the error names it and both values.
    """
    old, new = flat(before), flat(now)
    for name in sorted(old.keys() | (new.keys() if recorded is None else recorded)):
        if old.get(name) != new.get(name):
            raise BadInputError(
                f"holds another {kind}: {name} was {_shown(old, name)}, now {_shown(new, name)}",
                where=out,
                fix="choose another --out, or pass --overwrite to replace it",
            )


def flat(plan: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """A nested plan as one level, `request.settings.seed` and the like."""
    found: dict[str, Any] = {}
    for name, value in plan.items():
        found |= flat(value, f"{prefix}{name}.") if isinstance(value, dict) else {f"{prefix}{name}": value}
    return found


def _shown(values: Mapping[str, Any], name: str) -> str:
    return repr(values[name]) if name in values else "not given"
