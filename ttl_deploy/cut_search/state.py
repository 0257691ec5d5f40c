"""A search under way: its folder, its candidates, and the trials that strategies ask for.

Everything that a strategy learns comes from records on disk, so a search that was killed makes the same decisions
again and trains only what is missing.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ttl_deploy import files
from ttl_deploy.cut_search.candidates import ALL, WHOLE, Candidate, distance, usual
from ttl_deploy.cut_search.divisions import write_divisions
from ttl_deploy.cut_search.engines import TrialEngine
from ttl_deploy.cut_search.evidence import Evidence, Inquiry, look
from ttl_deploy.cut_search.score import Score, choose, combine, refuted
from ttl_deploy.cut_search.trial import Ended, Rival, Trial, TrialRecord, equal_trial, read_trial, run_trial
from ttl_deploy.cut_search.work import training_work
from ttl_deploy.data.prepared import Prepared
from ttl_deploy.progress import Advance, Reporter
from ttl_deploy.spec import Data, Model, ModelSpec, Network, Protocol
from ttl_deploy.spec.methods import METHOD_OPTIONS
from ttl_deploy.spec.search import SearchOptions

TRIALS, RECORDS, DIVISIONS = "trials", "records", "divisions"


@dataclass
class State:
    """What a strategy works with.

    Attributes:
        out: The search's folder.
        data: The images.
        data_digest: Of their content, see `Prepared.data_digest`.
        network: What is cut; the cut is each trial's own.
        protocol: How trials are trained.
        options: What was asked.
        allowed: Candidates within the budget, bottom first.
        engine: Runs the trials.
        reporter: Told of every trial.
        reuse: Folders of other searches whose finished trials may stand for equal ones here.
        scores: The newest score of every candidate that was tried, by cut.
        records: Every trial of a candidate, by cut.
        finals: Records of the trials that were trained to the end, by cut.
        seconds: Time of every step, by name.
        notes: What decided, in words, in order.
        prepared: The images in their first division.
        undecided: Cuts that the evidence along the way does not tell from its best, trained to the end or not.
        afford: Whether the strategy may spend one more full training of each of some candidates, which is then spent.
        cpu_seconds: Processor time of every step, by name, where it is known.
        work: Multiply-adds of every step, likewise.
        log: Loggers that are told of every trial.
    """

    out: Path
    data: Data
    data_digest: str
    network: Network
    protocol: Protocol
    options: SearchOptions
    allowed: list[Candidate]
    engine: TrialEngine
    reporter: Reporter
    prepared: Prepared
    reuse: Sequence[Path] = ()
    scores: dict[str, Score] = field(default_factory=dict)
    records: dict[str, list[TrialRecord]] = field(default_factory=dict)
    finals: dict[str, list[TrialRecord]] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    undecided: list[str] = field(default_factory=list)
    afford: Callable[[Sequence[Candidate]], bool] = lambda _chosen: True
    cpu_seconds: dict[str, float] = field(default_factory=dict)
    work: dict[str, float] = field(default_factory=dict)
    log: tuple[str, ...] = ()
    _charged: dict[str, int] = field(default_factory=dict)

    @property
    def full(self) -> int | None:
        """Epochs of a whole training; None: until the rate is too small."""
        return self.protocol.epochs

    def note(self, sentence: str) -> None:
        """Keeps and tells what decided."""
        self.notes.append(sentence)
        self.reporter.info(sentence)

    def evaluate(
        self,
        chosen: Sequence[Candidate],
        epochs: int | None,
        *,
        early_stop: bool = False,
        weights: str | None = None,
        variant: str = "",
    ) -> dict[str, Score]:
        """Trains candidates up to an epoch and scores them.

        Args:
            chosen: Which; with `early_stop` one after another in waves, 1, 1, 2, 4 …, each against those before, the
                same on one machine and on many.
            epochs: How long; what is trained already is not trained again. At `full` the runs are finished.
            early_stop: End those whose learning curve cannot reach the best so far; the options may say otherwise.
            weights: Other starting weights than the network's.
            variant: Part of the trials' names that tells them from those with the network's weights.

        Returns:
            The scores by cut.
        """
        stop = early_stop if self.options.early_stop is None else self.options.early_stop
        scores: dict[str, Score] = {}
        groups = _waves(chosen) if stop and epochs == self.full else [chosen]
        for group in groups:
            trials = [
                self._trial(
                    candidate.spec, repeat, epochs, self._rival(scores, epochs) if stop else None, weights, variant
                )
                for candidate in group
                for repeat in range(self.options.repeats)
            ]
            records = self._run(trials)
            for place, candidate in enumerate(group):
                own = records[place * self.options.repeats : (place + 1) * self.options.repeats]
                scores[candidate.cut] = self._scored(candidate.cut, own)
        return scores

    def whole_network(self, epochs: int | None) -> TrialRecord:
        """Trains the whole network (FTL) up to an epoch; where it is a candidate, that is its row."""
        whole = next((candidate for candidate in self.allowed if candidate.cut == WHOLE), None)
        record = self._run([self._trial(whole.spec if whole else None, 0, epochs, None, None, "")])[0]
        if whole and self.options.repeats == 1:
            self._scored(WHOLE, [record])
        return record

    def divisions(self) -> list[Path]:
        """Further divisions of training and validation images, as many as the options ask for and patients allow."""
        return write_divisions(self.prepared, self.out / DIVISIONS, self.options.divisions - 1)

    def on_division(self, chosen: Sequence[Candidate], division: Path) -> dict[str, Score]:
        """Trains candidates to the end on another division and scores them on its validation side."""
        trials = [
            self._trial(candidate.spec, repeat, self.full, None, None, f"d{division.stem}", division)
            for candidate in chosen
            for repeat in range(self.options.repeats)
        ]
        records = self._run(trials)
        scores = {}
        for place, candidate in enumerate(chosen):
            own = records[place * self.options.repeats : (place + 1) * self.options.repeats]
            scores[candidate.cut] = _score(own)
            self.records[candidate.cut].extend(own)
        return scores

    def look(self, kind: str, cuts: Sequence[Candidate], run: TrialRecord) -> Evidence:
        """Probes or SVCCA at cuts of a trained whole network; see `evidence`."""
        inquiry = Inquiry(
            kind,
            Path(run.run),
            [candidate.cut for candidate in cuts],
            [candidate.block for candidate in cuts],
            self.options.metric,
            self.out / RECORDS / f"{kind}@{run.trained}.json",
            self.data.cache,
            self.options.cores,
        )
        with self._progress(kind, 1) as advance:
            evidence = self.engine.map(look, [inquiry], lambda _found: advance(1, ""))[0]
        self.seconds[f"{kind}@{run.trained}"] = evidence.seconds
        self.cpu_seconds[f"{kind}@{run.trained}"] = evidence.cpu_seconds
        self.work[f"{kind}@{run.trained}"] = evidence.work
        return evidence

    def choose(self, scores: dict[str, Score]) -> Candidate:
        """The winner among candidates that were trained to the end, by the tie rule."""
        by_cut = {candidate.cut: candidate for candidate in self.allowed}
        sizes = {cut: by_cut[cut].size for cut in scores}
        far = {cut: distance(by_cut[cut]) for cut in scores}
        return by_cut[choose(scores, sizes, self.options.prefer, far)]

    def leader(self, scores: dict[str, Score]) -> Candidate:
        """Who leads on preliminary evidence: of those within one paired standard error of the best the preferred one.

        The error of a difference is smaller than that of a value, so that ties along the way do not add up to more
        than the tie rule's one standard error. With `prefer` accuracy: the best.
        """
        tried = [candidate for candidate in self.allowed if candidate.cut in scores]
        best = max(tried, key=lambda c: (scores[c.cut].value, [-size for size in c.size]))
        if self.options.prefer == "accuracy":
            return best
        near = [c for c in tried if not refuted(scores[c.cut], scores[best.cut], 1.0)]
        return usual(near) if self.options.prefer == "block" else min(near, key=lambda c: c.size)

    @property
    def share(self) -> float | None:
        """The work done, over that of training every candidate once to the end; None where that has no number."""
        if self.full is None:
            return None
        train, val = (len(self.prepared.indices(side)) for side in ("train", "val"))
        epochs, views = range(1, self.full + 1), self.protocol.cache_features
        once = sum(training_work(c.spec, train, val, epochs, views if c.spec.cut else 0) for c in self.allowed)
        return sum(self.work.values()) / (once * self.options.repeats)

    def trained(self, cut: str) -> int | None:
        """Most epochs that a trial of a candidate was trained for."""
        return max((record.trained for record in self.records.get(cut, ())), default=None)

    def seconds_of(self, cut: str) -> float:
        """Time of all trials of a candidate."""
        return sum(record.seconds for record in self.records.get(cut, ()))

    def _trial(
        self,
        spec: ModelSpec | None,
        repeat: int,
        epochs: int | None,
        rival: Rival | None,
        weights: str | None,
        variant: str,
        division: Path | None = None,
    ) -> Trial:
        """Of a candidate's spec; None: of the whole network where it is none, which is evidence and is not tested."""
        method, cut, layers = (spec.method, spec.cut, spec.layers) if spec else ("ftl", None, None)
        changed: dict[str, Any] = {"seed": self.protocol.seed + repeat, "epochs": epochs}
        if method != "lwft" or cut is None:
            changed["cache_features"] = 0
        protocol = self.protocol.model_copy(update=changed)
        own: dict[str, Any] = {
            "method": method,
            "weights": weights or self.network.weights,
            "cut": cut,
            "layers": layers,
        }
        if "slim" not in METHOD_OPTIONS.of(method).model_fields:
            own["slim"] = Network().slim
        if method != self.network.method:
            own["method_options"] = {}
        model = Model(**{**dict(self.network), **own})
        called = cut or (WHOLE if method == "ftl" else ALL)
        name = "-".join(part for part in (called, variant, f"r{repeat}" if repeat else "") if part)
        # Another division is evidence only: its model is not the winner's, and has no business with the test side.
        finish = epochs == self.full and spec is not None and division is None
        step = f"{name}@{epochs or 'end'}"
        facts = {
            "data": self.data_digest,
            "model": model.model_dump(mode="json"),
            "protocol": protocol.model_dump(mode="json"),
            "split": self.data.division.model_dump(mode="json"),
            "metric": self.options.metric,
            "threads": self.options.cores,
            "rival": rival.__dict__ if rival else None,
            "finish": finish,
            **({"division": files.sha256(division)} if division else {}),
        }
        return Trial(
            name=name,
            folder=self.out / TRIALS / name,
            record=self.out / RECORDS / f"{step}.json",
            data=self.data,
            model=model,
            protocol=protocol,
            since=self._charged.get(name, 0),
            finish=finish,
            metric=self.options.metric,
            threads=self.options.cores,
            rival=rival,
            key=_digest(facts),
            plain_key=_digest({**facts, "rival": None}),
            division=division,
            log=self.log,
        )

    def _rival(self, scores: dict[str, Score], epochs: int | None) -> Rival | None:
        if not scores or epochs is None:
            return None
        best = max(scores.values(), key=lambda score: score.value)
        return Rival(best.value - best.error, self.options.metric, epochs)

    def _run(self, trials: Sequence[Trial]) -> list[TrialRecord]:
        for trial in trials:
            self._adopt(trial)
        with self._progress("trials", len(trials)) as advance:

            def done(ended: Ended) -> None:
                advance(1, ended.record.name)
                self.reporter.info(self._row(ended.record))
                for sentence in ended.unlogged:
                    self.reporter.warn(f"{ended.record.name}: {sentence}")

            records = [ended.record for ended in self.engine.map(run_trial, trials, done)]
        for record in records:
            step = f"{record.name}@{record.epochs or 'end'}"
            self._charged[record.name] = record.trained
            self.seconds[step] = record.seconds
            self.cpu_seconds[step] = record.cpu_seconds or 0.0
            self.work[step] = record.work or 0.0
        return records

    def _adopt(self, trial: Trial) -> None:
        """Takes a trial of another search that comes out the same, with the time that it took there.

        A record of a step is enough where nothing is trained on from it; the run comes with a trial that is finished.
        """
        trained_on = trial.model.method == "ftl" or trial.model.weights != self.network.weights
        if read_trial(trial.record, trial.key) is not None or (trained_on and not trial.finish):
            return
        for other in self.reuse:
            found = equal_trial(other / RECORDS / trial.record.name, trial)
            if found is None:
                continue
            if found.finished and not trial.folder.exists():
                trial.folder.parent.mkdir(parents=True, exist_ok=True)
                with files.atomic_folder(trial.folder) as folder:
                    shutil.copytree(found.run, folder, dirs_exist_ok=True, copy_function=_linked)
                found = found.model_copy(update={"run": str(trial.folder)})
            files.write_json(trial.record, {**found.model_dump(mode="json"), "key": trial.key})
            return

    def _scored(self, cut: str, records: Sequence[TrialRecord]) -> Score:
        score = _score(records)
        self.scores[cut] = score
        known = self.records.setdefault(cut, [])
        known.extend(record for record in records if record not in known)
        if all(record.finished for record in records):
            self.finals[cut] = list(records)
        return score

    def _row(self, record: TrialRecord) -> str:
        limit = f"/{self.full}" if self.full else ""
        ended = f" ({record.stopped})" if record.stopped and "curve" in record.stopped else ""
        return (
            f"  {record.name:<18} {record.trained:>3}{limit} epochs   validation {self.options.metric.upper()} "
            f"{record.value:.4f}   {record.seconds:7.1f} s{ended}"
        )

    @contextmanager
    def _progress(self, what: str, total: int) -> Iterator[Advance]:
        with self.reporter.task(what, total) as advance:
            yield advance


def _score(records: Sequence[TrialRecord]) -> Score:
    return combine([r.value for r in records], [r.resamples for r in records], records[0].floor or 0.0)


def _digest(facts: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(facts, sort_keys=True, default=str).encode()).hexdigest()


def _waves(chosen: Sequence[Candidate]) -> list[Sequence[Candidate]]:
    """As many in a wave as in all before it, the first alone."""
    bounds = [0, *(2**power for power in range(len(chosen).bit_length() + 1))]
    return [chosen[low:high] for low, high in itertools.pairwise(bounds) if low < len(chosen)]


def _linked(source: str, target: str) -> Any:
    """A hard link where the file system has them: a finished run's files are never written to again."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)
    return target
