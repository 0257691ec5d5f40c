"""The builder: parser, network and configuration in a real library, what is read back of an engine in a double.

The real one is TensorRT for RTX, in the place of `tensorrt`: it has the same names, and needs no GPU until an engine is
loaded. The double stands for what it lacks: the inspector, hardware levels and timing caches that do not fit.
"""

from __future__ import annotations

import ast
import struct
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import tensorrt_double as double
from onnx import TensorProto, helper
from test_onnx_graph import SPECS, made

from ttl_deploy import hardware as machine
from ttl_deploy.formats.graph_types import to_half
from ttl_deploy.formats.kit import build_engine
from ttl_deploy.formats.kit.build_engine import (
    BuildError,
    Settings,
    build,
    check_device,
    check_precision,
    configure,
    count_precisions,
    count_tf32,
    inspect,
    parse,
    trtexec,
)
from ttl_deploy.formats.onnx_graph import to_onnx

SHAPES = ((1, 3, 8, 8), (2, 3, 8, 8), (8, 3, 8, 8))
NETWORK = ((1, 3, 48, 48), (2, 3, 48, 48), (8, 3, 48, 48))
"""Shapes of `graph`'s input."""


def settings(precision: str = "fp16", shapes: Any = SHAPES, **more: Any) -> Settings:
    return Settings(precision, "images", *shapes, **more)


@pytest.fixture
def behaviour(monkeypatch: pytest.MonkeyPatch) -> double.Behaviour:
    made = double.Behaviour()
    monkeypatch.setitem(sys.modules, "tensorrt", double.make(made))
    return made


