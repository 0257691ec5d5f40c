from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from ttl_deploy.artifact import Artifact, write_artifact
from ttl_deploy.runtime import load
from ttl_deploy.runtime.ov import OpenVinoSession, settings
from ttl_deploy.runtime.ov_core import core
from ttl_deploy.spec import InputSpec, ModelSpec, Placement, PreprocessSpec


def wide_linear(folder: Path, like: Artifact) -> tuple[Artifact, Callable[[Any], Any]]:
    """A matrix product long enough that bfloat16 would show in the third digit."""
    weight = np.random.default_rng(3).normal(size=(3 * 16 * 16, 3)).astype(np.float32)
    nodes = [
        helper.make_node("Flatten", ["images"], ["flat"]),
        helper.make_node("MatMul", ["flat", "weight"], ["logits"]),
    ]
    wide = written(folder, like, nodes, [numpy_helper.from_array(weight, "weight")])
    return wide, lambda batch: batch.reshape(len(batch), -1).astype(float) @ weight


def written(
    folder: Path,
    like: Artifact,
    nodes: Sequence[onnx.NodeProto],
    constants: Sequence[onnx.TensorProto],
    precision: str = "fp32",
) -> Artifact:
    """An artifact of a graph from images of 16 pixels to three logits."""
    graph = helper.make_graph(
        nodes,
        "graph",
        [helper.make_tensor_value_info("images", TensorProto.FLOAT, ["batch", 3, 16, 16])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", 3])],
        constants,
    )
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(proto)

    def build(place: Path) -> str:
        (place / "model.onnx").write_bytes(proto.SerializeToString())
        return "model.onnx"

    fields = like.manifest.model_dump(exclude={"files", "model_file", "model"})
    given = InputSpec.image(16)
    fields |= {"precision": precision, "preprocess": PreprocessSpec(input=given)}
    fields["model"] = ModelSpec(backbone="wide", classes=like.manifest.model.classes, input=given)
    return write_artifact(folder, fields, build)


def test_a_fp32_artifact_is_computed_in_fp32(tmp_path: Path, artifact: Artifact) -> None:
    wide, expected = wide_linear(tmp_path / "wide", artifact)
    batch = np.random.default_rng(4).normal(size=(8, 3, 16, 16)).astype(np.float32)
    with load(wide, Placement(runtime="openvino")) as session:
        difference = np.abs(session.run(batch) - expected(batch)).max()
    # Rounding each of 768 products' factors to bfloat16 would move a logit by about 0.1.
    assert difference < 1e-3


@pytest.mark.parametrize(("precision", "hint"), [("fp32", "f32"), ("fp16", "f32"), ("int8", "f32"), ("bf16", "bf16")])
def test_every_precision_is_told_to_the_engine(precision: str, hint: str) -> None:
    properties = settings(precision, 3)
    assert properties["INFERENCE_PRECISION_HINT"] == hint
    assert properties["INFERENCE_NUM_THREADS"] == "3"


def test_the_engine_took_the_settings(artifact: Artifact) -> None:
    import openvino

    compiled = core().compile_model(artifact.model_path, "CPU", settings("fp32", 1))
    assert compiled.get_property("INFERENCE_PRECISION_HINT") == openvino.Type.f32
    assert compiled.get_property("INFERENCE_NUM_THREADS") == 1


def test_nothing_is_left_on_disk(
    artifact: Artifact, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, images: Any
) -> None:
    place = tmp_path / "elsewhere"
    place.mkdir()
    monkeypatch.chdir(place)
    before = sorted(artifact.folder.rglob("*"))
    with load(artifact, Placement(runtime="openvino")) as session:
        session.run(images)
    assert list(place.iterdir()) == []
    assert sorted(artifact.folder.rglob("*")) == before


def test_nobody_is_told_that_it_is_used(artifact: Artifact, tmp_path: Path) -> None:
    """By itself the package starts a process that posts an event, and keeps its sender's number in the home folder."""
    code = f"""
import os
from pathlib import Path
from ttl_deploy.artifact import open_artifact
from ttl_deploy.runtime import load
from ttl_deploy.spec import Placement

os.register_at_fork(before=lambda: print("a process was started"))
load(open_artifact(Path({str(artifact.folder)!r})), Placement(runtime="openvino")).close()
"""
    home = tmp_path / "home"
    home.mkdir()
    environment = {**os.environ, "HOME": str(home)}
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    assert done.stdout == ""
    assert list(home.iterdir()) == []


def test_sessions_closed_in_any_order_leave_a_process_that_takes_a_signal(artifact: Artifact) -> None:
    """In a process of its own, which one that freed its signal stack would not survive."""
    code = f"""
import gc, os, signal
from pathlib import Path
from ttl_deploy.artifact import open_artifact
from ttl_deploy.runtime import load
from ttl_deploy.spec import Placement

artifact = open_artifact(Path({str(artifact.folder)!r}))
first, second = load(artifact, Placement(runtime="openvino")), load(artifact, Placement(runtime="openvino"))
for session in (first, second):
    session.close()
del first, second, session
gc.collect()
signal.signal(signal.SIGUSR1, lambda *_: print("taken"))
os.kill(os.getpid(), signal.SIGUSR1)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "taken\n")


def convolutions(folder: Path, like: Artifact, *, joined: bool, rounded: bool, precision: str) -> Artifact:
    """Two convolutions, quantised where the precision says so, whose features are laid side by side or added up."""
    generator = np.random.default_rng(5)
    nodes, constants = [], []

    def constant(name: str, values: Any) -> str:
        constants.append(numpy_helper.from_array(np.asarray(values), name))
        return name

    def on_grid(name: str) -> str:
        if precision != "int8":
            return name
        grid = [constant(f"{name}_scale", np.float32(0.05)), constant(f"{name}_zero", np.int8(0))]
        nodes.append(helper.make_node("QuantizeLinear", [name, *grid], [f"{name}_q"]))
        nodes.append(helper.make_node("DequantizeLinear", [f"{name}_q", *grid], [f"{name}_dq"]))
        return f"{name}_dq"

    source = on_grid("images")
    for name in ("left", "right"):
        weight = constant(f"{name}_weight", generator.normal(size=(8, 3, 3, 3)).astype(np.float32))
        nodes.append(helper.make_node("Conv", [source, on_grid(weight)], [name], pads=[1, 1, 1, 1]))
    sides = [on_grid(name) if rounded else name for name in ("left", "right")]
    nodes.append(
        helper.make_node("Concat", sides, ["both"], axis=1) if joined else helper.make_node("Add", sides, ["both"])
    )
    nodes.append(helper.make_node("GlobalAveragePool", ["both"], ["pooled"]))
    # As exporters write it: the shape is put together of numbers, which is no joining of features.
    nodes.append(helper.make_node("Shape", ["pooled"], ["count"], start=0, end=1))
    nodes.append(helper.make_node("Concat", ["count", constant("rest", np.array([-1]))], ["flat_shape"], axis=0))
    nodes.append(helper.make_node("Reshape", ["pooled", "flat_shape"], ["flat"]))
    last = generator.normal(size=(16 if joined else 8, 3)).astype(np.float32)
    nodes.append(helper.make_node("MatMul", ["flat", constant("last", last)], ["logits"]))
    return written(folder, like, nodes, constants, precision)


@pytest.mark.parametrize(("joined", "rounded"), [(False, False), (True, False), (True, True)])
@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_what_is_expected_changes_no_answer(
    tmp_path: Path, artifact: Artifact, joined: bool, rounded: bool, precision: str
) -> None:
    """Every image's logits are the same bits alone, in a batch of any size, and whatever was expected before."""
    graph = convolutions(tmp_path / "graph", artifact, joined=joined, rounded=rounded, precision=precision)
    batch = np.random.default_rng(6).normal(size=(7, 3, 16, 16)).astype(np.float32)
    with load(graph, Placement(runtime="openvino")) as session:
        alone = np.concatenate([session.run(batch[i : i + 1]) for i in range(7)])
        together = session.run(batch)
    with load(graph, Placement(runtime="openvino")) as session:
        for size in (3, 1, 7, 3):
            session.expect(size)
            np.testing.assert_array_equal(session.run(batch), alone)
    np.testing.assert_array_equal(together, alone)
    assert alone.std() > 0.1


def test_a_graph_is_compiled_for_what_is_expected_unless_that_would_crash(tmp_path: Path, artifact: Artifact) -> None:
    ways = ((False, False, [1, 4]), (False, True, [1, 4]), (True, False, [1, 4]), (True, True, []))
    every = [(joined, rounded, "int8", fixed) for joined, rounded, fixed in ways] + [(True, False, "fp32", [4])]
    for place, (joined, rounded, precision, fixed) in enumerate(every):
        graph = convolutions(tmp_path / f"{place}", artifact, joined=joined, rounded=rounded, precision=precision)
        with load(graph, Placement(runtime="openvino")) as session:
            session.expect(4)
            session.expect(4)
            assert isinstance(session, OpenVinoSession)
            assert sorted(session._fixed) == fixed


def test_a_batch_may_be_gone_once_it_was_run(artifact: Artifact, images: Any) -> None:
    """The engine reads it where it lies, and no longer than the call."""
    import gc

    with load(artifact, Placement(runtime="openvino")) as session:
        first = session.run(images.copy())
        gc.collect()
        kept = first.copy()
        session.run(np.zeros_like(images))
        np.testing.assert_array_equal(first, kept)
        np.testing.assert_array_equal(session.run(images.copy()), kept)
