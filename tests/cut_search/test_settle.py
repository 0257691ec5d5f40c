"""What a search may be sure of: errors of perfect scores, evidence of several divisions, and what is said of ties."""

import functools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats
from small import NETWORK, TRIALS, but

from ttl_deploy.cut_search.candidates import Candidate, candidates, usual
from ttl_deploy.cut_search.divisions import write_divisions
from ttl_deploy.cut_search.score import Score, choose, combine, metric_of, pooled, refuted, tied
from ttl_deploy.cut_search.search import search
from ttl_deploy.cut_search.settle import settle
from ttl_deploy.data.manifest import read_dataset
from ttl_deploy.data.prepared import prepare, read_split
from ttl_deploy.spec import Data, InputSpec, ModelSpec, PreprocessSpec, SplitSpec
from ttl_deploy.spec.search import Budget, SearchOptions
from ttl_deploy.tasks import Multiclass
from ttl_deploy.training.metrics import least_error

AB, ABC = Multiclass(("a", "b")), Multiclass(("a", "b", "c"))

Opt = Callable[..., SearchOptions]


def test_a_perfect_score_has_the_error_that_its_positives_deserve() -> None:
    """The case of 15 positives, AUPRC 1.000: the bootstrap says 0, Jeffreys' posterior of 15 in 15 says 0.042."""
    labels = np.repeat([0, 1], [62, 15])
    groups = [str(i) for i in range(77)]
    perfect = np.stack([1.0 - labels, labels], axis=1).astype(float)
    value, resamples = metric_of(labels, perfect, groups, AB, "auprc")
    assert (value, np.std(resamples)) == (1.0, 0.0)
    floor = least_error(labels, groups, AB)
    assert floor == pytest.approx(stats.beta(15.5, 0.5).std())
    best = combine([value], [resamples], floor)
    assert best.error == floor == pytest.approx(0.042, abs=0.001)
    seen = {
        "layer2.1": best,
        "layer4.1": Score(0.995, 0.004),
        "layer4.0": Score(0.991, 0.006),
        "stem": Score(0.9, 0.03),
    }
    assert tied(seen) == ["layer2.1", "layer4.1", "layer4.0"]
    assert not refuted(Score(0.995, 0.0, resamples), best, 1.0)
    assert refuted(Score(0.9, 0.0, resamples), best, 2.0)


def test_the_floor_counts_patients_on_the_rarer_side_of_every_class() -> None:
    one = least_error(np.array([0, 0, 0, 1, 1, 1]), ["a", "b", "c", "d", "d", "d"], AB)
    assert one == pytest.approx(stats.beta(1.5, 0.5).std())
    few_negatives = least_error(np.array([0, 0, 1, 1, 1, 1]), list("abcdef"), AB)
    assert few_negatives == pytest.approx(stats.beta(2.5, 0.5).std())
    three = least_error(np.repeat([0, 1, 2], 4), [str(i) for i in range(12)], ABC)
    assert three == pytest.approx(stats.beta(4.5, 0.5).std() / np.sqrt(3))


def test_repeats_on_the_same_patients_do_not_lower_the_floor() -> None:
    assert combine([1.0, 1.0, 1.0], [[1.0] * 5] * 3, 0.042).error == 0.042
    assert combine([0.8], [[0.7, 0.8, 0.9]], 0.042).error == pytest.approx(0.1)


def test_divisions_without_a_patient_in_common_count_as_independent() -> None:
    scores = [Score(0.9, 0.03, (0.8, 1.0), 0.01), Score(0.9, 0.04, (1.0, 0.8), 0.01)]
    both = pooled(scores)
    assert both.value == pytest.approx(0.9)
    assert both.error == pytest.approx(0.05 / 2)
    assert both.resamples == pytest.approx((0.9, 0.9))
    assert both.floor == pytest.approx(0.01 / np.sqrt(2))
    # What the divisions scatter among themselves counts where it is more.
    assert pooled([Score(0.8, 0.01), Score(1.0, 0.01)]).error == pytest.approx(0.1)


