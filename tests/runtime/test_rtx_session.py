"""The runtime of TensorRT for RTX: what is refused before an engine runs by the real library, the rest by a double.

No card is here, and the driver is a double throughout.
"""

from __future__ import annotations

import ctypes
import io
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorrt_double as double
from numpy.typing import NDArray

from ttl_deploy.artifact import Artifact, record_of, update_manifest
from ttl_deploy.errors import BadInputError, IntegrityError
from ttl_deploy.inputs.image import normalise
from ttl_deploy.runtime import RUNTIMES, cuda_driver, load, runtime_for, suitable, trt, trt_rtx
from ttl_deploy.spec import Placement, PreprocessSpec

VERSION = "1.7.1.116"
PIXELS = np.random.default_rng(0).integers(0, 256, (4, 8, 8, 3), dtype=np.uint8)
MATRIX = double.weights((3, 8, 8), 3)


def outputs() -> NDArray[np.float32]:
    """What the double's engine makes of the samples."""
    result: NDArray[np.float32] = normalise(PIXELS, PreprocessSpec(image_size=8)).reshape(4, -1) @ MATRIX
    return result


@pytest.fixture
def behaviour(fake_driver: Path) -> double.Behaviour:
    return double.Behaviour(driver=ctypes.CDLL(str(fake_driver)), kernels=b"compiled")


@pytest.fixture(autouse=True)
def card(fake_driver: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine with a Quadro RTX 6000, which is a double."""
    monkeypatch.setattr(cuda_driver, "LIBRARY", str(fake_driver))
    monkeypatch.setenv("FAKE_CUDA_LOG", str(tmp_path / "log"))
    monkeypatch.setattr(trt_rtx, "available", lambda: None)


@pytest.fixture
def machine(behaviour: double.Behaviour, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Doubles of both editions of TensorRT on it; gives the folder of kernels."""
    monkeypatch.setitem(sys.modules, "tensorrt", double.make(behaviour))
    module = double.make(behaviour, VERSION, rtx=True)
    monkeypatch.setitem(sys.modules, "tensorrt_rtx_bindings", module)
    monkeypatch.setattr(trt_rtx, "_installed", lambda: "tensorrt_rtx_bindings")
    monkeypatch.setattr(trt_rtx, "kernel_folder", lambda: tmp_path / "kernels")
    return tmp_path / "kernels"


@pytest.fixture
def real() -> str:
    """The real library on it, which finds no card; gives its version."""
    reason = trt_rtx.missing()
    if reason is not None:
        pytest.skip(reason)
    return str(trt_rtx.import_rtx().__version__)


def samples(expected: NDArray[Any]) -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, pixels=PIXELS, expected=expected)
    return buffer.getvalue()


def with_files(artifact: Artifact, contents: dict[str, bytes]) -> Artifact:
    for name, content in contents.items():
        (artifact.folder / name).write_bytes(content)
    records = {name: record_of(artifact.folder / name) for name in contents}
    return update_manifest(artifact, files={**artifact.manifest.files, **records})


@pytest.fixture
def rtx(make_artifact: Callable[..., Artifact]) -> Callable[..., Artifact]:
    """An artifact with engines for sm75 and sm86, whose samples expect what the double gives."""

    def make(expected: NDArray[Any] | None = None, version: str = VERSION, **more: Any) -> Artifact:
        engines = {name: {"file": f"model-{name}.engine"} for name in ("sm75", "sm86")}
        details = {"rtx": {"tensorrt_rtx": version, "engines": engines} | more}
        files = {f"model-{name}.engine": name.encode() for name in engines}
        files["samples.npz"] = samples(outputs() if expected is None else expected)
        return with_files(make_artifact("rtx", precision="fp16", details=details), files)

    return make


def open_session(artifact: Artifact, **more: Any) -> trt_rtx.RtxSession:
    return trt_rtx.RtxSession(artifact, threads=1, device="cuda", **more)


