"""ttl-deploy: a pretrained image network becomes a small, fast, verified medical classifier.

The functions here are the commands of `ttl-deploy` under the same names; each is imported on first use, so that
`import ttl_deploy` costs nothing and prediction never loads torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from ttl_deploy.artifact import open_artifact, sign
    from ttl_deploy.export.export_run import export_run as export
    from ttl_deploy.parity.verify import verify
    from ttl_deploy.prediction.predict import predict
    from ttl_deploy.search.search import search as search
    from ttl_deploy.spec import Data, Model, Protocol
    from ttl_deploy.training.run import open_run
    from ttl_deploy.training.train import resume, train
    from ttl_deploy.workflows.bench import bench as bench
    from ttl_deploy.workflows.ceiling import ceiling
    from ttl_deploy.workflows.compare import compare
    from ttl_deploy.workflows.quickstart import quickstart

__all__ = [
    "Data",
    "Model",
    "Protocol",
    "bench",
    "ceiling",
    "compare",
    "export",
    "open_artifact",
    "open_run",
    "predict",
    "quickstart",
    "resume",
    "search",
    "sign",
    "train",
    "verify",
]

_HOMES = {
    "Data": "ttl_deploy.spec",
    "Model": "ttl_deploy.spec",
    "Protocol": "ttl_deploy.spec",
    "ceiling": "ttl_deploy.workflows.ceiling",
    "compare": "ttl_deploy.workflows.compare",
    "open_artifact": "ttl_deploy.artifact",
    "open_run": "ttl_deploy.training.run",
    "predict": "ttl_deploy.prediction.predict",
    "quickstart": "ttl_deploy.workflows.quickstart",
    "resume": "ttl_deploy.training.train",
    "sign": "ttl_deploy.artifact",
    "train": "ttl_deploy.training.train",
    "verify": "ttl_deploy.parity.verify",
}
_ROOMS = ("bench", "export", "search")
"""Rooms that can be called like the command of their name."""


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(importlib.import_module(_HOMES[name]), name)
    if name in _ROOMS:
        return importlib.import_module(f"ttl_deploy.{name}")
    raise AttributeError(f"module 'ttl_deploy' has no attribute {name!r}")