def test_of_those_that_are_not_told_apart_the_preferred_one_is_taken() -> None:
    scores = {"a": Score(0.90, 0.0), "b": Score(0.98, 0.0), "c": Score(0.97, 0.0), "d": Score(1.0, 0.05)}
    sizes = {name: (number,) for number, name in enumerate("abcd")}
    far = {"a": 0, "b": 2, "c": 1, "d": 3}
    assert choose(scores, sizes, "block", far) == "c"
    assert choose(scores, sizes, "smaller", far) == "b"
    assert choose(scores, sizes, "accuracy", far) == "d"


@pytest.mark.usefixtures("uncounted")
@pytest.mark.parametrize(
    ("backbone", "cut"),
    [
        ("resnet50", "layer3.5"),
        ("resnet18", "layer3.1"),
        ("densenet121", "transition2"),
        ("efficientnet_b0", "blocks.4.2"),
        ("tf_efficientnet_lite0", "blocks.4.2"),
    ],
)
def test_the_usual_cut_is_the_block_cutoff_of_the_papers_tables(backbone: str, cut: str) -> None:
    """Table 1 (TTL-1) and Table 3; the rows are in `benchmarks/paper`."""
    found = candidates(ModelSpec(backbone=backbone, method="ttl", classes=("a", "b"), image_size=64))
    assert usual(found).cut == cut


@functools.cache
def nine() -> list[Candidate]:
    return candidates(ModelSpec(backbone="resnet18", method="ttl", classes=("a", "b"), image_size=32))


class Told:
    """A search whose trainings are given: scores on the first division and, by division, on others."""

    def __init__(self, further: Sequence[dict[str, Score]], affordable: bool = True, **options: Any) -> None:
        self.allowed = nine()
        self.further, self.affordable, self.options = further, affordable, SearchOptions(**options)
        self.asked: list[list[str]] = []
        self.notes: list[str] = []
        self.undecided: list[str] = []

    def afford(self, _chosen: Sequence[Candidate]) -> bool:
        return self.affordable

    def divisions(self) -> list[Path]:
        return [Path(f"{number}.csv") for number in range(len(self.further))]

    def on_division(self, chosen: Sequence[Candidate], division: Path) -> dict[str, Score]:
        self.asked.append([candidate.cut for candidate in chosen])
        return {candidate.cut: self.further[int(division.stem)][candidate.cut] for candidate in chosen}

    def choose(self, scores: dict[str, Score]) -> Candidate:
        from ttl_deploy.cut_search.state import State

        return State.choose(self, scores)  # type: ignore[arg-type]

    def note(self, sentence: str) -> None:
        self.notes.append(sentence)


FIRST = {
    "layer1.0": Score(0.97, 0.02),
    "layer2.1": Score(1.0, 0.042),
    "layer3.1": Score(0.98, 0.02),
    "layer4.0": Score(0.991, 0.006),
    "layer4.1": Score(0.995, 0.004),
}


def test_a_lucky_validation_side_is_corrected_by_further_divisions() -> None:
    """The best of the first side by luck, and the smallest, are refuted by two others."""
    other = {"layer1.0": 0.80, "layer2.1": 0.82, "layer3.1": 0.97, "layer4.1": 0.96}
    state = Told([{cut: Score(value, 0.03) for cut, value in other.items()}] * 2, prefer="smaller")
    verdict = settle(state, FIRST)  # type: ignore[arg-type]
    assert state.asked == [["layer2.1", "layer3.1", "layer1.0", "layer4.1"]] * 2
    assert verdict.chosen.cut == "layer3.1"
    # Layer4.0 was a fifth that the first side left open, and no other has spoken of it.
    assert verdict.open == ("layer3.1", "layer4.0", "layer4.1")
    assert verdict.divisions == 3
    assert verdict.scores["layer2.1"].value == pytest.approx((1.0 + 2 * 0.82) / 3)


@pytest.mark.parametrize(("prefer", "cut"), [("block", "layer3.1"), ("smaller", "layer1.0"), ("accuracy", "layer2.1")])
def test_where_the_data_cannot_tell_that_is_said_and_the_option_decides(prefer: str, cut: str) -> None:
    state = Told([], prefer=prefer)
    verdict = settle(state, FIRST)  # type: ignore[arg-type]
    assert verdict.chosen.cut == cut
    assert verdict.open == tuple(FIRST)
    assert "cannot tell layer1.0, layer2.1, layer3.1, layer4.0, layer4.1 apart" in state.notes[-1]
    assert f"{cut} is taken" in state.notes[-1]