@pytest.mark.usefixtures("machine")
@pytest.mark.parametrize("cuda_graph", [False, True])
def test_the_engine_of_this_card_is_run(
    rtx: Callable[..., Artifact], behaviour: double.Behaviour, images: NDArray[np.float32], cuda_graph: bool
) -> None:
    with open_session(rtx(), cuda_graph=cuda_graph) as session:
        for batch in (images[:2], images[:3], images[1:3]):
            np.testing.assert_allclose(session.run(batch), batch.reshape(len(batch), -1) @ MATRIX, rtol=1e-5, atol=1e-4)
        assert session.runtime == ("tensorrt-rtx-cuda-graph" if cuda_graph else "tensorrt-rtx")
    assert ("deserialize_cuda_engine", b"sm75") in behaviour.calls


def test_another_card_is_refused(rtx: Callable[..., Artifact], real: str) -> None:
    artifact = rtx(version=real, engines={"sm86": {"file": "model-sm86.engine"}})
    with pytest.raises(BadInputError, match=r"holds engines for sm86, here is Quadro RTX 6000 \(sm75\); .*--for sm75"):
        open_session(artifact)


@pytest.mark.parametrize("changed", ["{0}.{1}7", "{0}", "1.0.{1}"])
def test_any_other_version_is_refused(rtx: Callable[..., Artifact], real: str, changed: str) -> None:
    """An engine runs on the very release that built it: the last number counts."""
    version = changed.format(*real.rsplit(".", 1))
    with pytest.raises(BadInputError, match=rf"built by TensorRT for RTX {version}, here is {real}; install"):
        open_session(rtx(version=version))


def test_what_the_library_cannot_load_is_one_line(rtx: Callable[..., Artifact], real: str, tmp_path: Path) -> None:
    with pytest.raises(IntegrityError, match=r"model-sm75\.engine: .*refuses the engine: .*Error Code 2") as error:
        open_session(rtx(version=real))
    assert "\n" not in str(error.value)
    assert "release" in (tmp_path / "log").read_text()


@pytest.mark.usefixtures("machine")
def test_an_engine_that_answers_zeros_is_refused(rtx: Callable[..., Artifact], behaviour: double.Behaviour) -> None:
    behaviour.zeros = True
    with pytest.raises(IntegrityError, match=r"model-sm75\.engine: does not compute .*: all 12 outputs are 0") as error:
        open_session(rtx())
    assert "\n" not in str(error.value)


@pytest.mark.usefixtures("machine")
def test_samples_that_expect_otherwise_refuse_the_engine(rtx: Callable[..., Artifact], tmp_path: Path) -> None:
    with pytest.raises(IntegrityError, match="the stored samples differ by up to"):
        open_session(rtx(expected=outputs()[:, ::-1]))
    log = (tmp_path / "log").read_text().split()
    assert log.count("cuMemAlloc") == log.count("cuMemFree") == 2
    assert "release" in log


@pytest.mark.usefixtures("machine")
def test_an_error_that_is_logged_and_not_raised_is_a_failure(
    rtx: Callable[..., Artifact], behaviour: double.Behaviour, images: NDArray[np.float32]
) -> None:
    artifact = rtx()
    behaviour.logs = "Error Code 1: Myelin (no kernel)"
    with pytest.raises(IntegrityError, match=r"logged an error and went on: Error Code 1: Myelin \(no kernel\)"):
        open_session(artifact)
    behaviour.logs = None
    with open_session(artifact) as session:
        behaviour.logs = "Error Code 1: later"
        with pytest.raises(IntegrityError, match="Error Code 1: later"):
            session.run(images[:1])


def test_kernels_that_were_compiled_here_are_kept_for_the_next_process(
    rtx: Callable[..., Artifact], behaviour: double.Behaviour, machine: Path
) -> None:
    artifact = rtx()
    open_session(artifact).close()
    (kept,) = machine.iterdir()
    assert kept.read_bytes() == b"compiled"
    assert VERSION in kept.name
    open_session(artifact).close()
    assert ("IRuntimeCache.deserialize", b"compiled") in behaviour.calls


def test_kernels_of_another_driver_are_compiled_again(
    rtx: Callable[..., Artifact], behaviour: double.Behaviour, machine: Path
) -> None:
    artifact = rtx()
    open_session(artifact).close()
    behaviour.kernels = b"of a newer driver"
    open_session(artifact).close()
    assert [path.read_bytes() for path in machine.iterdir()] == [b"of a newer driver"]


def test_a_cache_folder_that_cannot_be_written_costs_nothing(rtx: Callable[..., Artifact], machine: Path) -> None:
    machine.write_text("in the way")
    open_session(rtx()).close()
    assert machine.read_text() == "in the way"


