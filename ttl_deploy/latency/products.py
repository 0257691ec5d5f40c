"""Ways of multiplying two square matrices, by precision and library; the best of them is a machine's ceiling.

One way alone misleads: `torch._int_mm` takes a path of oneDNN that leaves a processor's matrix unit unused, with one
thread, while oneDNN's own product and the engines use it. A library that is absent or cannot do it is left out.
"""

from __future__ import annotations

import contextlib
import functools
import os
import re
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from ttl_deploy.runtime.ov_core import core, import_openvino

_MATRIX_NODES = ("FullyConnected", "MatMul")


def _unknown() -> str | None:
    return None


@dataclass(frozen=True)
class Way:
    """One library's product at one precision.

    Attributes:
        what: `fp32`, `bf16`, `fp16` or `int8`.
        by: What multiplies.
        once: One product.
        kernel: Name of the code that did it, which tells the instruction set; None where the library does not say.
    """

    what: str
    by: str
    once: Callable[[], object]
    kernel: Callable[[], str | None] = _unknown


def ways(threads: int, device: str, size: int) -> Iterator[Way]:
    """Every way of this machine.

    Args:
        threads: Threads on a CPU.
        device: `cpu` or `cuda`.
        size: Rows and columns of the matrices.
    """
    libraries = (_torch, _onednn, _onnxruntime, _openvino) if device == "cpu" else (_torch_cuda,)
    for library in libraries:
        with contextlib.suppress(ImportError, AttributeError, NotImplementedError, RuntimeError):
            yield from library(threads, size)


@functools.cache  # oneDNN says it once in a process, at the first call that asks it to speak
def onednn_isa() -> str | None:
    """The instruction set that oneDNN chose for this processor, in its own words; None where PyTorch lacks oneDNN."""
    import torch

    found = re.search(r"cpu,isa:(.+)", _said_by_onednn(lambda: torch.mm(*torch.ones(2, 64, 64, dtype=torch.bfloat16))))
    return found.group(1).strip() if found else None


def _torch(threads: int, size: int) -> Iterator[Way]:
    import torch

    torch.set_num_threads(threads)
    for name, dtype in (("fp32", torch.float32), ("bf16", torch.bfloat16)):
        a, b = (torch.randn(size, size).to(dtype) for _ in range(2))
        yield _by_torch(name, "torch.mm", functools.partial(torch.mm, a, b))
    left, right = _whole(size)
    yield _by_torch("int8", "torch._int_mm", lambda: torch._int_mm(left, right))


def _torch_cuda(_threads: int, size: int) -> Iterator[Way]:
    import torch

    for name, dtype in (("fp32", torch.float32), ("bf16", torch.bfloat16), ("fp16", torch.float16)):
        a, b = (torch.randn(size, size, device="cuda").to(dtype) for _ in range(2))
        yield Way(name, "torch.mm", functools.partial(torch.mm, a, b))
    left, right = (matrix.cuda() for matrix in _whole(size))
    # cuBLASLt's int8 products want the second matrix by columns.
    right = right.t().contiguous().t()
    yield Way("int8", "torch._int_mm", lambda: torch._int_mm(left, right))


def _onednn(threads: int, size: int) -> Iterator[Way]:
    """OneDNN's int8 product, as PyTorch's compiler calls it."""
    import torch

    torch.set_num_threads(threads)
    left, right = _whole(size)
    pixels = (left.int() + 128).to(torch.uint8)
    packed = torch.ops.onednn.qlinear_prepack(right, [size, size])
    scales, zeros = torch.ones(size), torch.zeros(size, dtype=torch.int32)
    quantised: tuple[Any, ...] = (pixels, 1.0, 128, packed, scales, zeros, None, 1.0, 0, torch.float32, "none", [], "")
    product = torch.ops.onednn.qlinear_pointwise
    yield _by_torch("int8", "oneDNN matmul", lambda: product(*quantised))


