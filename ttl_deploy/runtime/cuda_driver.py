"""The CUDA driver through ctypes: device, pinned and device memory, a stream and graphs; what an engine needs to run.

Every machine with an NVIDIA GPU has `libcuda`, so neither torch nor a CUDA package is needed. This file imports nothing
of this package: a TensorRT build kit carries it to the target, word for word.
"""

from __future__ import annotations

import ctypes
import sys
from dataclasses import dataclass
from types import TracebackType
from typing import Any

LIBRARY = "nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1"

_MAJOR, _MINOR = 75, 76
"""CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR and _MINOR."""

_CAPTURE_RELAXED = 2
"""CU_STREAM_CAPTURE_MODE_RELAXED: other threads may allocate while a graph is captured."""

_INT, _POINTER, _SIZE, _U64, _UINT = ctypes.c_int, ctypes.c_void_p, ctypes.c_size_t, ctypes.c_uint64, ctypes.c_uint
FUNCTIONS: dict[str, tuple[Any, ...]] = {
    "cuInit": (_UINT,),
    "cuGetErrorString": (_INT, _POINTER),
    "cuDriverGetVersion": (_POINTER,),
    "cuDeviceGetCount": (_POINTER,),
    "cuDeviceGet": (_POINTER, _INT),
    "cuDeviceGetName": (_POINTER, _INT, _INT),
    "cuDeviceGetAttribute": (_POINTER, _INT, _INT),
    "cuDevicePrimaryCtxRetain": (_POINTER, _INT),
    "cuDevicePrimaryCtxRelease_v2": (_INT,),
    "cuCtxSetCurrent": (_POINTER,),
    "cuMemAlloc_v2": (_POINTER, _SIZE),
    "cuMemFree_v2": (_U64,),
    "cuMemHostAlloc": (_POINTER, _SIZE, _UINT),
    "cuMemFreeHost": (_POINTER,),
    "cuMemcpyHtoDAsync_v2": (_U64, _POINTER, _SIZE, _POINTER),
    "cuMemcpyDtoHAsync_v2": (_POINTER, _U64, _SIZE, _POINTER),
    "cuStreamCreate": (_POINTER, _UINT),
    "cuStreamSynchronize": (_POINTER,),
    "cuStreamDestroy_v2": (_POINTER,),
    "cuStreamBeginCapture_v2": (_POINTER, _INT),
    "cuStreamEndCapture": (_POINTER, _POINTER),
    "cuGraphInstantiateWithFlags": (_POINTER, _POINTER, _U64),
    "cuGraphLaunch": (_POINTER, _POINTER),
    "cuGraphExecDestroy": (_POINTER,),
    "cuGraphDestroy": (_POINTER,),
}
"""The driver's functions in use, and their parameters."""


class CudaError(RuntimeError):
    """The driver is missing or refuses; the message says which call and why."""


@dataclass(frozen=True)
class Device:
    """A GPU: its name, and its compute capability such as `7.5`."""

    name: str
    compute_capability: str


