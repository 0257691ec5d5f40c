"""A search from the user's data to a trained winner: plan, budget, strategy, winner, report."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import filelock

from ttl_deploy import documents, files
from ttl_deploy.cut_search.candidates import Candidate, candidates, over_budget
from ttl_deploy.cut_search.engines import LocalEngine, TrialEngine
from ttl_deploy.cut_search.latency import Latencies
from ttl_deploy.cut_search.outcome import CandidateRow, SearchOutcome, conclude
from ttl_deploy.cut_search.settle import settle
from ttl_deploy.cut_search.state import State
from ttl_deploy.cut_search.strategies import STRATEGIES
from ttl_deploy.data.manifest import dataset_of
from ttl_deploy.data.prepared import Prepared, prepare
from ttl_deploy.data.understood import write_understood
from ttl_deploy.errors import BadInputError
from ttl_deploy.progress import SILENT, Reporter
from ttl_deploy.spec import Data, Model, ModelSpec, Network
from ttl_deploy.spec.model import WHOLE
from ttl_deploy.spec.search import SearchOptions, SearchProtocol
from ttl_deploy.spec.strategies import STRATEGY_OPTIONS
from ttl_deploy.tasks import TASKS
from ttl_deploy.training.logs import Names, asked_loggers, logs_of_search, measured_on_test
from ttl_deploy.training.operation import refuse_point
from ttl_deploy.training.plans import PLAN_VERSION, plan_of, refuse_other_plan
from ttl_deploy.training.run import DATA, Run, open_run
from ttl_deploy.training.schedules import SCHEDULES
from ttl_deploy.training.train import check, kind_of, specs, with_head
from ttl_deploy.zoo import BACKBONES

PLAN, WINNER = "search.json", "winner"
_CANNOT = {"ftl": "keeps every layer, so there is no cut to find"}


def search(
    data: Data,
    network: Network,
    protocol: SearchProtocol,
    out: str | Path,
    *,
    options: SearchOptions | None = None,
    engine: TrialEngine | None = None,
    reuse: Sequence[Path] = (),
    overwrite: bool = False,
    log: Names = (),
    reporter: Reporter = SILENT,
) -> SearchOutcome:
    """Finds the cut and trains the winner.

    Started again with the same options after a kill at any moment, it goes on and repeats no finished trial.

    Args:
        data: The images.
        network: What is to be cut.
        protocol: How every trial is trained.
        out: Folder of the search. `winner` in it is an ordinary run; `data.json` says what was understood of the data.
        options: How to search; default: `SearchOptions()` with a thread per core, `cores.usable_threads`.
        engine: Where trials run; default: here, one after the other.
        reuse: Folders of other searches whose finished trials may stand for equal ones here.
        overwrite: Replace what is at `out`.
        log: Loggers that are told of every trial: words, or text with commas between them.
        reporter: Told what happens.

    Raises:
        BadInputError: Bad data or options, another search at `out`, or no candidate within the budget.
        TtlDeployError: A trial failed; finished ones are kept.
    """
    options = options or SearchOptions()
    options = options.model_copy(update={"threads": options.cores})
    options = _of_task(options, data.task)
    strategy, options = STRATEGIES.get(options.strategy), _of_strategy(options)
    place = Path(out)
    network = with_head(network, data)
    given = _of_method(protocol, network)
    latencies = Latencies(place / "latency", options.budget.device)
    latencies.check()
    loggers = asked_loggers(log)
    spec, prepared = _understand(data, network, given, options, reporter)
    digest = prepared.data_digest()
    plan = _plan(data, digest, network, given, options)
    with _begun(place, plan, overwrite), logs_of_search(place, network, plan, loggers, reporter) as logs:
        if prepared.understood is not None:
            write_understood(place / DATA, prepared.understood)
        everything = candidates(spec)
        excluded, measured = _exclude(everything, options, latencies, reporter)
        state = State(
            place,
            data,
            digest,
            network,
            given,
            options,
            [candidate for candidate in everything if candidate.cut not in excluded],
            engine or LocalEngine(),
            reporter,
            prepared,
            reuse,
            log=loggers,
        )
        scores = strategy(state)
        verdict = settle(state, {cut: score for cut, score in scores.items() if cut in state.finals})
        winner = _crown(state, verdict.chosen, place / WINNER)
        rows = _rows(state, everything, excluded, measured, latencies)
        logs.result(measured_on_test(winner.metrics()["test"], winner.task.METRICS), winner.metrics()["best_epoch"])
        return conclude(state, winner, rows, verdict)


def _of_strategy(options: SearchOptions) -> SearchOptions:
    """The options with the strategy's own in full.

    Raises:
        BadInputError: One is out of its range, or only another strategy takes it.
    """
    STRATEGY_OPTIONS.refuse_others_of(options.strategy, options)
    own = STRATEGY_OPTIONS.complete(options.strategy, options.strategy_options)
    return options.model_copy(update={"strategy_options": own})


def _of_method(protocol: SearchProtocol, network: Network) -> SearchProtocol:
    """The protocol without what only another method does.

    Raises:
        BadInputError: That was asked for.
    """
    if network.method == "lwft":
        return protocol
    if "cache_features" in protocol.model_fields_set and protocol.cache_features:
        raise BadInputError(
            f"--cache-features is LWFT's, not {network.method}'s", fix="leave it out, or pass --method lwft"
        )
    return protocol.model_copy(update={"cache_features": 0})


def _of_task(options: SearchOptions, task: str) -> SearchOptions:
    """The options, with the metric by which a task selects where none was said that it has not."""
    kind = TASKS.get(task)
    if "metric" in options.model_fields_set or options.metric in kind.METRICS:
        return options
    return options.model_copy(update={"metric": kind.SELECTS})


def _refuse_init(init: str, strategy: str) -> None:
    """Raises `BadInputError` where candidates start from trained layers, which an initialisation would replace."""
    if strategy == "warm" and init != WHOLE:
        raise BadInputError(
            f"--init {init} would replace the layers that strategy warm hands up", fix="choose another --strategy"
        )


def _refuse_by_epochs(schedule: str) -> None:
    """Raises `BadInputError` where trainings of several lengths would not be parts of one."""
    if SCHEDULES.get(schedule).by_epochs:
        raise BadInputError(
            f"a search trains for several numbers of epochs, and --schedule {schedule} depends on them",
            fix="pass --schedule plateau or constant",
        )


def _refuse_metric(metric: str, task: str) -> None:
    """Raises `BadInputError` where a task is not measured by a metric."""
    measured = TASKS.get(task).METRICS
    if metric not in measured:
        raise BadInputError(
            f"--task {task} is not measured by {metric}", where="--metric", fix=f"valid: {', '.join(measured)}"
        )


def _understand(
    data: Data, network: Network, protocol: SearchProtocol, options: SearchOptions, reporter: Reporter
) -> tuple[ModelSpec, Prepared]:
    """Checks everything that can be checked before a folder is made; decodes the images; the model and the images."""
    if network.method in _CANNOT:
        raise BadInputError(f"method {network.method} {_CANNOT[network.method]}", fix="pass --method ttl, tf or lwft")
    first = Model(**dict(network), cut=BACKBONES.get(network.backbone).cut_points[0].name)
    check(data, first, protocol)
    _refuse_init(network.init, options.strategy)
    _refuse_by_epochs(protocol.schedule.name)
    _refuse_metric(options.metric, data.task)
    dataset = dataset_of(data, kind_of(first))
    refuse_point(protocol.operating_point, dataset.task)
    spec, preprocess = specs(first, data, dataset.classes)
    prepared = prepare(
        dataset,
        preprocess,
        data.division,
        cache_folder=data.cache,
        skip_unreadable=data.skip_unreadable,
        reporter=reporter,
    )
    return spec, prepared


def _plan(
    data: Data, digest: str, network: Network, protocol: SearchProtocol, options: SearchOptions
) -> dict[str, Any]:
    """All that decides the result, in plain types."""
    return {
        "version": PLAN_VERSION,
        "data": plan_of(data),
        "data_digest": digest,
        "model": network.model_dump(mode="json"),
        "protocol": protocol.model_dump(mode="json"),
        "options": options.model_dump(mode="json"),
    }


@contextmanager
def _begun(out: Path, plan: dict[str, Any], overwrite: bool) -> Iterator[None]:
    """The search's folder, held by this process alone."""
    path = out / PLAN
    if path.exists() and not overwrite:
        refuse_other_plan(out, "search", _read_plan(path), plan)
    else:
        files.refuse_existing(out, overwrite=overwrite)
        with files.atomic_folder(out, overwrite=overwrite) as folder:
            files.write_json(folder / PLAN, plan)
    lock = filelock.FileLock(out / ".lock")
    try:
        lock.acquire(timeout=0)
    except filelock.Timeout as error:
        raise BadInputError(
            "another process searches here", where=out, fix="wait for it or choose another --out"
        ) from (error)
    with lock:
        yield


