"""What a search leaves: the winner, a row per candidate, `result.json`, the Pareto picture and the report."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ttl_deploy import __version__, files, hardware
from ttl_deploy.cut_search.settle import Settlement
from ttl_deploy.cut_search.state import State
from ttl_deploy.pages.charts import Point, pareto_chart
from ttl_deploy.pages.html import render
from ttl_deploy.spec.beside import Beside
from ttl_deploy.spec.search import SearchOptions
from ttl_deploy.training.metrics import TITLES
from ttl_deploy.training.run import Run

RESULT, REPORT, PICTURE = "result.json", "report.html", "pareto.png"
_RULES = {
    "block": "within one standard error of the best the cut nearest to the paper's block cutoff wins",
    "smaller": "within one standard error of the best the smallest model wins",
    "accuracy": "the best value wins",
}


@dataclass(frozen=True)
class CandidateRow:
    """A candidate.

    Attributes:
        cut, block, parameters, trainable, macs: What it is and costs.
        latency_ms: Median latency of one image, or the least possible on a target; None where neither was asked for.
        value: Metric on the validation side; None where it was not trained.
        error: Its standard error.
        epochs: Trained so far.
        seconds: Time of its trials.
        status: What became of it, in words.
    """

    cut: str
    block: int
    parameters: int
    trainable: int
    macs: int
    latency_ms: float | None
    value: float | None
    error: float | None
    epochs: int | None
    seconds: float
    status: str


@dataclass(frozen=True)
class SearchOutcome:
    """A finished search.

    Attributes:
        folder: Its folder.
        winner: An ordinary run.
        rows: Every candidate, bottom first.
        result: The content of `result.json`.
    """

    folder: Path
    winner: Run
    rows: list[CandidateRow]
    result: dict[str, Any]

    @property
    def answer(self) -> str:
        """One line: what was found and what it costs."""
        return str(self.result["answer"])


def conclude(state: State, winner: Run, rows: list[CandidateRow], verdict: Settlement) -> SearchOutcome:
    """Writes the result and the report of a search."""
    result = {
        "answer": _answer(state, winner, rows, verdict),
        "cut": verdict.chosen.cut,
        "told_apart": verdict.told_apart if verdict.compared else None,
        "open": list(verdict.open),
        "divisions": verdict.divisions,
        "together": {cut: [score.value, score.error] for cut, score in verdict.scores.items()},
        "winner": str(winner.folder),
        "test": {
            f"{name}{what}": winner.metrics()["test"][f"{name}{what}"]
            for what in ("", "_interval")
            for name in winner.task.METRICS
        },
        "strategy": state.options.strategy,
        "metric": state.options.metric,
        "seconds": round(sum(state.seconds.values()), 3),
        "steps": state.seconds,
        "cpu_seconds": round(sum(state.cpu_seconds.values()), 3),
        "work": sum(state.work.values()),
        "share": state.share,
        "notes": state.notes,
        "candidates": [asdict(row) for row in rows],
        "program": __version__,
        "command": hardware.command(),
        "finished": datetime.now(UTC).isoformat(timespec="seconds"),
        "hardware": hardware.describe().as_dict(),
        "libraries": hardware.library_versions(),
    }
    files.write_json(state.out / RESULT, json.loads(json.dumps(result, default=str)))
    outcome = SearchOutcome(state.out, winner, rows, result)
    _report(state, outcome)
    return outcome


def _answer(state: State, winner: Run, rows: Sequence[CandidateRow], verdict: Settlement) -> str:
    cut = verdict.chosen.cut
    others = [name for name in verdict.open if name != cut]
    unsure = f"; the data cannot tell it from {', '.join(others)}" if others else ""
    unsure = unsure if verdict.compared else "; compared with no other cut"
    model, row = winner.config.model, next(row for row in rows if row.cut == cut)
    what = f"cut {model.backbone} at {cut}" if model.cut else f"do not cut {model.backbone}"
    metric = TITLES[state.options.metric]
    latency = "" if row.latency_ms is None else f", {row.latency_ms:.2f} ms on {state.options.budget.place}"
    trained = sum(row.value is not None for row in rows)
    share = f", {state.share:.0%} of the work of training every one" if state.share else ""
    return (
        f"{what} ({model.method.upper()}): validation {metric} {row.value:.3f} ± "
        f"{row.error:.3f}, test {metric} {winner.metrics()['test'][state.options.metric]:.3f}, "
        f"{row.parameters / 1e6:.2f} M parameters, {row.macs / 1e9:.3f} G MACs{latency}; "
        f"{trained} of {len(rows)} candidates trained in {sum(state.seconds.values()) / 60:.1f} min{share}{unsure}"
    )


def _report(state: State, outcome: SearchOutcome) -> None:
    picture = pareto_chart(_panels(state, outcome), f"validation {TITLES[state.options.metric]}")
    winner, rows = outcome.winner, outcome.rows
    metrics = winner.metrics()
    page = render(
        "search.html.j2",
        answer=outcome.answer[0].upper() + outcome.answer[1:] + ".",
        backbone=winner.config.model.backbone,
        method=winner.config.model.method,
        metric=TITLES[state.options.metric],
        chosen=next(row for row in rows if row.cut == outcome.result["cut"]),
        rows=rows,
        test_value=metrics["test"][state.options.metric],
        test_images=metrics["images"]["test"],
        seconds=outcome.result["seconds"],
        trained=sum(row.value is not None for row in rows),
        finished=len(state.finals),
        pareto=picture,
        latency_words=_latency_words(state.options),
        paper=Beside(**metrics["paper"]) if "paper" in metrics else None,
        titles=TITLES,
        notes=state.notes or ["every candidate was trained to the end"],
        strategy=state.options.strategy,
        repeats=state.options.repeats,
        rule=_RULES[state.options.prefer],
        command=outcome.result["command"],
        version=__version__,
        machine=hardware.describe().name,
        when=datetime.now(UTC).strftime("%Y-%m-%d"),
        libraries=hardware.library_versions(),
    )
    files.write_text(state.out / REPORT, page)
    files.write_bytes(state.out / PICTURE, picture)


def _latency_words(options: SearchOptions) -> str:
    if not options.latency:
        return "not measured"
    kind = "median, untrained export" if options.budget.measured else "least by the roofline"
    return f"one image, {options.budget.place}, {kind}"


def _panels(state: State, outcome: SearchOutcome) -> list[tuple[str, list[Point]]]:
    """Latency where it is known, parameters and MACs."""
    costs: dict[str, Callable[[CandidateRow], float | None]] = {
        f"latency of one image, ms ({state.options.budget.place})": lambda row: row.latency_ms,
        "parameters, millions": lambda row: row.parameters / 1e6,
        "multiply-adds, billions": lambda row: row.macs / 1e9,
    }
    panels = []
    for label, cost_of in costs.items():
        points = [
            Point(row.cut, cost, row.value, row.error or 0.0, row.cut in state.finals, row.cut == outcome.result["cut"])
            for row in outcome.rows
            if row.value is not None and (cost := cost_of(row)) is not None
        ]
        if points:
            panels.append((label, points))
    return panels
