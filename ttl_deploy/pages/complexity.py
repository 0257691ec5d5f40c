"""The complexity report: the papers' tables beside the rebuilt networks, and what those networks cost."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from ttl_deploy.complexity.counters import LIMIT, KindGap
from ttl_deploy.complexity.describe import ModelCost
from ttl_deploy.complexity.paper_tables import Quantity, RunTimeRatio, run_time_ratios
from ttl_deploy.complexity.verdicts import RowResult, tally
from ttl_deploy.pages.document import Document, Section, Table

_MIB = 2**20

Named = tuple[str, RowResult, ModelCost]
"""A network's name in the report, a row that it stands for, and its cost."""


def complexity_document(results: Sequence[RowResult], *, command: str, ptflops: str) -> Document:
    """The report.

    Args:
        results: Every row, missing ones included.
        command: The command that makes the report.
        ptflops: Version of the counter.
    """
    networks = _networks(results)
    return Document(
        title="The papers' complexity tables, row by row",
        lead=summary(results),
        command=command,
        facts=f"ptflops {ptflops}; counts are the same on every machine",
        sections=(
            _verdicts(results),
            _costs(networks),
            _counters(networks),
            _run_times(results),
            _units(networks),
        ),
    )


def summary(results: Sequence[RowResult]) -> str:
    """How many rows hold, in one sentence."""
    counts = tally(results)
    parts = ", ".join(f"{count} {verdict.replace('deviates', 'deviating')}" for verdict, count in counts.items())
    return f"{len(results)} printed rows: {parts}."


def explanation(result: RowResult) -> str:
    """A row's note, with what its label would cost where that is another network; empty where there is none."""
    note = result.row.note or ""
    if result.as_labelled is None:
        return note
    total = result.as_labelled.total
    return f"{note} (as labelled: {millions(total.parameters)} M, {billions(total.layer_macs)} G)"


def millions(count: float, digits: int = 0) -> str:
    """A count in millions, four significant digits or so, and at least so many after the point."""
    return f"{count / 1e6:.{max(digits, 3 if count < 1e7 else 2)}f}"


def billions(count: float) -> str:
    """A count in thousand millions."""
    return f"{count / 1e9:.3f}"


def signed_percent(ratio: float) -> str:
    """A deviation."""
    rounded = round(100 * ratio, 2) or 0.0  # not -0.00
    return f"{rounded:+.2f} %"


def cell_texts(result: RowResult, quantity: Quantity) -> tuple[str, str, str]:
    """The printed number, ours, and the deviation of one quantity of a row; empty where there is none."""
    printed = result.row.printed
    number = printed.parameters_m if quantity == "parameters" else printed.macs_g
    cell = result.cells.get(quantity)
    if cell is None:
        return ("" if number is None else f"{number:.10g}", "", "")
    digits = len(f"{number:.10g}".partition(".")[2])
    ours = millions(cell.ours, digits) if quantity == "parameters" else billions(cell.ours)
    return (f"{number:.10g}", ours, signed_percent(cell.deviation))


def _verdicts(results: Sequence[RowResult]) -> Section:
    text = (
        "Reproduced: parameters and MACs are the printed number, rounded or cut off at its last digit, "
        "counted as the papers did, with the ptflops of 2022: layers only, no functions and no operators between them. "
        "Explained: one is not, and the paper is known to be inconsistent there. Deviates: one is not, and nobody "
        "knows why; the command then fails. Networks that are not yet in the zoo are counted as missing."
    )
    columns = ("row", "paper P (M)", "ours", "off by", "paper MACs (G)", "ours", "off by", "verdict", "note")
    tables = []
    for name, group in _by_table(results).items():
        rows = tuple(
            (
                r.row.title,
                *cell_texts(r, "parameters"),
                *cell_texts(r, "macs"),
                r.verdict,
                explanation(r),
            )
            for r in group
        )
        table = group[0].table
        tables.append(Table(columns, rows, f"{name}: {table.title} ({table.source})", words=(0, 7, 8)))
    return Section("Paper and rebuilt networks", (text,), tuple(tables))


def _costs(networks: Sequence[Named]) -> Section:
    text = (
        "One network a line, counted for one input. Dead: parameters that are held and that no operator of a forward "
        "pass reads. Compact: the parameters without the dead ones. MACs: all that ptflops counts, functions and "
        "operators included; of layers: the papers' count. Activations: the tensors alive at once at the "
        "worst moment, in fp32, each operator on its own. Weights: parameters and batch-norm statistics; int8 with one "
        "scale per output channel and everything but kernels and matrices in fp32. The papers do not print how many "
        "layers LWFT trains: one is taken, which decides the trainable column and nothing else."
    )
    columns = (
        "network",
        "input",
        "params",
        "trainable",
        "dead",
        "compact",
        "MACs (G)",
        "of layers (G)",
        "activations (MiB)",
        "weights fp32 (MiB)",
        "fp16/bf16",
        "int8",
    )
    rows = tuple(_cost_row(name, result, cost) for name, result, cost in networks)
    return Section("What each network costs", (text,), (Table(columns, rows, words=(0, 1)),))


