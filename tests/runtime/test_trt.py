"""TensorRT's runtime against a recording double: order of calls, data all the way. No engine is executed."""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import tensorrt_double as double
from numpy.typing import NDArray

from ttl_deploy import hardware
from ttl_deploy.artifact import Artifact
from ttl_deploy.errors import BadInputError, IntegrityError, MissingDependencyError
from ttl_deploy.runtime import cuda_driver, load, trt
from ttl_deploy.runtime.cuda_driver import Cuda, Device
from ttl_deploy.runtime.trt import refuse_foreign
from ttl_deploy.runtime.trt_engine_run import EngineError, EngineRun
from ttl_deploy.spec import InputSpec, ModelSpec, Placement, PreprocessSpec

RTX = Device("Quadro RTX 6000", "7.5")


@pytest.fixture
def behaviour(fake_driver: Path) -> double.Behaviour:
    return double.Behaviour(driver=ctypes.CDLL(str(fake_driver)))


@pytest.fixture
def machine(
    fake_driver: Path, behaviour: double.Behaviour, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Path]:
    """A machine with a GPU and TensorRT 11.4, both doubles; gives the driver's log."""
    monkeypatch.setattr(cuda_driver, "LIBRARY", str(fake_driver))
    monkeypatch.setenv("FAKE_CUDA_LOG", str(tmp_path / "log"))
    monkeypatch.setitem(sys.modules, "tensorrt", double.make(behaviour))
    monkeypatch.setattr(trt, "available", lambda: None)
    yield tmp_path / "log"


def engine_details(**profile: Any) -> dict[str, Any]:
    settings = {"hardware": "none", "version_compatible": False} | profile
    return {
        "tensorrt": "11.4.0.106",
        "gpu": RTX.name,
        "compute_capability": RTX.compute_capability,
        "profile": settings,
    }


@pytest.fixture
def engine(make_artifact: Callable[..., Artifact]) -> Artifact:
    return make_artifact("engine", format="trt", precision="fp16", details={"engine": engine_details()})


def open_session(artifact: Artifact, **more: Any) -> trt.TrtSession:
    return trt.TrtSession(artifact, threads=1, device="cuda", **more)


@pytest.mark.parametrize("cuda_graph", [False, True])
def test_data_goes_the_whole_way(
    machine: Path, engine: Artifact, images: NDArray[np.float32], cuda_graph: bool
) -> None:
    """Several batches of one size, then another size and back: a stale buffer, shape or graph would show."""
    matrix = double.weights((3, 8, 8), 3)
    with open_session(engine, cuda_graph=cuda_graph) as session:
        for batch in (images[:2], images[2:4], images[:3], images[:1], images[1:3]):
            np.testing.assert_allclose(session.run(batch), batch.reshape(len(batch), -1) @ matrix, rtol=1e-5, atol=1e-4)
    log = machine.read_text().split()
    for made, freed in (("cuMemAlloc", "cuMemFree"), ("cuMemHostAlloc", "cuMemFreeHost")):
        assert log.count(made) == log.count(freed) == 2
    assert log.count("cuGraphLaunch") == (5 if cuda_graph else 0)
    assert log.count("cuStreamEndCapture") == log.count("cuGraphExecDestroy") == (4 if cuda_graph else 0)
    assert log.count("cuStreamDestroy") == log.count("release") == 1


def test_buffers_are_made_once_for_the_largest_batch(
    machine: Path, engine: Artifact, images: NDArray[np.float32]
) -> None:
    with open_session(engine) as session:
        for _ in range(3):
            session.run(images[:4])
    lines = machine.read_text().splitlines()
    image = 3 * 8 * 8 * 4
    assert [line for line in lines if "Alloc" in line] == [
        f"cuMemAlloc {8 * image}",
        f"cuMemAlloc {8 * 3 * 4}",
        f"cuMemHostAlloc {8 * image} 0",
        f"cuMemHostAlloc {8 * 3 * 4} 0",
    ]
    assert lines.count(f"cuMemcpyHtoDAsync {4 * image}") == 3


def test_shape_is_set_when_it_changes_only(
    machine: Path, engine: Artifact, behaviour: double.Behaviour, images: NDArray[np.float32]
) -> None:
    with open_session(engine) as session:
        for rows in (2, 2, 3, 3, 2):
            session.run(images[:rows])
    shapes = [call[2][0] for call in behaviour.calls if call[0] == "set_input_shape"]
    assert shapes == [2, 3, 2]