def test_an_artifact_without_engines_is_refused(artifact: Artifact, real: str) -> None:
    with pytest.raises(
        BadInputError, match="holds no engine of TensorRT for RTX; `ttl-deploy export RUN --format trt-rtx`"
    ):
        open_session(artifact)


@pytest.mark.parametrize(
    ("engines", "said"),
    [
        ({"sm75": {"file": "../model.engine"}}, r"does not list '\.\./model\.engine'"),
        ({"sm75": {}}, "does not tell the engines' 'file'"),
        ([], "does not tell the engines'"),
    ],
)
def test_engines_that_the_manifest_does_not_list_are_not_loaded(
    rtx: Callable[..., Artifact], real: str, engines: Any, said: str
) -> None:
    with pytest.raises(IntegrityError, match=said):
        open_session(rtx(version=real, engines=engines))


def test_without_samples_an_engine_is_not_run(rtx: Callable[..., Artifact], real: str) -> None:
    made = rtx(version=real)
    files = {name: record for name, record in made.manifest.files.items() if name != "samples.npz"}
    with pytest.raises(IntegrityError, match=r"does not list 'samples\.npz'"):
        open_session(update_manifest(made, files=files))


@pytest.mark.usefixtures("machine")
def test_on_the_gpu_the_engine_is_the_default_and_on_the_cpu_the_graph(
    rtx: Callable[..., Artifact], artifact: Artifact, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("tensorrt-rtx", "tensorrt-rtx-cuda-graph"):
        monkeypatch.setitem(RUNTIMES._entries, name, replace(RUNTIMES.get(name), available=lambda: None))
    assert suitable("onnx", "fp16", "cuda")[0].name == "tensorrt-rtx"
    made = rtx()
    with load(made, Placement(device="cuda")) as session:
        assert session.runtime == "tensorrt-rtx"
    with load(update_manifest(made, precision="fp32")) as session:
        assert session.runtime == "onnxruntime"
    # An artifact without engines has nothing for it.
    assert runtime_for(artifact, Placement(device="cuda")).name == "onnxruntime"


@pytest.mark.usefixtures("machine")
class TestFullTensorRT:
    """The same two checks in the runtime of the format `trt`."""

    @pytest.fixture
    def engine(self, make_artifact: Callable[..., Artifact]) -> Callable[[NDArray[Any]], Artifact]:
        def make(expected: NDArray[Any]) -> Artifact:
            profile = {"hardware": "none", "version_compatible": False}
            details = {
                "engine": {
                    "tensorrt": "11.4.0.106",
                    "gpu": "Quadro RTX 6000",
                    "compute_capability": "7.5",
                    "profile": profile,
                }
            }
            made = make_artifact("trt", format="trt", precision="fp16", details=details)
            return with_files(made, {"samples.npz": samples(expected)})

        return make

    def opened(self, artifact: Artifact) -> trt.TrtSession:
        return trt.TrtSession(artifact, threads=1, device="cuda")

    def test_refuses_an_engine_whose_samples_do_not(self, engine: Callable[..., Artifact]) -> None:
        with pytest.raises(IntegrityError, match="the stored samples differ"):
            self.opened(engine(outputs() + 100))

    def test_refuses_an_engine_whose_library_logs_an_error(
        self, engine: Callable[..., Artifact], behaviour: double.Behaviour
    ) -> None:
        behaviour.logs = "Error Code 1: Cask"
        with pytest.raises(IntegrityError, match="logged an error and went on: Error Code 1: Cask"):
            self.opened(engine(outputs()))

    @pytest.mark.parametrize("least", [1, 4])
    def test_takes_an_engine_whose_samples_agree(
        self,
        engine: Callable[..., Artifact],
        behaviour: double.Behaviour,
        images: NDArray[np.float32],
        least: int,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        """An engine that takes larger batches alone is checked with those."""
        behaviour.profiles = ((least, 4, 8),)
        monkeypatch.setitem(sys.modules, "tensorrt", double.make(behaviour))
        with self.opened(engine(outputs())) as session:
            assert {call[2][0] for call in behaviour.calls if call[0] == "set_input_shape"} == {least}
            assert session.run(images).shape == (5, 3)
