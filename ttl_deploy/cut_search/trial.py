"""One trial: an ordinary run trained to some epoch, and the record of what it is worth.

A trial is a function of its own description alone, so it gives the same numbers in this process, in a worker of a
cluster, and in a process that goes on where a killed one stopped.
"""

from __future__ import annotations

import contextlib
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ttl_deploy import files
from ttl_deploy.cut_search.curve import highest
from ttl_deploy.cut_search.score import RESAMPLES
from ttl_deploy.cut_search.work import training_work
from ttl_deploy.data.prepared import read_split
from ttl_deploy.documents import read_json
from ttl_deploy.spec import Data, Model, Protocol, Record, read_record
from ttl_deploy.training.cached import remove_features
from ttl_deploy.training.logs import Warn
from ttl_deploy.training.loop import Judge
from ttl_deploy.training.measures import measure_of
from ttl_deploy.training.run import Predictions, Run, open_run, read_predictions, read_timing, run_data
from ttl_deploy.training.train import load_model, predict_fp32, resume, train

_AGAIN = "remove it: the trial is then done again"


class TrialRecord(Record):
    """What became of a trial.

    Attributes:
        name: Of its run's folder.
        key: Digest of all that decides the result; equal keys, equal results.
        cut: Where the model is cut; None for the whole network.
        seed: Of the training.
        epochs: How long it was to train.
        trained: How long it did.
        stopped: Why training ended.
        finished: Whether the run was evaluated on its test side too and is done.
        value: The metric on the validation side, of the best epoch's weights in fp32.
        resamples: The metric on resamples of the validation side's patients.
        seconds: Time of this step, training and evaluation, of killed attempts the finished epochs.
        run: Folder of the run.
        floor: The least error on the validation side's patients, see `Measure.floor`; None in records of an
            earlier version, until they are read.
        cpu_seconds: Processor time of this step in this process, killed attempts not included; None as above.
        work: Multiply-adds of this step's epochs, see `work.training_work`; None as above.
    """

    name: str
    key: str
    cut: str | None
    seed: int
    epochs: int | None
    trained: int
    stopped: str | None
    finished: bool
    value: float
    resamples: tuple[float, ...]
    seconds: float
    run: str
    floor: float | None = None
    cpu_seconds: float | None = None
    work: float | None = None


@dataclass(frozen=True)
class Rival:
    """Whom a trial must still be able to reach, or it is ended early.

    Attributes:
        value: The metric to reach.
        metric: Which.
        horizon: Epochs after which it is compared.
    """

    value: float
    metric: str
    horizon: int

    def judge(self) -> Judge:
        """Ends a training whose fitted learning curve cannot reach the value; see `curve.highest`."""

        def decide(history: Sequence[dict[str, Any]]) -> str | None:
            bound = highest([row[f"val_{self.metric}"] for row in history], self.horizon)
            if bound >= self.value:
                return None
            return f"its learning curve cannot pass {bound:.4f}, the best has {self.value:.4f}"

        return decide


@dataclass(frozen=True)
class Trial:
    """What to train, how long, and where. Crosses to the workers of a cluster.

    Attributes:
        name: Of the run's folder.
        folder: The run's.
        record: File of the result.
        data: The images.
        model: Cut included.
        protocol: Seed included, and the epochs to train to here; None: until it ends by itself.
        since: Epochs that an earlier step of the same run was charged for.
        finish: Evaluate on the test side too, and be done.
        metric: To report.
        threads: Of PyTorch.
        rival: Ends it early.
        key: See `TrialRecord`.
        plain_key: What `key` would be without a rival.
        division: Another division of the images to train on, see `divisions`; None: as `data` says.
        log: Loggers that are told of it; no part of the key.
    """

    name: str
    folder: Path
    record: Path
    data: Data
    model: Model
    protocol: Protocol
    since: int
    finish: bool
    metric: str
    threads: int
    rival: Rival | None
    key: str
    plain_key: str
    division: Path | None = None
    log: tuple[str, ...] = ()


@dataclass(frozen=True)
class Ended:
    """A trial that ended. Comes back from the workers of a cluster.

    Attributes:
        record: What became of it.
        unlogged: What loggers failed of, a sentence each; they are told once and not recorded.
    """

    record: TrialRecord
    unlogged: tuple[str, ...] = ()


def run_trial(trial: Trial) -> Ended:
    """Trains what is missing of a trial and records what it is worth; a recorded trial is only read."""
    found = read_trial(trial.record, trial.key)
    if found is not None:
        return Ended(found)
    unlogged: list[str] = []
    with limited_threads(trial.threads):
        begun, burnt = time.monotonic(), time.process_time()
        lost = _seconds(trial.folder, trial.since)
        run = _trained(trial, unlogged.append)
        value, resamples = _measured(run, trial)
        history = run.history()
        record = TrialRecord(
            name=trial.name,
            key=trial.key,
            cut=run.config.model.cut,
            seed=run.config.seed,
            epochs=trial.protocol.epochs,
            trained=len(history),
            stopped=run.metrics()["stopped"] if run.finished else None,
            finished=run.finished,
            value=value,
            resamples=resamples,
            seconds=round(time.monotonic() - begun + lost, 3),
            run=str(trial.folder),
            floor=_floor(run),
            cpu_seconds=round(time.process_time() - burnt, 3),
            work=_work(run, trial.since),
        )
    files.write_json(trial.record, record.model_dump(mode="json"))
    if trial.division is not None:
        remove_features(trial.folder)
    return Ended(record, tuple(unlogged))


