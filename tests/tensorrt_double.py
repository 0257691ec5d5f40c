"""A recording double of `tensorrt`, and of the driver: what was called, in order, and answers a test can set.

It stands for what needs a GPU: an engine's execution, the inspector, and what of the builder full TensorRT alone has.
Parser, builder and refusals are driven in a real library, TensorRT for RTX, where its extra is installed. It knows only
names that the real bindings have; `tests/formats/test_tensorrt_names.py` compares, and reads the real bindings.
A matrix product stands for the network, so that data really goes the whole way.
"""

from __future__ import annotations

import ctypes
import enum
import importlib.util
import json
import shutil
import subprocess
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

FP16_LAYERS = [
    {
        "Name": "Reformatting CopyNode for Input Tensor 0 to conv1",
        "LayerType": "Reformat",
        "ParameterType": "Reformat",
        "Inputs": [{"Name": "images", "Format/Datatype": "Row major linear FP32"}],
        "Outputs": [{"Name": "x", "Format/Datatype": "Channel major FP16 format where channel % 8 == 0"}],
    },
    {
        "Name": "conv1 + relu",
        "LayerType": "CaskConvolution",
        "ParameterType": "Convolution",
        "Inputs": [{"Name": "x", "Format/Datatype": "Channel major FP16 format where channel % 8 == 0"}],
        "Outputs": [{"Name": "y", "Format/Datatype": "Channel major FP16 format where channel % 8 == 0"}],
        "Weights": {"Type": "Half", "Count": 1728},
        "TacticName": "sm75_xmma_fprop_f16f16",
    },
    {
        "Name": "__myl_MeanGemm",
        "LayerType": "kgen",
        "Inputs": [{"Name": "y", "Format/Datatype": "Half"}],
        "Outputs": [{"Name": "logits", "Format/Datatype": "Float"}],
    },
]
"""What the inspector says, in the two ways it says it: of a library kernel and of a generated one."""


def typed(word: str, *, layers: int = 3, tactic: str = "", **more: Any) -> list[dict[str, Any]]:
    """Layers of one kind that compute in a type."""
    return [
        {
            "Name": f"conv{i}",
            "LayerType": "CaskConvolution",
            "Inputs": [{"Format/Datatype": word}],
            "TacticName": tactic,
        }
        | more
        for i in range(layers)
    ]


@dataclass
class Behaviour:
    """What the double answers.

    Attributes:
        layers: The inspector's.
        profiles: (min, opt, max) batches of the engine's profiles.
        shape: Of one input.
        classes: Of the output.
        known_cache: The only timing cache that fits, beside an empty one.
        driver: The fake driver, in whose order the network runs.
        logs: An error line given to the logger by every execution, which goes on.
        zeros: Whether the engine answers zeros.
        kernels: What the runtime cache of the card accepts, beside nothing; with RTX alone.
        calls: Everything called, with arguments.
    """

    layers: Any = field(default_factory=lambda: list(FP16_LAYERS))
    profiles: tuple[tuple[int, int, int], ...] = ((1, 1, 8),)
    shape: tuple[int, ...] = (3, 8, 8)
    classes: int = 3
    known_cache: bytes = b""
    driver: Any = None
    logs: str | None = None
    zeros: bool = False
    kernels: bytes = b""
    calls: list[tuple[Any, ...]] = field(default_factory=list)

    def names(self) -> list[str]:
        return [call[0] for call in self.calls]


_WORK = ctypes.CFUNCTYPE(None)


def weights(shape: tuple[int, ...], classes: int) -> np.ndarray:
    """The double's network: outputs are the flattened input times this."""
    return np.random.default_rng(0).normal(size=(int(np.prod(shape)), classes)).astype(np.float32)


