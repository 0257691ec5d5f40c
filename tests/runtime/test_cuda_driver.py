"""The driver through ctypes: what NVIDIA's header declares, called with what it takes."""

from __future__ import annotations

import ctypes
import re
from pathlib import Path

import pytest
from tensorrt_double import headers

from ttl_deploy.runtime import cuda_driver
from ttl_deploy.runtime.cuda_driver import FUNCTIONS, Cuda, CudaError, Device


@pytest.fixture
def log(fake_driver: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(cuda_driver, "LIBRARY", str(fake_driver))
    monkeypatch.setenv("FAKE_CUDA_LOG", str(tmp_path / "log"))
    return tmp_path / "log"


def test_every_function_takes_what_the_header_says() -> None:
    """`cuMemAlloc` is a macro for `cuMemAlloc_v2`, so the prototypes are read after that."""
    include = headers()
    if include is None:
        pytest.skip("NVIDIA's cuda.h is not here")
    header = (include / "cuda.h").read_text()
    versioned = dict(re.findall(r"#define (cu\w+)\s+(?:__CUDA_API_PTSZ\()?(cu\w+_v2|cu\w+WithFlags)\b", header))
    for name, parameters in FUNCTIONS.items():
        base = next((plain for plain, full in versioned.items() if full == name), name)
        found = re.search(rf"CUresult CUDAAPI {base}\(([^)]*)\);", header)
        assert found, name
        kinds = [_kind(parameter) for parameter in found[1].split(",")]
        assert [ctypes.sizeof(p) for p in parameters] == [ctypes.sizeof(k) for k in kinds], name
        assert [p is ctypes.c_void_p for p in parameters] == [k is ctypes.c_void_p for k in kinds], name


def _kind(parameter: str) -> type:
    words = parameter.strip()
    if "*" in words or re.match(r"(CUstream|CUcontext|CUgraph|CUgraphExec) ", words):
        return ctypes.c_void_p
    if re.match(r"(CUdeviceptr|unsigned long long|size_t) ", words):
        return ctypes.c_uint64
    assert re.match(r"(CUdevice|int|unsigned int|CUresult|CUdevice_attribute|CUstreamCaptureMode) ", words), words
    return ctypes.c_int


def test_numbers_are_those_of_the_header() -> None:
    include = headers()
    if include is None:
        pytest.skip("NVIDIA's cuda.h is not here")
    header = (include / "cuda.h").read_text()
    for name, number in (
        ("CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR", cuda_driver._MAJOR),
        ("CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR", cuda_driver._MINOR),
        ("CU_STREAM_CAPTURE_MODE_RELAXED", cuda_driver._CAPTURE_RELAXED),
        ("CU_STREAM_NON_BLOCKING", 1),
    ):
        assert re.search(rf"\b{name}\s*=\s*(0x)?{number}\b", header), name


def test_device_and_memory(log: Path) -> None:
    with Cuda() as cuda:
        assert cuda.device() == Device("Quadro RTX 6000", "7.5")
        assert cuda.driver_version() == "13.2"
        stream, device = cuda.stream(), cuda.allocate(8)
        host, back = cuda.allocate_pinned(8), cuda.allocate_pinned(8)
        ctypes.memmove(host, b"8 bytes!", 8)
        cuda.to_device(device, host, 8, stream)
        cuda.to_host(back, device, 8, stream)
        cuda.synchronise(stream)
        assert ctypes.string_at(back, 8) == b"8 bytes!"
        cuda.free(device)
        cuda.free_pinned(host)
        cuda.free_pinned(back)
        cuda.destroy_stream(stream)
    cuda.close()
    assert log.read_text().split().count("release") == 1


def test_a_graph_does_its_work_when_launched(log: Path) -> None:
    with Cuda() as cuda:
        stream, device, host = cuda.stream(), cuda.allocate(4), cuda.allocate_pinned(4)
        ctypes.memmove(device, b"old!", 4)
        cuda.begin_capture(stream)
        cuda.to_device(device, host, 4, stream)
        graph = cuda.end_capture(stream)
        assert ctypes.string_at(device, 4) == b"old!"
        ctypes.memmove(host, b"new!", 4)
        cuda.launch(graph, stream)
        assert ctypes.string_at(device, 4) == b"new!"
        cuda.destroy_graph(graph)
    assert {"cuGraphDestroy", "cuGraphExecDestroy"} <= set(log.read_text().split())


def test_no_driver_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cuda_driver, "LIBRARY", "libcuda-that-is-not-here.so")
    with pytest.raises(CudaError, match="no NVIDIA driver is installed"):
        Cuda()


@pytest.mark.parametrize(
    ("variable", "value", "reason"),
    [
        ("FAKE_CUDA_INIT", "100", r"cuInit failed: made up \(100\)"),
        ("FAKE_CUDA_INIT", "999", r"cuInit failed: unknown error \(999\)"),
        ("FAKE_CUDA_DEVICES", "0", "the driver sees no GPU"),
    ],
)
def test_what_the_driver_refuses_is_said(
    log: Path, monkeypatch: pytest.MonkeyPatch, variable: str, value: str, reason: str
) -> None:
    monkeypatch.setenv(variable, value)
    with pytest.raises(CudaError, match=reason):
        Cuda()