def _cost_row(name: str, result: RowResult, cost: ModelCost) -> tuple[str, ...]:
    total, weights = cost.total, cost.total.weight_bytes
    return (
        name,
        "x".join(map(str, result.row.construction.input)),
        f"{total.parameters:,}",
        f"{total.trainable:,}",
        f"{total.dead:,}",
        f"{total.parameters - total.dead:,}",
        billions(total.macs),
        billions(total.layer_macs),
        f"{total.activation_peak / _MIB:.2f}",
        *(f"{weights[precision] / _MIB:.2f}" for precision in ("fp32", "fp16", "int8")),
    )


def _counters(networks: Sequence[Named]) -> Section:
    text = (
        "ptflops is the papers' counter. PyTorch's own, torch.utils.flop_counter, counts convolutions and matrix "
        f"products only, two FLOP a MAC. Where they part by more than {100 * LIMIT:g} %, the second table says at "
        "which layers and why. A layer that ptflops overlooks, because it is a subclass of one that it knows (timm's "
        "BatchNormAct2d), is counted as that one."
    )
    columns = ("network", "ptflops (G)", "flop_counter (G)", "ptflops counts", "within the limit")
    rows = tuple(
        (
            name,
            billions(cost.counters.ptflops),
            billions(cost.counters.flop_counter),
            signed_percent(cost.counters.difference),
            "yes" if cost.counters.agrees else "no",
        )
        for name, _result, cost in networks
    )
    apart = [(name, gap) for name, _result, cost in networks if not cost.counters.agrees for gap in cost.counters.gaps]
    why = ("network", "layers", "how many", "ptflops (M)", "flop_counter (M)", "why")
    details = Table(why, tuple(_gap_row(*pair) for pair in apart), "Where they part", words=(0, 1, 5))
    return Section("Two counters", (text,), (Table(columns, rows, words=(0, 4)), *([details] if apart else [])))


def _gap_row(name: str, gap: KindGap) -> tuple[str, ...]:
    counts = (f"{gap.ptflops / 1e6:.3f}", f"{gap.flop_counter / 1e6:.3f}")
    return (name, gap.kind, str(len(gap.layers)), *counts, gap.why)


def _run_times(results: Sequence[RowResult]) -> Section:
    text = (
        "Milliseconds for one input at batch 1 as printed, and relative to the whole network (FTL) on the same device: "
        "the milliseconds belong to the papers' machines, the ratios are what another machine can be compared with. "
        "The ratios of MACs and parameters are those of the printed numbers, slips included."
    )
    tables = [group[0].table for group in _by_table(results).values()]
    notes = tuple(f"Table {t.name}: {t.run_time_note}." for t in tables if t.run_time_note)
    ratios = [ratio for table in tables for ratio in run_time_ratios(table)]
    columns = ("table", "row", "device", "time (ms)", "time ratio", "MACs ratio", "parameter ratio")
    rows = tuple(_ratio_row(ratio) for ratio in ratios)
    return Section("The papers' run times as ratios", (text, *notes), (Table(columns, rows, words=(0, 1, 2)),))


def _ratio_row(ratio: RunTimeRatio) -> tuple[str, ...]:
    return (
        ratio.table,
        ratio.row.title,
        f"{ratio.device.upper()}, {ratio.machine}",
        f"{ratio.milliseconds:g}",
        f"{ratio.ratio:.3f}",
        "" if ratio.macs is None else f"{ratio.macs:.3f}",
        f"{ratio.parameters:.3f}",
    )


def _units(networks: Sequence[Named]) -> Section:
    """The largest network of each backbone: a truncated one is its lower part."""
    largest: dict[str, Named] = {}
    for named in networks:
        backbone = named[1].row.construction.backbone
        if backbone not in largest or named[2].total.parameters > largest[backbone][2].total.parameters:
            largest[backbone] = named
    text = "The whole networks unit by unit; a truncated network is the lower part, up to its cut, and its own head."
    columns = ("unit", "block", "output", "parameters", "up to here", "MACs (M)", "up to here")
    tables = tuple(
        Table(columns, tuple(_unit_rows(cost)), name, words=(0, 1, 2)) for name, _result, cost in largest.values()
    )
    return Section("Unit by unit", (text,), tables)


def _unit_rows(cost: ModelCost) -> Iterable[tuple[str, ...]]:
    parameters = macs = 0
    for unit in cost.units:
        parameters, macs = parameters + unit.parameters, macs + unit.macs
        yield (
            unit.name,
            "" if unit.block is None else str(unit.block),
            "x".join(map(str, unit.shape)),
            f"{unit.parameters:,}",
            f"{parameters / cost.total.parameters:.1%}",
            f"{unit.macs / 1e6:.3f}",
            f"{macs / cost.total.macs:.1%}",
        )


def _networks(results: Sequence[RowResult]) -> list[Named]:
    """Every network that was rebuilt, once, in the order of the tables."""
    named: dict[int, Named] = {}
    for result in results:
        if result.cost is not None:
            named.setdefault(id(result.cost), (result.row.construction.describe(), result, result.cost))
    return list(named.values())


def _by_table(results: Sequence[RowResult]) -> dict[str, list[RowResult]]:
    groups: dict[str, list[RowResult]] = {}
    for result in results:
        groups.setdefault(result.table.name, []).append(result)
    return groups
