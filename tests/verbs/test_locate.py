"""Where a damaged artifact parts from its run: each damage is found where it was done."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import numpy_helper

from ttl_deploy.artifact import Artifact, open_artifact, write_artifact
from ttl_deploy.cli.main import run
from ttl_deploy.parity.graphs import compare_graphs
from ttl_deploy.spec import InputSpec
from ttl_deploy.verbs.locate import locate

Edit = Callable[[onnx.ModelProto], None]


def copy_of(source: Path, out: Path, edit: Edit = lambda proto: None, **changes: Any) -> Artifact:
    """A whole and valid artifact with an edited graph and changed facts in its manifest."""
    original = open_artifact(source)
    proto = onnx.load(original.model_path)
    edit(proto)

    def build(folder: Path) -> str:
        (folder / "model.onnx").write_bytes(proto.SerializeToString())
        return "model.onnx"

    kept = original.manifest.model_dump(exclude={"files", "model_file", "parity"})
    return write_artifact(out, kept | changes, build)


def change_constant(proto: onnx.ModelProto, name: str, change: Callable[[NDArray[Any]], NDArray[Any]]) -> None:
    """Replaces a weight."""
    tensor = next(t for t in proto.graph.initializer if t.name == name)
    value = np.ascontiguousarray(change(numpy_helper.to_array(tensor).copy()))
    tensor.CopyFrom(numpy_helper.from_array(value.astype(np.float32), name))


def renamed(proto: onnx.ModelProto) -> None:
    """Gives every inner tensor and node another name, as another exporter would."""
    fixed = {p.name for p in (*proto.graph.input, *proto.graph.output, *proto.graph.initializer)}
    for node in proto.graph.node:
        node.name = f"other_{node.name}"
        for names in (node.input, node.output):
            names[:] = [n if n in fixed or not n else f"other_{n}" for n in names]
    del proto.graph.value_info[:]


def middle(proto: onnx.ModelProto, op: str = "Conv") -> onnx.NodeProto:
    """The middle one of a graph's operators of a type."""
    found = [node for node in proto.graph.node if node.op_type == op]
    return found[len(found) // 2]


def test_a_sound_artifact_is_sound_at_every_step(trained: Path, pixel_cache: Path) -> None:
    found = locate(trained / "onnx-fp32", cache=pixel_cache)
    assert (found.kind, found.graph) == ("nowhere", None)
    assert [step.end.split()[0] for step in found.steps] == ["PyTorch", "ONNX", "ONNX", "artifact"]
    assert not any(step.exceeds for step in found.steps)


@pytest.mark.parametrize(
    ("names", "change"), [("same", lambda w: -w), ("other", lambda w: 1.5 * w)], ids=["flipped", "scaled and renamed"]
)
def test_one_changed_weight_is_found_at_its_node(
    trained: Path, tmp_path: Path, pixel_cache: Path, change: Callable[[NDArray[Any]], NDArray[Any]], names: str
) -> None:
    node = middle(onnx.load(trained / "onnx-fp32" / "model.onnx"))

    def damage(proto: onnx.ModelProto) -> None:
        change_constant(proto, node.input[1], change)
        if names == "other":
            renamed(proto)

    bad = copy_of(trained / "onnx-fp32", tmp_path / "bad", damage)
    found = locate(bad.folder, against=trained, cache=pixel_cache)
    assert found.kind == "step"
    assert "between ONNX fp32, exported now and ONNX fp32 of the artifact" in found.sentence
    assert found.graph is not None
    assert found.graph.matched == ("name" if names == "same" else "order")
    first = found.graph.first
    assert first is not None
    assert first.node.removeprefix("other_") == node.name
    assert (first.op, first.inputs[0]) == ("Conv", node.input[1])
    assert len(first.shape) == 4
    assert node.name in found.sentence


def test_against_another_artifact_nothing_is_exported(trained: Path, tmp_path: Path, pixel_cache: Path) -> None:
    node = middle(onnx.load(trained / "onnx-fp32" / "model.onnx"))
    bad = copy_of(
        trained / "onnx-fp32", tmp_path / "bad", lambda proto: change_constant(proto, node.input[1], lambda w: 2 * w)
    )
    found = locate(bad.folder, against=trained / "onnx-fp32", cache=pixel_cache)
    assert [step.exceeds for step in found.steps] == [False, True, False]
    assert found.graph is not None
    assert found.graph.first is not None
    assert found.graph.first.node == node.name


def test_a_wrong_mean_is_told_as_preprocessing(trained: Path, tmp_path: Path, pixel_cache: Path) -> None:
    rule = open_artifact(trained / "onnx-fp32").manifest.preprocess
    wrong = rule.model_copy(update={"mean": (0.1, 0.2, 0.3)})

    def export_with_it(proto: onnx.ModelProto) -> None:
        note = next(note for note in proto.metadata_props if note.key == "ttl_deploy.preprocess")
        note.value = wrong.model_dump_json()

    bad = copy_of(trained / "onnx-fp32", tmp_path / "bad", export_with_it, preprocess=wrong)
    found = locate(bad.folder, against=trained, cache=pixel_cache)
    assert found.kind == "preprocessing"
    assert "mean is 0.1, 0.2, 0.3 in the artifact and 0.485, 0.456, 0.406 in the reference" in found.sentence
    assert "all 4 steps are within their bounds" in found.sentence
    assert not any(step.exceeds for step in found.steps)


def test_another_input_size_is_told_without_running(trained: Path, tmp_path: Path, pixel_cache: Path) -> None:
    manifest = open_artifact(trained / "onnx-fp32").manifest
    model = manifest.model.model_copy(update={"input": InputSpec.image(16)})
    rule = manifest.preprocess.model_copy(update={"input": InputSpec.image(16)})
    bad = copy_of(trained / "onnx-fp32", tmp_path / "bad", model=model, preprocess=rule)
    found = locate(bad.folder, against=trained, cache=pixel_cache)
    assert (found.kind, found.steps) == ("preprocessing", ())
    assert "input is 3 x 16 x 16 in the artifact and 3 x 32 x 32 in the reference" in found.sentence


def test_swapped_outputs_are_told_as_such(trained: Path, tmp_path: Path, pixel_cache: Path) -> None:
    head = onnx.load(trained / "onnx-fp32" / "model.onnx").graph.node[-1]
    assert head.op_type == "Gemm"

    def swap(proto: onnx.ModelProto) -> None:
        for name in head.input[1:]:
            change_constant(proto, name, lambda w: w[::-1])

    bad = copy_of(trained / "onnx-fp32", tmp_path / "bad", swap)
    found = locate(bad.folder, against=trained, cache=pixel_cache)
    assert found.kind == "swapped"
    classes = open_artifact(trained / "onnx-fp32").manifest.model.classes
    assert f"what is called {classes[1]} is {classes[0]}" in found.sentence


def test_classes_in_another_order_are_told_before_any_number(
    trained: Path, tmp_path: Path, pixel_cache: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = open_artifact(trained / "onnx-fp32").manifest.model
    swapped = model.model_copy(update={"classes": model.classes[::-1]})
    bad = copy_of(trained / "onnx-fp32", tmp_path / "bad", model=swapped)
    found = locate(bad.folder, against=trained, cache=pixel_cache)
    assert (found.kind, found.steps) == ("classes", ())
    assert "outputs are swapped" in found.sentence
    command = ["verify", str(bad.folder), "--against", str(trained), "--cache", str(pixel_cache)]
    assert run(command) == 2
    assert "the same names in another order" in capsys.readouterr().err
    assert run([*command, "--locate"]) == 1
    assert "located (classes)" in capsys.readouterr().out


def test_the_command_says_where(
    trained: Path, tmp_path: Path, pixel_cache: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    node = middle(onnx.load(trained / "onnx-fp32" / "model.onnx"))
    bad = copy_of(
        trained / "onnx-fp32", tmp_path / "bad", lambda proto: change_constant(proto, node.input[1], lambda w: 9 * w)
    )
    page = tmp_path / "report.html"
    command = ["verify", str(bad.folder), "--against", str(trained), "--cache", str(pixel_cache), "--locate"]
    assert run([*command, "--report", str(page)]) == 1
    shown = capsys.readouterr().out
    assert "FAIL" in shown
    assert "<-- here" in shown
    assert f"first at node {node.name} (Conv" in shown
    assert node.name in page.read_text()
    assert run([*command, "--json"]) == 1
    assert json.loads(capsys.readouterr().out)["location"]["graph"]["first"]["node"] == node.name


def test_a_tensor_that_is_not_finite_is_the_first(trained: Path) -> None:
    good = onnx.load(trained / "onnx-fp32" / "model.onnx")
    bad = onnx.load(trained / "onnx-fp32" / "model.onnx")
    node = middle(bad)
    change_constant(bad, node.input[1], lambda w: np.full_like(w, np.nan))
    images = np.random.default_rng(0).normal(size=(2, 3, 32, 32)).astype(np.float32)
    found = compare_graphs(good, bad, images, tolerance=1e-3)
    assert found.first is not None
    assert (found.first.node, found.first.error) == (node.name, None)
    assert "is not finite" in found.sentence
    assert found.model_dump_json()


@pytest.mark.parametrize("engine", ["onnxruntime", "openvino"])
def test_the_engines_compute_what_the_graph_says(trained: Path, engine: Any) -> None:
    graph = onnx.load(trained / "onnx-fp32" / "model.onnx")
    images = np.random.default_rng(0).normal(size=(2, 3, 32, 32)).astype(np.float32)
    found = compare_graphs(graph, graph, images, tolerance=1e-3, engine=engine)
    assert found.first is None
    assert len(found.nodes) > 5