def read_trial(path: Path, key: str) -> TrialRecord | None:
    """The record of a trial with this key; None where there is none."""
    if not path.exists():
        return None
    record = read_record(TrialRecord, read_json(path, fix=_AGAIN), path, fix=_AGAIN)
    if record.key != key:
        return None
    if record.floor is not None:
        return record
    return record.model_copy(update={"floor": _floor(open_run(Path(record.run)))})


def equal_trial(path: Path, trial: Trial) -> TrialRecord | None:
    """The record of another search's trial that this one would repeat, with the costs of what is missing here.

    A training that no rival could have ended counts, where the rival of this one would not have ended it either. A
    trial that is finished there and begun here is charged for the epochs that were not trained here.
    """
    record = read_trial(path, trial.key) or read_trial(path, trial.plain_key)
    if record is None or (trial.finish and not (record.finished and Path(record.run).is_dir())):
        return None
    run = open_run(Path(record.run))
    history = run.history()[: record.trained]
    if record.key != trial.key and trial.rival is not None:
        judge = trial.rival.judge()
        if any(judge(history[:epochs]) for epochs in range(1, len(history))):
            return None
    if not trial.since or not record.finished:
        return record
    before = _seconds(run.folder, 0) - _seconds(run.folder, trial.since)
    share = (record.seconds - before) / record.seconds
    return record.model_copy(
        update={
            "seconds": round(record.seconds - before, 3),
            "cpu_seconds": None if record.cpu_seconds is None else round(share * record.cpu_seconds, 3),
            "work": None if record.work is None else _work(run, trial.since),
        }
    )


@contextlib.contextmanager
def limited_threads(count: int) -> Iterator[None]:
    """As many threads in every engine: the order of sums, and with it the last bit, depends on their number."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def patients_of(run: Run) -> dict[str, str]:
    """The patient of every image of a run; the image itself where none is known."""
    return {row.id: row.patient or row.id for row in read_split(run.split)}


def _trained(trial: Trial, unlogged: Warn) -> Run:
    judge = trial.rival.judge() if trial.rival else None
    if not trial.folder.exists():
        return train(
            trial.data,
            trial.model,
            trial.protocol,
            trial.folder,
            division=trial.division,
            finish=trial.finish,
            judge=judge,
            log=trial.log,
            within=_search(trial),
            unlogged=unlogged,
        )
    run = open_run(trial.folder)
    if run.finished and run.config.epochs == trial.protocol.epochs:
        return run
    return resume(
        trial.folder,
        epochs=trial.protocol.epochs,
        data=trial.data.path,
        cache=trial.data.cache,
        finish=trial.finish,
        judge=judge,
        log=trial.log,
        within=_search(trial),
        unlogged=unlogged,
    )


def _search(trial: Trial) -> Path:
    """The folder of its search."""
    return trial.record.parents[1]


def _measured(run: Run, trial: Trial) -> tuple[float, tuple[float, ...]]:
    """The metric on the validation side, and its values on `RESAMPLES` resamples of whole patients."""
    said = read_predictions(run).side("val") if run.finished else _predicted(run, trial)
    patients, measure = patients_of(run), measure_of(run.task)
    groups = [patients[image] for image in said.ids]
    value = measure.quick(run.task, said.labels, said.logits)[trial.metric]
    drawn = measure.resampled(run.task, said.labels, said.logits, trial.metric, groups=groups, bootstrap=RESAMPLES)
    return value, tuple(drawn.tolist())


def _predicted(run: Run, trial: Trial) -> Predictions:
    return predict_fp32(load_model(run), run_data(run, data=trial.data.path, cache=trial.data.cache), "val", run.config)


def _floor(run: Run) -> float:
    """The least error on the patients of a run's validation side."""
    rows = [row for row in read_split(run.split) if row.side == "val"]
    labels = np.array([run.task.label(row.label) for row in rows], dtype=np.int64)
    return measure_of(run.task).floor(run.task, labels, [row.patient or row.id for row in rows])


def _work(run: Run, since: int) -> float:
    """Multiply-adds of the epochs after one."""
    sides = Counter(row.side for row in read_split(run.split))
    epochs = range(since + 1, len(run.history()) + 1)
    return training_work(run.config.model, sides["train"], sides["val"], epochs, run.config.cache_features)


def _seconds(folder: Path, since: int) -> float:
    """Of the finished epochs after one."""
    return float(sum(row.seconds for row in read_timing(folder) if row.epoch > since))
