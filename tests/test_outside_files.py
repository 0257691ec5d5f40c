"""External data of an ONNX model that the manifest does not list is refused, wherever the model names it."""

from pathlib import Path

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from ttl_deploy.artifact import Artifact, open_artifact, write_artifact
from ttl_deploy.errors import IntegrityError
from ttl_deploy.onnx_parts import outside_files
from ttl_deploy.runtime import load
from ttl_deploy.spec import Placement


def outside(name: str, location: str) -> onnx.TensorProto:
    tensor = TensorProto(name=name, data_type=TensorProto.FLOAT, dims=[4], data_location=TensorProto.EXTERNAL)
    for key, value in {"location": location, "offset": "0", "length": "16"}.items():
        entry = tensor.external_data.add()
        entry.key, entry.value = key, value
    return tensor


def everywhere() -> onnx.ModelProto:
    """A model with external data in every message that can hold a tensor."""
    branch = helper.make_graph([helper.make_node("Constant", [], ["c"], value=outside("c", "branch"))], "b", [], [])
    nodes = [
        helper.make_node("Constant", [], ["a"], value=outside("a", "attribute")),
        helper.make_node("If", ["x"], ["y"], then_branch=branch, else_branch=branch),
        helper.make_node("Odd", [], ["z"], domain="odd", many=[outside("m", "tensors")]),
    ]
    graph = helper.make_graph(
        nodes, "g", [], [], [outside("w", "initializer"), numpy_helper.from_array(np.ones(4), "u")]
    )
    graph.sparse_initializer.add().values.CopyFrom(outside("s", "sparse"))
    model = helper.make_model(graph)
    function = helper.make_node("Constant", [], ["f"], value=outside("f", "function"))
    model.functions.add(name="F", domain="odd").node.append(function)
    model.training_info.add().algorithm.initializer.append(outside("t", "training"))
    return model


def test_every_place_is_found(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(everywhere().SerializeToString())
    assert set(outside_files(path)) == {
        *("attribute", "branch", "tensors", "initializer", "sparse", "function", "training")
    }


@pytest.mark.parametrize("content", [b"", b"\xff" * 40, b"no model at all", b"\x3a\xff\xff\xff\xff\x0f"])
def test_what_is_no_model_names_nothing(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(content)
    assert outside_files(path) == ()


def with_outside(artifact: Artifact, location: str, place: Path, *, listed: bool) -> Artifact:
    """The artifact once more, with a weight in another file."""

    def build(folder: Path) -> str:
        proto = onnx.load(artifact.model_path)
        weight = next(tensor for tensor in proto.graph.initializer if tensor.name == "weight")
        content, shape = weight.raw_data, tuple(weight.dims)
        weight.CopyFrom(outside("weight", location))
        weight.dims[:] = shape
        weight.external_data[2].value = str(len(content))
        (folder / "model.onnx").write_bytes(proto.SerializeToString())
        if listed:
            (folder / location).write_bytes(content)
        return "model.onnx"

    fields = artifact.manifest.model_dump(exclude={"files", "model_file"})
    return write_artifact(place, fields, build)


def test_listed_weights_are_read(artifact: Artifact, images: NDArray[np.float32], tmp_path: Path) -> None:
    written = with_outside(artifact, "model.onnx.data", tmp_path / "a", listed=True)
    assert open_artifact(written.folder) == written
    outputs = []
    for one in (artifact, written):
        with load(one, Placement(runtime="onnxruntime", threads=1)) as session:
            outputs.append(session.run(images))
    np.testing.assert_array_equal(outputs[0], outputs[1])


@pytest.mark.parametrize("location", [".DS_Store", "manifest.json", "../w.bin", "/tmp/w.bin", "link/w.bin"])
def test_unlisted_weights_are_refused_also_where_a_file_is_tolerated_or_elsewhere(
    artifact: Artifact, tmp_path: Path, location: str
) -> None:
    folder = with_outside(artifact, location, tmp_path / "a", listed=False).folder
    (tmp_path / "elsewhere").mkdir()
    (folder / "link").symlink_to(tmp_path / "elsewhere")
    for place in (folder / ".DS_Store", tmp_path / "w.bin", tmp_path / "elsewhere" / "w.bin"):
        place.write_bytes(b"\0" * 36)
    with pytest.raises(IntegrityError) as told:
        open_artifact(folder)
    assert f"model.onnx: reads {location!r}, which the manifest does not list" in str(told.value)


def test_a_model_with_its_weights_inside_names_nothing(artifact: Artifact) -> None:
    assert outside_files(artifact.model_path) == ()
