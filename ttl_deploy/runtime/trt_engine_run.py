"""Runs a TensorRT engine: pinned host buffers, device buffers of the largest batch, `execute_async_v3`, CUDA graphs.

Needs `tensorrt` and `numpy`; the CUDA driver is handed in, and the module of another edition of TensorRT may be. This
file imports nothing of this package: a TensorRT build kit carries it to the target, word for word.
"""

from __future__ import annotations

import ctypes
import math
from typing import Any

import numpy as np
from numpy.typing import NDArray


class EngineError(RuntimeError):
    """TensorRT refuses the engine or a call; the message says why in one line."""


class LoggedError(EngineError):
    """TensorRT logged an error and went on, so that its answer may be anything, such as zeros."""


class EngineRun:
    """An engine ready to run float32 or uint8 batches to float32 outputs.

    Args:
        plan: The serialised engine.
        cuda: An open `cuda_driver.Cuda`.
        input: Name of the input.
        output: Name of the output.
        cuda_graph: Record the work of a batch size once and replay it until another comes: fewer launches.
        host_code: Load an engine that carries its own runtime (built version-compatible).
        trt: The module that runs it; None: `tensorrt`.
        kernels: What `kernels()` gave in an earlier process, or nothing; None: the library compiles none on the card.

    Raises:
        EngineError: TensorRT refuses the engine or logs an error, or the engine has other inputs and outputs.
    """

    def __init__(
        self,
        plan: bytes,
        cuda: Any,
        *,
        input: str,
        output: str,
        cuda_graph: bool = False,
        host_code: bool = False,
        trt: Any = None,
        kernels: bytes | None = None,
    ) -> None:
        trt = trt or _tensorrt()
        self._cuda, self._input, self._output = cuda, input, output
        self._errors, self._runtime, self._engine = _deserialise(trt, plan, host_code)
        _check_names(trt, self._engine, input, output)
        self._kernels: Any = None
        self._context = self._make_context(kernels)
        if self._context is None:
            raise EngineError(_said("TensorRT cannot make an execution context", self._errors.lines))
        self._refuse_logged()
        self.input_type = _numpy_type(trt, self._engine, input)
        self.profiles = self._profiles()
        self._profile = 0
        self._cuda_graph, self._graph = cuda_graph, 0
        self._shape: tuple[int, ...] | None = None
        self._open = True
        self._allocate()

    @property
    def shapes(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Shape of one input and of one output, without the batch."""
        names = (self._input, self._output)
        first, second = (tuple(int(n) for n in tuple(self._engine.get_tensor_shape(name))[1:]) for name in names)
        return first, second

    @property
    def largest(self) -> int:
        """The largest batch of any profile."""
        return max(maximum for _, maximum in self.profiles)

    def run(self, batch: NDArray[Any]) -> NDArray[np.float32]:
        """The output for one batch that some profile allows.

        Raises:
            EngineError: No profile allows the batch, or TensorRT refuses.
            LoggedError: TensorRT logged an error.
            CudaError: The driver refuses.
        """
        self._cuda.use()
        self._prepare(tuple(batch.shape))
        result_shape = tuple(self._context.get_tensor_shape(self._output))
        ctypes.memmove(self._host_in, batch.ctypes.data, batch.nbytes)
        size = math.prod(result_shape) * 4
        if self._cuda_graph:
            self._replay(batch.nbytes, size)
        else:
            self._enqueue(batch.nbytes, size)
        self._cuda.synchronise(self._stream)
        self._refuse_logged()
        result = np.empty(result_shape, np.float32)
        ctypes.memmove(result.ctypes.data, self._host_out, size)
        return result

    def kernels(self) -> bytes:
        """The kernels that were compiled on this card so far, for the next process; empty where it compiles none."""
        return bytes(self._kernels.serialize()) if self._kernels is not None else b""

    def close(self) -> None:
        """Gives the memory back. Closing twice is allowed."""
        if not self._open:
            return
        self._open = False
        self._cuda.use()
        self._forget_graph()
        self._cuda.free(self._device_in)
        self._cuda.free(self._device_out)
        self._cuda.free_pinned(self._host_in)
        self._cuda.free_pinned(self._host_out)
        self._cuda.destroy_stream(self._stream)
        # In this order: an engine must outlive its contexts, a runtime its engines.
        del self._context, self._kernels, self._engine, self._runtime

    def _make_context(self, kernels: bytes | None) -> Any:
        if kernels is None:
            return self._engine.create_execution_context()
        config = self._engine.create_runtime_config()
        self._kernels = config.create_runtime_cache()
        # Kernels of another driver, card or version are refused, with errors logged; it then begins with none.
        if kernels and not self._kernels.deserialize(kernels):
            self._errors.lines.clear()
        config.set_runtime_cache(self._kernels)
        return self._engine.create_execution_context(config)

    def _refuse_logged(self) -> None:
        if self._errors.lines:
            raise LoggedError(_said("TensorRT logged an error and went on", self._errors.lines))

    def _profiles(self) -> list[tuple[int, int]]:
        """Smallest and largest batch of every profile."""
        found = []
        for index in range(self._engine.num_optimization_profiles):
            minimum, _, maximum = self._engine.get_tensor_profile_shape(self._input, index)
            (low, *_), (high, *_) = tuple(minimum), tuple(maximum)
            found.append((int(low), int(high)))
        return found

    def _allocate(self) -> None:
        """Buffers for the largest batch, so that no later batch allocates."""
        _, _, maximum = self._engine.get_tensor_profile_shape(
            self._input, int(np.argmax([m for _, m in self.profiles]))
        )
        bytes_in = math.prod(tuple(maximum)) * self.input_type.itemsize
        per_image = math.prod(tuple(self._engine.get_tensor_shape(self._output))[1:])
        bytes_out = self.largest * per_image * 4
        self._stream = self._cuda.stream()
        self._device_in, self._device_out = self._cuda.allocate(bytes_in), self._cuda.allocate(bytes_out)
        self._host_in, self._host_out = self._cuda.allocate_pinned(bytes_in), self._cuda.allocate_pinned(bytes_out)
        for name, address in ((self._input, self._device_in), (self._output, self._device_out)):
            self._demand(self._context.set_tensor_address(name, address), f"the address of {name}")

    def _prepare(self, shape: tuple[int, ...]) -> None:
        if shape == self._shape:
            return
        profile = next((i for i, (low, high) in enumerate(self.profiles) if low <= shape[0] <= high), None)
        if profile is None:
            allowed = ", ".join(f"{low} to {high}" for low, high in self.profiles)
            raise EngineError(f"the engine was built for batches of {allowed}, not of {shape[0]}")
        self._shape = None
        # A graph holds the state the context had when it was recorded.
        self._forget_graph()
        if profile != self._profile:
            chosen = self._context.set_optimization_profile_async(profile, self._stream)
            self._demand(chosen, f"profile {profile}")
            self._cuda.synchronise(self._stream)
            self._profile = profile
        self._demand(self._context.set_input_shape(self._input, shape), f"the shape {shape}")
        self._shape = shape

    def _enqueue(self, bytes_in: int, bytes_out: int) -> None:
        self._cuda.to_device(self._device_in, self._host_in, bytes_in, self._stream)
        self._demand(self._context.execute_async_v3(self._stream), "the execution")
        self._cuda.to_host(self._host_out, self._device_out, bytes_out, self._stream)

    def _replay(self, bytes_in: int, bytes_out: int) -> None:
        """Replays the recorded work. A new shape is run directly once, as TensorRT sets itself up in that call."""
        if not self._graph:
            self._enqueue(bytes_in, bytes_out)
            self._cuda.synchronise(self._stream)
            self._cuda.begin_capture(self._stream)
            self._enqueue(bytes_in, bytes_out)
            self._graph = self._cuda.end_capture(self._stream)
        self._cuda.launch(self._graph, self._stream)

    def _forget_graph(self) -> None:
        if self._graph:
            self._cuda.destroy_graph(self._graph)
            self._graph = 0

    def _demand(self, granted: bool, what: str) -> None:
        if not granted:
            raise EngineError(_said(f"TensorRT refuses {what}", self._errors.lines))


def _tensorrt() -> Any:
    import tensorrt

    return tensorrt


def _deserialise(trt: Any, plan: bytes, host_code: bool) -> tuple[Any, Any, Any]:
    """The error collector, the runtime and the engine; each needs the one before it to live on."""

    class Errors(trt.ILogger):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self.lines: list[str] = []

        def log(self, severity: Any, msg: str) -> None:
            if severity in (trt.ILogger.Severity.INTERNAL_ERROR, trt.ILogger.Severity.ERROR):
                self.lines.append(msg)

    errors = Errors()
    runtime = trt.Runtime(errors)
    if host_code:
        runtime.engine_host_code_allowed = True
    engine = runtime.deserialize_cuda_engine(plan)
    if engine is None:
        raise EngineError(_said("TensorRT refuses the engine", errors.lines))
    return errors, runtime, engine


def _check_names(trt: Any, engine: Any, input: str, output: str) -> None:
    names = [engine.get_tensor_name(i) for i in range(engine.num_io_tensors)]
    inputs = [name for name in names if engine.get_tensor_mode(name) == trt.TensorIOMode.INPUT]
    if inputs != [input] or output not in names:
        raise EngineError(f"the engine has the inputs and outputs {', '.join(names)}, not {input} and {output}")
    if engine.get_tensor_dtype(output) != trt.DataType.FLOAT:
        raise EngineError(f"the engine gives {engine.get_tensor_dtype(output)}, not float32")


def _numpy_type(trt: Any, engine: Any, name: str) -> np.dtype[Any]:
    kind = engine.get_tensor_dtype(name)
    if kind not in (trt.DataType.FLOAT, trt.DataType.UINT8):
        raise EngineError(f"the engine takes {kind}, not float32 or uint8")
    return np.dtype(np.float32 if kind == trt.DataType.FLOAT else np.uint8)


def _said(what: str, lines: list[str]) -> str:
    reasons = " ".join("; ".join(lines).split())[:1000]
    return f"{what}: {reasons}" if reasons else what