class Cuda:
    """The first visible GPU, its primary context (the one TensorRT uses) current in this thread.

    Raises:
        CudaError: There is no driver or no GPU.
    """

    def __init__(self) -> None:
        self._library = _load()
        self._call("cuInit", 0)
        count = ctypes.c_int()
        self._call("cuDeviceGetCount", ctypes.byref(count))
        if count.value < 1:
            raise CudaError("the driver sees no GPU")
        device, context = ctypes.c_int(), ctypes.c_void_p()
        self._call("cuDeviceGet", ctypes.byref(device), 0)
        self._device = device.value
        self._call("cuDevicePrimaryCtxRetain", ctypes.byref(context), self._device)
        self._context = context
        self.use()

    def use(self) -> None:
        """Makes the GPU current in the calling thread; needed where another thread than the opening one runs."""
        self._call("cuCtxSetCurrent", self._context)

    def device(self) -> Device:
        """Which GPU this is."""
        name = ctypes.create_string_buffer(256)
        self._call("cuDeviceGetName", name, len(name), self._device)
        capability = []
        for attribute in (_MAJOR, _MINOR):
            value = ctypes.c_int()
            self._call("cuDeviceGetAttribute", ctypes.byref(value), attribute, self._device)
            capability.append(str(value.value))
        return Device(name.value.decode(), ".".join(capability))

    def driver_version(self) -> str:
        """The newest CUDA that the driver runs, such as `13.0`."""
        version = ctypes.c_int()
        self._call("cuDriverGetVersion", ctypes.byref(version))
        return f"{version.value // 1000}.{version.value % 1000 // 10}"

    def allocate(self, size: int) -> int:
        """Address of `size` bytes on the GPU."""
        address = ctypes.c_uint64()
        self._call("cuMemAlloc_v2", ctypes.byref(address), size)
        return address.value

    def free(self, address: int) -> None:
        """Gives memory of `allocate` back."""
        self._call("cuMemFree_v2", address)

    def allocate_pinned(self, size: int) -> int:
        """Address of `size` bytes of host memory that the GPU copies without a detour."""
        address = ctypes.c_void_p()
        self._call("cuMemHostAlloc", ctypes.byref(address), size, 0)
        return address.value or 0

    def free_pinned(self, address: int) -> None:
        """Gives memory of `allocate_pinned` back."""
        self._call("cuMemFreeHost", address)

    def to_device(self, device: int, host: int, size: int, stream: int) -> None:
        """Copies from pinned memory to the GPU, in the order of the stream."""
        self._call("cuMemcpyHtoDAsync_v2", device, host, size, stream)

    def to_host(self, host: int, device: int, size: int, stream: int) -> None:
        """Copies from the GPU to pinned memory, in the order of the stream."""
        self._call("cuMemcpyDtoHAsync_v2", host, device, size, stream)

    def stream(self) -> int:
        """A new stream."""
        stream = ctypes.c_void_p()
        # 1: not ordered with the default stream, which another library in the process may use.
        self._call("cuStreamCreate", ctypes.byref(stream), 1)
        return stream.value or 0

    def synchronise(self, stream: int) -> None:
        """Waits until the stream has done everything."""
        self._call("cuStreamSynchronize", stream)

    def destroy_stream(self, stream: int) -> None:
        """Gives a stream back."""
        self._call("cuStreamDestroy_v2", stream)

    def begin_capture(self, stream: int) -> None:
        """From now on the stream's work is recorded, not done."""
        self._call("cuStreamBeginCapture_v2", stream, _CAPTURE_RELAXED)

    def end_capture(self, stream: int) -> int:
        """An executable graph of what was recorded."""
        graph, executable = ctypes.c_void_p(), ctypes.c_void_p()
        self._call("cuStreamEndCapture", stream, ctypes.byref(graph))
        try:
            self._call("cuGraphInstantiateWithFlags", ctypes.byref(executable), graph, 0)
        finally:
            self._call("cuGraphDestroy", graph)
        return executable.value or 0

    def launch(self, graph: int, stream: int) -> None:
        """Does a recorded graph's work, in the order of the stream."""
        self._call("cuGraphLaunch", graph, stream)

    def destroy_graph(self, graph: int) -> None:
        """Gives an executable graph back."""
        self._call("cuGraphExecDestroy", graph)

    def close(self) -> None:
        """Gives the context back. Closing twice is allowed."""
        if self._context is not None:
            self._context = None  # type: ignore[assignment]
            self._call("cuDevicePrimaryCtxRelease_v2", self._device)

    def __enter__(self) -> Cuda:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _call(self, name: str, *arguments: Any) -> None:
        code = getattr(self._library, name)(*arguments)
        if code:
            raise CudaError(f"{name} failed: {self._reason(code)}")

    def _reason(self, code: int) -> str:
        text = ctypes.c_char_p()
        known = self._library.cuGetErrorString(code, ctypes.byref(text)) == 0 and text.value
        return f"{text.value.decode() if known and text.value else 'unknown error'} ({code})"


def _load() -> Any:
    try:
        library = ctypes.CDLL(LIBRARY)
    except OSError as error:
        raise CudaError("no NVIDIA driver is installed") from error
    for name, parameters in FUNCTIONS.items():
        function = getattr(library, name)
        function.argtypes, function.restype = list(parameters), ctypes.c_int
    return library