@pytest.fixture
def real(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The real library, as `tensorrt`."""
    module = pytest.importorskip("tensorrt_rtx_bindings", reason="needs the extra rtx")
    monkeypatch.setitem(sys.modules, "tensorrt", module)
    return module


no_timings = pytest.mark.filterwarnings("ignore:Use Deprecated in TensorRT-RTX:DeprecationWarning")
"""The real library knows timing caches and does nothing with them."""


@pytest.fixture(scope="module")
def graph() -> bytes:
    """A truncated ResNet-18 in half precision, as it is exported."""
    content: bytes = to_half(to_onnx(made(SPECS[0])), "fp16").SerializeToString()
    return content


@no_timings
def test_a_build_goes_the_whole_way(real: Any, graph: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    """All but the inspector is real: it needs a GPU."""
    asked: list[bytes] = []
    monkeypatch.setattr(build_engine, "inspect", lambda plan, **_: asked.append(plan) or double.FP16_LAYERS)
    built = build(graph, settings(shapes=NETWORK, workspace_mib=512))
    assert asked == [built.plan]
    # The engine holds its profile's shapes as they are.
    places = [built.plan.find(struct.pack("<4q", *shape)) for shape in NETWORK]
    assert 0 < places[0] < places[1] < places[2] < len(built.plan)
    assert (built.counts, built.layers, built.tf32_layers) == ({"fp16": 2}, double.FP16_LAYERS, 0)
    assert built.tensorrt == real.__version__


def test_networks_are_strongly_typed(real: Any, graph: bytes) -> None:
    """The flag goes by its name: TensorRT 11 gave it another value than 10."""
    assert parse(real, graph).network.get_flag(real.NetworkDefinitionCreationFlag.STRONGLY_TYPED)


def test_the_settings_reach_the_builder(real: Any, graph: bytes) -> None:
    config = configure(parse(real, graph), settings(shapes=NETWORK, workspace_mib=512, optimization_level=4))
    assert config.builder_optimization_level == 4
    assert config.profiling_verbosity == real.ProfilingVerbosity.DETAILED
    assert config.get_memory_pool_limit(real.MemoryPoolType.WORKSPACE) == 512 * 2**20
    assert config.num_optimization_profiles == 1
    assert not config.get_flag(real.BuilderFlag.VERSION_COMPATIBLE)
    assert configure(parse(real, graph), settings(shapes=NETWORK, version_compatible=True)).get_flag(
        real.BuilderFlag.VERSION_COMPATIBLE
    )


def test_tf32_is_a_flag_and_fp32_the_lack_of_it(real: Any, graph: bytes) -> None:
    """The library sets it by itself."""
    parsed = parse(real, graph)
    assert parsed.builder.create_builder_config().get_flag(real.BuilderFlag.TF32)
    for precision in ("fp32", "tf32", "fp16"):
        config = configure(parsed, settings(precision, NETWORK))
        assert config.get_flag(real.BuilderFlag.TF32) == (precision == "tf32")


@pytest.mark.parametrize(
    ("hardware", "level"), [("ampere-plus", "AMPERE_PLUS"), ("same-compute-capability", "SAME_COMPUTE_CAPABILITY")]
)
def test_options_of_compatibility(behaviour: double.Behaviour, hardware: str, level: str) -> None:
    build(b"graph", settings(hardware=hardware, version_compatible=True))
    assert ("hardware_compatibility_level", level) in behaviour.calls
    assert ("set_flag", "VERSION_COMPATIBLE") in behaviour.calls
    assert ("engine_host_code_allowed", True) in behaviour.calls


def test_an_old_tensorrt_without_the_level_says_so(real: Any, graph: bytes) -> None:
    old = SimpleNamespace(**vars(real) | {"__version__": "10.4.0.26", "HardwareCompatibilityLevel": SimpleNamespace()})
    with pytest.raises(BuildError, match=r"10\.4\.0\.26 has no SAME_COMPUTE_CAPABILITY; 10\.9"):
        configure(parse(old, graph), settings(shapes=NETWORK, hardware="same-compute-capability"))


def test_a_timing_cache_that_fits_is_used_and_another_is_not(behaviour: double.Behaviour) -> None:
    behaviour.known_cache = b"fits"
    assert build(b"graph", settings(), b"fits").timing_cache == b"fits+timed"
    assert build(b"graph", settings(), b"other").timing_cache == b"+timed"
    caches = [call[1:] for call in behaviour.calls if call[0] == "set_timing_cache"]
    assert caches == [(b"fits", False), (b"other", False), (b"", False)]


def test_parser_errors_are_collected(real: Any) -> None:
    value = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 4]) for name in ("x", "y")]
    nodes = [helper.make_node("Det", ["x"], ["y"], name="odd")]
    wrong = helper.make_model(helper.make_graph(nodes, "wrong", value[:1], value[1:]), ir_version=8)
    with pytest.raises(BuildError, match=r"cannot read the graph: .*odd.*Det") as error:
        build(wrong.SerializeToString(), settings())
    assert "\n" not in str(error.value)
    with pytest.raises(BuildError, match=r"cannot read the graph: .*Failed to parse the ONNX model"):
        build(b"graph", settings())


@no_timings
def test_a_failed_build_says_what_the_logger_heard(real: Any, graph: bytes) -> None:
    with pytest.raises(BuildError, match=r"cannot build the engine: .*images"):
        build(graph, settings())
    with pytest.raises(BuildError, match=r"cannot load the engine it built: .*Error Code 2"):
        inspect(b"plan")
    if machine.describe().gpus:
        pytest.skip("this machine has a GPU")
    with pytest.raises(BuildError, match=r"cannot load the engine it built: .*cudaError 35"):
        build(graph, settings(shapes=NETWORK))


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
def test_an_engine_that_runs_another_precision_is_refused(asked: str, layers: Any, refused: str | None) -> None:
    counts = count_precisions(layers)
    if refused is None:
        check_precision(asked, counts, count_tf32(layers))
        assert sum(counts.values()) == len(layers)
        return
    with pytest.raises(BuildError, match=refused):
        check_precision(asked, counts, count_tf32(layers))


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