def make(behaviour: Behaviour, version: str = "11.4.0.106", *, rtx: bool = False) -> ModuleType:
    """A module to be put into `sys.modules["tensorrt"]`, or `["tensorrt_rtx_bindings"]`."""
    trt = ModuleType("tensorrt")
    trt.__version__ = version
    note = behaviour.calls.append

    class Severity(enum.Enum):
        INTERNAL_ERROR, ERROR, WARNING, INFO, VERBOSE = range(5)

    class ILogger:
        def __init__(self) -> None:
            note(("ILogger.__init__",))

    ILogger.Severity = Severity

    class NetworkDefinitionCreationFlag(enum.IntEnum):
        STRONGLY_TYPED = 0 if version.startswith("11") else 1

    class BuilderFlag(enum.Enum):
        TF32, VERSION_COMPATIBLE = range(2)

    class HardwareCompatibilityLevel(enum.Enum):
        NONE, AMPERE_PLUS, SAME_COMPUTE_CAPABILITY = range(3)

    class MemoryPoolType(enum.Enum):
        WORKSPACE = 0

    class ProfilingVerbosity(enum.Enum):
        LAYER_NAMES_ONLY, NONE, DETAILED = range(3)

    class LayerInformationFormat(enum.Enum):
        ONELINE, JSON = range(2)

    class TensorIOMode(enum.Enum):
        NONE, INPUT, OUTPUT = range(3)

    class DataType(enum.Enum):
        FLOAT, HALF, INT8, UINT8 = range(4)

    class IOptimizationProfile:
        def set_shape(self, input: str, min: Any, opt: Any, max: Any) -> None:
            note(("set_shape", input, tuple(min), tuple(opt), tuple(max)))

    class ITimingCache:
        def __init__(self, content: bytes) -> None:
            self.content = content

        def serialize(self) -> bytes:
            return self.content + b"+timed"

    class IBuilderConfig:
        def __setattr__(self, name: str, value: Any) -> None:
            note((name, getattr(value, "name", value)))

        def add_optimization_profile(self, profile: Any) -> int:
            note(("add_optimization_profile",))
            return 0

        def set_memory_pool_limit(self, pool: Any, pool_size: int) -> None:
            note(("set_memory_pool_limit", pool.name, pool_size))

        def set_flag(self, flag: Any) -> None:
            note(("set_flag", flag.name))

        def clear_flag(self, flag: Any) -> None:
            note(("clear_flag", flag.name))

        def create_timing_cache(self, serialized_timing_cache: bytes) -> ITimingCache:
            return ITimingCache(serialized_timing_cache)

        def set_timing_cache(self, cache: Any, ignore_mismatch: bool) -> bool:
            note(("set_timing_cache", cache.content, ignore_mismatch))
            return cache.content in (b"", behaviour.known_cache)

    for name in ("builder_optimization_level", "profiling_verbosity", "hardware_compatibility_level"):
        setattr(IBuilderConfig, name, None)

    class Builder:
        def __init__(self, logger: Any) -> None:
            pass

        def create_network(self, flags: int = 0) -> str:
            note(("create_network", flags))
            return "network"

        def create_builder_config(self) -> IBuilderConfig:
            return IBuilderConfig()

        def create_optimization_profile(self) -> IOptimizationProfile:
            return IOptimizationProfile()

        def build_serialized_network(self, network: Any, config: Any) -> bytes:
            note(("build_serialized_network",))
            return b"plan"

    class OnnxParser:
        def __init__(self, network: Any, logger: Any) -> None:
            assert network == "network"

        def parse(self, model: bytes) -> bool:
            note(("parse", len(model)))
            return True

    class EngineInspector:
        def get_engine_information(self, format: Any) -> str:
            assert format is LayerInformationFormat.JSON
            return json.dumps({"Layers": behaviour.layers})

    class IExecutionContext:
        def __init__(self, logger: Any) -> None:
            self._logger = logger
            self._addresses: dict[str, int] = {}
            self._shape: tuple[int, ...] = ()

        def set_tensor_address(self, name: str, memory: int) -> bool:
            self._addresses[name] = memory
            return True

        def set_optimization_profile_async(self, profile_index: int, stream_handle: int) -> bool:
            note(("set_optimization_profile_async", profile_index))
            return True

        def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
            note(("set_input_shape", name, tuple(shape)))
            self._shape = tuple(shape)
            return True

        def get_tensor_shape(self, name: str) -> tuple[int, ...]:
            return (self._shape[0], behaviour.classes)

        def execute_async_v3(self, stream_handle: int) -> bool:
            note(("execute_async_v3",))
            if behaviour.logs is not None:
                self._logger.log(Severity.ERROR, behaviour.logs)
            assert behaviour.driver is not None
            self._work = _WORK(self._multiply)
            behaviour.driver.fake_enqueue(self._work)
            return True

        def _multiply(self) -> None:
            count = int(np.prod(self._shape))
            given = np.ctypeslib.as_array((ctypes.c_float * count).from_address(self._addresses["images"]))
            result = given.reshape(self._shape[0], -1) @ weights(behaviour.shape, behaviour.classes)
            result *= not behaviour.zeros
            ctypes.memmove(self._addresses["logits"], np.ascontiguousarray(result).ctypes.data, result.nbytes)

    class ICudaEngine:
        num_io_tensors = 2
        _logger: Any = None
        num_optimization_profiles = len(behaviour.profiles)

        def get_tensor_name(self, index: int) -> str:
            return ("images", "logits")[index]

        def get_tensor_mode(self, name: str) -> TensorIOMode:
            return TensorIOMode.INPUT if name == "images" else TensorIOMode.OUTPUT

        def get_tensor_dtype(self, name: str) -> DataType:
            return DataType.FLOAT

        def get_tensor_shape(self, name: str) -> tuple[int, ...]:
            return (-1, *behaviour.shape) if name == "images" else (-1, behaviour.classes)

        def get_tensor_profile_shape(self, name: str, profile_index: int) -> list[tuple[int, ...]]:
            return [(batch, *behaviour.shape) for batch in behaviour.profiles[profile_index]]

        def create_execution_context(self) -> IExecutionContext:
            return IExecutionContext(self._logger)

        def create_engine_inspector(self) -> EngineInspector:
            return EngineInspector()

    class Runtime:
        def __init__(self, logger: Any) -> None:
            self._logger = logger

        def __setattr__(self, name: str, value: Any) -> None:
            if not name.startswith("_"):
                note((name, value))
            super().__setattr__(name, value)

        def deserialize_cuda_engine(self, serialized_engine: bytes) -> ICudaEngine:
            note(("deserialize_cuda_engine", serialized_engine))
            engine = ICudaEngine()
            engine._logger = self._logger
            return engine

    Runtime.engine_host_code_allowed = False
    if rtx:
        _add_rtx(trt, ICudaEngine, IExecutionContext, behaviour)
    for kind in list(locals().values()):
        if isinstance(kind, type):
            setattr(trt, kind.__name__, kind)
    del trt.Severity
    return trt


