"""The papers' tables as a user checks them: every row rebuilt and judged, and the report written."""

from __future__ import annotations

import importlib.metadata
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ttl_deploy import files
from ttl_deploy.complexity import RowResult, load_tables, reproduce
from ttl_deploy.complexity.describe import ModelCost
from ttl_deploy.pages.complexity import complexity_document, summary
from ttl_deploy.pages.document import to_html, to_markdown
from ttl_deploy.progress import SILENT, Reporter

COMMAND = "ttl-deploy paper"
FOLDER = Path("reports")
NAME = "complexity"


@dataclass(frozen=True)
class PaperReport:
    """The judged rows and the files that say so.

    Attributes:
        results: Every row, missing ones included.
        files: What was written.
    """

    results: list[RowResult]
    files: tuple[Path, ...]

    @property
    def passed(self) -> bool:
        """Whether no row deviates."""
        return all(result.verdict != "deviates" for result in self.results)

    @property
    def summary(self) -> str:
        """How many rows hold."""
        return summary(self.results)

    def as_dict(self) -> dict[str, Any]:
        """Plain types, for JSON."""
        return {
            "passed": self.passed,
            "summary": self.summary,
            "ptflops": _ptflops(),
            "files": [str(path) for path in self.files],
            "rows": [_row(result) for result in self.results],
        }


def check_paper(*, out: Path | None = None, reporter: Reporter = SILENT) -> PaperReport:
    """Rebuilds and judges every row of the papers' tables, and writes `complexity.md` and `complexity.html`.

    Args:
        out: Folder for the two files; None: `reports`.
        reporter: Told what happens.

    Raises:
        IntegrityError: A table cannot be read.
        StorageError: A file cannot be written.
    """
    results = reproduce(load_tables(), reporter=reporter)
    document = complexity_document(results, command=COMMAND, ptflops=_ptflops())
    folder = FOLDER if out is None else out
    written = {folder / f"{NAME}.md": to_markdown(document), folder / f"{NAME}.html": to_html(document)}
    for path, text in written.items():
        files.write_text(path, text)
    return PaperReport(results, tuple(written))


def _ptflops() -> str:
    return importlib.metadata.version("ptflops")


def _row(result: RowResult) -> dict[str, Any]:
    return {
        "table": result.table.name,
        "row": result.row.title,
        "verdict": result.verdict,
        "note": result.row.note,
        "printed": result.row.printed.model_dump(mode="json"),
        "construction": result.row.construction.model_dump(mode="json"),
        "deviation": {quantity: cell.deviation for quantity, cell in result.cells.items()},
        "cost": None if result.cost is None else _cost(result.cost),
        "as_labelled": None if result.as_labelled is None else _cost(result.as_labelled),
    }


def _cost(cost: ModelCost) -> dict[str, Any]:
    return {
        **cost.total.as_dict(),
        "flop_counter_macs": cost.counters.flop_counter,
        "units": [vars(unit) for unit in cost.units],
        "gaps": [vars(gap) for gap in cost.counters.gaps],
    }