def _read_plan(path: Path) -> dict[str, Any]:
    return documents.read_object(path, "plan of a search", fix="pass --overwrite to start anew")


def _exclude(
    everything: Sequence[Candidate], options: SearchOptions, latencies: Latencies, reporter: Reporter
) -> tuple[dict[str, str], dict[str, float]]:
    """Why candidates are out, by cut, and the latencies that were needed to know.

    Raises:
        BadInputError: No candidate meets the budget; the error names the least costs there are.
    """
    budget = options.budget
    excluded = {c.cut: reason for c in everything if (reason := over_budget(c, budget)) is not None}
    measured: dict[str, float] = {}
    if budget.latency_ms is not None:
        left = [candidate for candidate in everything if candidate.cut not in excluded]
        with reporter.task("measuring candidates", len(left)) as advance:
            for candidate in left:
                measured[candidate.cut] = value = latencies.of(candidate)
                advance(1, f"{candidate.cut} {value:.2f} ms")
                if value > budget.latency_ms:
                    excluded[candidate.cut] = f"{value:.2f} ms on {budget.place}, more than {budget.latency_ms:g} ms"
    for cut, reason in excluded.items():
        reporter.info(f"  {cut:<18} over budget, not trained: {reason}")
    if len(excluded) == len(everything):
        smallest = min(everything, key=lambda candidate: candidate.size)
        raise BadInputError(
            f"no candidate meets the budget; the smallest, {smallest.cut}: {excluded[smallest.cut]}",
            fix="raise the budget, or choose a smaller backbone or image size",
        )
    return excluded, measured