def test_the_profile_that_allows_the_batch_is_taken(
    machine: Path, engine: Artifact, behaviour: double.Behaviour, images: NDArray[np.float32]
) -> None:
    behaviour.profiles = ((1, 1, 1), (2, 4, 8))
    sys.modules["tensorrt"] = double.make(behaviour)
    with open_session(engine) as session:
        for rows in (1, 3, 4, 1):
            session.run(images[:rows])
    assert [call[1] for call in behaviour.calls if call[0] == "set_optimization_profile_async"] == [1, 0]


def test_a_batch_beyond_the_profile_is_run_in_parts(
    machine: Path, engine: Artifact, behaviour: double.Behaviour, images: NDArray[np.float32]
) -> None:
    behaviour.profiles = ((1, 1, 2),)
    sys.modules["tensorrt"] = double.make(behaviour)
    with open_session(engine) as session:
        logits = session.run(images)
    np.testing.assert_allclose(logits, images.reshape(5, -1) @ double.weights((3, 8, 8), 3), rtol=1e-5, atol=1e-4)
    assert behaviour.names().count("execute_async_v3") == 3


def test_a_batch_below_every_profile_is_refused(
    machine: Path, engine: Artifact, behaviour: double.Behaviour, images: NDArray[np.float32]
) -> None:
    behaviour.profiles = ((4, 4, 8),)
    sys.modules["tensorrt"] = double.make(behaviour)
    with open_session(engine) as session, pytest.raises(BadInputError, match="batches of 4 to 8, not of 1"):
        session.run(images[:1])


