"""Quantising a run: calibrated on training images only, layers left in float where bounds ask for it, finetuned."""

import copy
import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from numpy.typing import NDArray

from ttl_deploy.artifact import open_artifact
from ttl_deploy.cli.main import run as command
from ttl_deploy.data.prepared import Prepared
from ttl_deploy.errors import BadInputError, CheckFailedError
from ttl_deploy.formats import quantise_auto, quantise_qat
from ttl_deploy.formats.export_run import export_run
from ttl_deploy.formats.exporter import EXPORTERS, ExportJob
from ttl_deploy.formats.images import RunImages
from ttl_deploy.formats.layer_times import engine_of_int8
from ttl_deploy.formats.onnx_graph import to_onnx
from ttl_deploy.formats.quantise_auto import (
    LEAST_INT8,
    Saved,
    by_price,
    choose_float_layers,
    divergence,
    logits_of,
)
from ttl_deploy.formats.quantise_qat import finetuned
from ttl_deploy.formats.quantiser import Quantiser
from ttl_deploy.latency import Measurement
from ttl_deploy.parity import Bounds
from ttl_deploy.parity.shift import SMALLEST_SPREAD
from ttl_deploy.parity.verify import verify
from ttl_deploy.prediction.predict import predict
from ttl_deploy.progress import SILENT, Silent
from ttl_deploy.spec import InputSpec, Placement, PreprocessSpec
from ttl_deploy.tasks import Multiclass
from ttl_deploy.training.run import finished_run, read_predictions, run_data
from ttl_deploy.training.train import load_model

LAX = Bounds(max_auroc_drop=0.2, max_auprc_drop=0.2, min_label_agreement=0.8)
MLPERF_ONLY = Bounds(preset="mlperf-99").model_copy(update={"min_metric_ratio": 0.01})
"""Almost nothing is judged."""


@pytest.fixture(scope="module")
def prepared(trained: Path, pixel_cache: Path) -> Prepared:
    return run_data(finished_run(trained), cache=pixel_cache)


@pytest.fixture(scope="module")
def job(trained: Path, prepared: Prepared) -> ExportJob:
    run = finished_run(trained)
    preprocess = run.config.preprocess
    return ExportJob(load_model(run), preprocess, "int8", images=RunImages(prepared, preprocess))


def test_calibration_sees_training_images_of_every_class_alike(prepared: Prepared) -> None:
    images = RunImages(prepared, PreprocessSpec.of(InputSpec.image(32)))
    sample = images.calibration(10)
    assert set(prepared.sides[sample.indices].tolist()) == {"train"}
    assert np.bincount(sample.labels).tolist() == [5, 5]
    assert sample.ids == images.calibration(10).ids
    assert sample.ids != images.calibration(10, seed=1).ids
    assert [batch.shape for batch in images.calibration(10, batch_size=8)] == [(8, 3, 32, 32), (2, 3, 32, 32)]
    assert len(images.calibration(10_000)) == len(prepared.indices("train"))
    assert set(prepared.sides[images.validation().indices].tolist()) == {"val"}


def test_calibration_with_one_class_is_refused(prepared: Prepared) -> None:
    one = dataclasses.replace(prepared, labels=np.zeros_like(prepared.labels))
    with pytest.raises(BadInputError, match="one class only, 'healthy'"):
        RunImages(one, PreprocessSpec.of(InputSpec.image(32))).calibration(10)
    with pytest.raises(BadInputError, match="cannot show 2 classes"):
        RunImages(prepared, PreprocessSpec.of(InputSpec.image(32))).calibration(1)


def test_divergence_is_that_of_a_known_case() -> None:
    """KL of (1/2, 1/2) from (1/4, 3/4) is ln 2 - ln(3)/2 = 0.1438."""
    reference, candidate = np.log([[0.5, 0.5]]), np.log([[0.25, 0.75]])
    assert divergence(reference, candidate, Multiclass(("a", "b"))) == pytest.approx(0.143841, abs=1e-6)


