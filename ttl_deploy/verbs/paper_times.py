"""The paper's run times against this machine's: ratios to FTL, because the milliseconds belong to other hardware.

Every classifier of Tables 1 to 3 that prints a run time is built untrained (weights do not change latency), run
in PyTorch eager as the paper did, and measured in turns with the others of its backbone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ttl_deploy import files, hardware
from ttl_deploy.errors import BadInputError
from ttl_deploy.hardware import Hardware
from ttl_deploy.latency import Job, Measurement
from ttl_deploy.latency.duel import LEAST_BLOCKS, Ratio, compare_blocks, measure_in_turns
from ttl_deploy.latency.persistent import Block
from ttl_deploy.latency.targets import load_targets
from ttl_deploy.progress import SILENT, Reporter
from ttl_deploy.spec import ModelSpec, Placement
from ttl_deploy.verbs.bench import describe, provenance, torch_jobs

if TYPE_CHECKING:
    from ttl_deploy.complexity.paper_tables import PaperRow, PaperTable

BLOCK = Block(min_samples=10, min_seconds=0.5, max_seconds=20.0)


@dataclass(frozen=True)
class PaperTime:
    """One printed run time beside ours.

    Attributes:
        table: Short name of the table.
        row: The row's name, group included.
        baseline: Name of the row it is compared with.
        machine: The paper's device.
        paper_ratio: Printed run time by the baseline's.
        paper_ms: Printed run time, milliseconds.
        measured: The same ratio here.
        measured_ms: Median here.
        same_hardware: Whether this machine is the paper's and ran on that device: only then do milliseconds compare.
    """

    table: str
    row: str
    baseline: str
    machine: str
    paper_ratio: float
    paper_ms: float
    measured: Ratio
    measured_ms: float
    same_hardware: bool


@dataclass(frozen=True)
class PaperTimes:
    """Everything that could be compared.

    Attributes:
        device: `cpu` or `cuda`.
        rows: In the order of the tables.
        missing: Rows with a run time that the zoo cannot build, in words.
        measurements: What was measured, with every sample.
    """

    device: str
    rows: tuple[PaperTime, ...]
    missing: tuple[str, ...]
    measurements: tuple[Measurement, ...]

    @property
    def sure(self) -> bool:
        """Whether every row has a ratio."""
        return all(row.measured.ratio is not None for row in self.rows)

    def as_dict(self) -> dict[str, Any]:
        """Plain types, for JSON, with where and when they were measured."""
        return {
            **provenance(),
            "device": self.device,
            "rows": [{**vars(row), "measured": row.measured.model_dump(mode="json")} for row in self.rows],
            "missing": list(self.missing),
            "measurements": [m.model_dump(mode="json") for m in self.measurements],
        }


def paper_times(
    *,
    threads: int | None = None,
    device: str = "cpu",
    blocks: int = 10,
    block: Block = BLOCK,
    tables: Sequence[PaperTable] | None = None,
    out: str | Path | None = None,
    reporter: Reporter = SILENT,
) -> PaperTimes:
    """Measures the paper's networks and compares the ratios of their run times.

    Args:
        threads: Threads per call; None: one per core.
        device: `cpu` or `cuda`.
        blocks: Blocks of each network, at least 6.
        block: How long one is.
        tables: The paper's tables; None: those that come with the program.
        out: JSON file for the result with every raw sample.
        reporter: Told what happens.

    Raises:
        BadInputError: The blocks are too few.
        TtlDeployError: A measurement failed.
    """
    from ttl_deploy.complexity.paper_tables import load_tables

    if blocks < LEAST_BLOCKS:
        raise BadInputError(f"{blocks} blocks give no interval of 95 %", fix=f"pass --rounds {LEAST_BLOCKS} or more")
    known = tuple(tables) if tables is not None else load_tables()
    specs, missing = _specs(known)
    shared = {"placement": Placement(device=device, threads=threads)}
    measured: dict[str, Measurement] = {}
    for backbone in dict.fromkeys(spec.backbone for spec in specs):
        # Only networks of one backbone are compared, and each holds its weights in memory.
        group = [spec for spec in specs if spec.backbone == backbone]
        jobs = [_job(spec, shared) for spec in group]
        results = measure_in_turns(jobs, blocks=blocks, block=block, reporter=reporter)
        measured |= {spec.digest(): result for spec, result in zip(group, results, strict=True)}
    rows = tuple(row for table in known for row in _rows(table, measured, device))
    found = PaperTimes(device, rows, missing, tuple(measured.values()))
    if out is not None:
        files.write_json(Path(out), found.as_dict())
    return found


def is_hardware(machine: str, here: Hardware) -> bool:
    """Whether a machine is the device that the paper names, by the profile in `export/targets/` of that name."""
    return any(machine in target.title and target.is_here(here) for target in load_targets())


def _specs(tables: Sequence[PaperTable]) -> tuple[list[ModelSpec], tuple[str, ...]]:
    """The different networks with a run time, and the rows that cannot be built here."""
    specs: dict[str, ModelSpec] = {}
    missing = []
    for table in tables:
        for row in table.rows:
            if not row.printed.run_ms:
                continue
            spec = _spec(row)
            if spec is None:
                missing.append(f"table {table.name}, {row.title}: {row.construction.backbone} is no classifier here")
            else:
                specs.setdefault(spec.digest(), spec)
    return list(specs.values()), tuple(missing)


def _spec(row: PaperRow) -> ModelSpec | None:
    """The row's network as this program builds it; None where the zoo has none."""
    from ttl_deploy.errors import TtlDeployError
    from ttl_deploy.transfer import resolve

    try:
        return resolve(row.construction.model_spec()).spec
    except TtlDeployError:
        return None


def _job(spec: ModelSpec, shared: Mapping[str, Any]) -> Job:
    (job,) = torch_jobs(describe(spec), {"spec": spec.model_dump(mode="json")}, ("eager",), dict(shared))
    return job


def _rows(table: PaperTable, measured: Mapping[str, Measurement], device: str) -> list[PaperTime]:
    from ttl_deploy.complexity.paper_tables import run_time_ratios

    by_title = {row.title: row for row in table.rows}
    here = hardware.describe()
    found = []
    for printed in run_time_ratios(table):
        base = by_title.get(f"{printed.row.group} {table.baseline}".strip())
        own, other = (_measured(row, measured) for row in (printed.row, base))
        if own is None or other is None or printed.row is base:
            continue
        found.append(
            PaperTime(
                table=table.name,
                row=printed.row.title,
                baseline=table.baseline or "",
                machine=printed.machine,
                paper_ratio=printed.ratio,
                paper_ms=printed.milliseconds,
                measured=compare_blocks(own, other),
                measured_ms=own.typical_ms,
                same_hardware=is_hardware(printed.machine, here) and (printed.device == "cpu") == (device == "cpu"),
            )
        )
    return found


def _measured(row: PaperRow | None, measured: Mapping[str, Measurement]) -> Measurement | None:
    spec = _spec(row) if row is not None else None
    return measured.get(spec.digest()) if spec is not None else None
