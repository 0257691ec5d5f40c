"""What a command says of a recipe: what it is and leaves open before the training, the paper's rows after it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ttl_deploy.cli import console
from ttl_deploy.progress import Reporter


def tell_recipe(name: str | None, reporter: Reporter) -> None:
    """Tells where a recipe is from and what its source leaves open; nothing where there is none."""
    if name is None:
        return
    from ttl_deploy.papers.recipes import read_recipe

    recipe = read_recipe(name)
    reporter.info(f"recipe {name}: {recipe.title} ({recipe.source})")
    for sentence in recipe.open:
        reporter.info(f"  left open: {sentence}")


def show_paper(result: Mapping[str, Any]) -> None:
    """Prints the paper's rows beside ours, of `metrics.json` or `summary.json`; nothing where it has none."""
    found = result.get("paper")
    if found is None:
        return
    from ttl_deploy.training.metrics import TITLES

    rows = [
        (
            f"{row['table']}: {row['row']}",
            TITLES.get(row["metric"], row["metric"]),
            _with_spread(row["value"], row["spread"]) + ("*" if row["slip"] else ""),
            _ours(row),
        )
        for row in found["rows"]
    ]
    columns = ("printed row", "metric", "paper", "here")
    console.table(f"{found['rows'][0]['network']} beside recipe {found['recipe']}", columns, rows)
    for row, slip in dict.fromkeys((f"{row['table']}: {row['row']}", row["slip"]) for row in found["rows"]):
        if slip:
            console.line(f"* {row}: {slip}")
    console.line(found["differs"])


def _with_spread(value: float, spread: float | None) -> str:
    return f"{value:.4g}" if spread is None else f"{value:.4g} ± {spread:.2g}"


def _ours(row: Mapping[str, Any]) -> str:
    text = f"{row['ours']:.4f}" + ("" if row["deviation"] is None else f" ± {row['deviation']:.4f}")
    interval = row["interval"]
    return text + (f" [{interval[0]:.4f}, {interval[1]:.4f}]" if interval else "")
