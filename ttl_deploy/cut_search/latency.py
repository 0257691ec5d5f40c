"""The latency of candidates before they are trained: weights do not matter, so untrained ones are exported and timed.

On this machine it is measured; on another device of `export/targets/` it is the roofline's least time, which rules out
with certainty what it finds too slow, and nothing else.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from statistics import median

from ttl_deploy import files
from ttl_deploy.cut_search.candidates import Candidate
from ttl_deploy.documents import read_json
from ttl_deploy.errors import BadInputError, near
from ttl_deploy.formats.reference import untrained
from ttl_deploy.latency import Job, Measurement, run_isolated
from ttl_deploy.latency.roofline import Work
from ttl_deploy.latency.targets import get_target
from ttl_deploy.spec import ModelSpec, Placement, read_record
from ttl_deploy.spec.search import MEASURED

PRECISION = "fp32"
"""What is timed, and so what is estimated."""


@dataclass(frozen=True)
class Latencies:
    """Latencies of models on one device, kept on disk.

    Attributes:
        folder: One JSON file per measured model, with every sample.
        device: `cpu`, `cuda` or the name of a target.
        cache: Folder that keeps the exported models; None: the user's.
    """

    folder: Path
    device: str
    cache: Path | None = None

    def check(self) -> None:
        """Raises `BadInputError` where the device is neither here nor a target that computes in float32."""
        if self.device in MEASURED:
            return
        try:
            rates = get_target(self.device).gop_s
        except BadInputError as error:
            fix = f"pass --device cpu or cuda, or a target; {error.fix}"
            raise BadInputError(f"unknown device {self.device!r}", fix=fix) from error
        if PRECISION not in rates:
            raise BadInputError(f"{self.device} does not compute in {PRECISION}", fix=near(self.device, MEASURED))

    def of(self, candidate: Candidate) -> float:
        """Milliseconds for one image: the median on this machine, or the least possible on a target.

        Raises:
            TtlDeployError: It cannot be exported or measured.
        """
        return self._measured(candidate.spec) if self.device in MEASURED else self._estimated(candidate)

    def _measured(self, spec: ModelSpec) -> float:
        path = self.folder / f"{spec.method}-{spec.cut}-{self.device}.json"
        if not path.exists():
            artifact = untrained(spec, cache=self.cache)
            where = Placement(device=self.device)
            job = Job(label=f"{spec.backbone} {spec.cut}", artifact=str(artifact.folder), placement=where)
            files.write_json(path, run_isolated(job).model_dump(mode="json"))
        again = "remove it: it is then measured again"
        measured = read_record(Measurement, read_json(path, fix=again), path, fix=again)
        return float(median(measured.samples_ms))

    def _estimated(self, candidate: Candidate) -> float:
        spec, cost = candidate.spec, candidate.cost
        work = Work(cost.macs, cost.parameters, PRECISION, 1, spec.input_shape, len(spec.classes))
        least = get_target(self.device).estimate(work)
        assert least is not None  # `check` has looked
        return least.ms
