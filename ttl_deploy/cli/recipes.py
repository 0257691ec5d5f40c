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
    from ttl_deploy.spec.beside import Beside
    from ttl_deploy.training.metrics import TITLES

    paper = Beside(**found)
    rows = [
        (row.title, TITLES.get(row.metric, row.metric.replace("_", " ")), row.paper_text, row.ours_text)
        for row in paper.rows
    ]
    console.table(
        f"{paper.rows[0].network} beside recipe {paper.recipe}", ("printed row", "metric", "paper", "here"), rows
    )
    for slip in paper.slips:
        console.line(f"* {slip}")
    console.line(paper.differs)
