"""Which candidates are trained, and how long: from every one to the end, to the few that cheaper evidence points at.

A strategy trains through `State.evaluate` and returns the scores from which the winner is chosen.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path

from ttl_deploy.analysis.reuse import ROWS_PER_COMPONENT, Reuse, detect_cut
from ttl_deploy.cut_search.candidates import Candidate, around, block_ends, usual, whole_macs
from ttl_deploy.cut_search.evidence import Evidence
from ttl_deploy.cut_search.score import Score, combine, refuted, tied
from ttl_deploy.cut_search.state import State
from ttl_deploy.cut_search.warm import continued_weights
from ttl_deploy.errors import BadInputError
from ttl_deploy.spec.options import OptionedRegistry
from ttl_deploy.spec.strategies import (
    STRATEGY_GROUP,
    STRATEGY_OPTIONS,
    HalvingOptions,
    HierarchicalOptions,
    SvccaOptions,
)
from ttl_deploy.training.run import open_run

Strategy = Callable[[State], dict[str, Score]]
"""Reads what its own record of options asks for from `State.options.strategy_options`."""

STRATEGIES: OptionedRegistry[Strategy] = OptionedRegistry(STRATEGY_OPTIONS, "ttl_deploy.cut_search", STRATEGY_GROUP)

SHORT = 4
"""One in so many epochs is enough to rank: the length of `auto`'s short trainings, and of `warm`'s later ones."""

_FEW = 3
"""So few candidates are all trained to the end by `auto`."""

EFFORT = 0.25
"""Share of what `exhaustive` would cost that `auto` spends before it settles for what it has found."""

_OVERHEAD = 0.25
"""What an epoch costs beside a candidate's multiply-adds, as a share of the whole network's: images are read, augmented
and evaluated for every candidate alike. Read off the times of ResNet-18's nine cuts at 112 pixels."""


@STRATEGIES.add("exhaustive")
def exhaustive(state: State) -> dict[str, Score]:
    """Every candidate to the end."""
    return state.evaluate(state.allowed, state.full)


@STRATEGIES.add("hierarchical", HierarchicalOptions)
def hierarchical(state: State) -> dict[str, Score]:
    """The block cutoffs, then the layers around the best of them (paper, section 3.2).

    Stage 1 goes by value alone, as "the best-performing one" does in the paper: where to look closer is no place for
    the tie rule, which decides once, between all that were trained.
    """
    blocks = block_ends(state.allowed) or state.allowed
    scores = state.evaluate(blocks, state.full)
    winner = _best(state, scores, 1)[0]
    state.note(f"stage 1: {winner.cut} is the best of {len(blocks)} block cutoffs")
    near = around(state.allowed, winner, state.options.neighbours)
    return scores | (state.evaluate(near, state.full) if near else {})


@STRATEGIES.add("halving", HalvingOptions)
def halving(state: State) -> dict[str, Score]:
    """Successive halving on epochs (Jamieson 2016): all for a few, the better ones for longer, two to the end.

    Survivors go on where they stopped: the learning rate depends on what was seen, not on how long training will
    last, so a survivor's run is the run that an undivided training gives. The last two are compared by the tie rule.
    """
    return _halve(state, state.allowed, _epochs(state), finalists=2)


@STRATEGIES.add("svcca", SvccaOptions)
def svcca(state: State) -> dict[str, Score]:
    """The whole network once, SVCCA before and after at every cut, and one training there (appendix C.1)."""
    run = state.whole_network(state.full)
    evidence = state.look("reuses", _cuts(state), run)
    reuses = [record.as_reuse() for record in evidence.reuses]
    for reuse in reuses:
        state.reporter.info(
            f"  {reuse.cut:<18} SVCCA mean {reuse.mean:.3f}, two random networks {reuse.unrelated_mean:.3f} (overlap "
            f"{reuse.overlap:.3f}), Gaussian {reuse.gaussian_mean:.3f}; {reuse.components} components of {reuse.rows} "
            f"images{'' if reuse.tells else ': too few'}"
        )
    chosen = _detected(state, reuses)
    return state.evaluate([chosen], state.full)


def _detected(state: State, reuses: Sequence[Reuse]) -> Candidate:
    """The cut where reuse ends, or the usual one where too few images leave that open."""
    cut = detect_cut(reuses, state.options.threshold)
    if cut is not None:
        state.note(f"feature reuse ends after {cut} (overlap below {state.options.threshold:g} up to there)")
        return next(c for c in state.allowed if c.cut == cut)
    first = next(reuse for reuse in reuses if not reuse.tells)
    chosen = usual(_cuts(state))
    state.note(
        f"too few images to tell where feature reuse ends: {first.rows}, and {first.cut} with {first.components} "
        f"components needs {ROWS_PER_COMPONENT * first.components}; {chosen.cut} is taken, nearest to the paper's cut"
    )
    return chosen