@pytest.mark.parametrize("format", ["onnx", "openvino"])
def test_int8_of_a_run_is_verified_and_traceable(trained: Path, tmp_path: Path, pixel_cache: Path, format: str) -> None:
    made = export_run(
        trained,
        format=format,
        precision="int8",
        out=tmp_path / "a",
        bounds=LAX,
        cache=pixel_cache,
        calibration="percentile",
        calibration_images=12,
    )
    facts = open_artifact(made.folder).manifest.details["quantisation"]
    assert (facts["calibration"], facts["images"], facts["split"], facts["float_layers"]) == (
        "percentile",
        12,
        "train",
        [],
    )
    assert made.manifest.parity is not None
    assert made.manifest.parity.verdict == "pass"


def _quarter_of_the_shift(job: ExportJob) -> tuple[Quantiser, Bounds]:
    """A calibrated graph, and a bound of a quarter of what its logits move by where all layers are int8."""
    quantiser = Quantiser.calibrated(to_onnx(job.model), job.run_images().calibration(12), method="minmax")
    quarter = 0.25 * _shift(quantiser, job, logits_of(quantiser.quantise(), job.run_images().validation()))
    return quantiser, Bounds(max_logit_difference=quarter, min_label_agreement=0, max_auroc_drop=1, max_auprc_drop=1)


def _shift(quantiser: Quantiser, job: ExportJob, logits: NDArray[np.float32]) -> float:
    """The largest difference of logits from the float graph's, by their size, as the bound counts it."""
    reference = logits_of(quantiser.plain, job.run_images().validation())
    return float(np.abs(logits - reference).max()) / max(float(reference.std(axis=0).max()), SMALLEST_SPREAD)


def test_layers_are_left_in_float_until_the_bound_holds(job: ExportJob, monkeypatch: pytest.MonkeyPatch) -> None:
    quantiser, bound = _quarter_of_the_shift(job)
    told: list[str] = []
    reporter = Silent()
    monkeypatch.setattr(reporter, "info", told.append)
    choice = choose_float_layers(quantiser, dataclasses.replace(job, bounds=bound, reporter=reporter))
    assert [trial.verdict.result for trial in choice.trials][-1] == "pass"
    assert all(trial.verdict.result != "pass" for trial in choice.trials[:-1])
    assert choice.trials[-1].divergence <= choice.trials[0].divergence
    assert 0 < len(choice.float_layers) < len(quantiser.layers)
    assert list(choice.sensitivity.values()) == sorted(choice.sensitivity.values(), reverse=True)
    macs = [trial.int8_macs for trial in choice.trials]
    assert macs[0] == 1
    assert macs == sorted(macs, reverse=True)
    assert json.loads(json.dumps(choice.record()))["split"] == "val"
    assert any("stay int8" in line for line in told) == (macs[-1] < LEAST_INT8)


def test_those_layers_are_left_first_that_lose_most_for_a_millisecond() -> None:
    """Prices 4, 2 and 6 a millisecond; what saves nothing counts as a hundredth of the mean of 1, 1/2, 1/4 and 0."""
    lost = {"a": 4.0, "b": 1.0, "c": 1.5, "d": 0.01, "e": 0.0}
    saved = {"a": 1.0, "b": 0.5, "c": 0.25, "d": -3.0, "e": 0.0}
    least = 1.75 / 5 / 100
    assert 2 < 0.01 / least < 4
    assert by_price(lost, saved) == ["c", "a", "d", "b", "e"]
    assert by_price(lost, dict.fromkeys(lost, -1.0)) == [*lost]


def test_what_is_left_of_the_time_saved_is_told() -> None:
    saved = Saved("openvino", 2, {"a": 1.0, "b": 0.5, "c": -0.25})
    assert "saves 0.25 of 1.25 ms an image in openvino" in saved.words(["a"])