def _add_rtx(trt: ModuleType, engine: Any, context: Any, behaviour: Behaviour) -> None:
    """What TensorRT for RTX has beside: a cache of the kernels that it compiles on the card."""

    class IRuntimeCache:
        def __init__(self) -> None:
            self._content = b""

        def deserialize(self, blob: bytes) -> bool:
            behaviour.calls.append(("IRuntimeCache.deserialize", blob))
            fits = blob == behaviour.kernels
            self._content = blob if fits else b""
            return fits

        def serialize(self) -> bytes:
            return self._content or behaviour.kernels

    class IRuntimeConfig:
        def create_runtime_cache(self) -> IRuntimeCache:
            return IRuntimeCache()

        def set_runtime_cache(self, cache: IRuntimeCache) -> bool:
            behaviour.calls.append(("set_runtime_cache", cache._content))
            return True

    def create_execution_context(self: Any, runtime_config: Any = None) -> Any:
        assert runtime_config is None or isinstance(runtime_config, IRuntimeConfig)
        return context(self._logger)

    engine.create_runtime_config = lambda self: IRuntimeConfig()
    engine.create_execution_context = create_execution_context
    trt.IRuntimeCache, trt.IRuntimeConfig = IRuntimeCache, IRuntimeConfig  # type: ignore[attr-defined]


