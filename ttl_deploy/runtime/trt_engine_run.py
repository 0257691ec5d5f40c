"""Runs a TensorRT engine: pinned host buffers, device buffers of the largest batch, `execute_async_v3`, CUDA graphs.

Needs `tensorrt` and `numpy`; the CUDA driver is handed in. This file imports nothing of this package: a TensorRT build
kit carries it to the target, word for word.
"""

from __future__ import annotations

import ctypes
import math
from typing import Any

import numpy as np
from numpy.typing import NDArray


class EngineError(RuntimeError):
    """TensorRT refuses the engine or a call; the message says why in one line."""


class EngineRun:
    """An engine ready to run float32 or uint8 batches to float32 outputs.

    Args:
        plan: The serialised engine.
        cuda: An open `cuda_driver.Cuda`.
        input: Name of the input.
        output: Name of the output.
        cuda_graph: Record the work of a batch size once and replay it until another comes: fewer launches.
        host_code: Load an engine that carries its own runtime (built version-compatible).

    Raises:
        EngineError: TensorRT refuses the engine, or it has other inputs and outputs.
    """

    def __init__(
        self, plan: bytes, cuda: Any, *, input: str, output: str, cuda_graph: bool = False, host_code: bool = False
    ) -> None:
        self._cuda, self._input, self._output = cuda, input, output
        self._errors, self._runtime, self._engine = _deserialise(plan, host_code)
        _check_names(self._engine, input, output)
        self._context = self._engine.create_execution_context()
        if self._context is None:
            raise EngineError(_said("TensorRT cannot make an execution context", self._errors.lines))
        self.input_type = _numpy_type(self._engine, input)
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
        result = np.empty(result_shape, np.float32)
        ctypes.memmove(result.ctypes.data, self._host_out, size)
        return result

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
        del self._context, self._engine, self._runtime

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


def _deserialise(plan: bytes, host_code: bool) -> tuple[Any, Any, Any]:
    """The error collector, the runtime and the engine; each needs the one before it to live on."""
    import tensorrt as trt

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


def _check_names(engine: Any, input: str, output: str) -> None:
    import tensorrt as trt

    names = [engine.get_tensor_name(i) for i in range(engine.num_io_tensors)]
    inputs = [name for name in names if engine.get_tensor_mode(name) == trt.TensorIOMode.INPUT]
    if inputs != [input] or output not in names:
        raise EngineError(f"the engine has the inputs and outputs {', '.join(names)}, not {input} and {output}")
    if engine.get_tensor_dtype(output) != trt.DataType.FLOAT:
        raise EngineError(f"the engine gives {engine.get_tensor_dtype(output)}, not float32")


def _numpy_type(engine: Any, name: str) -> np.dtype[Any]:
    import tensorrt as trt

    kind = engine.get_tensor_dtype(name)
    if kind not in (trt.DataType.FLOAT, trt.DataType.UINT8):
        raise EngineError(f"the engine takes {kind}, not float32 or uint8")
    return np.dtype(np.float32 if kind == trt.DataType.FLOAT else np.uint8)


def _said(what: str, lines: list[str]) -> str:
    reasons = " ".join("; ".join(lines).split())[:1000]
    return f"{what}: {reasons}" if reasons else what
