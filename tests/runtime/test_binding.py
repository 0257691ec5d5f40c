"""A manifest that says other things than its model file is refused when it is loaded, in every engine."""

from __future__ import annotations

import json
import shutil
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
import pytest
import torch
from onnx import TensorProto, helper

from ttl_deploy import __version__
from ttl_deploy.artifact import MANIFEST, Artifact, open_artifact, update_manifest
from ttl_deploy.cli.main import run as call
from ttl_deploy.errors import BadInputError, IntegrityError
from ttl_deploy.files import sha256
from ttl_deploy.formats.export_run import export_run
from ttl_deploy.parity.verify import verify
from ttl_deploy.runtime import load, refuse_unbound
from ttl_deploy.serve.triton import write_repository
from ttl_deploy.spec import FileRecord, InputSpec, ModelSpec, Placement, PreprocessSpec
from ttl_deploy.training.run import finished_run

FORMATS = ("onnx", "openvino", "pt2", "torchscript")
ONNX_ENGINES = ("onnxruntime", "openvino")


@pytest.fixture(scope="module")
def exported(trained: Path, pixel_cache: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The run in every format that needs no GPU."""
    folder = tmp_path_factory.mktemp("formats")
    return {name: export_run(trained, format=name, out=folder / name, cache=pixel_cache).folder for name in FORMATS}


@pytest.fixture
def copied(exported: dict[str, Path], tmp_path: Path) -> Callable[[str], Artifact]:
    """A copy of an artifact that a test may change."""
    return lambda name: open_artifact(Path(shutil.copytree(exported[name], tmp_path / name)))


def edited(artifact: Artifact, place: str, value: Any) -> Path:
    """Changes one field of the manifest, as an editor would."""
    path = artifact.folder / MANIFEST
    content = json.loads(path.read_text())
    *parents, last = place.split(".")
    record = content
    for parent in parents:
        record = record[parent]
    record[last] = value
    path.write_text(json.dumps(content))
    return artifact.folder


@pytest.mark.parametrize("format", FORMATS)
def test_what_was_exported_is_bound(exported: dict[str, Path], format: str) -> None:
    load(open_artifact(exported[format])).close()


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize(
    ("place", "value"),
    [
        ("model.classes", ["lesion", "healthy"]),
        ("model.cut", "layer3.0"),
        ("model.cut", "no.such.cut"),
        ("model.backbone", "resnet34"),
        ("preprocess.mean", [0.5, 0.5, 0.5]),
        ("preprocess.crop", "none"),
        ("precision", "fp16"),
        ("activation", "softmax"),
        ("input_type", "uint8"),
        ("parameters", 1),
        ("macs", 7),
        ("source.weights_sha256", "0" * 64),
        ("source.config_digest", "0" * 64),
    ],
)
def test_whatever_the_model_file_says_too_cannot_be_edited_in_the_manifest(
    copied: Callable[[str], Artifact], format: str, place: str, value: Any
) -> None:
    artifact = copied(format)
    edited(artifact, place, value)
    with pytest.raises(IntegrityError, match="the manifest says") as error:
        load(open_artifact(artifact.folder))
    assert "\n" not in str(error.value)


def test_reversed_classes_are_one_line_and_exit_code_2(
    copied: Callable[[str], Artifact], synthetic: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = edited(copied("onnx"), "model.classes", ["lesion", "healthy"])
    image = next(synthetic.rglob("*.png"))
    assert call(["predict", str(folder), str(image)]) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert "is healthy, lesion in the graph, the manifest says lesion, healthy" in said.err
    assert len(said.err.strip().splitlines()) == 1
    with pytest.raises(IntegrityError, match="the manifest says"):
        write_repository(open_artifact(folder), folder.parent / "triton")


@pytest.mark.parametrize("command", [["bench"], ["verify"], ["predict"]])
@pytest.mark.parametrize("format", ["onnx", "openvino"])
def test_every_command_that_loads_refuses(
    copied: Callable[[str], Artifact],
    trained: Path,
    synthetic: Path,
    capsys: pytest.CaptureFixture[str],
    command: list[str],
    format: str,
) -> None:
    artifact = copied(format)
    for place in ("model.image_size", "preprocess.image_size"):
        folder = edited(artifact, place, 64)
    more = {"bench": [], "verify": ["--against", str(trained)], "predict": [str(next(synthetic.rglob("*.png")))]}
    assert call([*command, str(folder), *more[command[0]]]) == 2
    said = capsys.readouterr().err
    assert "(N, 3, 32, 32) in the graph, the manifest says (N, 3, 64, 64)" in said
    assert "unforeseen" not in said


def test_an_input_that_the_manifest_tells_in_two_ways_is_refused(copied: Callable[[str], Artifact]) -> None:
    folder = edited(copied("onnx"), "model.image_size", 64)
    with pytest.raises(IntegrityError, match="input is 3 x 64 x 64 in model and 3 x 32 x 32 in preprocess"):
        open_artifact(folder)


def of_input(size: int, channels: int = 3) -> dict[str, Any]:
    given = InputSpec.image(size, channels)
    model = ModelSpec(backbone="tiny", classes=("a", "b", "c"), input=given)
    return {"model": model, "preprocess": PreprocessSpec.of(given)}


@pytest.mark.parametrize("engine", ONNX_ENGINES)
@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (of_input(128), r"\(N, 3, 128, 128\)"),
        (of_input(8, 1), r"\(N, 1, 8, 8\)"),
        ({"input_type": "uint8"}, "is float32 in the graph, the manifest says uint8"),
        ({"input_name": "pixels"}, "maps images to .*logits.*, the manifest says pixels to logits"),
        ({"output_name": "scores"}, "the manifest says images to scores"),
    ],
)
def test_a_graph_without_metadata_still_tells_its_ends(
    make_artifact: Callable[..., Artifact], engine: str, changes: dict[str, Any], said: str
) -> None:
    artifact = make_artifact(**changes)
    with pytest.raises(IntegrityError, match=said):
        load(artifact, Placement(runtime=engine))
    with pytest.raises(IntegrityError, match=said):
        refuse_unbound(artifact)


@pytest.mark.parametrize(
    ("place", "value", "said"),
    [
        ("activation", "softmax", "activation is none in the graph, the manifest says softmax"),
        ("precision", "fp16", "precision is fp32 in the graph, the manifest says fp16"),
        ("precision", "int8", "precision is fp32 in the graph, the manifest says int8"),
    ],
)
def test_a_graph_without_metadata_tells_what_is_inside_when_it_is_verified(
    copied: Callable[[str], Artifact], trained: Path, pixel_cache: Path, place: str, value: str, said: str
) -> None:
    artifact = copied("onnx")
    proto = onnx.load(artifact.model_path)
    del proto.metadata_props[:]
    older = replaced(artifact, proto)
    edited(older, place, value)
    with pytest.raises(IntegrityError, match=said):
        verify(older.folder, against=trained, cache=pixel_cache)
    with pytest.raises(IntegrityError, match=said):
        load(open_artifact(older.folder), Placement(runtime="openvino"))


def replaced(artifact: Artifact, proto: onnx.ModelProto) -> Artifact:
    """The artifact with another graph, hashes and all."""
    artifact.model_path.write_bytes(proto.SerializeToString())
    record = FileRecord(sha256=sha256(artifact.model_path), size=artifact.model_path.stat().st_size)
    return update_manifest(artifact, files={**artifact.manifest.files, artifact.manifest.model_file: record})


@pytest.mark.parametrize("engine", ONNX_ENGINES)
@pytest.mark.parametrize("batch", [1, 4])
def test_a_graph_with_a_fixed_batch_is_told(artifact: Artifact, tiny_net: Any, engine: str, batch: int) -> None:
    proto = tiny_net.proto()
    for put in (*proto.graph.input, *proto.graph.output):
        put.type.tensor_type.shape.dim[0].dim_value = batch
    with pytest.raises(IntegrityError, match=f"fixed to {batch} in the graph, artifacts take any batch"):
        load(replaced(artifact, proto), Placement(runtime=engine))


@pytest.mark.parametrize("engine", ONNX_ENGINES)
def test_another_rank_or_type_of_the_output_is_told(artifact: Artifact, tiny_net: Any, engine: str) -> None:
    proto = tiny_net.proto()
    proto.graph.node.extend(
        [
            helper.make_node("Cast", ["logits"], ["double"], to=TensorProto.DOUBLE),
            helper.make_node("Unsqueeze", ["double", "axis"], ["wider"]),
        ]
    )
    proto.graph.initializer.append(helper.make_tensor("axis", TensorProto.INT64, [1], [2]))
    del proto.graph.output[:]
    proto.graph.output.append(helper.make_tensor_value_info("wider", TensorProto.DOUBLE, ["batch", 3, 1]))
    changed = update_manifest(replaced(artifact, proto), output_name="wider")
    with pytest.raises(IntegrityError, match=r"is float64 in the graph, the manifest says float32 \(and 1 more\)"):
        load(changed, Placement(runtime=engine))


@pytest.mark.parametrize("engine", ONNX_ENGINES)
def test_a_free_height_takes_what_the_manifest_says(
    artifact: Artifact, tiny_net: Any, engine: str, images: Any
) -> None:
    proto = tiny_net.proto()
    proto.graph.input[0].type.tensor_type.shape.dim[2].dim_param = "height"
    with load(replaced(artifact, proto), Placement(runtime=engine)) as session:
        assert session.run(images).shape == (5, 3)


def test_a_second_input_is_told(artifact: Artifact, tiny_net: Any) -> None:
    proto = tiny_net.proto()
    proto.graph.input.append(helper.make_tensor_value_info("age", TensorProto.FLOAT, ["batch", 1]))
    with pytest.raises(IntegrityError, match="maps images, age to logits"):
        load(replaced(artifact, proto))


def test_an_older_graph_without_a_count_refuses_parameters_that_cannot_be(copied: Callable[[str], Artifact]) -> None:
    """Its metadata held classes, preprocessing and model alone; its initialisers can be counted."""
    artifact = copied("onnx")
    proto = onnx.load(artifact.model_path)
    kept = [p for p in proto.metadata_props if p.key.partition(".")[2] in ("classes", "preprocess", "model")]
    del proto.metadata_props[:]
    proto.metadata_props.extend(kept)
    older = replaced(artifact, proto)
    refuse_unbound(older)
    with pytest.raises(IntegrityError, match="numbers, the manifest says 11,000,000 parameters"):
        refuse_unbound(update_manifest(older, parameters=11_000_000))


def test_a_field_that_a_newer_version_added_is_not_compared(copied: Callable[[str], Artifact]) -> None:
    artifact = copied("onnx")
    proto = onnx.load(artifact.model_path)
    for note in proto.metadata_props:
        if note.key == "ttl_deploy.preprocess":
            note.value = json.dumps({**json.loads(note.value), "gamma": 2})
    refuse_unbound(replaced(artifact, proto))


def test_the_graph_carries_what_the_manifest_says(copied: Callable[[str], Artifact], trained: Path) -> None:
    artifact = copied("onnx")
    proto = onnx.load(artifact.model_path)
    said = {note.key: json.loads(note.value) for note in proto.metadata_props}
    manifest = artifact.manifest
    assert (proto.producer_name, proto.producer_version) == ("ttl-deploy", __version__)
    assert said["ttl_deploy.classes"] == list(manifest.model.classes)
    assert PreprocessSpec.model_validate(said["ttl_deploy.preprocess"]) == manifest.preprocess
    assert said["ttl_deploy.parameters"] == manifest.parameters == finished_run(trained).metrics()["parameters"]
    assert said["ttl_deploy.macs"] == manifest.macs
    assert said["ttl_deploy.weights_sha256"] == sha256(trained / "best.safetensors")
    assert (said["ttl_deploy.precision"], said["ttl_deploy.activation"]) == ("fp32", "none")


def test_the_archives_carry_it_as_an_extra_file(copied: Callable[[str], Artifact]) -> None:
    """Read with PyTorch's own reader of extra files."""
    found = {"ttl_deploy.json": ""}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        torch.jit.load(copied("torchscript").model_path, _extra_files=found)  # type: ignore[no-untyped-call]
    other = {"ttl_deploy.json": ""}
    torch.export.load(copied("pt2").model_path, extra_files=other)
    assert json.loads(json.loads(found["ttl_deploy.json"])["classes"]) == ["healthy", "lesion"]
    assert json.loads(found["ttl_deploy.json"]) == json.loads(other["ttl_deploy.json"])


@pytest.mark.parametrize("format", ["pt2", "torchscript"])
def test_pytorch_s_own_shapes_are_compared_where_no_metadata_is(copied: Callable[[str], Artifact], format: str) -> None:
    artifact = copied(format)
    with zipfile.ZipFile(artifact.model_path) as archive:
        records = {name: archive.read(name) for name in archive.namelist() if "/extra/" not in name}
    with zipfile.ZipFile(artifact.model_path, "w", zipfile.ZIP_STORED) as archive:
        for name, record in records.items():
            archive.writestr(name, record)
    record = FileRecord(sha256=sha256(artifact.model_path), size=artifact.model_path.stat().st_size)
    older = update_manifest(artifact, files={**artifact.manifest.files, artifact.manifest.model_file: record})
    load(older).close()
    wider = update_manifest(older, model=older.manifest.model.model_copy(update={"classes": ("a", "b", "c")}))
    with pytest.raises(IntegrityError, match="the manifest says"):
        load(wider)
    given = InputSpec.image(older.manifest.model.input.size, 1)
    model = older.manifest.model.model_copy(update={"input": given})
    grey = update_manifest(older, model=model, preprocess=PreprocessSpec.of(given))
    with pytest.raises(IntegrityError, match="the manifest says"):
        load(grey)


@pytest.mark.parametrize("name", ["notes.txt", "model.onnx.data", "sub/model.bin", ".hidden"])
def test_a_file_that_the_manifest_does_not_list_is_refused(artifact: Artifact, name: str) -> None:
    path = artifact.folder / name
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(b"x")
    with pytest.raises(IntegrityError, match=f"holds {name}, which its manifest does not list; move it out"):
        open_artifact(artifact.folder)
    path.unlink()
    open_artifact(artifact.folder)


@pytest.mark.parametrize("name", [".DS_Store", "Thumbs.db", "desktop.ini", ".manifest.json.0a1b2c3d.tmp"])
def test_what_file_managers_and_a_killed_update_leave_is_tolerated(artifact: Artifact, name: str) -> None:
    (artifact.folder / name).write_bytes(b"x")
    open_artifact(artifact.folder)


def test_a_kit_may_hold_what_it_built(artifact: Artifact) -> None:
    built = artifact.folder / "artifact" / "model.engine"
    built.parent.mkdir()
    built.write_bytes(b"x")
    (artifact.folder / "timing.cache").write_bytes(b"x")
    with pytest.raises(IntegrityError, match="does not list"):
        open_artifact(artifact.folder)
    update_manifest(artifact, details={"kit": {"for": "trt", "precision": "fp16"}})
    open_artifact(artifact.folder)


def test_a_format_that_no_reader_knows_is_left_to_its_engine(make_artifact: Callable[..., Artifact]) -> None:
    refuse_unbound(make_artifact(format="somewhere"))
    with pytest.raises(BadInputError, match="runs onnx, not somewhere"):
        load(make_artifact("other", format="somewhere"), Placement(runtime="onnxruntime"))
