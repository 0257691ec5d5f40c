"""Other names of the same thing, as other tools use them: devices, precisions, formats, runtimes.

A user who writes `--device gpu` or `--precision half` gets what was meant; what stays unknown is refused with the
nearest names.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from ttl_deploy.errors import BadInputError, near

DEVICES: Mapping[str, str] = {
    "gpu": "cuda",
    "nvidia": "cuda",
    "cuda:0": "cuda",
    "gpu:0": "cuda",
    "0": "cuda",
    "cpu:0": "cpu",
    "processor": "cpu",
}
PRECISIONS: Mapping[str, str] = {
    **dict.fromkeys(("float32", "float", "single", "f32", "32", "32-true", "full"), "fp32"),
    **dict.fromkeys(("float16", "half", "f16", "16", "16-mixed", "16-true"), "fp16"),
    **dict.fromkeys(("bfloat16", "bfloat", "b16", "bf16-mixed", "bf16-true"), "bf16"),
    **dict.fromkeys(("i8", "8", "8bit", "8-bit", "qint8", "quantized", "quantised"), "int8"),
}
FORMATS: Mapping[str, str] = {
    **dict.fromkeys(("tensorrt", "engine", "plan", "trt-engine"), "trt"),
    **dict.fromkeys(("rtx", "tensorrt-rtx", "trtrtx", "tensorrt-for-rtx"), "trt-rtx"),
    **dict.fromkeys(("onnxruntime", "ort", "onnx-runtime", ".onnx"), "onnx"),
    **dict.fromkeys(("ov", "ir", "openvino-ir", "xml"), "openvino"),
    **dict.fromkeys(("pytorch", "torch", "pt", "pth", "torch.export", "torch-export", "exported-program"), "pt2"),
    **dict.fromkeys(("jit", "script", "ts", "torch.jit", "torch-script"), "torchscript"),
    **dict.fromkeys(("torchtrt", "torch-tensorrt"), "torch-trt"),
}
RUNTIMES: Mapping[str, str] = {
    **dict.fromkeys(("ort", "onnx", "onnx-runtime"), "onnxruntime"),
    **dict.fromkeys(("ov", "ir"), "openvino"),
    **dict.fromkeys(("trt", "engine", "plan"), "tensorrt"),
    **dict.fromkeys(("rtx", "trt-rtx"), "tensorrt-rtx"),
    **dict.fromkeys(("pytorch", "pt2", "torchscript", "eager"), "torch"),
    **dict.fromkeys(("torch-trt", "torchtrt"), "torch-tensorrt"),
}


def meant(word: str, aliases: Mapping[str, str], known: Iterable[str]) -> str:
    """The known name that a word stands for; the word itself where it stands for none.

    Args:
        word: What the user wrote; case and underscores do not matter.
        aliases: Known names by other words for them.
        known: The names there are.
    """
    names = set(known)
    plain = word.strip().casefold().replace("_", "-")
    return next((name for name in (word, plain, aliases.get(plain, "")) if name in names), word)


def device_of(word: str, known: Iterable[str] = ("cpu", "cuda")) -> str:
    """The device that a word means.

    Raises:
        BadInputError: It means a GPU that is not the first, or nothing.
    """
    names = tuple(known)
    found = meant(word, DEVICES, names)
    other = re.fullmatch(r"(?:cuda|gpu):?(\d+)|([1-9]\d*)", word.strip().casefold())
    if found not in names and other and "cuda" in names:
        raise BadInputError(
            f"device {word!r}: the program runs on the first GPU that it sees",
            fix=f"let it see that one alone: CUDA_VISIBLE_DEVICES={other[1] or other[2]}, with cuda as the device",
        )
    if found not in names:
        raise BadInputError(f"unknown device {word!r}", fix=near(word, names))
    return found
