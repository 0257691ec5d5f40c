"""The latency of candidates before they are trained: weights do not matter, so untrained ones are exported and timed.

On this machine it is measured; for another device a caller may pass an estimator.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from ttl_deploy import files
from ttl_deploy.bench import Job, run_isolated
from ttl_deploy.errors import BadInputError
from ttl_deploy.export.reference import untrained
from ttl_deploy.spec import ModelSpec

Estimator = Callable[[ModelSpec, str], float]
"""(model, name of a target device) -> milliseconds for one image."""

_MEASURED = ("cpu", "cuda")


@dataclass(frozen=True)
class Latencies:
    """Latencies of models on one device, kept on disk.

    Attributes:
        folder: One JSON file per model, with every sample.
        device: `cpu`, `cuda` or the name of a target.
        cache: Folder that keeps the exported models; None: the user's.
        estimator: For targets.
    """

    folder: Path
    device: str
    cache: Path | None = None
    estimator: Estimator | None = None

    def check(self) -> None:
        """Raises `BadInputError` where the device is a target and nothing estimates it."""
        if self.device not in _MEASURED and self.estimator is None:
            raise BadInputError(
                f"latency on {self.device!r} can be neither measured nor estimated here",
                fix="pass --device cpu or cuda",
            )

    def of(self, spec: ModelSpec) -> float:
        """Median milliseconds for one image.

        Raises:
            TtlDeployError: It cannot be exported or measured.
        """
        if self.device not in _MEASURED and self.estimator is not None:
            return self.estimator(spec, self.device)
        path = self.folder / f"{spec.method}-{spec.cut}-{self.device}.json"
        if not path.exists():
            artifact = untrained(spec, cache=self.cache)
            job = Job(label=f"{spec.backbone} {spec.cut}", artifact=str(artifact.folder), device=self.device)
            files.write_json(path, run_isolated(job).model_dump(mode="json"))
        return float(median(json.loads(path.read_text())["samples_ms"]))
