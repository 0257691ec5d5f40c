"""The last decision of a search: whether the data tell its candidates apart, and which wins where they do not.

One validation side of few patients often cannot. Then those that it leaves open are trained on further divisions of the
training and validation images too, and what all sides say together decides; where they still cannot be told apart, that
is said, and `prefer` decides.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ttl_deploy.cut_search.candidates import Candidate, usual
from ttl_deploy.cut_search.score import Score, pooled, tied
from ttl_deploy.cut_search.state import State

_CONTENDERS = 4
"""So many are trained on further divisions: the best, the paper's block cutoff, the smallest, and the next best."""

_WAYS = {
    "block": "the nearest to the paper's block cutoff",
    "smaller": "the smallest of them",
    "accuracy": "the best value",
}


@dataclass(frozen=True)
class Settlement:
    """What a search ends with.

    Attributes:
        chosen: The winner.
        open: Cuts, the winner's included, that the data do not tell from the best; also those that were left open by
            the first division and not trained on others, or by shorter trainings and not trained to the end.
        divisions: How many divisions speak.
        scores: What they say together of the contenders, by cut.
        compared: Whether the winner was compared with any other cut.
    """

    chosen: Candidate
    open: tuple[str, ...]
    divisions: int
    scores: dict[str, Score]
    compared: bool

    @property
    def told_apart(self) -> bool:
        """Whether the data tell the winner from every other cut that it was compared with, of which there are some."""
        return self.compared and len(self.open) == 1


def settle(state: State, scores: dict[str, Score]) -> Settlement:
    """Decides between candidates that were trained to the end; see the module's text."""
    finals, count = scores, 1
    first = still = _within(state, scores)
    if len(still) > 1:
        still, scores, count = _on_more_divisions(state, still, scores)
    chosen = state.choose(scores)
    # The more evidence has the last word on those that it has seen, and none on the others.
    unseen = {c.cut for c in first if c.cut not in scores} | {cut for cut in state.undecided if cut not in finals}
    left = tuple(c.cut for c in state.allowed if c in still or c.cut in unseen)
    compared = len(finals) > 1 or len(state.undecided) > 0
    _say(state, chosen, left, len(finals), count, compared)
    return Settlement(chosen, left, count, scores, compared)


def _within(state: State, scores: dict[str, Score]) -> list[Candidate]:
    near = set(tied(scores))
    return [candidate for candidate in state.allowed if candidate.cut in near]


def _on_more_divisions(
    state: State, still: Sequence[Candidate], scores: dict[str, Score]
) -> tuple[list[Candidate], dict[str, Score], int]:
    """Trains the contenders on further divisions while that can be afforded; who is open, the scores, the divisions."""
    contenders = _contenders(state, still, scores)
    sides = [{candidate.cut: scores[candidate.cut] for candidate in contenders}]
    for division in state.divisions():
        if not state.afford(contenders):
            state.note("further divisions are more work than the strategy may spend")
            break
        sides.append(state.on_division(contenders, division))
    if len(sides) == 1:
        return list(still), scores, 1
    together = {cut: pooled([side[cut] for side in sides]) for cut in sides[0]}
    said = ", ".join(f"{cut} {score.value:.3f} ± {score.error:.3f}" for cut, score in together.items())
    state.note(f"{len(sides)} divisions together, no patient twice: {said}")
    return _within(state, together), together, len(sides)


def _contenders(state: State, still: Sequence[Candidate], scores: dict[str, Score]) -> list[Candidate]:
    """Those who may win: the best, the one nearest to the block cutoff, the smallest, and the next best."""
    by_value = sorted(still, key=lambda c: (-scores[c.cut].value, c.size))
    listed = [by_value[0], usual(still), min(still, key=lambda c: c.size), *by_value[1:]]
    return list(dict.fromkeys(listed))[:_CONTENDERS]


def _say(state: State, chosen: Candidate, left: Sequence[str], trained: int, divisions: int, compared: bool) -> None:
    sides = "one validation side" if divisions == 1 else f"{divisions} validation sides together"
    if len(left) > 1:
        state.note(
            f"{sides} cannot tell {', '.join(left)} apart (within one standard error of the best); {chosen.cut} is "
            f"taken: {_WAYS[state.options.prefer] if trained > 1 else 'the only one trained to the end'}"
        )
    elif compared:
        state.note(f"{chosen.cut} is told from the others by more than one standard error, by {sides}")
    else:
        state.note(f"{chosen.cut} alone was trained, so it was compared with no other cut")
