"""Counts every cut of the zoo and writes the table that `ttl-deploy cuts` answers from without PyTorch.

    python benchmarks/cut_table.py

To be run when a backbone, how it is counted, or the version of torch, torchvision, timm or ptflops has changed:
`tests/complexity/test_cut_table.py` fails until then, and `cuts` counts anew.
"""

from __future__ import annotations

import json
from typing import Any

from ttl_deploy import files
from ttl_deploy.complexity.cost import cut_costs
from ttl_deploy.complexity.cut_table import TABLE, as_row, counted_with
from ttl_deploy.zoo import BACKBONES, Backbone


def entry(backbone: Backbone) -> dict[str, Any]:
    """What the table holds of a backbone."""
    given = backbone.input_spec()
    return {"input": given.model_dump(mode="json"), "cuts": [as_row(cost) for cost in cut_costs(backbone, given)]}


def main() -> None:
    """Writes the table, a line for each cut; of this package's backbones alone."""
    own = sorted((each for each in BACKBONES if type(each).__module__.startswith("ttl_deploy.")), key=lambda b: b.name)
    entries = [f"{json.dumps(each.name)}: {_lines(entry(each))}" for each in own]
    head = f'"counted_with": {json.dumps(counted_with())}'
    files.write_text(TABLE, f'{{{head},\n"cuts": {{\n' + ",\n".join(entries) + "\n}}\n")


def _lines(content: dict[str, Any]) -> str:
    rows = ",\n".join(json.dumps(row, separators=(",", ":")) for row in content["cuts"])
    return f'{{"input": {json.dumps(content["input"])}, "cuts": [\n{rows}]}}'


if __name__ == "__main__":
    main()
