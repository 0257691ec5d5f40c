"""A run under a recipe beside the rows that the paper prints for the same network."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ttl_deploy.errors import TtlDeployError
from ttl_deploy.papers.accuracy import AccuracyRow, AccuracyTable, Start, load_accuracies
from ttl_deploy.papers.recipes import read_recipe, said_of
from ttl_deploy.progress import Reporter
from ttl_deploy.spec import ModelSpec, TrainConfig
from ttl_deploy.spec.beside import Beside, RowBeside
from ttl_deploy.spec.model import WHOLE
from ttl_deploy.spec.recipe import RecipeFile
from ttl_deploy.spec.request import asked_of_run
from ttl_deploy.zoo import BACKBONES


@dataclass(frozen=True)
class Ours:
    """A metric of the run or of several.

    Attributes:
        value: On the test side; the mean of several.
        interval: 95 %, where there is one.
        deviation: Of several runs, or of a mask's images.
    """

    value: float
    interval: tuple[float, float] | None = None
    deviation: float | None = None


def ours_of(test: Mapping[str, Any]) -> dict[str, Ours]:
    """The metrics of a test side, as `metrics.json` has them."""
    return {
        name: Ours(value, _pair(test.get(f"{name}_interval")), test.get(f"{name}_std"))
        for name, value in test.items()
        if isinstance(value, float)
    }


def _pair(interval: Sequence[float] | None) -> tuple[float, float] | None:
    return None if interval is None else (interval[0], interval[1])


def paper_of(config: TrainConfig, ours: Mapping[str, Ours], here: str, reporter: Reporter) -> dict[str, Any]:
    """What `metrics.json` and `summary.json` have of the papers: `paper`, where there are rows; see `beside`.

    A recipe that is gone by now costs the comparison and not the training; it is told.
    """
    try:
        found = beside(config, ours, here)
    except TtlDeployError as error:
        reporter.warn(f"not set beside the paper: {error}")
        return {}
    return {} if found is None else {"paper": found.model_dump(mode="json")}


def beside(config: TrainConfig, ours: Mapping[str, Ours], here: str) -> Beside | None:
    """The printed rows for a run's backbone, method, cut and start, in metrics that both have; None: there are none.

    Args:
        config: Of the run, or of the first of several.
        ours: What was measured, by metric.
        here: What it was measured on, in words.

    Raises:
        BadInputError: The recipe's file is gone or damaged.
        IntegrityError: A table is.
    """
    if config.recipe is None:
        return None
    recipe = read_recipe(config.recipe)
    found = [(table, row) for table, row in _named(recipe) if _is_of(row, config) and row.values.keys() & ours.keys()]
    rows = tuple(
        RowBeside(
            table=table.name,
            row=row.title,
            network=_network(config.model),
            metric=metric,
            printed=cell.printed,
            value=cell.value,
            spread=cell.spread,
            ours=ours[metric].value,
            interval=ours[metric].interval,
            deviation=ours[metric].deviation,
            slip=row.slip,
        )
        for table, row in found
        for metric, cell in row.values.items()
        if metric in ours
    )
    return Beside(recipe=config.recipe, rows=rows, differs=_differs(recipe, found, config, here)) if rows else None


def _named(recipe: RecipeFile) -> Iterator[tuple[AccuracyTable, AccuracyRow]]:
    tables = {table.name: table for table in load_accuracies()} if recipe.beside else {}
    for part in recipe.beside:
        for row in tables[part.table].rows:
            if not part.groups or row.group in part.groups:
                yield tables[part.table], row


def _is_of(row: AccuracyRow, config: TrainConfig) -> bool:
    model = config.model
    same = model.backbone in row.backbones and model.method == row.method and _start(config) == row.start
    return same and (row.cut is None or BACKBONES.get(model.backbone).resolve(row.cut).name == model.cut)


def _start(config: TrainConfig) -> Start | None:
    """What the reused layers started from; None where a table has no such column."""
    if config.init == WHOLE:
        return "random" if config.weights == "random" else "transfer"
    return "stats" if config.init == "stats" else None


def _network(model: ModelSpec) -> str:
    return " ".join(part for part in (model.backbone, model.method, model.cut) if part)


def _differs(recipe: RecipeFile, found: list[tuple[AccuracyTable, AccuracyRow]], config: TrainConfig, here: str) -> str:
    there = _either(table.images_of(row) for table, row in found)
    weights = _either("random" if row.start == "random" else table.weights for table, row in found)
    spread = _either(table.spread for table, _row in found if table.spread)
    changed = ", ".join(_changed(recipe, config))
    return (
        f"there: images of {there}, weights {weights}{f', ± the {spread}' if spread else ''}; "
        f"here: {here} of {Path(config.data).name}, weights {_weights(config)}"
        f"{f', and not as the recipe says {changed}' if changed else ''}"
    )


def _either(words: Iterable[str]) -> str:
    return " or ".join(dict.fromkeys(words))


def _weights(config: TrainConfig) -> str:
    return config.weights if config.init == WHOLE else f"{config.weights} ({config.init})"


def _changed(recipe: RecipeFile, config: TrainConfig) -> Iterator[str]:
    """What the run has otherwise than its recipe says, in words such as `epochs 4`."""
    asked = asked_of_run(config)
    ours = _flat(asked)
    for section in said_of(recipe, asked).values():
        for name, value in _flat(section).items():
            if ours.get(name) != value:
                yield f"{name} {_shown(ours.get(name))}"


def _flat(content: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in content.items():
        found |= _flat(value, f"{prefix}{name}.") if isinstance(value, dict) else {f"{prefix}{name}": value}
    return found


def _shown(value: Any) -> str:
    if isinstance(value, tuple):
        return "/".join(map(_shown, value))
    return f"{value:g}" if isinstance(value, float) else str(value)