def _crown(state: State, chosen: Candidate, place: Path) -> Run:
    """Copies the winner's run (of several seeds the best on validation) to where `export` takes it from."""
    best = max(state.finals[chosen.cut], key=lambda record: record.value)
    source = open_run(Path(best.run))
    if place.exists() and open_run(place).metrics()["weights_sha256"] == source.metrics()["weights_sha256"]:
        return open_run(place)
    with files.atomic_folder(place, overwrite=True) as folder:
        shutil.copytree(source.folder, folder, dirs_exist_ok=True)
    return open_run(place)


def _rows(
    state: State,
    everything: Sequence[Candidate],
    excluded: dict[str, str],
    measured: dict[str, float],
    latencies: Latencies,
) -> list[CandidateRow]:
    rows = []
    wanted = [c for c in everything if c.cut in state.scores and c.cut not in measured]
    if state.options.latency and wanted:
        with state.reporter.task("measuring latency", len(wanted)) as advance:
            for candidate in wanted:
                measured[candidate.cut] = latencies.of(candidate)
                advance(1, candidate.cut)
    for candidate in everything:
        score = state.scores.get(candidate.cut)
        rows.append(
            CandidateRow(
                cut=candidate.cut,
                block=candidate.block,
                parameters=candidate.cost.parameters,
                trainable=candidate.cost.trainable,
                macs=candidate.cost.macs,
                latency_ms=measured.get(candidate.cut),
                value=score.value if score else None,
                error=score.error if score else None,
                epochs=state.trained(candidate.cut),
                seconds=state.seconds_of(candidate.cut),
                status=_status(state, candidate, excluded),
            )
        )
    return rows


def _status(state: State, candidate: Candidate, excluded: dict[str, str]) -> str:
    cut = candidate.cut
    named = " (the whole network: FTL)" if candidate.whole else ""
    if cut in excluded:
        return f"over budget: {excluded[cut]}"
    if cut in state.finals:
        early = [r.stopped for r in state.finals[cut] if r.stopped and "curve" in r.stopped]
        return f"ended early: {early[0]}" if early else f"trained{named}"
    return ("trained in part" if cut in state.scores else "not trained") + named
