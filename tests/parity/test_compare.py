from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.metrics import average_precision_score, roc_auc_score

from ttl_deploy.artifact import Artifact, open_artifact, update_manifest
from ttl_deploy.errors import BadInputError
from ttl_deploy.parity import Bounds, Comparison, compare, logits_of, to_record, verdict
from ttl_deploy.runtime import load
from ttl_deploy.spec import OperatingPoint, ParityRecord, Placement, PreprocessSpec
from ttl_deploy.tasks import Multiclass, softmax

AB, ABC = Multiclass(("a", "b")), Multiclass(("a", "b", "c"))

FP32 = Bounds.for_precision("fp32")
INT8 = Bounds.for_precision("int8")
Floats = NDArray[np.float64]


def task(images: int = 300, classes: int = 3, seed: int = 0) -> tuple[NDArray[np.int64], Floats]:
    """Labels and logits of a good but imperfect model."""
    generator = np.random.default_rng(seed)
    labels = generator.integers(0, classes, images)
    return labels, generator.normal(size=(images, classes)) + 1.5 * np.eye(classes)[labels]


def judged(candidate: Callable[[Floats], Floats], bounds: Bounds = FP32, **shape: int) -> Any:
    labels, reference = task(**shape)
    names = [str(k) for k in range(reference.shape[1])]
    return verdict(compare(labels, reference, candidate(reference), Multiclass(tuple(names))), bounds)


def test_the_facts_are_right() -> None:
    labels, reference = task(120, 2)
    candidate = reference + np.random.default_rng(1).normal(size=reference.shape) * 0.3
    result = compare(labels, reference, candidate, AB)
    difference = np.abs(reference - candidate)
    assert result.max_difference == pytest.approx(difference.max())
    assert result.mean_difference == pytest.approx(difference.mean())
    assert result.p95_difference == pytest.approx(np.quantile(difference, 0.95))
    assert result.label_agreement == pytest.approx((reference.argmax(1) == candidate.argmax(1)).mean())
    assert result.disagreements == (reference.argmax(1) != candidate.argmax(1)).sum() > 0
    assert result.auroc == pytest.approx([roc_auc_score(labels, softmax(s)[:, 1]) for s in (reference, candidate)])
    assert result.auprc == pytest.approx(
        [average_precision_score(labels, softmax(s)[:, 1]) for s in (reference, candidate)]
    )
    assert result.worst == tuple(np.argsort(-difference.max(axis=1))[:10])
    assert result.spread == pytest.approx(reference.std(axis=0).max())
    assert Comparison.model_validate_json(result.model_dump_json()) == result


@pytest.mark.parametrize("bounds", [FP32, INT8])
def test_the_same_logits_pass(bounds: Bounds) -> None:
    result = judged(lambda logits: logits, bounds)
    assert result.result == "pass"
    assert "100.00%" in result.reason


def test_rounding_passes() -> None:
    assert judged(lambda logits: logits.astype(np.float32)).result == "pass"
    assert judged(lambda logits: logits * (1 + 1e-5)).result == "pass"


def test_the_bound_grows_with_the_spread_of_the_logits() -> None:
    labels, reference = task()
    for scale in (0.5, 20.0):
        near = compare(labels, scale * reference, scale * reference + scale * 1e-5, ABC)
        far = compare(labels, scale * reference, scale * reference + scale * 2e-4, ABC)
        assert verdict(near, FP32).result == "pass"
        assert verdict(far, FP32).measure == "rounding"
        assert verdict(far, FP32).result == "fail"


def test_small_logits_may_round_by_a_millionth() -> None:
    labels, reference = task()
    small = compare(labels, 1e-3 * reference, 1e-3 * reference + 9e-7, ABC)
    assert verdict(small, FP32).result == "pass"
    assert verdict(compare(labels, 1e-3 * reference, 1e-3 * reference + 1e-5, ABC), FP32).result == "fail"


