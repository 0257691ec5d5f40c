"""Whether the papers' complexity tables hold: every row rebuilt, counted, and judged against what is printed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch

from ttl_deploy.complexity.describe import ModelCost, describe_model, features_only
from ttl_deploy.complexity.paper_tables import Construction, PaperRow, PaperTable, Quantity
from ttl_deploy.progress import SILENT, Reporter
from ttl_deploy.spec import ModelSpec
from ttl_deploy.transfer import build, resolve
from ttl_deploy.zoo import BACKBONES

TOLERANCE: dict[Quantity, float] = {"parameters": 0.005, "macs": 0.002}
"""Largest relative deviation that counts as reproduced. The papers print three digits or two, some of them cut off
rather than rounded: 18.2 M for 18.28 M; their MACs are hit to the last one."""

Judgement = Literal["reproduced", "explained", "deviates", "not yet in the zoo"]


@dataclass(frozen=True)
class Cell:
    """One printed number beside ours.

    Attributes:
        printed: The paper's number.
        ours: The rebuilt network's.
        verdict: `reproduced` within the tolerance, else `explained` where the paper is known to be inconsistent.
    """

    printed: int
    ours: int
    verdict: Judgement

    @property
    def deviation(self) -> float:
        """Relative to the printed number."""
        return self.ours / self.printed - 1


@dataclass(frozen=True)
class RowResult:
    """A row, rebuilt or missing.

    Attributes:
        table: The table it is in.
        row: What the paper prints.
        cost: What the rebuilt network costs; None where its backbone is not in the zoo.
        cells: The judged numbers by quantity; empty where there is no cost.
        as_labelled: What the network of the row's label would cost, where it is another one and in the zoo.
    """

    table: PaperTable
    row: PaperRow
    cost: ModelCost | None
    cells: dict[Quantity, Cell]
    as_labelled: ModelCost | None

    @property
    def verdict(self) -> Judgement:
        """The worst of the cells'."""
        if self.cost is None:
            return "not yet in the zoo"
        verdicts = {cell.verdict for cell in self.cells.values()}
        order: tuple[Judgement, ...] = ("deviates", "explained", "reproduced")
        return next(verdict for verdict in order if verdict in verdicts)


def reproduce(tables: Sequence[PaperTable], *, reporter: Reporter = SILENT) -> list[RowResult]:
    """Rebuilds and judges every row whose backbone is in the zoo, and keeps the others as missing.

    Args:
        tables: From `load_tables`.
        reporter: Told what happens.

    Raises:
        BadInputError: A construction names a method, cut or head that does not exist.
    """
    counted: dict[str, ModelCost] = {}
    rows = [(table, row) for table in tables for row in table.rows]
    results = []
    with reporter.task("counting the papers' rows", len(rows)) as advance:
        for table, row in rows:
            results.append(_judge(table, row, counted))
            advance(1, row.title)
    return results


def tally(results: Sequence[RowResult]) -> dict[Judgement, int]:
    """How many rows got which verdict, every verdict named."""
    order: tuple[Judgement, ...] = ("reproduced", "explained", "deviates", "not yet in the zoo")
    return {verdict: sum(result.verdict == verdict for result in results) for verdict in order}


def _judge(table: PaperTable, row: PaperRow, counted: dict[str, ModelCost]) -> RowResult:
    cost = _cost(row.construction, counted)
    labelled = _cost(row.as_labelled, counted) if row.as_labelled else None
    cells: dict[Quantity, Cell] = {}
    if cost is not None:
        ours = _parameters(row.construction, cost)
        cells["parameters"] = _cell("parameters", row, round(row.printed.parameters_m * 1e6), ours)
        if row.printed.macs_g is not None:
            cells["macs"] = _cell("macs", row, round(row.printed.macs_g * 1e9), cost.total.layer_macs)
    return RowResult(table, row, cost, cells, labelled)


def _parameters(construction: Construction, cost: ModelCost) -> int:
    """As the paper counts them."""
    if construction.parameters_of == "features":
        return features_only(cost)
    unused = unused_above(construction.model_spec()) if construction.parameters_of == "whole encoder" else 0
    return cost.total.parameters + unused


def unused_above(spec: ModelSpec) -> int:
    """Parameters of the backbone's layers above the cut, the tail included; the model does not hold them."""
    found = resolve(spec)
    with torch.device("meta"):
        modules = found.backbone.build(spec.input.channels)
    kept = {unit.name for unit in (*found.plan.reused, *found.plan.slimmed)}
    return sum(p.numel() for name, module in modules.items() if name not in kept for p in module.parameters())


def _cell(quantity: Quantity, row: PaperRow, printed: int, ours: int) -> Cell:
    if abs(ours / printed - 1) <= TOLERANCE[quantity]:
        return Cell(printed, ours, "reproduced")
    return Cell(printed, ours, "explained" if quantity in row.inconsistent else "deviates")


def _cost(construction: Construction, counted: dict[str, ModelCost]) -> ModelCost | None:
    """Counts a construction once; None where its backbone is not in the zoo."""
    if construction.backbone not in BACKBONES.names():
        return None
    spec = construction.model_spec()
    key = spec.digest()
    if key not in counted:
        with torch.device("meta"):
            model = build(spec)
        counted[key] = describe_model(model, spec.input_shape)
    return counted[key]