def test_what_one_side_tells_needs_no_further_training() -> None:
    state = Told([{}])
    verdict = settle(state, {"stem": Score(0.7, 0.02), "layer4.1": Score(0.9, 0.02)})  # type: ignore[arg-type]
    assert (verdict.chosen.cut, verdict.open, state.asked) == ("layer4.1", ("layer4.1",), [])
    assert verdict.told_apart
    assert state.notes == ["layer4.1 is told from the others by more than one standard error, by one validation side"]


def test_a_cut_that_was_compared_with_none_or_only_briefly_is_not_told_from_the_others() -> None:
    alone = Told([])
    assert not settle(alone, {"layer4.1": Score(0.9, 0.02)}).told_apart  # type: ignore[arg-type]
    assert "compared with no other cut" in alone.notes[0]
    briefly = Told([])
    briefly.undecided = ["layer3.0", "layer3.1"]
    verdict = settle(briefly, {"layer3.1": Score(0.9, 0.02)})  # type: ignore[arg-type]
    assert (verdict.open, verdict.told_apart) == (("layer3.0", "layer3.1"), False)
    assert briefly.notes[0].endswith("layer3.1 is taken: the only one trained to the end")
    # Those that were trained to the end have had the last word.
    assert settle(briefly, {"layer3.0": Score(0.7, 0.02), "layer3.1": Score(0.9, 0.02)}).told_apart  # type: ignore[arg-type]


def test_divisions_that_a_strategy_cannot_afford_are_not_trained() -> None:
    state = Told([{}], affordable=False)
    verdict = settle(state, FIRST)  # type: ignore[arg-type]
    assert (verdict.divisions, state.asked) == (1, [])
    assert state.notes[0] == "further divisions are more work than the strategy may spend"


def test_further_divisions_leave_the_test_side_and_the_patients_as_they_are(
    synthetic: Path, pixel_cache: Path, tmp_path: Path
) -> None:
    dataset = read_dataset(synthetic / "labels.csv")
    prepared = prepare(dataset, PreprocessSpec.of(InputSpec.image(32, 3)), SplitSpec(), cache_folder=pixel_cache)
    paths = write_divisions(prepared, tmp_path, 2)
    assert [path.name for path in paths] == ["1.csv", "2.csv"]
    sides = [{row.id: row.side for row in read_split(path)} for path in paths]
    first = dict(zip(prepared.ids, prepared.sides.tolist(), strict=True))
    patient = {row.id: row.patient or row.id for row in read_split(paths[0])}
    validated = [{patient[i] for i, side in each.items() if side == "val"} for each in (first, *sides)]
    assert all(validated)
    assert len(set.union(*validated)) == sum(map(len, validated))
    for each in sides:
        assert {i for i, side in each.items() if side == "test"} == {i for i, side in first.items() if side == "test"}
        trained = {patient[i] for i, side in each.items() if side == "train"}
        assert not trained & {patient[i] for i, side in each.items() if side != "train"}
    assert write_divisions(prepared, tmp_path, 2) == paths


def test_a_search_that_cannot_tell_says_so_and_tests_nothing_but_its_candidates(
    data: Data, options_of: Opt, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ttl_deploy.training.metrics.least_error", lambda *_arguments: 0.5)
    options = options_of(strategy="exhaustive", budget=Budget(parameters=100_000), prefer="smaller", divisions=3)
    outcome = search(data, NETWORK, but(TRIALS, epochs=1), tmp_path / "s", options=options)
    assert outcome.result["told_apart"] is False
    assert outcome.result["open"] == ["stem", "layer1.0"]
    assert outcome.result["divisions"] == 3
    assert outcome.result["cut"] == "stem"
    assert outcome.answer.endswith("; the data cannot tell it from layer1.0")
    trials = {path.name: path for path in (tmp_path / "s" / "trials").iterdir()}
    assert trials.keys() == {"stem", "layer1.0", *(f"{cut}-d{n}" for cut in ("stem", "layer1.0") for n in (1, 2))}
    assert not any((trials[name] / "predictions.csv").exists() for name in trials if "-d" in name)
    assert outcome.result["work"] > 0
    again = search(data, NETWORK, but(TRIALS, epochs=1), tmp_path / "s", options=options)
    assert again.result["together"] == outcome.result["together"]