@pytest.mark.parametrize("bounds", [FP32, INT8])
@pytest.mark.parametrize(
    "broken",
    [
        lambda logits: logits[:, ::-1],
        lambda logits: -logits,
        lambda logits: logits[::-1],
        lambda logits: logits + np.array([0.0, 3.0, 0.0]),
        lambda logits: np.zeros_like(logits),
        lambda logits: logits + np.random.default_rng(9).normal(size=logits.shape),
    ],
    ids=["classes swapped", "sign", "images shuffled", "one class shifted", "constant", "noise"],
)
def test_a_broken_model_fails(bounds: Bounds, broken: Callable[[Floats], Floats]) -> None:
    result = judged(broken, bounds)
    assert result.result == "fail"
    assert result.number is not None
    assert result.bound is not None
    assert "\n" not in result.reason


def test_two_swapped_classes_fail() -> None:
    assert judged(lambda logits: logits[:, ::-1], INT8, classes=2).result == "fail"


def test_a_shift_that_keeps_every_decision_passes_for_int8_only() -> None:
    assert judged(lambda logits: logits + 0.5, INT8).result == "pass"
    assert judged(lambda logits: logits + 0.5, FP32).result == "fail"


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("bounds", [FP32, INT8])
def test_one_logit_that_is_not_finite_fails(value: float, bounds: Bounds) -> None:
    def broken(logits: Floats) -> Floats:
        logits = logits.copy()
        logits[7, 0] = value
        return logits

    labels, reference = task()
    comparison = compare(labels, reference, broken(reference), ABC)
    assert comparison.not_finite == 1
    assert comparison.worst[0] == 7
    assert comparison.auroc[1] is None
    assert comparison.max_difference == 0
    result = verdict(comparison, bounds)
    assert (result.result, result.measure) == ("fail", "finite logits")


def test_nothing_finite_at_all_can_still_be_written_down(artifact: Artifact) -> None:
    comparison = compare([0, 1, 2], np.zeros((3, 3)), np.full((3, 3), np.nan), ABC)
    record = to_record(comparison, verdict(comparison, FP32), reference="pytorch", split="test")
    assert record.max_logit_difference is None
    assert record.verdict == "fail"
    update_manifest(artifact, parity=record)
    assert open_artifact(artifact.folder).manifest.parity == record
    json.dumps(comparison.model_dump(), allow_nan=False)


def test_a_reference_that_is_not_finite_proves_nothing() -> None:
    labels, candidate = task()
    reference = candidate.copy()
    reference[0] = np.nan
    assert verdict(compare(labels, reference, candidate, ABC), INT8).result == "fail"


def test_one_class_only_is_inconclusive() -> None:
    _, reference = task(150)
    comparison = compare(np.zeros(150, dtype=int), reference, reference, ABC)
    result = verdict(comparison, FP32)
    assert (result.result, result.measure, result.number) == ("inconclusive", "AUROC drop", None)
    assert to_record(comparison, result, reference="x", split="test").auroc == (None, None)


def test_one_image_of_few_is_inconclusive_and_of_many_fails() -> None:
    def flipped(images: int) -> Any:
        labels = np.arange(images) % 2
        reference = np.where(labels[:, None] == np.arange(2), 4.0, -4.0)
        reference[0] = [0.001, 0.0]
        candidate = reference.copy()
        candidate[0] = [0.0, 0.001]
        return verdict(compare(labels, reference, candidate, AB), INT8)

    assert flipped(30).result == "inconclusive"
    assert "at least 100 images" in flipped(30).reason
    assert flipped(100).result == "pass"
    strict = judged(lambda logits: np.vstack([logits[:1, ::-1], logits[1:]]), Bounds(min_label_agreement=1.0))
    assert strict.result == "fail"


def test_a_metric_may_rise_but_not_drop() -> None:
    labels, reference = task(400, 2)
    better = reference + 0.02 * np.eye(2)[labels]
    loose = Bounds(min_label_agreement=0)
    assert verdict(compare(labels, reference, better, AB), loose).result == "pass"
    worse = reference - 0.2 * np.eye(2)[labels]
    dropped = verdict(compare(labels, reference, worse, AB), loose)
    assert (dropped.result, dropped.measure) == ("fail", "AUROC drop")
    assert dropped.number is not None
    assert dropped.number > 0.005


