"""Is int8 worth it on this machine? The exported graph beside the same model in the float precision that is fast here.

Eight bits are not always the faster ones: what stands between the layers (swish, batch norms, sums) may cost more than
the layers win.
"""

from __future__ import annotations

import contextlib
import tempfile
from dataclasses import dataclass
from pathlib import Path

from ttl_deploy import files, hardware, runtime
from ttl_deploy.artifact import Artifact
from ttl_deploy.errors import TtlDeployError
from ttl_deploy.formats.export_run import Exported, write_one
from ttl_deploy.formats.exporter import EXPORTERS
from ttl_deploy.latency.duel import LEAST_BLOCKS, block_medians, ratio_of_medians
from ttl_deploy.latency.measure import Measurement, measure_session, merge, standard_batch
from ttl_deploy.spec import Placement
from ttl_deploy.training.run import finished_run

_FORMAT = "openvino"
_BLOCK_S = 0.1


@dataclass(frozen=True)
class AgainstFloat:
    """Times of one image, measured in turns in this process.

    Attributes:
        int8: Of the artifact.
        other: Of the same model in `precision`.
        precision: `bf16` where the processor multiplies it in hardware, else `fp32`.
        ratio: int8's time by the other's, with its interval of 95 %.
    """

    int8: Measurement
    other: Measurement
    precision: str
    ratio: tuple[float, float, float]

    @property
    def words(self) -> str:
        """Both, and which is surely faster."""
        share, low, high = self.ratio
        times = f"{_time(self.int8)} in int8, {_time(self.other)} in {self.precision} ({self.int8.threads} threads)"
        if high < 1:
            return f"{times}; int8 is {1 / share:.1f} times faster here"
        if low > 1:
            way_out = f"--format {_FORMAT} --precision {self.precision} is faster here, {share:.1f} times"
            return f"{times}; {way_out}"
        return f"{times}; no difference was shown here"


def against_float(
    run: str | Path, made: Artifact, *, data: Path | None = None, cache: Path | None = None
) -> AgainstFloat | None:
    """Measures an int8 artifact beside its model in float, a few seconds.

    Args:
        run: The run that it was exported from.
        made: Of precision `int8`, for the CPU.
        data: Where the run's images are now; None: where they were.
        cache: Folder of the pixel cache.

    Returns:
        What was measured; None where the artifact is no int8 graph for the CPU or its float twin cannot be had here.
    """
    precision = "bf16" if hardware.describe().fast_bf16 else "fp32"
    exporter = EXPORTERS.get(_FORMAT)
    if made.manifest.precision != "int8" or runtime.home_device(made) != "cpu" or exporter.available(precision):
        return None
    source = Exported(finished_run(Path(run)), files.as_path(cache), data=data)
    with contextlib.suppress(TtlDeployError), tempfile.TemporaryDirectory(prefix="ttl-deploy-") as folder:
        twin, _engine = write_one(source, exporter, precision, Path(folder) / _FORMAT)
        return _in_turns(made, twin)
    return None


def _in_turns(made: Artifact, twin: Artifact) -> AgainstFloat:
    blocks: tuple[list[Measurement], list[Measurement]] = ([], [])
    with runtime.load(made, Placement()) as quantised, runtime.load(twin, Placement()) as plain:
        sides = list(zip((quantised, plain), (made, twin), blocks, strict=True))
        for session, artifact, _measured in sides:
            session.expect(1)
            _block(session, artifact.manifest.precision)  # finds caches and clock as loading left them
        for _turn in range(LEAST_BLOCKS):
            for session, artifact, measured in sides:
                measured.append(_block(session, artifact.manifest.precision))
    int8, other = (merge(measured) for measured in blocks)
    ratio = ratio_of_medians(block_medians(int8), block_medians(other))
    return AgainstFloat(int8, other, twin.manifest.precision, ratio)


def _block(session: runtime.Session, precision: str) -> Measurement:
    return measure_session(
        session,
        standard_batch(session, 1),
        label=precision,
        precision=precision,
        min_samples=3,
        min_seconds=_BLOCK_S,
        warmup_runs=3,
    )


def _time(measured: Measurement) -> str:
    return f"{measured.typical_ms:.2f} ms an image"
