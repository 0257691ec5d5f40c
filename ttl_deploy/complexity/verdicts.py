"""Whether the papers' complexity tables hold: every row rebuilt, counted, and judged against what is printed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from decimal import ROUND_DOWN, ROUND_HALF_UP, Decimal
from typing import Literal

from torch import nn

from ttl_deploy.complexity.describe import ModelCost, describe_model, features_only
from ttl_deploy.complexity.paper_tables import Construction, PaperRow, PaperTable, Quantity
from ttl_deploy.progress import SILENT, Reporter
from ttl_deploy.spec import ModelSpec
from ttl_deploy.transfer import resolve, weightless
from ttl_deploy.zoo import BACKBONES
from ttl_deploy.zoo.backbone import layout

UNITS: dict[Quantity, int] = {"parameters": 10**6, "macs": 10**9}
"""What the papers print in."""

Judgement = Literal["reproduced", "explained", "deviates", "not yet in the zoo"]


@dataclass(frozen=True)
class Cell:
    """One printed number beside ours.

    Attributes:
        printed: The paper's number.
        ours: The rebuilt network's.
        verdict: `reproduced` where ours has the printed digits, else `explained` where the paper is known to be
            inconsistent.
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
        cells["parameters"] = _cell("parameters", row, row.printed.parameters_m, ours)
        if row.printed.macs_g is not None:
            cells["macs"] = _cell("macs", row, row.printed.macs_g, cost.total.layer_macs)
    return RowResult(table, row, cost, cells, labelled)


def has_digits(printed: float, ours: int, unit: int) -> bool:
    """Whether a count, rounded or cut off where the printed number ends, is that number: 18.2 M is 18.28 M cut off."""
    number = Decimal(str(printed))
    last = Decimal(1).scaleb(int(number.as_tuple().exponent))
    return number in {(Decimal(ours) / unit).quantize(last, way) for way in (ROUND_HALF_UP, ROUND_DOWN)}


def _parameters(construction: Construction, cost: ModelCost) -> int:
    """As the paper counts them."""
    if construction.parameters_of == "whole encoder":
        return cost.total.parameters + unused_above(construction.model_spec())
    if construction.parameters_of == "model":
        return cost.total.parameters
    scales = norm_scales(construction.model_spec()) if construction.parameters_of == "features without scales" else 0
    return features_only(cost) - scales


def norm_scales(spec: ModelSpec) -> int:
    """Parameters by which batch norms multiply, one for each channel (TensorFlow's layers leave them out if asked)."""
    norms = [module for module in weightless(spec).modules() if isinstance(module, nn.BatchNorm2d)]
    return sum(norm.num_features for norm in norms)


def unused_above(spec: ModelSpec) -> int:
    """Parameters of the backbone's layers above the cut, the tail included; the model does not hold them."""
    found = resolve(spec)
    modules = layout(found.backbone, spec.input.channels)
    kept = {unit.name for unit in (*found.plan.reused, *found.plan.slimmed)}
    return sum(p.numel() for name, module in modules.items() if name not in kept for p in module.parameters())


def _cell(quantity: Quantity, row: PaperRow, number: float, ours: int) -> Cell:
    unit = UNITS[quantity]
    missed: Judgement = "explained" if quantity in row.inconsistent else "deviates"
    return Cell(round(number * unit), ours, "reproduced" if has_digits(number, ours, unit) else missed)


def _cost(construction: Construction, counted: dict[str, ModelCost]) -> ModelCost | None:
    """Counts a construction once; None where its backbone is not in the zoo."""
    if construction.backbone not in BACKBONES.names():
        return None
    spec = construction.model_spec()
    key = spec.digest()
    if key not in counted:
        counted[key] = describe_model(weightless(spec), spec.input_shape)
    return counted[key]