@pytest.mark.parametrize(
    ("labels", "reference", "candidate"),
    [
        ([0, 1], np.zeros((2, 2)), np.zeros((2, 3))),
        ([0], np.zeros((2, 2)), np.zeros((2, 2))),
        ([], np.zeros((0, 2)), np.zeros((0, 2))),
    ],
)
def test_what_does_not_fit_is_refused(labels: Any, reference: Any, candidate: Any) -> None:
    with pytest.raises(ValueError, match=r"need logits|no image"):
        compare(labels, reference, candidate, AB)


def test_a_session_is_fed_batch_by_batch(artifact: Artifact, tiny_net: Any) -> None:
    pixels = np.random.default_rng(2).integers(0, 256, (7, 8, 8, 3), dtype=np.uint8)
    spec = artifact.manifest.preprocess
    with load(artifact) as session:
        logits = logits_of(session, iter([pixels[:3], pixels[3:3], pixels[3:]]), spec)
        assert logits_of(session, [], spec).shape == (0, 3)
    normal = (pixels / 255 - np.array(spec.mean)) / np.array(spec.std)
    expected = tiny_net.logits(normal.transpose(0, 3, 1, 2))
    np.testing.assert_allclose(logits, expected, rtol=1e-4, atol=1e-5)


def test_a_wrong_mean_in_the_artifact_fails(artifact: Artifact) -> None:
    pixels = np.random.default_rng(2).integers(0, 256, (60, 8, 8, 3), dtype=np.uint8)
    wrong = PreprocessSpec(image_size=8, mean=(0.406, 0.456, 0.485))
    with load(artifact) as session:
        right, other = logits_of(session, [pixels], artifact.manifest.preprocess), logits_of(session, [pixels], wrong)
    comparison = compare(np.arange(60) % 3, right, other, ABC)
    assert verdict(comparison, FP32).result == "fail"


def test_both_runtimes_agree_within_the_bound(artifact: Artifact) -> None:
    images = np.random.default_rng(2).normal(size=(60, 3, 8, 8)).astype(np.float32)
    with (
        load(artifact, Placement(runtime="onnxruntime")) as one,
        load(artifact, Placement(runtime="openvino")) as other,
    ):
        comparison = compare(np.arange(60) % 3, one.run(images), other.run(images), ABC)
    assert verdict(comparison, FP32).result == "pass"


def blurred(images: int, noise: float = 0.08, seed: int = 3) -> tuple[NDArray[np.int64], Floats, Floats]:
    """Two classes, and a candidate that differs by noise, as a quantised model does."""
    labels, reference = task(images, 2, seed)
    generator = np.random.default_rng(seed + 1)
    return labels, reference, reference + noise * generator.normal(size=reference.shape)


LOOSE = Bounds(min_label_agreement=0, max_auprc_drop=1)


