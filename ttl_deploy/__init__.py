"""ttl-deploy: a pretrained image network becomes a small, fast, verified medical classifier.

The functions here are the commands of `ttl-deploy` under the same names; each is imported on first use, so that
`import ttl_deploy` costs nothing and prediction never loads torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ttl_deploy.first_use import on_first_use

__version__ = "0.1.0"

if TYPE_CHECKING:
    from ttl_deploy.artifact import open_artifact, sign
    from ttl_deploy.spec import Bounds, Data, Model, Placement, Protocol, Reading, Scenario, Stream, Table, Trust
    from ttl_deploy.training.run import open_run
    from ttl_deploy.verbs.analyze import analyze
    from ttl_deploy.verbs.bench import bench
    from ttl_deploy.verbs.ceiling import ceiling
    from ttl_deploy.verbs.compare import compare
    from ttl_deploy.verbs.export import export
    from ttl_deploy.verbs.predict import predict
    from ttl_deploy.verbs.quickstart import quickstart
    from ttl_deploy.verbs.report import report
    from ttl_deploy.verbs.search import search
    from ttl_deploy.verbs.train import resume, train
    from ttl_deploy.verbs.verify import verify

__all__ = [
    "Bounds",
    "Data",
    "Model",
    "Placement",
    "Protocol",
    "Reading",
    "Scenario",
    "Stream",
    "Table",
    "Trust",
    "analyze",
    "bench",
    "ceiling",
    "compare",
    "export",
    "open_artifact",
    "open_run",
    "predict",
    "quickstart",
    "report",
    "resume",
    "search",
    "sign",
    "train",
    "verify",
]

_ELSEWHERE = {
    "Bounds": "spec",
    "Data": "spec",
    "Model": "spec",
    "Placement": "spec",
    "Protocol": "spec",
    "Reading": "spec",
    "Scenario": "spec",
    "Stream": "spec",
    "Table": "spec",
    "Trust": "spec",
    "open_artifact": "artifact",
    "open_run": "training.run",
    "resume": "verbs.train",
    "sign": "artifact",
}
"""Homes of the names that are no command's: a command's is the file of its name in `verbs`."""

__getattr__ = on_first_use(__name__, {name: _ELSEWHERE.get(name, f"verbs.{name}") for name in __all__})
