"""What became of a model after training, as sections of a report: its exported files and their speed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from ttl_deploy.pages import figures
from ttl_deploy.pages.document import Section, Table
from ttl_deploy.pages.speeds import Speed
from ttl_deploy.pages.subject import Export, Subject
from ttl_deploy.pages.words import METRICS, NOTHING, megabytes, number, title_of
from ttl_deploy.spec import ParityRecord

_EXPORTS = ("artifact", "verdict", "format", "precision", "size", "largest logit difference", "same answer", "images")
_SPEEDS = ("model", "engine", "batch", "threads", "median (ms)", "p90", "p95", "p99", "images/s", "samples", "speed-up")
_SHARED = "Time belongs to network and machine: every run of this network has the same rows, whatever its weights."
_BOXES = "Boxes: 25th to 75th percentile; whiskers: 5th to 95th; thick line: median."


def exports(subject: Subject, level: int) -> Iterator[Section]:
    """Whether each exported file is the validated model; nothing where there is none."""
    if not subject.exports:
        return
    found = tuple(map(_export_row, subject.exports))
    reasons = tuple((export.name, reason) for export in subject.exports for reason in _reasons(export))
    tables = (
        Table(_EXPORTS, found, "Exported files beside the validated model", (0, 1, 2, 3), sortable=True),
        *_measures(subject.exports),
        Table(("artifact", "why"), reasons, "What the verdict stands on", (0, 1)),
        _hashes(subject.exports),
    )
    yield Section("Is the exported file the validated one?", (), tables, level=level)


def _export_row(export: Export) -> tuple[str, ...]:
    parity, manifest = export.manifest.parity, export.manifest
    facts = (export.name, export.verdict, manifest.format, manifest.precision, megabytes(export.size))
    if parity is None:
        return (*facts, NOTHING, NOTHING, NOTHING)
    largest = NOTHING if parity.max_logit_difference is None else f"{parity.max_logit_difference:.1e}"
    return (*facts, largest, f"{100 * parity.label_agreement:.2f} %", str(parity.images))


def _reasons(export: Export) -> Iterator[str]:
    parity = export.manifest.parity
    if export.foreign is not None:
        yield f"is not of the run that it lies in: it {export.foreign}"
    elif parity is None:
        yield "was never held against the validated model; ttl-deploy verify does"
    else:
        engine = f" in {parity.runtime}" if parity.runtime else ""
        yield f"against {parity.reference}{engine}, {parity.images} images ({parity.split}): {parity.reason}"
        yield from parity.preprocessing
    yield from export.notes


def _measures(found: Sequence[Export]) -> Iterator[Table]:
    rows = tuple(
        (export.name, title_of(name), number(pair[0], 4), number(pair[1], 4), _change(parity, name))
        for export in found
        if (parity := export.manifest.parity) is not None
        for name in METRICS
        if (pair := getattr(parity, name, None)) is not None and None not in pair
    )
    if rows:
        columns = ("artifact", "measure", "validated model", "exported file", "interval of the change")
        yield Table(columns, rows, "Measures of both on the same images", (0, 1))


def _change(parity: ParityRecord, name: str) -> str:
    interval = getattr(parity, f"{name}_interval", None)
    return NOTHING if interval is None else f"{interval[0]:+.4f} to {interval[1]:+.4f}"


def _hashes(found: Sequence[Export]) -> Table:
    rows = tuple(
        (export.name, name, f"{record.size:,}", record.sha256)
        for export in found
        for name, record in export.manifest.files.items()
    )
    caption = "The files as they are now: each has the SHA-256 of its manifest"
    return Table(("artifact", "file", "bytes", "SHA-256"), rows, caption, (0, 1, 3))


def speeds(subject: Subject, prefix: str, level: int) -> Iterator[Section]:
    """Latencies, and how they are spread; nothing where none was given.

    Args:
        subject: The model.
        prefix: Of the figure's name.
        level: Of the heading.
    """
    if not subject.speeds:
        return
    rows = tuple(map(_speed_row, subject.speeds))
    where = sorted({str(row.measurement.hardware.get("cpu", row.measurement.device)) for row in subject.speeds})
    caption = f"Latency of a call on {', '.join(where)}; speed-up against the whole network in PyTorch"
    tables = (Table(_SPEEDS, rows, caption, (0, 1), sortable=True), *_noise(subject.speeds))
    figure = figures.latency_figure(f"{prefix}-latency", "Latency", _BOXES, subject.speeds)
    yield Section("Speed", (_SHARED,), tables, (figure,), level=level)


def _speed_row(row: Speed) -> tuple[str, ...]:
    m = row.measurement
    ratio = NOTHING if row.ratio is None or row.ratio_inconclusive else f"{row.ratio:.2f}x"
    return (
        row.model,
        f"{m.runtime} {m.precision}",
        str(m.batch),
        str(m.threads),
        f"{m.typical_ms:.2f}{' *' if m.inconclusive else ''}",
        *(number(value, 2) for value in (m.p90_ms, m.p95_ms, m.p99_ms)),
        f"{m.throughput:.1f}",
        str(len(m.samples_ms)),
        ratio,
    )


def _noise(found: Sequence[Speed]) -> Iterator[Table]:
    rows = tuple(
        (row.model, f"{row.measurement.runtime} {row.measurement.precision}", row.measurement.noise)
        for row in found
        if row.measurement.noise
    )
    if rows:
        yield Table(("model", "engine", "why"), rows, "* Read these as rough: the machine was disturbed", (0, 1, 2))
