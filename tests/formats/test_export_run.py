"""Exporting a run: the artifact is traceable to it, and one that does not predict the same is refused."""

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

import ttl_deploy
from ttl_deploy import files
from ttl_deploy.artifact import open_artifact
from ttl_deploy.errors import CheckFailedError, IntegrityError
from ttl_deploy.formats import onnx_graph
from ttl_deploy.formats.export_run import export_run
from ttl_deploy.inputs.image import normalise
from ttl_deploy.parity import Bounds
from ttl_deploy.prediction.predict import predict
from ttl_deploy.runtime import load
from ttl_deploy.spec import Placement
from ttl_deploy.training.run import finished_run, read_predictions, run_data


def test_the_manifest_says_where_it_comes_from(trained: Path) -> None:
    run, manifest = finished_run(trained), open_artifact(trained / "onnx-fp32").manifest
    assert manifest.source.weights_sha256 == files.sha256(trained / "best.safetensors")
    assert manifest.source.config_digest == run.config.digest()
    assert manifest.preprocess == run.config.preprocess
    assert manifest.model == run.config.model
    assert (manifest.parameters, manifest.macs) == (run.metrics()["parameters"], run.metrics()["macs"])
    assert manifest.parity is not None
    assert manifest.parity.verdict == "pass"
    assert manifest.parity.images == run.metrics()["images"]["test"]
    assert {"torch", "onnx"} <= set(manifest.tools)


@pytest.mark.parametrize("engine", ["onnxruntime", "openvino"])
def test_prediction_of_a_file_is_the_validated_prediction(trained: Path, synthetic: Path, engine: str) -> None:
    """From the image file through the artifact to the probabilities that the trainer wrote down."""
    expected = read_predictions(finished_run(trained)).side("test")
    images = [str(synthetic / image) for image in expected.ids]
    predictions = list(predict(trained / "onnx-fp32", images, placement=Placement(runtime=engine)))
    odds = np.exp(expected.logits - expected.logits.max(axis=1, keepdims=True))
    probabilities = odds / odds.sum(axis=1, keepdims=True)
    said = np.array([list(p.probabilities.values()) for p in predictions])
    np.testing.assert_allclose(said, probabilities, atol=1e-4)


def test_a_model_that_predicts_something_else_is_refused(
    trained: Path, tmp_path: Path, pixel_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    honest = onnx_graph.to_onnx

    def dishonest(model: onnx_graph.TransferModel, opset: int) -> onnx.ModelProto:
        proto = honest(model, opset)
        bias = next(t for t in proto.graph.initializer if t.name.startswith("head") and t.name.endswith("bias"))
        bias.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(bias) + np.float32([0.0, 3.0]), bias.name))
        return proto

    monkeypatch.setattr(onnx_graph, "to_onnx", dishonest)
    out = tmp_path / "artifact"
    with pytest.raises(CheckFailedError, match="not the validated one"):
        export_run(trained, out=out, cache=pixel_cache)
    assert not out.exists()
    assert not list(tmp_path.glob(".*"))


def test_the_user_can_set_the_bounds(trained: Path, tmp_path: Path, pixel_cache: Path) -> None:
    bounds = Bounds(max_auroc_drop=0.5, max_auprc_drop=0.5, min_label_agreement=0.5)
    made = ttl_deploy.export(trained, out=tmp_path / "artifact", bounds=bounds, cache=pixel_cache)
    assert made.manifest.parity.verdict == "pass"


def test_a_run_whose_weights_were_changed_is_told(run_copy: Path, pixel_cache: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    tensors = load_file(run_copy / "best.safetensors")
    tensors["head.fc.bias"] += 1
    save_file(tensors, run_copy / "best.safetensors")
    with pytest.raises(IntegrityError, match=r"best\.safetensors"):
        export_run(run_copy, out=tmp_path / "artifact", cache=pixel_cache)


def test_the_artifact_in_its_run_sees_the_runs_own_test_images(trained: Path, pixel_cache: Path) -> None:
    run = finished_run(trained)
    prepared = run_data(run, cache=pixel_cache)
    test = prepared.indices("test")
    with load(open_artifact(trained / "onnx-fp32")) as session:
        logits = session.run(normalise(prepared.pixels(test), run.config.preprocess))
    expected = read_predictions(run).side("test")
    order = [expected.ids.index(prepared.ids[i]) for i in test]
    np.testing.assert_allclose(logits, expected.logits[order], rtol=1e-4, atol=1e-4)