def test_few_images_are_inconclusive_and_the_count_it_names_is_enough() -> None:
    labels, reference, candidate = blurred(60)
    few = verdict(compare(labels, reference, candidate, AB), LOOSE)
    assert (few.result, few.measure) == ("inconclusive", "AUROC drop")
    assert few.number is not None
    assert few.number < 0.005
    assert few.within
    assert few.images_needed is not None
    assert f"about {few.images_needed} images would tell, 60 are here" in few.reason
    times = -(-few.images_needed // 60)
    for repeats, expected in ((times + 1, "pass"), (max(1, times // 2), "inconclusive")):
        more = (np.concatenate([side] * repeats) for side in (labels, reference, candidate))
        assert verdict(compare(*more, AB), LOOSE).result == expected


def test_a_drop_on_its_bound_says_that_no_practical_number_of_images_tells() -> None:
    labels, reference, candidate = blurred(60)
    comparison = compare(labels, reference, candidate, AB)
    drop = -(comparison.changes.auroc.difference or 0)
    near = verdict(comparison, Bounds(min_label_agreement=0, max_auprc_drop=1, max_auroc_drop=drop + 1e-6))
    assert (near.result, near.images_needed) == ("inconclusive", None)
    assert near.reason.endswith("too near the bound for any practical number of such images to tell, 60 are here")


def test_a_drop_that_is_surely_too_large_fails_and_one_that_may_be_is_inconclusive() -> None:
    sure = [verdict(compare(*blurred(images, 0.7), AB), LOOSE) for images in (40, 2000)]
    assert [v.result for v in sure] == ["inconclusive", "fail"]
    assert not any(v.within for v in sure)


def test_mlperf_asks_for_a_fraction_of_the_reference() -> None:
    labels, reference, candidate = blurred(3000, 0.25)
    comparison = compare(labels, reference, candidate, AB)
    drop = -(comparison.changes.auroc.difference or 0)
    assert 0.001 < drop < 0.0099 * (comparison.auroc[0] or 0)
    loose, strict = (verdict(comparison, Bounds(preset=f"mlperf-{name}")) for name in ("99", "99.9"))
    assert loose.result != "fail"
    assert strict.result == "fail"
    assert strict.bound == pytest.approx(0.001 * (comparison.auroc[0] or 0))
    assert Bounds(preset="default") == Bounds()
    with pytest.raises(BadInputError, match=r"mlperf-99\.9"):
        Bounds(preset="mlperf")


def test_without_labels_logits_and_agreement_are_judged() -> None:
    _, reference = task()
    same = compare(None, reference, reference, ABC)
    assert (same.labelled, same.similarity, same.auroc) == (False, None, (None, None))
    assert verdict(same, FP32).result == "pass"
    assert "AUROC" not in verdict(same, FP32).reason
    assert verdict(compare(None, reference, -reference, ABC), INT8).measure == "label agreement"
    assert verdict(compare(None, reference, reference + 0.5, ABC), FP32).measure == "logit difference"


def test_similarity_of_independent_errors_is_what_equation_2_says() -> None:
    """Two models that err at random, and the same errors twice."""
    generator = np.random.default_rng(0)
    labels = generator.integers(0, 2, 20000)
    models = [np.where(generator.random(20000) < rate, labels, 1 - labels) for rate in (0.9, 0.8)]
    logits = [np.eye(2)[model] for model in models]
    found = compare(labels, *logits, AB, bootstrap=0).similarity
    assert found is not None
    assert found.accuracy == pytest.approx((0.9, 0.8), abs=0.01)
    assert found.independent == pytest.approx(0.9 * 0.8 + 0.1 * 0.2, abs=0.01)
    assert found.observed == pytest.approx(found.independent, abs=0.01)
    twin = compare(labels, logits[0], logits[0], AB, bootstrap=0).similarity
    assert twin is not None
    assert twin.observed == 1


def test_overconfidence_breaks_the_calibration_bound_and_nothing_else() -> None:
    labels, logits = task(2000, 2)
    # Of two normal distributions 1.5 apart, 1.5 times the difference is the true log odds.
    reference = 1.5 * logits
    comparison = compare(labels, reference, 4 * reference, AB)
    assert verdict(comparison, Bounds()).result == "pass"
    bounds = Bounds(max_calibration_shift=0.02)
    found = verdict(comparison, bounds)
    assert (found.result, found.measure) == ("fail", "calibration error shift")
    # No decision differs, and the reference is calibrated: all of the candidate's error is the shift.
    assert found.number == pytest.approx(comparison.changes.ece.difference, abs=0.01)
    assert verdict(compare(labels, reference, reference, AB), bounds).result == "pass"


def test_label_agreement_below_its_bound_fails_only_when_that_is_sure() -> None:
    def differing(count: int, images: int) -> Any:
        logits = np.tile([1.0, 0.0], (images, 1))
        other = logits.copy()
        other[:count] = [0.0, 1.0]
        return verdict(compare(None, logits, other, AB), Bounds())

    # Clopper-Pearson for 2 of 100: at most 99.76 % agree; for 10 of 100: at most 95.1 %.
    assert (differing(2, 100).result, differing(2, 100).within) == ("inconclusive", False)
    assert differing(10, 100).result == "fail"


def test_a_record_of_an_older_version_is_still_read() -> None:
    old = {
        "reference": "pytorch fp32",
        "images": 12,
        "split": "test",
        "max_logit_difference": 1e-6,
        "mean_logit_difference": 1e-7,
        "label_agreement": 1.0,
        "auroc": [0.9, 0.9],
        "auprc": [0.9, 0.9],
        "verdict": "pass",
        "reason": "",
    }
    assert ParityRecord.model_validate(old).images_needed is None


def test_the_record_carries_the_intervals() -> None:
    comparison = compare(*blurred(100), AB, groups=[str(i // 2) for i in range(100)])
    record = to_record(comparison, verdict(comparison, INT8), reference="x", split="test", worst=("a", "b"))
    assert record.auroc_interval == comparison.changes.auroc.interval
    assert record.auprc_interval == comparison.changes.auprc.interval
    assert record.ece == (comparison.changes.ece.reference, comparison.changes.ece.candidate)
    assert record.worst == ("a", "b")
    assert comparison.changes.patients == 50
    assert ParityRecord.model_validate_json(record.model_dump_json()) == record


PRECISIONS = ("fp32", "fp16", "bf16", "int8")


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("factor", [0.1, 0.5, 2.0, 5.0, 10.0])
@pytest.mark.parametrize("images", [20, 300])
def test_scaled_logits_fail_although_they_keep_order_and_decision(precision: str, factor: float, images: int) -> None:
    result = judged(lambda logits: factor * logits, Bounds.for_precision(precision), images=images)
    assert result.result == "fail"
    assert not result.within


@pytest.mark.parametrize("precision", PRECISIONS)
def test_logits_scaled_where_every_probability_is_0_or_1_fail(precision: str) -> None:
    labels, reference = task(200, 2)
    sure = 100 * (2 * np.eye(2)[labels] - 1) + reference
    found = verdict(compare(labels, sure, 5 * sure, AB), Bounds.for_precision(precision))
    assert (found.result, found.measure) == ("fail", "logit scale")
    assert "logits scaled by 5, a change of 4 (at most" in found.reason


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("images", [20, 600])
def test_a_constant_on_a_rare_class_fails(precision: str, images: int) -> None:
    """A class with a mean probability of some 3 %, brought down to nearly nothing: no decision and no AUROC moves."""
    generator = np.random.default_rng(0)
    labels = generator.integers(0, 2, images)
    reference = generator.normal(size=(images, 3)) + np.eye(3)[labels] * 3 + np.array([0.0, 0.0, -2.0])
    candidate = reference + np.array([0.0, 0.0, -3.0])
    comparison = compare(labels, reference, candidate, ABC)
    assert 0.005 < softmax(reference)[:, 2].mean() < 0.05
    assert comparison.label_agreement >= 0.95
    found = verdict(comparison, Bounds.for_precision(precision))
    assert found.result == "fail"
    assert "mean probability shift of a class" in found.reason or "logits of a class moved" in found.reason


@pytest.mark.parametrize("size", [3e-4, 1e-3, 1e-2])
def test_what_is_no_rounding_fails_as_fp32(size: float) -> None:
    """float16 weights move logits by some 3e-4 of their size, a flipped sign by more; summation by less than 1e-6."""
    generator = np.random.default_rng(2)
    result = judged(lambda logits: logits + size * generator.normal(size=logits.shape))
    assert result.result == "fail"
    noise = judged(lambda logits: logits + 1e-6 * generator.normal(size=logits.shape))
    assert noise.result == "pass"


def test_one_image_of_a_thousand_that_moves_fails_as_fp32() -> None:
    def moved(logits: Floats) -> Floats:
        logits = logits.copy()
        logits[3, 0] += 0.01
        return logits

    result = judged(moved, images=1000)
    assert (result.result, result.measure) == ("fail", "probability difference")
    assert result.number is not None
    assert f"largest probability difference {result.number:.2g} (at most 0.0001)" in result.reason


SOUND = {"fp32": 1e-6, "fp16": 5e-4, "bf16": 5e-3, "int8": 5e-2}
"""Noise on the logits as the precisions make it (`reports/parity-gate.md`)."""


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("seed", range(8))
def test_sound_noise_on_20_images_is_kept(precision: str, seed: int) -> None:
    labels, reference = task(20, 2, seed)
    candidate = reference + SOUND[precision] * np.random.default_rng(seed).normal(size=reference.shape)
    found = verdict(compare(labels, reference, candidate, AB), Bounds.for_precision(precision))
    assert found.result != "fail", found.reason
    assert found.within, found.reason


def test_calibration_is_judged_to_either_side_and_by_its_interval() -> None:
    labels, logits = task(2000, 2)
    bounds = Bounds(max_calibration_shift=0.02)
    for candidate in (0.2 * logits, 4 * logits):
        found = verdict(compare(labels, 1.5 * logits, candidate, AB), bounds)
        assert (found.result, found.measure) == ("fail", "calibration error shift")
    few = verdict(compare(labels[:60], 1.5 * logits[:60], 1.9 * logits[:60], AB), bounds)
    assert few.result == "inconclusive"
    assert "calibration error" in few.reason


def test_a_probability_that_crosses_the_edge_of_a_bin_is_no_shift_of_the_calibration() -> None:
    """ECE itself jumps there: the image leaves one mean for another."""
    edge = np.log((2 / 3) / (1 / 3))
    reference = np.array([[0.0, edge - 1e-6], [0.0, 3.0], [0.0, -3.0], [0.0, -1.0]])
    candidate = reference + np.array([[0.0, 2e-6], [0.0, 0.0], [0.0, 0.0], [0.0, 0.0]])
    changes = compare([0, 1, 0, 1], reference, candidate, AB).changes
    assert changes.calibration.difference == pytest.approx(0, abs=1e-6)
    assert changes.calibration.reference == pytest.approx(changes.ece.reference)


def test_the_decision_is_that_of_the_operating_point() -> None:
    """At 0.2 the second of two images is decided otherwise, which the most probable class does not show."""
    odds = np.log(np.array([[0.5, 0.5], [0.79, 0.21], [0.9, 0.1]]))
    other = np.log(np.array([[0.5, 0.5], [0.81, 0.19], [0.9, 0.1]]))
    assert compare(None, odds, other, AB).disagreements == 0
    found = compare(None, odds, other, replace(AB, point=OperatingPoint(rule="0.2", threshold=0.2)))
    assert (found.disagreements, found.threshold) == (1, 0.2)


def test_bounds_that_are_not_given_are_those_of_the_precision() -> None:
    given = Bounds(max_auroc_drop=0.1, max_p99_difference=None)
    filled = given.filled("int8")
    assert (filled.max_auroc_drop, filled.max_p99_difference) == (0.1, None)
    assert filled.max_probability_difference == INT8.max_probability_difference is not None
    assert given.filled("fp32").max_typical_difference == FP32.max_typical_difference
    assert Bounds.for_precision("something new") == FP32
    mlperf = Bounds(preset="mlperf-99")
    assert mlperf.filled("fp32") == mlperf, "MLPerf's rule, and nothing else"


@pytest.mark.parametrize("precision", PRECISIONS)
def test_a_constant_on_all_logits_is_harmless_below_fp32(precision: str) -> None:
    expected = "fail" if precision == "fp32" else "pass"
    assert judged(lambda logits: logits + 0.5, Bounds.for_precision(precision)).result == expected


def test_the_record_says_what_was_judged_and_how_far_it_moved() -> None:
    comparison = compare(*blurred(100), AB)
    record = to_record(comparison, verdict(comparison, INT8), reference="x", split="test", precision="int8")
    assert record.precision == "int8"
    assert record.probability_difference == (comparison.shift.p99, comparison.shift.largest)
    assert record.mean_probability_shift == comparison.shift.mean
    assert record.calibration_interval == comparison.changes.calibration.interval
    assert (record.logit_scale, record.logit_offset) == (comparison.shift.scale, comparison.shift.offset)
    assert ParityRecord.model_validate_json(record.model_dump_json()) == record
