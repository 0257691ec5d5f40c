"""What measured models would need at least on another device: estimated from its peak rates, never measured there."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from ttl_deploy import hardware
from ttl_deploy.hardware import Hardware
from ttl_deploy.latency.targets import Target, get_target
from ttl_deploy.verbs.bench import BenchRow

LABEL = "estimated, not measured"
MEANING = "a lower bound by the roofline: no network runs faster there, most run slower, small ones much slower"


@dataclass(frozen=True)
class LatencyEstimate:
    """The least time of a model on a target device.

    Attributes:
        model: What it is, in words.
        precision: Precision.
        batch: Images per call.
        target: Name of the device.
        least_ms: Milliseconds per call; None where the device does not compute in this precision.
        limit: `operations` or `memory`.
        measured_ms: The fastest measured median, where this machine is that device and it was not disturbed.
        error: How far the estimate is below it, as a share of the measurement.
        label: That it is an estimate.
    """

    model: str
    precision: str
    batch: int
    target: str
    least_ms: float | None
    limit: str | None
    measured_ms: float | None = None
    error: float | None = None
    label: str = LABEL

    def as_dict(self) -> dict[str, Any]:
        """Plain types, for JSON."""
        return asdict(self)


def estimate(rows: Sequence[BenchRow], target: str, *, machine: Hardware | None = None) -> list[LatencyEstimate]:
    """Estimates every measured model, precision and batch on a device.

    Args:
        rows: What was measured here.
        target: Name in `export/targets/`.
        machine: This machine; None: looked at.

    Raises:
        BadInputError: There is no such device.
    """
    device = get_target(target)
    here = device.is_here(machine or hardware.describe())
    alike: dict[tuple[str, str, int], list[BenchRow]] = {}
    for row in rows:
        alike.setdefault((row.model, row.work.precision, row.work.batch), []).append(row)
    return [_estimate(group, device, here) for group in alike.values()]


def _estimate(alike: Sequence[BenchRow], target: Target, here: bool) -> LatencyEstimate:
    row = alike[0]
    least = target.estimate(row.work)
    times = [
        r.measurement.typical_ms
        for r in alike
        if here
        and r.measurement.device == target.device
        and r.measurement.scenario == "single-stream"
        and not r.measurement.inconclusive
    ]
    measured = min(times, default=None)
    return LatencyEstimate(
        model=row.model,
        precision=row.work.precision,
        batch=row.work.batch,
        target=target.name,
        least_ms=least.ms if least else None,
        limit=least.limit if least else None,
        measured_ms=measured,
        error=1 - least.ms / measured if least and measured else None,
    )