DRIVER = r"""
#include <cuda.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
/* The driver's functions on host memory. While a stream is captured, work is remembered and not done; launching the
   graph does it, with what then lies in the buffers. */
#define SAY(...) do { FILE *f = fopen(getenv("FAKE_CUDA_LOG"), "a"); \
  fprintf(f, __VA_ARGS__); fputc('\n', f); fclose(f); } while (0)
typedef struct { void *to; const void *from; size_t size; void (*work)(void); } Op;
static Op ops[64];
static int count, capturing;
static void perform(Op op) { if (op.work) op.work(); else memcpy(op.to, op.from, op.size); }
static void enqueue(Op op) { if (capturing) ops[count++] = op; else perform(op); }
void fake_enqueue(void (*work)(void)) { Op op = {0, 0, 0, work}; enqueue(op); }
static int number(const char *name, int other) { const char *v = getenv(name); return v ? atoi(v) : other; }
CUresult cuInit(unsigned int flags) { SAY("cuInit %u", flags); return number("FAKE_CUDA_INIT", 0); }
CUresult cuGetErrorString(CUresult error, const char **text) { *text = "made up"; return error == 999 ? 1 : 0; }
CUresult cuDriverGetVersion(int *version) { *version = 13020; return 0; }
CUresult cuDeviceGetCount(int *count) { *count = number("FAKE_CUDA_DEVICES", 1); return 0; }
CUresult cuDeviceGet(CUdevice *device, int ordinal) { *device = ordinal; return 0; }
CUresult cuDeviceGetName(char *name, int length, CUdevice device) {
  strncpy(name, "Quadro RTX 6000", length); return 0; }
CUresult cuDeviceGetAttribute(int *value, CUdevice_attribute attribute, CUdevice device) {
  *value = attribute == CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR ? 7
         : attribute == CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR ? 5 : -1;
  return 0; }
CUresult cuDevicePrimaryCtxRetain(CUcontext *context, CUdevice device) { *context = (CUcontext)7; return 0; }
CUresult cuDevicePrimaryCtxRelease(CUdevice device) { SAY("release"); return 0; }
CUresult cuCtxSetCurrent(CUcontext context) { return context == (CUcontext)7 ? 0 : 201; }
CUresult cuMemAlloc(CUdeviceptr *address, size_t size) {
  *address = (CUdeviceptr)malloc(size); SAY("cuMemAlloc %zu", size); return *address ? 0 : 2; }
CUresult cuMemFree(CUdeviceptr address) { free((void *)address); SAY("cuMemFree"); return 0; }
CUresult cuMemHostAlloc(void **address, size_t size, unsigned int flags) {
  *address = malloc(size); SAY("cuMemHostAlloc %zu %u", size, flags); return *address ? 0 : 2; }
CUresult cuMemFreeHost(void *address) { free(address); SAY("cuMemFreeHost"); return 0; }
CUresult cuMemcpyHtoDAsync(CUdeviceptr to, const void *from, size_t size, CUstream stream) {
  Op op = {(void *)to, from, size, 0}; SAY("cuMemcpyHtoDAsync %zu", size); enqueue(op); return 0; }
CUresult cuMemcpyDtoHAsync(void *to, CUdeviceptr from, size_t size, CUstream stream) {
  Op op = {to, (void *)from, size, 0}; SAY("cuMemcpyDtoHAsync %zu", size); enqueue(op); return 0; }
CUresult cuStreamCreate(CUstream *stream, unsigned int flags) {
  *stream = (CUstream)11; SAY("cuStreamCreate %u", flags); return 0; }
CUresult cuStreamSynchronize(CUstream stream) { SAY("cuStreamSynchronize"); return stream == (CUstream)11 ? 0 : 400; }
CUresult cuStreamDestroy(CUstream stream) { SAY("cuStreamDestroy"); return 0; }
CUresult cuStreamBeginCapture(CUstream stream, CUstreamCaptureMode mode) {
  capturing = 1; count = 0; SAY("cuStreamBeginCapture %d", mode == CU_STREAM_CAPTURE_MODE_RELAXED); return 0; }
CUresult cuStreamEndCapture(CUstream stream, CUgraph *graph) {
  capturing = 0; *graph = (CUgraph)13; SAY("cuStreamEndCapture"); return 0; }
CUresult cuGraphInstantiateWithFlags(CUgraphExec *graph, CUgraph from, unsigned long long flags) {
  *graph = (CUgraphExec)17; SAY("cuGraphInstantiate %llu", flags); return from == (CUgraph)13 ? 0 : 1; }
CUresult cuGraphLaunch(CUgraphExec graph, CUstream stream) {
  SAY("cuGraphLaunch"); for (int i = 0; i < count; i++) perform(ops[i]); return graph == (CUgraphExec)17 ? 0 : 1; }
CUresult cuGraphExecDestroy(CUgraphExec graph) { SAY("cuGraphExecDestroy"); return 0; }
CUresult cuGraphDestroy(CUgraph graph) { SAY("cuGraphDestroy"); return 0; }
"""
"""A `libcuda` on host memory, compiled against NVIDIA's own header, so that a wrong parameter does not compile."""


def headers() -> Path | None:
    """Folder of NVIDIA's `cuda.h`, which comes with PyTorch's CUDA wheels; None where it does not."""
    for package in importlib.util.find_spec("nvidia").submodule_search_locations if find("nvidia") else ():
        for found in Path(package).glob("*/include/cuda.h"):
            return found.parent
    return None


def find(package: str) -> bool:
    return importlib.util.find_spec(package) is not None


def compile_driver(folder: Path) -> Path:
    """The fake `libcuda`.

    Raises:
        pytest.skip.Exception: There is no C compiler or no header.
    """
    include, compiler = headers(), shutil.which("gcc")
    if include is None or compiler is None:
        pytest.skip("needs gcc and NVIDIA's cuda.h (package nvidia-cuda-runtime)")
    source, library = folder / "driver.c", folder / "libcuda.so.1"
    source.write_text(DRIVER)
    subprocess.run(
        [compiler, "-shared", "-fPIC", "-Wall", "-Werror", f"-I{include}", str(source), "-o", str(library)], check=True
    )
    return library