@STRATEGIES.add("warm")
def warm(state: State) -> dict[str, Score]:
    """Bottom up, each candidate from the layers that the one below it learned, for a fraction of the epochs.

    The first is trained in full. The winner of this ranking is then trained in full from the original weights, as
    the paper does for every candidate (its footnote 1).
    """
    full = _epochs(state)
    ranking = state.evaluate(state.allowed[:1], full)
    below = state.finals[state.allowed[0].cut][0].run
    for candidate in state.allowed[1:]:
        path = state.out / "warm" / f"{candidate.cut}.safetensors"
        if not path.exists():
            continued_weights(open_run(Path(below)), state.network.weights, path)
        ranking |= state.evaluate([candidate], _share(full, SHORT), weights=str(path), variant="warm")
        below = str(state.out / "trials" / f"{candidate.cut}-warm")
    winner = state.choose(ranking)
    state.undecided = tied(ranking)
    state.note(f"warm-started ranking: {winner.cut}")
    return state.evaluate([winner], full)


@STRATEGIES.add("auto")
def auto(state: State) -> dict[str, Score]:
    """Cheap evidence first, short trainings of the few it points at, and full ones of those that lead.

    For TTL: the whole network for an eighth of the epochs and a linear probe on its features at every cut; then, for a
    quarter of the epochs, the candidates that the probes point at and from there the neighbours of the leader, until
    it has none that could lead. For TF and LWFT, whose upper layers make up for what a probe does not see: the
    block cutoffs, then the layers around the best, all for a quarter. The leader goes on to the end; then, while
    `EFFORT` lasts, the runners-up and smaller neighbours that are not ruled out, and the tie rule decides.
    """
    full = _epochs(state)
    if len(state.allowed) <= _FEW:
        return exhaustive(state)
    short, purse = _share(full, SHORT), _Purse(state, full)
    state.afford = lambda chosen: purse.afford(sum(purse.work(candidate, full) for candidate in chosen))
    if state.network.method == "ttl":
        whole = state.whole_network(_share(full, 2 * SHORT))
        evidence = state.look("probes", _cuts(state), whole)
        # Probing is one more pass over the images, forward only: a third of an epoch.
        purse.pay(purse.whole(_share(full, 2 * SHORT)), purse.whole(1) / 3)
        listed = _pointed(state, evidence, whole.floor or 0.0)
        purse.pay(*(purse.work(c, short) for c in listed))
        scores = _walk(state, state.evaluate(listed, short), short, purse)
    else:
        blocks = block_ends(_cuts(state)) or _cuts(state)
        scores = state.evaluate(blocks, short)
        near = around(state.allowed, state.leader(scores))
        scores |= state.evaluate(near, short) if near else {}
        purse.pay(*(purse.work(c, short) for c in (*blocks, *near)))
    # One that was trained briefly and alone was compared with nothing.
    state.undecided = _unrefuted(scores) if len(scores) > 1 else []
    checks = max(1, len(state.allowed) // 8)
    leader, *others = _leading(state, scores, checks)
    purse.pay(purse.work(leader, full - short))
    finalists = [leader, *(c for c in others if purse.afford(purse.work(c, full - short)))]
    state.note(f"after {short} epochs: {', '.join(c.cut for c in finalists)} of {len(scores)}")
    return _descend(state, scores, state.evaluate(finalists, full, early_stop=True), checks, purse)


class _Purse:
    """What `auto` may still spend, in multiply-adds and not in seconds, so that all machines decide alike.

    `EFFORT` of exhaustive's work; where candidates are few, and the whole network alone would eat that up, the work of
    `_FEW` of their trainings.

    Args:
        state: The search.
        full: Epochs of a whole training.
    """

    def __init__(self, state: State, full: int) -> None:
        self._whole = whole_macs(state.allowed[0].spec)
        few = len(state.allowed) < 2 * SHORT
        share = _FEW / len(state.allowed) if few else EFFORT
        self.left = share * sum(self.work(candidate, full) for candidate in state.allowed)

    def work(self, candidate: Candidate, epochs: int) -> float:
        """Work of so many epochs of a candidate, per image and seed."""
        return epochs * (candidate.cost.macs + _OVERHEAD * self._whole)

    def whole(self, epochs: int) -> float:
        """Work of so many epochs of the whole network."""
        return epochs * (1 + _OVERHEAD) * self._whole

    def pay(self, *works: float) -> None:
        """Spends, even what is not there."""
        self.left -= sum(works)

    def afford(self, work: float, reserve: float = 0.0) -> bool:
        """Spends on something if as much and a reserve are left; whether they were."""
        if work + reserve > self.left:
            return False
        self.left -= work
        return True


def _descend(
    state: State, short: dict[str, Score], finals: dict[str, Score], checks: int, purse: _Purse
) -> dict[str, Score]:
    """Gives the next smaller candidate a full training, as few epochs are the harder on the smaller ones.

    Goes on while it wins and can be afforded, `checks` times at most, and not where the short trainings told it from
    the best by more than two standard errors of the difference.
    """
    best = max(short.values(), key=lambda score: score.value)
    for _ in range(checks if state.options.prefer == "smaller" else 0):
        by_size = sorted(state.allowed, key=lambda c: c.size)
        below = _at(by_size, by_size.index(state.choose(finals)) - 1)
        if below is None or below.cut in finals or (below.cut in short and refuted(short[below.cut], best, 2.0)):
            break
        done = _share(_epochs(state), SHORT) if below.cut in short else 0
        if not purse.afford(purse.work(below, _epochs(state) - done)):
            state.note(f"{below.cut} is smaller and not ruled out, but the work that auto may spend is spent")
            break
        state.note(f"{below.cut} is smaller and not ruled out: trained to the end too")
        finals = finals | state.evaluate([below], state.full)
    return finals


def _halve(state: State, pool: Sequence[Candidate], full: int, finalists: int) -> dict[str, Score]:
    eta = state.options.eta
    rounds = math.ceil(math.log(len(pool) / finalists, eta)) if len(pool) > finalists else 0
    # With few epochs several rounds may ask for the same number, and are one.
    lengths = sorted({_share(full, eta**remaining) for remaining in range(rounds, 0, -1)} - {full})
    for epochs in lengths:
        scores = state.evaluate(pool, epochs)
        keep = finalists if epochs == lengths[-1] else max(finalists, math.ceil(len(pool) / eta))
        pool = _best(state, scores, keep)
        state.note(f"after {epochs} epochs: {', '.join(c.cut for c in pool)} go on")
    return state.evaluate(pool, full, early_stop=True)


def _leading(state: State, scores: dict[str, Score], count: int) -> list[Candidate]:
    """The leader, then the best others."""
    winner = state.leader(scores)
    others = {cut: score for cut, score in scores.items() if cut != winner.cut}
    return [winner, *_best(state, others, count - 1)]


def _best(state: State, scores: dict[str, Score], count: int) -> list[Candidate]:
    """Those with the highest values, highest first; of equal ones the smaller."""
    tried = [candidate for candidate in state.allowed if candidate.cut in scores]
    return sorted(tried, key=lambda c: (-scores[c.cut].value, c.size))[:count]


def _pointed(state: State, evidence: Evidence, floor: float) -> list[Candidate]:
    """What the probes point at: their choice, the candidate below it or the paper's block cutoff, and the best probe's.

    A probe sees what the whole network happened to learn in its lower layers; a truncated network learns there what
    it needs, so lower cuts are better than their probes and not the other way round.
    """
    scores = {p.cut: combine([p.value], [p.resamples], floor) for p in evidence.probes}
    for cut, score in scores.items():
        state.reporter.info(f"  {cut:<18} linear probe {score.value:.4f} ± {score.error:.4f}")
    choice = state.leader(scores)
    place = state.allowed.index(choice)
    second = usual(_cuts(state)) if state.options.prefer == "block" else _at(state.allowed, place - 1)
    listed = list(dict.fromkeys(c for c in (choice, second, _best(state, scores, 1)[0]) if c is not None))
    state.note(f"linear probes point at {choice.cut}; trained first: {', '.join(c.cut for c in listed)}")
    return listed


def _unrefuted(scores: dict[str, Score]) -> list[str]:
    """Cuts that are not told from the best by more than one standard error of the difference."""
    best = max(scores.values(), key=lambda score: score.value)
    return [cut for cut, score in scores.items() if not refuted(score, best, 1.0)]


def _walk(state: State, scores: dict[str, Score], epochs: int, purse: _Purse) -> dict[str, Score]:
    """Trains the neighbours of the winner, the smaller one first, until it wins between two trained ones.

    At most half of all candidates are trained, and so many that the winner's whole training can still be afforded.
    """
    while len(scores) < len(state.allowed) // 2:
        leader = state.leader(scores)
        place = state.allowed.index(leader)
        sides = [_at(state.allowed, place + step) for step in (-1, 1)]
        missing = [candidate for candidate in sides if candidate is not None and candidate.cut not in scores]
        rest = purse.work(leader, _epochs(state) - epochs)
        if not missing or not purse.afford(purse.work(missing[0], epochs), rest):
            break
        scores = scores | state.evaluate(missing[:1], epochs)
    return scores


def _cuts(state: State) -> list[Candidate]:
    """The candidates that are cut somewhere."""
    return [candidate for candidate in state.allowed if candidate.spec.cut is not None]


def _at(pool: Sequence[Candidate], place: int) -> Candidate | None:
    return pool[place] if 0 <= place < len(pool) else None


def _share(epochs: int, parts: int) -> int:
    """A part of the epochs; two at least, as the first says little."""
    return min(epochs, max(2, math.ceil(epochs / parts)))


def _epochs(state: State) -> int:
    if state.full is None:
        raise BadInputError(
            f"strategy {state.options.strategy} divides the epochs and needs their number",
            fix="pass --epochs, or --strategy hierarchical",
        )
    return state.full
