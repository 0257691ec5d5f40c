"""Native code in an artifact runs only where somebody answers for it; what is native is one table."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from onnx import helper

from ttl_deploy.artifact import Artifact, open_artifact
from ttl_deploy.errors import IntegrityError, TtlDeployError
from ttl_deploy.runtime import RUNTIMES, load, native_code, runtime_for
from ttl_deploy.runtime.native import NATIVE, refuse_context
from ttl_deploy.spec import Placement, Trust

COMPILED = [name for name, what in NATIVE.items() if what is not None]


def test_every_runtime_is_in_the_table() -> None:
    assert {engine.name for engine in RUNTIMES} == set(NATIVE)
    of_tensorrt = {"tensorrt", "tensorrt-cuda-graph", "tensorrt-rtx", "tensorrt-rtx-cuda-graph"}
    assert set(COMPILED) == {"torch-aot", "torch-tensorrt", *of_tensorrt}


def test_a_runtime_that_is_not_in_the_table_counts_as_native() -> None:
    assert native_code("of-another-package") is not None


@pytest.mark.parametrize("name", COMPILED)
def test_native_code_that_nobody_answers_for_does_not_run(name: str, make_artifact: Callable[..., Artifact]) -> None:
    runtime = RUNTIMES.get(name)
    folder = make_artifact(format=runtime.formats[0]).folder
    for use in (load, runtime_for, runtime.load):
        with pytest.raises(IntegrityError, match=r"would run native code: .* pass --key .* or --trust"):
            use(open_artifact(folder), Placement(runtime=name, device=runtime.devices[0]))


@pytest.mark.parametrize("name", COMPILED)
def test_with_trust_it_gets_as_far_as_the_engine(name: str, make_artifact: Callable[..., Artifact]) -> None:
    """There the tiny network is no such engine, or there is no GPU."""
    runtime = RUNTIMES.get(name)
    made = make_artifact(format=runtime.formats[0])
    for artifact in (made, open_artifact(made.folder, trust=Trust(native_code=True))):
        with pytest.raises(TtlDeployError) as error:
            load(artifact, Placement(runtime=name, device=runtime.devices[0]))
        assert "native code" not in str(error.value)


def test_data_needs_no_trust(artifact: Artifact) -> None:
    assert not open_artifact(artifact.folder).trusted
    for name in ("onnxruntime", "openvino"):
        load(open_artifact(artifact.folder), Placement(runtime=name)).close()


def test_a_package_that_the_manifest_does_not_list_is_not_loaded(make_artifact: Callable[..., Artifact]) -> None:
    details = {"aot": {"file": "../package.pt2", "device": "cpu", "isa": []}}
    with pytest.raises(IntegrityError, match=r"does not list its package '\.\./package\.pt2'"):
        load(make_artifact(format="pt2", details=details), Placement(runtime="torch-aot"))


def test_a_graph_with_a_compiled_engine_inside_is_refused(artifact: Artifact, tmp_path: Path) -> None:
    refuse_context(artifact)
    node = helper.make_node("EPContext", ["images"], ["logits"], domain="com.microsoft", ep_cache_context="engine.bin")
    graph = helper.make_graph([node], "hostile", [], [])
    artifact.model_path.write_bytes(helper.make_model(graph).SerializeToString())
    with pytest.raises(IntegrityError, match="holds a compiled engine"):
        refuse_context(artifact)
