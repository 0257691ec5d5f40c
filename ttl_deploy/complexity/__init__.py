"""What a network costs before it runs, and whether the paper's tables say the same.

MACs are counted by ptflops, the tool of the paper, with its `pytorch` backend: one MAC is one multiply-add, and
batch norms, activations and poolings are counted as ptflops counts them. PyTorch's own counter is the cross-check.
Each name is imported on first use: `ttl_deploy.complexity.paper_tables`, the tables as data, needs no torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ttl_deploy.first_use import on_first_use

if TYPE_CHECKING:
    from ttl_deploy.complexity.cost import Complexity, count, cut_costs
    from ttl_deploy.complexity.cut_table import CutCost, known_cuts
    from ttl_deploy.complexity.describe import ModelCost, UnitCost, describe_model
    from ttl_deploy.complexity.paper_tables import PaperTable, load_tables, run_time_ratios
    from ttl_deploy.complexity.verdicts import RowResult, reproduce

__all__ = [
    "Complexity",
    "CutCost",
    "ModelCost",
    "PaperTable",
    "RowResult",
    "UnitCost",
    "count",
    "cut_costs",
    "describe_model",
    "known_cuts",
    "load_tables",
    "reproduce",
    "run_time_ratios",
]

_HOMES = {
    "Complexity": "cost",
    "CutCost": "cut_table",
    "ModelCost": "describe",
    "PaperTable": "paper_tables",
    "RowResult": "verdicts",
    "UnitCost": "describe",
    "count": "cost",
    "cut_costs": "cost",
    "describe_model": "describe",
    "known_cuts": "cut_table",
    "load_tables": "paper_tables",
    "reproduce": "verdicts",
    "run_time_ratios": "paper_tables",
}

__getattr__ = on_first_use(__name__, _HOMES)