@pytest.mark.parametrize("place", [0, -1])
def test_what_a_layer_saves_decides_beside_what_it_loses(
    job: ExportJob, place: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A layer that saves a second is given up last; only where it alone is too much, the most sensitive go first."""
    quantiser, bound = _quarter_of_the_shift(job)
    tight = dataclasses.replace(job, bounds=bound)
    by_accuracy = choose_float_layers(quantiser, tight)
    dear = by_accuracy.float_layers[place]

    def measured(graph: onnx.ModelProto, layers: Sequence[str], *_: object, **__: object) -> dict[str, float]:
        quantised = any(node.op_type == "QuantizeLinear" for node in graph.graph.node)
        return {name: 1000.0 if name == dear and not quantised else 0.5 for name in layers}

    monkeypatch.setattr(quantise_auto, "layer_times", measured)
    choice = choose_float_layers(quantiser, tight, engine="onnxruntime")
    others = [name for name in quantiser.layers if name != dear]
    alone = logits_of(quantiser.quantise(others), job.run_images().validation())
    if _shift(quantiser, job, alone) > (bound.max_logit_difference or 0):
        assert choice.float_layers == by_accuracy.float_layers
    else:
        assert dear not in choice.float_layers
    assert choice.sensitivity == by_accuracy.sensitivity
    said = choice.record()
    assert said["engine"] == "onnxruntime"
    assert {row["layer"]: row["saved_ms"] for row in said["sensitivity"]}[dear] == 999.5
    assert by_accuracy.record()["engine"] is None


def test_an_export_says_what_each_layer_saves(trained: Path, tmp_path: Path, pixel_cache: Path) -> None:
    made = export_run(trained, precision="int8", int8_auto=True, bounds=LAX, cache=pixel_cache, out=tmp_path / "a")
    said = json.loads((made.folder / "sensitivity.json").read_text())
    assert said["engine"] == engine_of_int8(fused=False)
    assert any(row["saved_ms"] != 0 for row in said["sensitivity"])


def test_trials_are_judged_by_patient_as_the_test_split_is(job: ExportJob, prepared: Prepared) -> None:
    """The images of one patient are no independent evidence, and a verdict may flip with that."""
    quantiser = Quantiser.calibrated(to_onnx(job.model), job.run_images().calibration(12), method="minmax")
    choice = choose_float_layers(quantiser, dataclasses.replace(job, bounds=MLPERF_ONLY))
    side = prepared.indices("val")
    patients = {prepared.patients[i] for i in side}
    assert len(patients) < len(side)
    assert {trial.comparison.changes.patients for trial in choice.trials} == {len(patients)}


def test_bounds_that_no_mix_meets(job: ExportJob) -> None:
    quantiser = Quantiser.calibrated(to_onnx(job.model), job.run_images().calibration(12), method="minmax")
    impossible = dataclasses.replace(job, bounds=Bounds(max_logit_difference=1e-12))
    with pytest.raises(CheckFailedError, match="--qat"):
        choose_float_layers(quantiser, impossible)


def test_finetuning_for_int8_moves_the_weights_a_little_and_leaves_the_model_alone(job: ExportJob) -> None:
    before = {name: tensor.clone() for name, tensor in job.model.state_dict().items()}
    tuned = finetuned(job, 1, job.run_images().calibration(12))
    assert all(torch.equal(before[name], tensor) for name, tensor in job.model.state_dict().items())
    after = tuned.state_dict()
    assert after.keys() == before.keys()
    assert torch.equal(after["units.stem.bn1.running_mean"], before["units.stem.bn1.running_mean"])
    moved = max(float((after[name] - before[name]).abs().max()) for name in before if name.endswith("weight"))
    # Adam moves no weight by more than its rate per step; rounding to 8 bits moves one by half a step at most.
    assert moved < 0.1
    assert to_onnx(tuned).graph.node


def test_finetuning_goes_back_to_the_float_model(job: ExportJob, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(quantise_qat, "LEARNING_RATE", 1e-2)
    validation = job.run_images().validation()
    student = copy.deepcopy(job.model)
    for parameter in student.head.parameters():
        parameter.data += torch.linspace(-0.5, 0.5, 2).reshape(-1, *[1] * (parameter.ndim - 1))

    def away() -> float:
        return divergence(*(quantise_qat._logits(model, validation) for model in (job.model, student)), job.task)

    before = away()
    quantise_qat._train(student, job, 3, validation)
    assert away() < 0.5 * before


def test_finetuning_that_helps_nothing_is_thrown_away(job: ExportJob, monkeypatch: pytest.MonkeyPatch) -> None:
    """From the float model itself no step leads closer to it."""
    monkeypatch.setattr(quantise_qat, "LEARNING_RATE", 1.0)
    student = copy.deepcopy(job.model)
    quantise_qat._train(student, job, 1, job.run_images().validation())
    kept = student.state_dict()
    assert all(torch.equal(kept[name], tensor) for name, tensor in job.model.state_dict().items())


def test_finetuning_knows_no_labels(job: ExportJob, prepared: Prepared) -> None:
    """Learning from labels would make another model of a run that was not trained to its end."""
    turned = dataclasses.replace(prepared, labels=1 - prepared.labels)
    other = dataclasses.replace(job, images=RunImages(turned, job.preprocess))
    calibration = list(job.run_images().calibration(12))
    first, second = (finetuned(each, 1, calibration).state_dict() for each in (job, other))
    assert all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize("activation", ["softmax", "sigmoid"])
def test_pixels_in_and_probabilities_out_are_not_treated_twice(
    trained: Path, synthetic: Path, tmp_path: Path, pixel_cache: Path, activation: str
) -> None:
    made = export_run(trained, out=tmp_path / "a", cache=pixel_cache, embed_preprocessing=True, activation=activation)
    assert (made.manifest.input_type, made.manifest.activation) == ("uint8", activation)
    assert command(["verify", str(made.folder), "--against", str(trained), "--cache", str(pixel_cache)]) == 0
    # The other way round, the artifact with the activation is the reference.
    turned = verify(trained / "onnx-fp32", against=made.folder, cache=pixel_cache)
    assert turned.verdict.result == "pass"
    assert turned.comparison.max_difference is not None
    assert turned.comparison.max_difference < 1e-4
    expected = read_predictions(finished_run(trained)).side("test")
    logits = torch.from_numpy(expected.logits)
    odds = (logits.softmax(1) if activation == "softmax" else logits.sigmoid()).numpy()
    said = predict(
        made.folder, [str(synthetic / image) for image in expected.ids], placement=Placement(runtime="openvino")
    )
    np.testing.assert_allclose([list(p.probabilities.values()) for p in said], odds, atol=1e-4)


def test_what_is_missing_is_told_before_anything_is_written(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert EXPORTERS.get("openvino").available("fp32") is not None
    out = tmp_path / "a"
    assert command(["export", str(trained), "--format", "openvino", "--out", str(out)]) == 2
    assert "pip install openvino" in capsys.readouterr().err
    assert not out.exists()
    assert command(["export", str(trained), "--format", "auto", "--opset", "18", "--out", str(out)]) == 2
    assert "--opset does not go with it" in capsys.readouterr().err


def test_auto_keeps_the_fastest_that_passes(
    trained: Path, tmp_path: Path, pixel_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ttl_deploy.formats import auto

    monkeypatch.setattr(auto, "EXPORTERS", [EXPORTERS.get("onnx")])
    monkeypatch.setattr(EXPORTERS.get("onnx").__class__, "precisions", ("fp32", "bf16"))
    made, rows = auto.export_auto(
        trained, out=tmp_path / "best", bounds=LAX, rounds=1, min_samples=5, cache=pixel_cache
    )
    timed = [row for row in rows if row.p50_ms is not None]
    assert {(row.precision, row.runtime) for row in timed} == {
        ("fp32", "onnxruntime"),
        ("fp32", "openvino"),
        ("bf16", "openvino"),
    }
    assert [row.chosen for row in rows] == [True] + [False] * (len(rows) - 1)
    # One round gives no interval, so the ratio of the medians is taken for it and nothing is tied.
    assert timed[0].p50_ms == min(row.p50_ms for row in timed if row.p50_ms is not None)
    assert timed[0].relative == (1.0, 1.0)
    assert ("bf16", "onnxruntime") not in {(row.precision, row.runtime) for row in rows}, "it has no such kernels"
    saved = json.loads((made.folder / auto.CANDIDATES).read_text())["candidates"]
    assert len(saved) == len(rows)
    assert open_artifact(made.folder).manifest.precision == rows[0].precision
    assert not list(trained.glob(".auto-*"))


def measured(*blocks: float) -> Measurement:
    """Five samples of each block."""
    samples = tuple(ms for ms in blocks for _ in range(5))
    return Measurement.model_construct(samples_ms=samples, rounds=(5,) * len(blocks), p50_ms=float(np.median(samples)))


@pytest.mark.parametrize(
    ("int8", "fp32", "kept"),
    [
        ((1.00, 1.02, 0.98, 1.01, 0.99, 1.00), (1.01, 1.03, 0.97, 1.00, 1.02, 0.99), "fp32"),
        ((1.00, 1.02, 0.98, 1.01, 0.99, 1.00), (1.30, 1.31, 1.29, 1.32, 1.28, 1.30), "int8"),
        ((1.00, 1.60, 0.90, 1.50, 1.10, 0.80), (1.30, 1.20, 1.40, 1.10, 1.50, 0.90), "fp32"),
    ],
    ids=["equal", "surely faster", "noise"],
)
def test_a_difference_inside_the_noise_does_not_cost_precision(
    int8: tuple[float, ...], fp32: tuple[float, ...], kept: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ttl_deploy.formats import auto

    times = {"int8": measured(*int8), "fp32": measured(*fp32)}
    monkeypatch.setattr(auto, "run_all", lambda jobs, **_: [times[job.label.split()[1]] for job in jobs])
    made = SimpleNamespace(folder=Path("artifact"))
    passed = [(auto.Contender("onnx", name, "onnxruntime", "pass"), made) for name in times]
    rows = [row for row, _ in auto._measured(passed, "cpu", None, 6, 60, SILENT)]  # type: ignore[arg-type]
    assert rows[0].precision == ("int8" if times["int8"].p50_ms < times["fp32"].p50_ms else "fp32")
    assert rows[auto._winner(rows)].precision == kept


def test_of_equally_precise_ties_the_first_format_is_kept() -> None:
    from ttl_deploy.formats.auto import Contender, _winner

    by_speed = [
        Contender("pt2", "fp32", relative=(1.0, 1.0)),
        Contender("onnx", "fp32", relative=(0.97, 1.05)),
        Contender("openvino", "bf16", relative=(0.97, 1.05)),
        Contender("openvino", "fp32", relative=(1.2, 1.3)),
    ]
    assert _winner(by_speed) == 1


def test_auto_keeps_what_export_keeps(
    trained: Path, tmp_path: Path, pixel_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Inconclusive because the test split is small, and no number beyond its bound."""
    from ttl_deploy.formats import auto

    def undecided(*arguments: Any, **options: Any) -> Any:
        found = verify(*arguments, **options)
        judged = found.verdict.model_copy(update={"result": "inconclusive", "within": within[0]})
        return dataclasses.replace(found, verdict=judged)

    monkeypatch.setattr(auto, "EXPORTERS", [EXPORTERS.get("onnx")])
    monkeypatch.setattr(EXPORTERS.get("onnx").__class__, "precisions", ("fp32",))
    monkeypatch.setattr(auto, "verify", undecided)
    within = [True]
    _made, rows = auto.export_auto(trained, out=tmp_path / "kept", rounds=1, min_samples=5, cache=pixel_cache)
    assert (rows[0].verdict, rows[0].chosen) == ("inconclusive", True)
    within = [False]
    with pytest.raises(CheckFailedError, match="nothing that can run here"):
        auto.export_auto(trained, out=tmp_path / "refused", rounds=1, min_samples=5, cache=pixel_cache)
