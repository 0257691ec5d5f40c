"""The Triton repository: its configuration parses with Triton's own schema and says what the model is."""

from pathlib import Path
from typing import Any

import onnx
import pytest

from ttl_deploy.artifact import Artifact, open_artifact
from ttl_deploy.cli.main import run
from ttl_deploy.errors import BadInputError
from ttl_deploy.serve.triton import config, write_repository


def parsed(folder: Path) -> Any:
    """The configuration as Triton reads it."""
    schema = pytest.importorskip("tritonclient.grpc.model_config_pb2")
    text_format = pytest.importorskip("google.protobuf.text_format")
    return text_format.Parse((folder / "config.pbtxt").read_text(), schema.ModelConfig())


def test_the_configuration_is_the_models(trained: Path, tmp_path: Path) -> None:
    artifact = open_artifact(trained / "onnx-fp32")
    folder = write_repository(artifact, tmp_path / "models")
    config = parsed(folder)
    assert config.name == folder.name == "tiny"
    assert config.backend == "onnxruntime"
    assert config.max_batch_size > 1
    assert config.HasField("dynamic_batching")
    (given,), (answer,) = config.input, config.output
    assert (given.name, list(given.dims)) == ("images", [3, 32, 32])
    assert (answer.name, list(answer.dims)) == ("logits", [2])
    fp32 = config.DESCRIPTOR.file.enum_types_by_name["DataType"].values_by_name["TYPE_FP32"].number
    assert given.data_type == answer.data_type == fp32
    assert (folder / answer.label_filename).read_text().split() == ["healthy", "lesion"]
    copied = folder / "1" / "model.onnx"
    assert copied.read_bytes() == artifact.model_path.read_bytes()
    # What Triton would check when it loads the model: names, types and a batch that is free.
    graph = onnx.load(copied).graph
    assert [put.name for put in graph.input] == [given.name]
    assert graph.input[0].type.tensor_type.shape.dim[0].dim_param
    assert [d.dim_value for d in graph.input[0].type.tensor_type.shape.dim[1:]] == list(given.dims)


def test_an_ir_goes_to_the_openvino_backend_with_its_weights(artifact: Artifact, tmp_path: Path) -> None:
    from ttl_deploy import files
    from ttl_deploy.artifact import write_artifact

    def build(folder: Path) -> str:
        for name in ("model.xml", "model.bin", "model_card.md"):
            files.write_text(folder / name, name)
        return "model.xml"

    skip = {"files", "model_file", "created"}
    fields = {k: v for k, v in artifact.manifest.model_dump().items() if k not in skip}
    made = write_artifact(tmp_path / "ir", fields | {"format": "openvino"}, build)
    folder = write_repository(made, tmp_path / "models", name="chest-xray")
    config = parsed(folder)
    assert (config.name, config.backend, config.default_model_filename) == ("chest-xray", "openvino", "")
    assert sorted(path.name for path in (folder / "1").iterdir()) == ["model.bin", "model.xml"]
    told = {key: value.string_value for key, value in config.parameters.items()}
    assert told == {"INFERENCE_PRECISION_HINT": "f32", "ENFORCE_BF16": "NO"}


@pytest.mark.parametrize(("precision", "hint"), [("fp32", "f32"), ("fp16", "f32"), ("int8", "f32"), ("bf16", "bf16")])
def test_openvino_is_told_the_precision_and_onnx_runtime_is_not(make_artifact: Any, precision: str, hint: str) -> None:
    schema = pytest.importorskip("tritonclient.grpc.model_config_pb2")
    text_format = pytest.importorskip("google.protobuf.text_format")
    ir = make_artifact("ir", format="openvino", precision=precision)
    told = text_format.Parse(config(ir, "m"), schema.ModelConfig()).parameters
    assert told["INFERENCE_PRECISION_HINT"].string_value == hint
    # The backend's own key of today can ask for bfloat16 only.
    assert ("HINT_BF16" in told) == (precision == "bf16")
    assert "parameters" not in config(make_artifact("graph", precision=precision), "m")


@pytest.mark.parametrize(
    ("changes", "said"),
    [({"format": "torchscript"}, "no Triton backend"), ({"name": "a/b"}, "cannot name a model")],
)
def test_what_triton_cannot_serve_is_told(
    make_artifact: Any, tmp_path: Path, changes: dict[str, str], said: str
) -> None:
    name = changes.pop("name", None)
    with pytest.raises(BadInputError, match=said):
        write_repository(make_artifact(**changes), tmp_path / "models", name=name)
    assert not (tmp_path / "models").exists()


def test_a_model_that_is_there_is_replaced_only_on_request(artifact: Artifact, tmp_path: Path) -> None:
    folder = write_repository(artifact, tmp_path, name="m")
    with pytest.raises(BadInputError, match="exists already"):
        write_repository(artifact, tmp_path, name="m")
    assert write_repository(artifact, tmp_path, name="m", overwrite=True) == folder
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "precious.txt").write_text("x")
    with pytest.raises(BadInputError, match="left alone"):
        write_repository(artifact, tmp_path, name="other", overwrite=True)


def test_export_writes_it(run_copy: Path, pixel_cache: Path, tmp_path: Path) -> None:
    arguments = ["export", run_copy, "--overwrite", "--cache", pixel_cache, "--triton", tmp_path / "models"]
    assert run([str(argument) for argument in arguments]) == 0
    assert parsed(tmp_path / "models" / "run").name == "run"
