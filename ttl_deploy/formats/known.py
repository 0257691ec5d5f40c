"""What is known of each format before it is written: its name, its precisions, and why one cannot be had here.

Its exporter is this and what writes the files. No torch and no onnx here, as `ttl-deploy doctor` waits for neither:
what is asked is whether a package or a GPU is here, never whether the package imports.
"""

from __future__ import annotations

import importlib.util
from typing import ClassVar

from ttl_deploy import hardware
from ttl_deploy.formats.rtx_cards import PRECISIONS
from ttl_deploy.runtime import trt
from ttl_deploy.runtime import trt_rtx as rtx
from ttl_deploy.runtime.torch_file import TORCH_TRT

MODELOPT = "modelopt"
"""The package that quantises for Torch-TensorRT."""

ON_A_GPU = "pip install 'ttl-deploy[trt]' on a machine with an NVIDIA GPU, or export trt with --defer-build"
"""The way out where Torch-TensorRT is missing."""


class Format:
    """A format before it is written.

    Attributes:
        name: The format's name.
        precisions: What can be written of it, the default first.
    """

    name: ClassVar[str]
    precisions: ClassVar[tuple[str, ...]]

    def available(self, precision: str) -> str | None:
        """The reason why a precision cannot be exported here, with the way out, or None where it can.

        Args:
            precision: One of `precisions`.
        """
        return None


class OnnxFormat(Format):
    """An ONNX graph."""

    name = "onnx"
    precisions = ("fp32", "fp16", "bf16", "int8")


class OpenVinoFormat(Format):
    """OpenVINO's own, which OpenVINO writes."""

    name = "openvino"
    precisions = ("fp32", "fp16", "bf16", "int8")

    def available(self, precision: str) -> str | None:
        """See `Format.available`."""
        if importlib.util.find_spec("openvino") is None:
            return "openvino is not installed (pip install openvino)"
        return None


class Pt2Format(Format):
    """PyTorch's exported program."""

    name = "pt2"
    precisions = ("fp32", "bf16", "fp16")


class TorchTrtFormat(Format):
    """A PyTorch program whose layers run in TensorRT."""

    name = TORCH_TRT
    precisions = ("fp32", "fp16", "int8")

    def available(self, precision: str) -> str | None:
        """A GPU, the package, and for int8 ModelOpt."""
        if not hardware.describe().gpus:
            return f"no NVIDIA GPU is here; {ON_A_GPU}"
        if importlib.util.find_spec("torch_tensorrt") is None:
            return f"torch_tensorrt is not installed; {ON_A_GPU}"
        if precision == "int8" and importlib.util.find_spec(MODELOPT) is None:
            return (
                "int8 is quantised by ModelOpt, which is not installed; pip install nvidia-modelopt, or export trt, "
                "which needs none"
            )
        return None


class TorchScriptFormat(Format):
    """A PyTorch script."""

    name = "torchscript"
    precisions = ("fp32",)


class TrtFormat(Format):
    """A TensorRT engine."""

    name = "trt"
    precisions = ("fp32", "tf32", "fp16", "int8")

    def available(self, precision: str) -> str | None:
        """TensorRT and a GPU are needed; a build kit is the way out."""
        reason = trt.available()
        if reason is None:
            return None
        extra = f"{rtx.INSTALL} and " if rtx.missing() else ""
        return (
            f"{reason}; pass --defer-build to get a kit that builds the engine on the target, or {extra}--for CARD to "
            "build one for an RTX or Quadro card here"
        )


class TrtKitFormat(Format):
    """A TensorRT engine that is built elsewhere."""

    name = "trt-kit"
    precisions = TrtFormat.precisions


class TrtRtxFormat(Format):
    """Engines of TensorRT for RTX."""

    name = "trt-rtx"
    precisions = PRECISIONS

    def available(self, precision: str) -> str | None:
        """The extra is needed, and no GPU."""
        reason = rtx.missing()
        return f"{reason}; or pass --format trt --defer-build for a kit that the target builds" if reason else None


FORMATS: tuple[Format, ...] = (
    OnnxFormat(),
    OpenVinoFormat(),
    Pt2Format(),
    TorchTrtFormat(),
    TorchScriptFormat(),
    TrtFormat(),
    TrtKitFormat(),
    TrtRtxFormat(),
)
"""This package's, in the order of `EXPORTERS`; another package's format is told by its exporter alone."""