def test_what_tensorrt_refuses_is_one_line(
    fake_driver: Path, tmp_path: Path, make_artifact: Callable[..., Artifact], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A real library refuses it: TensorRT for RTX in the place of the full one, whose names it has."""
    real = pytest.importorskip("tensorrt_rtx_bindings", reason="needs the extra rtx")
    monkeypatch.setitem(sys.modules, "tensorrt", real)
    monkeypatch.setattr(cuda_driver, "LIBRARY", str(fake_driver))
    monkeypatch.setenv("FAKE_CUDA_LOG", str(tmp_path / "log"))
    details = engine_details() | {"tensorrt": real.__version__}
    with pytest.raises(IntegrityError, match=r"refuses the engine: .*Error Code 1: Serialization") as error:
        open_session(make_artifact("engine", format="trt", precision="fp16", details={"engine": details}))
    assert "\n" not in str(error.value)
    assert "release" in (tmp_path / "log").read_text()


def test_another_input_than_the_manifest_says_is_refused(machine: Path, make_artifact: Callable[..., Artifact]) -> None:
    other = make_artifact("other", format="trt", input_name="pixels", details={"engine": engine_details()})
    with pytest.raises(IntegrityError, match="images, logits, not pixels and logits"):
        open_session(other)


def test_a_version_compatible_engine_may_carry_its_runtime(
    machine: Path, make_artifact: Callable[..., Artifact], behaviour: double.Behaviour
) -> None:
    details = engine_details(version_compatible=True) | {"tensorrt": "10.13.0.35"}
    with open_session(make_artifact("compatible", format="trt", details={"engine": details})):
        assert ("engine_host_code_allowed", True) in behaviour.calls


AGAIN = "ttl-deploy export RUN --format trt --overwrite"


@pytest.mark.parametrize(
    ("changes", "profile", "device", "version", "refused"),
    [
        ({}, {}, RTX, "11.4.0.106", None),
        ({}, {}, RTX, "11.4.0.200", None),
        ({}, {}, RTX, "11.5.0.1", "built by TensorRT 11.4.0.106, here is 11.5.0.1"),
        ({}, {}, RTX, "10.13.3.9", "here is 10.13.3.9"),
        ({}, {"version_compatible": True}, RTX, "11.5.0.1", None),
        ({}, {"version_compatible": True}, RTX, "12.0.0.1", None),
        ({}, {"version_compatible": True}, RTX, "10.13.3.9", "here is 10.13.3.9"),
        ({}, {}, Device("Tesla T4", "7.5"), "11.4.0.106", "built for Quadro RTX 6000 .* here is Tesla T4"),
        ({}, {"hardware": "same-compute-capability"}, Device("Tesla T4", "7.5"), "11.4.0.106", None),
        (
            {},
            {"hardware": "same-compute-capability"},
            Device("NVIDIA H100", "9.0"),
            "11.4.0.106",
            "here is NVIDIA H100",
        ),
        ({}, {"hardware": "ampere-plus"}, RTX, "11.4.0.106", "here is Quadro RTX 6000"),
        ({}, {"hardware": "ampere-plus"}, Device("NVIDIA H100", "9.0"), "11.4.0.106", None),
        ({}, {"hardware": "ampere-plus"}, Device("NVIDIA B200", "10.0"), "11.4.0.106", None),
    ],
)
def test_an_engine_of_another_machine_is_refused(
    changes: dict[str, Any], profile: dict[str, Any], device: Device, version: str, refused: str | None
) -> None:
    details = engine_details(**profile) | changes
    if refused is None:
        refuse_foreign(details, device, version, Path("engine"))
        return
    with pytest.raises(BadInputError, match=refused) as error:
        refuse_foreign(details, device, version, Path("engine"))
    assert AGAIN in str(error.value)


def test_a_manifest_without_the_engine_facts_is_refused() -> None:
    with pytest.raises(IntegrityError, match="'profile'"):
        refuse_foreign({}, RTX, "11.4.0", Path("engine"))


def test_where_tensorrt_is_missing_it_is_said(
    engine: Artifact, monkeypatch: pytest.MonkeyPatch, fake_driver: Path
) -> None:
    if hardware.describe().gpus:
        pytest.skip("this machine has a GPU")
    with pytest.raises(MissingDependencyError, match="no NVIDIA GPU is here"):
        load(engine, Placement(runtime="tensorrt", device="cuda"))
    with pytest.raises(MissingDependencyError, match=r"no runtime here runs trt .* on cuda"):
        load(engine, Placement(device="cuda"))
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    with pytest.raises(MissingDependencyError, match=r"tensorrt cannot be imported .* NVIDIA's package index"):
        open_session(engine)
    monkeypatch.setattr(hardware, "describe", lambda: type("Machine", (), {"gpus": (1,)}))
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert "tensorrt is not installed" in (trt.available() or "")


def test_where_no_driver_is_it_is_said(engine: Artifact, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trt, "import_tensorrt", lambda: SimpleNamespace(__version__="11.4.0.106"))
    monkeypatch.setattr(cuda_driver, "LIBRARY", "libcuda-that-is-not-here.so")
    with pytest.raises(MissingDependencyError, match="CUDA cannot be used: no NVIDIA driver"):
        open_session(engine)


def test_an_engine_of_half_inputs_is_refused(
    machine: Path, behaviour: double.Behaviour, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = sys.modules["tensorrt"]
    monkeypatch.setattr(module.ICudaEngine, "get_tensor_dtype", lambda self, name: module.DataType.HALF)
    with Cuda() as cuda, pytest.raises(EngineError, match=r"gives DataType\.HALF, not float32"):
        EngineRun(b"plan", cuda, input="images", output="logits")


@pytest.mark.tensorrt
def test_a_real_engine_gives_the_network_s_logits(tmp_path: Path, tiny_net: Any, images: NDArray[np.float32]) -> None:
    reason = trt.available()
    if reason is not None:
        pytest.skip(reason)
    from ttl_deploy.formats.kit.build_engine import Settings, build

    settings = Settings("fp32", "images", (1, 3, 8, 8), (1, 3, 8, 8), (4, 3, 8, 8))
    plan = build(tiny_net.proto().SerializeToString(), settings).plan
    with Cuda() as cuda:
        for cuda_graph in (False, True):
            engine = EngineRun(plan, cuda, input="images", output="logits", cuda_graph=cuda_graph)
            for rows in (1, 3, 1):
                np.testing.assert_allclose(
                    engine.run(images[:rows]), tiny_net.logits(images[:rows]), rtol=1e-4, atol=1e-4
                )
            engine.close()


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"input_type": "uint8"}, "the manifest says uint8"),
        (
            {
                "model": ModelSpec(backbone="tiny", classes=("a", "b", "c"), input=InputSpec.image(128)),
                "preprocess": PreprocessSpec(input=InputSpec.image(128)),
            },
            r"the manifest says \(N, 3, 128",
        ),
        ({"model": ModelSpec(backbone="tiny", classes=("a", "b"), image_size=8)}, r"the manifest says \(N, 2\)"),
    ],
)
def test_an_engine_of_other_ends_than_the_manifest_says_is_refused_when_it_is_loaded(
    machine: Path, make_artifact: Callable[..., Artifact], changes: dict[str, Any], said: str
) -> None:
    details = {"engine": engine_details()}
    with pytest.raises(IntegrityError, match=said):
        open_session(make_artifact("engine", format="trt", precision="fp16", details=details, **changes))
    log = machine.read_text().split()
    assert log.count("cuMemAlloc") == log.count("cuMemFree") == 2