def _onnxruntime(threads: int, size: int) -> Iterator[Way]:
    import onnxruntime
    from onnx import TensorProto, helper, numpy_helper

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    generator = np.random.default_rng(0)
    cases: tuple[tuple[str, str, int, Any, Any], ...] = (
        ("fp32", "MatMul", TensorProto.FLOAT, *generator.standard_normal((2, size, size), dtype=np.float32)),
        ("int8", "MatMulInteger", TensorProto.UINT8, *_bytes(generator, size)),
    )
    for what, operator, kind, left, right in cases:
        given = helper.make_tensor_value_info("left", kind, [size, size])
        product = helper.make_tensor_value_info("product", _result(kind), [size, size])
        node = helper.make_node(operator, ["left", "right"], ["product"])
        graph = helper.make_graph([node], "product", [given], [product], [numpy_helper.from_array(right, "right")])
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
        session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
        yield Way(what, f"ONNX Runtime {operator}", functools.partial(session.run, None, {"left": left}))


def _openvino(threads: int, size: int) -> Iterator[Way]:
    openvino = import_openvino()
    opset13 = openvino.opset13
    generator = np.random.default_rng(0)
    left, weights = generator.standard_normal((2, size, size), dtype=np.float32)
    for what, hint in (("fp32", "f32"), ("bf16", "bf16"), ("int8", "f32")):
        given = opset13.parameter([size, size], np.float32)
        first, second = given, opset13.constant(weights)
        if what == "int8":
            first, second = (_levels(opset13, each, count) for each, count in ((first, 256), (second, 255)))
        model = openvino.Model([opset13.result(opset13.matmul(first, second, False, False))], [given])
        properties = {
            "INFERENCE_NUM_THREADS": str(threads),
            "NUM_STREAMS": "1",
            "INFERENCE_PRECISION_HINT": hint,
        }
        compiled = core().compile_model(model, "CPU", properties)
        request = compiled.create_infer_request()
        yield Way(
            what,
            "OpenVINO MatMul",
            functools.partial(request.infer, [left], share_inputs=True, share_outputs=True),
            functools.partial(_openvino_kernel, compiled),
        )


def _levels(opset: Any, matrix: Any, count: int) -> Any:
    """A matrix quantised to so many levels, which is how OpenVINO is told to multiply in int8."""
    low, high = np.float32(-4), np.float32(4)
    return opset.fake_quantize(matrix, low, high, low, high, count)


def _openvino_kernel(compiled: Any) -> str | None:
    """The kernel of the product, such as `brgemm_avx512_amx_I8`."""
    for node in compiled.get_runtime_model().get_ordered_ops():
        facts = node.get_rt_info()
        if "layerType" in facts and str(facts["layerType"].value) in _MATRIX_NODES:
            return str(facts["primitiveType"].value)
    return None


def _by_torch(what: str, by: str, once: Callable[[], object]) -> Way:
    return Way(what, by, once, lambda: _onednn_kernel(once))


def _onednn_kernel(once: Callable[[], object]) -> str | None:
    """The kernel by which oneDNN ran a product, such as `brg_matmul:avx512_core_amx`; None where it names none."""
    found = re.search(r"exec,cpu,matmul,([^,]+),", _said_by_onednn(once))
    return found.group(1) if found else None


def _said_by_onednn(once: Callable[[], object]) -> str:
    """What oneDNN writes on stdout of a call when it is asked to; it writes past Python."""
    import torch

    with tempfile.TemporaryFile() as heard:
        before = os.dup(1)
        os.dup2(heard.fileno(), 1)
        try:
            with torch.backends.mkldnn.verbose(torch.backends.mkldnn.VERBOSE_ON):  # type: ignore[no-untyped-call]
                once()
        finally:
            os.dup2(before, 1)
            os.close(before)
        heard.seek(0)
        return heard.read().decode(errors="replace")


def _whole(size: int) -> tuple[Any, Any]:
    import torch

    left, right = (torch.randint(-128, 128, (size, size), dtype=torch.int8) for _ in range(2))
    return left, right


def _bytes(generator: np.random.Generator, size: int) -> tuple[Any, Any]:
    return (
        generator.integers(0, 256, (size, size), dtype=np.uint8),
        generator.integers(-128, 128, (size, size), dtype=np.int8),
    )


def _result(kind: int) -> int:
    from onnx import TensorProto

    return TensorProto.INT32 if kind == TensorProto.UINT8 else kind
