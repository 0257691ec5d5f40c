"""The builder against a recording double of TensorRT: control flow, refusals, what is read back. Nothing is built."""

from __future__ import annotations

import ast
import sys
from pathlib import Path
from typing import Any

import pytest
import tensorrt_double as double

from ttl_deploy.formats.kit import build_engine
from ttl_deploy.formats.kit.build_engine import BuildError, Settings, build, check_device, count_precisions, trtexec

SHAPES = ((1, 3, 8, 8), (2, 3, 8, 8), (8, 3, 8, 8))


def settings(precision: str = "fp16", **more: Any) -> Settings:
    return Settings(precision, "images", *SHAPES, **more)


@pytest.fixture
def behaviour(monkeypatch: pytest.MonkeyPatch) -> double.Behaviour:
    made = double.Behaviour()
    monkeypatch.setitem(sys.modules, "tensorrt", double.make(made))
    return made


def test_the_order_of_a_build(behaviour: double.Behaviour) -> None:
    built = build(b"graph", settings(workspace_mib=512, optimization_level=4))
    assert behaviour.calls == [
        ("ILogger.__init__",),
        ("create_network", 1),
        ("parse", 5),
        ("builder_optimization_level", 4),
        ("profiling_verbosity", "DETAILED"),
        ("set_memory_pool_limit", "WORKSPACE", 512 * 2**20),
        ("clear_flag", "TF32"),
        ("set_shape", "images", *SHAPES),
        ("add_optimization_profile",),
        ("set_timing_cache", b"", False),
        ("build_serialized_network",),
        ("ILogger.__init__",),
        ("deserialize_cuda_engine", b"plan"),
    ]
    assert (built.plan, built.counts, built.timing_cache) == (b"plan", {"fp16": 2}, b"+timed")
    assert built.tensorrt == "11.4.0.106"


@pytest.mark.parametrize(("version", "flag"), [("10.13.3.9", 2), ("11.4.0.106", 1)])
def test_networks_are_strongly_typed_in_both_versions(
    behaviour: double.Behaviour, monkeypatch: pytest.MonkeyPatch, version: str, flag: int
) -> None:
    """The flag's value changed, its name did not."""
    monkeypatch.setitem(sys.modules, "tensorrt", double.make(behaviour, version))
    build(b"graph", settings())
    assert ("create_network", flag) in behaviour.calls


def test_tf32_is_a_flag_and_fp32_the_lack_of_it(behaviour: double.Behaviour) -> None:
    behaviour.layers = double.typed("Row major linear FP32")
    build(b"graph", settings("tf32"))
    assert ("set_flag", "TF32") in behaviour.calls
    behaviour.calls.clear()
    build(b"graph", settings("fp32"))
    assert ("clear_flag", "TF32") in behaviour.calls
    assert "set_flag" not in behaviour.names()


@pytest.mark.parametrize(
    ("hardware", "level"), [("ampere-plus", "AMPERE_PLUS"), ("same-compute-capability", "SAME_COMPUTE_CAPABILITY")]
)
def test_options_of_compatibility(behaviour: double.Behaviour, hardware: str, level: str) -> None:
    build(b"graph", settings(hardware=hardware, version_compatible=True))
    assert ("hardware_compatibility_level", level) in behaviour.calls
    assert ("set_flag", "VERSION_COMPATIBLE") in behaviour.calls
    assert ("engine_host_code_allowed", True) in behaviour.calls


def test_an_old_tensorrt_without_the_level_says_so(
    behaviour: double.Behaviour, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = double.make(behaviour, "10.4.0.26")
    module.HardwareCompatibilityLevel = type("HardwareCompatibilityLevel", (), {"AMPERE_PLUS": 1})  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "tensorrt", module)
    with pytest.raises(BuildError, match=r"10\.4\.0\.26 has no SAME_COMPUTE_CAPABILITY; 10\.9"):
        build(b"graph", settings(hardware="same-compute-capability"))


def test_a_timing_cache_that_fits_is_used_and_another_is_not(behaviour: double.Behaviour) -> None:
    behaviour.known_cache = b"fits"
    assert build(b"graph", settings(), b"fits").timing_cache == b"fits+timed"
    assert build(b"graph", settings(), b"other").timing_cache == b"+timed"
    caches = [call[1:] for call in behaviour.calls if call[0] == "set_timing_cache"]
    assert caches == [(b"fits", False), (b"other", False), (b"", False)]


def test_parser_errors_are_collected(behaviour: double.Behaviour) -> None:
    behaviour.parse_errors = ("In node 3 (importFoo): UNSUPPORTED_NODE", "In node 4:\n no kernel")
    with pytest.raises(BuildError, match=r"cannot read the graph: In node 3 .*UNSUPPORTED_NODE; In node 4: no kernel"):
        build(b"graph", settings())
    assert "build_serialized_network" not in behaviour.names()


def test_a_failed_build_says_what_the_logger_heard(behaviour: double.Behaviour) -> None:
    behaviour.builds = False
    with pytest.raises(BuildError, match=r"cannot build the engine: Error Code 4: Internal Error \(no tactic\)"):
        build(b"graph", settings())
    behaviour.builds, behaviour.loads = True, False
    with pytest.raises(BuildError, match="cannot load the engine it built: Error Code 4"):
        build(b"graph", settings())


