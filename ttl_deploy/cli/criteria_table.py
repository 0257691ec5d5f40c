"""Acceptance criteria on the terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ttl_deploy.cli import console

if TYPE_CHECKING:
    from ttl_deploy.verbs.acceptance import Acceptance


def print_criteria(found: Acceptance | None) -> None:
    """The criteria as a table, and the answer; nothing where there are none."""
    if found is None:
        return
    rows = [
        (
            row.criterion,
            row.asked,
            row.seen,
            "{:.4f} to {:.4f}".format(*row.interval) if row.interval else "",
            row.result,
        )
        for row in found.rows
    ]
    console.table(
        f"criteria of {found.file}", ("criterion", "asked", "seen", "95 % interval", "result"), rows, right_from=5
    )
    for row in found.rows[1:]:
        if row.result != "held":
            console.line(f"{row.criterion} {row.result}: {row.why}")
    console.line(f"criteria {found.lead}")
