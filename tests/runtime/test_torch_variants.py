"""PyTorch's variants: those of a CPU against eager, and the calls to CUDA against a double that records them."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from ttl_deploy.errors import BadInputError, MissingDependencyError
from ttl_deploy.runtime import torch_variants
from ttl_deploy.runtime.eager import load_untrained
from ttl_deploy.runtime.torch_variants import Graphed, StageClock, check, in_bf16
from ttl_deploy.spec import ModelSpec

SPEC = ModelSpec(backbone="resnet18", method="ttl", cut="layer1.1", classes=("a", "b"), image_size=32)


class Cuda:
    """Stands in for `torch.cuda`: writes down what is called, and replays a graph by running it again."""

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.capturing: Any = None
        self.clock = 0.0

    def current_stream(self) -> Stream:
        return Stream(self, "current")

    def Stream(self) -> Stream:
        return Stream(self, "side")

    def CUDAGraph(self) -> Graph:
        return Graph(self)

    def Event(self, *, enable_timing: bool) -> Event:
        assert enable_timing
        return Event(self)

    @contextlib.contextmanager
    def stream(self, stream: Stream) -> Iterator[None]:
        self.calls.append(f"enter {stream.name}")
        yield
        self.calls.append(f"leave {stream.name}")

    @contextlib.contextmanager
    def graph(self, graph: Graph) -> Iterator[None]:
        self.calls.append("capture")
        self.capturing = graph
        yield
        self.capturing = None


class Stream:
    def __init__(self, cuda: Cuda, name: str) -> None:
        self.cuda, self.name = cuda, name

    def wait_stream(self, other: Stream) -> None:
        self.cuda.calls.append(f"{self.name} waits for {other.name}")

    def synchronize(self) -> None:
        self.cuda.calls.append("synchronize")


class Graph:
    def __init__(self, cuda: Cuda) -> None:
        self.cuda = cuda
        self.again: Any = None

    def replay(self) -> None:
        self.cuda.calls.append("replay")
        self.again()


class Event:
    def __init__(self, cuda: Cuda) -> None:
        self.cuda = cuda
        self.at: float | None = None

    def record(self, stream: Stream) -> None:
        self.cuda.calls.append("record")
        self.at = self.cuda.clock

    def elapsed_time(self, end: Event) -> float:
        assert self.cuda.calls[-1] == "synchronize", "an event that has not happened has no time"
        assert self.at is not None
        assert end.at is not None
        return end.at - self.at


class Doubling:
    """A network that writes into the same output when replayed, as a captured one does."""

    def __init__(self, cuda: Cuda) -> None:
        self.cuda = cuda

    def __call__(self, images: torch.Tensor) -> torch.Tensor:
        self.cuda.calls.append("run")
        output = 2 * images
        if self.cuda.capturing is not None:
            self.cuda.capturing.again = lambda: output.copy_(2 * images)
        return output


def test_a_graph_is_warmed_up_on_a_side_stream_captured_once_and_replayed() -> None:
    cuda = Cuda()
    graphed = Graphed(cuda, Doubling(cuda))
    first, second = torch.ones(2, 3), torch.full((2, 3), 5.0)
    assert graphed(first).tolist() == (2 * first).tolist()
    assert cuda.calls == [
        "side waits for current",
        "enter side",
        *["run"] * 3,
        "leave side",
        "current waits for side",
        "capture",
        "run",
        "replay",
    ]
    cuda.calls.clear()
    assert graphed(second).tolist() == (2 * second).tolist(), "the second batch reached the captured input"
    assert cuda.calls == ["replay"]
    graphed(torch.ones(4, 3))
    assert "capture" in cuda.calls, "another shape is another graph"


def test_stages_are_read_from_events_after_the_stream_is_done() -> None:
    cuda = Cuda()
    clock = StageClock(cuda)
    for _run in range(2):
        for moment in (0.0, 1.5, 6.5, 7.0):
            cuda.clock = moment
            clock.mark()
        stages = clock.read()
        assert (stages.to_device_ms, stages.compute_ms, stages.to_host_ms) == (1.5, 5.0, 0.5)
    assert cuda.calls == [*["record"] * 4, "synchronize"] * 2


def test_bf16_is_near_fp32_and_runs_channels_last() -> None:
    seen = []

    class Spy(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.convolution = nn.Conv2d(3, 4, 3)

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            seen.append((images.dtype, images.is_contiguous(memory_format=torch.channels_last)))
            result: torch.Tensor = self.convolution(images)
            return result

    spy, images = Spy().eval(), torch.randn(2, 3, 8, 8)
    with torch.inference_mode():
        expected = spy(images)
        got = in_bf16(spy)(images)
    assert seen[-1] == (torch.bfloat16, True)
    assert torch.allclose(got.float(), expected, atol=0.05)


def test_sessions_tell_their_variant() -> None:
    batch = np.random.default_rng(0).standard_normal((1, 3, 32, 32), dtype=np.float32)
    for variant in ("eager", "bf16"):
        with load_untrained(SPEC, threads=1, variant=variant) as session:
            assert session.runtime == torch_variants.runtime_name(variant)
            assert session.run(batch).shape == (1, 2)
            assert (session.stages(), session.cuda_graph, session.peak_device_mib()) == (None, None, None)


@pytest.mark.slow
@pytest.mark.filterwarnings("default")
def test_compiled_equals_eager() -> None:
    from ttl_deploy.transfer import build

    # One residual unit: the compiler of C++ takes seconds per layer.
    model = build(SPEC.model_copy(update={"cut": "layer1.0"})).eval()
    images = torch.randn(1, 3, 32, 32)
    with torch.inference_mode():
        expected = model(images)
        got = torch_variants.prepare("compile", model, "cpu")(images)
    assert torch.allclose(got, expected, atol=1e-4)


def test_what_cannot_run_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(BadInputError, match="a CUDA graph needs an NVIDIA GPU, not device cpu"):
        check("cuda-graph", "cpu")
    with pytest.raises(BadInputError, match="unknown PyTorch variant 'egaer'"):
        check("egaer", "cpu")
    monkeypatch.setattr(torch_variants.shutil, "which", lambda name: None)
    with pytest.raises(MissingDependencyError, match=r"C\+\+ compiler"):
        check("compile", "cpu")
    if not torch.cuda.is_available():
        with pytest.raises(MissingDependencyError, match="no CUDA device"):
            load_untrained(SPEC, device="cuda", variant="cuda-graph")