FP32, FP16, INT8 = "Row major linear FP32", "Channel major FP16 format where channel % 8 == 0", "Int8"


@pytest.mark.parametrize(
    ("asked", "layers", "refused"),
    [
        # What others shipped: fp16=True, and TensorRT 11 built fp32.
        ("fp16", double.typed(FP32), "does not run fp16: its computing layers are 3 fp32"),
        ("fp16", double.typed(FP16), None),
        ("fp16", double.typed(FP16, layers=2) + double.typed(FP32, layers=2), None),
        ("fp16", double.typed(FP16, layers=1) + double.typed(FP32, layers=2), "1 fp16, 2 fp32"),
        ("fp16", double.typed("BFloat16"), "3 bf16"),
        ("int8", double.typed(FP16), "does not run int8"),
        ("int8", double.typed(INT8) + double.typed("Half", layers=1), None),
        ("int8", double.typed("Thirty-two wide channel vectorized row major Int8 format."), None),
        # Weights in 8 bit and activations not: the arithmetic is 8 bit wherever a kernel takes both.
        ("int8", double.typed(FP16, Weights={"Type": "Int8", "Count": 9}), None),
        ("fp32", double.typed(FP32), None),
        ("fp32", double.typed(FP32) + double.typed("Half", layers=1), "is not fp32: .* 1 fp16, 3 fp32"),
        ("fp32", double.typed(FP32, tactic="sm80_xmma_fprop_tf32f32"), "is not fp32: 3 of its layers run TF32"),
        ("tf32", double.typed(FP32, tactic="sm80_xmma_fprop_tf32f32"), None),
        ("tf32", double.typed(FP32), None),
        ("tf32", double.typed(FP16), "is not tf32"),
        ("fp16", double.typed(FP16, LayerType="Reformat"), "none of a known type"),
    ],
)
def test_an_engine_that_runs_another_precision_is_refused(
    behaviour: double.Behaviour, asked: str, layers: Any, refused: str | None
) -> None:
    behaviour.layers = layers
    if refused is None:
        assert sum(build(b"graph", settings(asked)).counts.values()) == len(layers)
        return
    with pytest.raises(BuildError, match=refused):
        build(b"graph", settings(asked))


@pytest.mark.parametrize("layers", [["conv1", "conv2"], []])
def test_an_engine_that_tells_no_types_is_refused(behaviour: double.Behaviour, layers: Any) -> None:
    behaviour.layers = layers
    with pytest.raises(BuildError, match="precision cannot be checked"):
        build(b"graph", settings())


def test_layers_that_move_data_are_not_counted() -> None:
    assert count_precisions(double.FP16_LAYERS) == {"fp16": 2}
    shape_only = [{"LayerType": "kgen", "Inputs": [{"Format/Datatype": "Int64"}]}]
    assert count_precisions(shape_only) == {}


def test_what_turing_cannot_do_is_refused_before_the_build() -> None:
    check_device(settings(), "Quadro RTX 6000", "7.5")
    check_device(settings("tf32", hardware="ampere-plus"), "NVIDIA H100", "9.0")
    check_device(settings("tf32"), "NVIDIA B200", "10.0")
    with pytest.raises(BuildError, match=r"excludes Turing .* Quadro RTX 6000 .* 7\.5; same-compute-capability"):
        check_device(settings(hardware="ampere-plus"), "Quadro RTX 6000", "7.5")
    with pytest.raises(BuildError, match="has no TF32"):
        check_device(settings("tf32"), "Quadro RTX 6000", "7.5")


def test_the_trtexec_line_is_valid_in_both_versions() -> None:
    """Version 11 took the precision flags away, and needs none: its networks are strongly typed."""
    everything = settings(workspace_mib=256, version_compatible=True, hardware="ampere-plus")
    for major in (10, 11):
        words = trtexec(everything, major=major).split()
        assert ("--stronglyTyped" in words) == (major == 10)
        assert not {"--fp16", "--bf16", "--int8", "--fp8", "--best"} & set(words)
        assert "--minShapes=images:1x3x8x8" in words
        assert "--optShapes=images:2x3x8x8" in words
        assert "--maxShapes=images:8x3x8x8" in words
        assert {"--memPoolSize=workspace:256M", "--versionCompatible", "--hardwareCompatibilityLevel=ampere+"} <= set(
            words
        )
    assert "--noTF32" in trtexec(settings("fp32"))
    assert "--noTF32" not in trtexec(settings("tf32"))


def test_settings_survive_their_json() -> None:
    given = settings(workspace_mib=3, hardware="ampere-plus")
    assert Settings.of(given.as_dict()) == given


def test_the_builder_needs_tensorrt_alone() -> None:
    path = Path(build_engine.__file__)
    imported = {
        alias.name.split(".")[0]
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Import)
        for alias in node.names
    } | {
        str(node.module).split(".")[0]
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.ImportFrom)
    }
    assert imported - set(sys.stdlib_module_names) == {"tensorrt"}
