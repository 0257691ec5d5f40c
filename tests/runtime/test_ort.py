from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from pydantic import ValidationError

from ttl_deploy.artifact import Artifact
from ttl_deploy.errors import BadInputError, IntegrityError, MissingDependencyError
from ttl_deploy.runtime import RUNTIMES, Session, load, runtime_for
from ttl_deploy.runtime.base import Runtime, default_threads
from ttl_deploy.spec import Placement
from ttl_deploy.tasks import Multiclass, softmax

ONNX_RUNTIMES = ["onnxruntime", "openvino"]


@pytest.mark.parametrize("runtime", ONNX_RUNTIMES)
@pytest.mark.parametrize("threads", [None, 1, 2])
def test_logits_are_those_of_the_network(
    artifact: Artifact, tiny_net: Any, images: NDArray[np.float32], runtime: str, threads: int | None
) -> None:
    with load(artifact, Placement(runtime=runtime, threads=threads)) as session:
        logits = session.run(images)
        single = session.run(images[:1])
    np.testing.assert_allclose(logits, tiny_net.logits(images), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(single, logits[:1], rtol=1e-5, atol=1e-6)
    assert logits.dtype == np.float32
    assert (session.runtime, session.device, session.threads) == (runtime, "cpu", threads or default_threads())


@pytest.mark.parametrize("runtime", ONNX_RUNTIMES)
def test_a_result_survives_the_next_run(artifact: Artifact, images: NDArray[np.float32], runtime: str) -> None:
    with load(artifact, Placement(runtime=runtime)) as session:
        first = session.run(images[:1])
        kept = first.copy()
        session.run(images[1:2])
        np.testing.assert_array_equal(first, kept)


@pytest.mark.parametrize("runtime", ONNX_RUNTIMES)
def test_a_view_that_is_not_contiguous_is_read_right(
    artifact: Artifact, tiny_net: Any, images: NDArray[np.float32], runtime: str
) -> None:
    flipped = images[::-1, ::-1]
    with load(artifact, Placement(runtime=runtime)) as session:
        np.testing.assert_allclose(session.run(flipped), tiny_net.logits(flipped), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("runtime", ONNX_RUNTIMES)
@pytest.mark.parametrize(
    "batch",
    [np.zeros((1, 3, 8, 8)), np.zeros((1, 3, 8, 9), np.float32), np.zeros((3, 8, 8), np.float32), [[1.0]]],
)
def test_another_batch_is_refused(artifact: Artifact, runtime: str, batch: Any) -> None:
    with load(artifact, Placement(runtime=runtime)) as session, pytest.raises(ValueError, match="a batch is"):
        session.run(batch)


@pytest.mark.parametrize("runtime", ONNX_RUNTIMES)
def test_no_image_is_refused(artifact: Artifact, images: NDArray[np.float32], runtime: str) -> None:
    with load(artifact, Placement(runtime=runtime)) as session, pytest.raises(ValueError, match="N at least 1"):
        session.run(images[:0])


@pytest.mark.parametrize("runtime", ONNX_RUNTIMES)
def test_a_closed_session_says_so(artifact: Artifact, images: NDArray[np.float32], runtime: str) -> None:
    session = load(artifact, Placement(runtime=runtime))
    session.close()
    session.close()
    with pytest.raises(ValueError, match="closed"):
        session.run(images)


@pytest.mark.parametrize("runtime", ONNX_RUNTIMES)
def test_a_file_that_is_no_model_is_one_line(artifact: Artifact, runtime: str) -> None:
    artifact.model_path.write_bytes(b"not a model")
    with pytest.raises(IntegrityError, match="refuses it") as error:
        load(artifact, Placement(runtime=runtime))
    assert "\n" not in str(error.value)
    assert "model.onnx" in str(error.value)


@pytest.mark.parametrize("runtime", ONNX_RUNTIMES)
def test_another_input_name_than_the_manifest_says_is_refused(
    make_artifact: Callable[..., Artifact], runtime: str
) -> None:
    with pytest.raises(IntegrityError, match="manifest says"):
        load(make_artifact(input_name="pixels"), Placement(runtime=runtime))


@pytest.mark.parametrize("runtime", ONNX_RUNTIMES)
def test_fewer_outputs_than_classes_are_refused(
    make_artifact: Callable[..., Artifact], tiny_net: Any, runtime: str
) -> None:
    artifact = make_artifact(net=replace(tiny_net, weight=tiny_net.weight[:, :2].copy(), bias=tiny_net.bias[:2].copy()))
    with pytest.raises(IntegrityError, match=r"logits is \(N, 2\) in the graph, the manifest says \(N, 3\)"):
        load(artifact, Placement(runtime=runtime))


def test_onnx_runtime_is_the_default(artifact: Artifact) -> None:
    with load(artifact) as session:
        assert session.runtime == "onnxruntime"


def test_the_next_runtime_is_taken_where_the_first_is_missing(
    artifact: Artifact, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name == "onnxruntime" else object())
    with load(artifact) as session:
        assert session.runtime == "openvino"
    monkeypatch.setattr("importlib.util.find_spec", lambda _name: None)
    with pytest.raises(MissingDependencyError, match="openvino is not installed"):
        load(artifact)
    with pytest.raises(MissingDependencyError, match="pip install onnxruntime"):
        load(artifact, Placement(runtime="onnxruntime"))


def test_what_cannot_be_is_refused_in_words(artifact: Artifact, make_artifact: Callable[..., Artifact]) -> None:
    with pytest.raises(BadInputError, match="unknown runtime 'onnxrutime'"):
        load(artifact, Placement(runtime="onnxrutime"))
    with pytest.raises(BadInputError, match="unknown device 'tpu'; valid: cpu, cuda"):
        load(artifact, Placement(runtime="onnxruntime", device="tpu"))
    with pytest.raises(ValidationError, match="threads"):
        load(artifact, Placement(threads=0))
    other = make_artifact("other", format="trt")
    with pytest.raises(BadInputError, match="not trt"):
        load(other, Placement(runtime="onnxruntime"))
    with pytest.raises(MissingDependencyError, match="no runtime here runs trt"):
        load(other)


def test_what_it_has_no_kernels_for_goes_to_another_engine(make_artifact: Callable[..., Artifact]) -> None:
    assert runtime_for(make_artifact("half", precision="fp16")).name == "onnxruntime"
    assert runtime_for(make_artifact("brain", precision="bf16")).name == "openvino"
    assert runtime_for(make_artifact("named", precision="bf16"), Placement(runtime="onnxruntime")).name == "onnxruntime"


def test_cuda_without_a_gpu_is_refused_and_never_replaced_by_the_cpu(
    artifact: Artifact, capfd: pytest.CaptureFixture[str]
) -> None:
    try:
        with load(artifact, Placement(runtime="onnxruntime", device="cuda")) as session:
            assert session.device == "cuda"
    except MissingDependencyError as error:
        assert "CUDAExecutionProvider" in str(error)
        assert "--device cpu" in str(error)
    assert capfd.readouterr() == ("", "")


def test_every_runtime_is_registered_under_its_name() -> None:
    assert set(ONNX_RUNTIMES) <= set(RUNTIMES.names())
    assert [runtime.name for runtime in RUNTIMES] == RUNTIMES.names()
    assert all(isinstance(runtime, Runtime) for runtime in RUNTIMES)


def test_softmax_neither_overflows_nor_loses_the_sum() -> None:
    probabilities = softmax(np.array([[1e4, 0.0, -1e4], [0.0, 0.0, 0.0]], dtype=np.float32))
    np.testing.assert_allclose(probabilities, [[1.0, 0.0, 0.0], [1 / 3] * 3])
    np.testing.assert_allclose(softmax(np.array([[0.0, np.log(3.0)]])), [[0.25, 0.75]])


def test_a_session_checks_for_its_subclass(images: NDArray[np.float32]) -> None:
    class Wrong(Session):
        def _run(self, batch: NDArray[np.float32]) -> NDArray[Any]:
            return np.zeros((len(batch), 7), np.float64)

    session = Wrong(runtime="wrong", device="cpu", threads=1, task=Multiclass(("a", "b")), input_shape=(3, 8, 8))
    with pytest.raises(IntegrityError, match=r"shape \(5, 7\), expected \(5, 2\)"):
        session.run(images)


@pytest.mark.parametrize("runtime", ONNX_RUNTIMES)
def test_torch_is_never_imported_and_nothing_is_printed(artifact: Artifact, runtime: str) -> None:
    program = f"""
import sys
import numpy as np
from pathlib import Path
from ttl_deploy.artifact import open_artifact
from ttl_deploy.latency.measure import measure_session
from ttl_deploy.parity import Bounds, compare, verdict
from ttl_deploy.runtime import load, runtime_for
from ttl_deploy.spec import Placement

images = np.random.default_rng(0).normal(size=(6, 3, 8, 8)).astype(np.float32)
artifact = open_artifact(Path({str(artifact.folder)!r}))
with load(artifact, Placement(runtime={runtime!r})) as session:
    logits = session.run(images)
    measure_session(session, images, label="x", precision="fp32", min_samples=2, min_seconds=0)
comparison = compare([0, 1, 2, 0, 1, 2], logits, logits, session.task)
assert verdict(comparison, Bounds.for_precision("fp32")).result == "pass"
assert "torch" not in sys.modules
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
