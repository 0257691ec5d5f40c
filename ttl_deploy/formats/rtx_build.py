"""An engine of TensorRT for RTX, built ahead of time for one architecture on any machine: no GPU is asked.

Steps and settings are those of `kit.build_engine`. No engine can be read back without its card, so what is told of
precision is what the parsed network asks for, which a strongly typed network is bound to.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ttl_deploy.formats.kit.build_engine import (
    BuildError,
    Settings,
    check_precision,
    configure,
    parse,
    serialise,
)

WEIGHTED = ("CONVOLUTION", "DECONVOLUTION", "MATRIX_MULTIPLY", "EINSUM")
"""Kinds of layers that hold nearly all arithmetic of a network, and whose types are its precision."""

_MOVES = (
    *("CAST", "CONSTANT", "SHUFFLE", "SHAPE", "SLICE", "GATHER", "CONCATENATION", "IDENTITY", "SQUEEZE", "UNSQUEEZE"),
    *("QUANTIZE", "DEQUANTIZE"),
)
_WORDS = {"FLOAT": "fp32", "HALF": "fp16", "BF16": "bf16", "INT8": "int8"}


@dataclass(frozen=True)
class Built:
    """An engine for one architecture.

    Attributes:
        plan: The serialised engine. Its bytes differ from build to build in names of symbols.
        layers: How many layers compute in which precision, by kind.
    """

    plan: bytes
    layers: dict[str, dict[str, int]]


def build(trt: Any, onnx: bytes, settings: Settings, architecture: str) -> Built:
    """Builds an engine.

    Args:
        trt: TensorRT for RTX's module.
        onnx: A serialised ONNX model whose tensors have the types they shall be computed in.
        settings: How to build.
        architecture: `sm86`, which must be one that the library has.

    Raises:
        BuildError: The graph cannot be parsed or built, or it asks for another precision than the settings say.
    """
    parsed = parse(trt, onnx)
    layers = count_layers(parsed.network)
    check_precision(settings.precision, weighted(layers))
    config = configure(parsed, settings)
    # One architecture a file: the library makes an engine for several what the weakest of them can, without a word.
    config.num_compute_capabilities = 1
    target = getattr(trt.ComputeCapability, architecture.upper(), None)
    if target is None or not config.set_compute_capability(target, 0):
        raise BuildError(f"TensorRT for RTX {trt.__version__} does not build for {architecture}")
    return Built(serialise(parsed, config), layers)


def count_layers(network: Any) -> dict[str, dict[str, int]]:
    """How many layers of a parsed network compute in which precision, by kind; layers that only move data left out.

    A layer with weights whose inputs all come from dequantisation counts as int8: the two become one int8 kernel.
    """
    layers = [network.get_layer(i) for i in range(network.num_layers)]
    makers = {layer.get_output(i).name: layer.type.name for layer in layers for i in range(layer.num_outputs)}
    counts: dict[str, dict[str, int]] = {}
    for layer in layers:
        if layer.type.name in _MOVES:
            continue
        of_kind = counts.setdefault(layer.type.name.lower(), {})
        precision = _precision(layer, makers)
        of_kind[precision] = of_kind.get(precision, 0) + 1
    return counts


def weighted(layers: Mapping[str, Mapping[str, int]]) -> dict[str, int]:
    """The counts of all kinds of `WEIGHTED` together."""
    counts: dict[str, int] = {}
    for kind in WEIGHTED:
        for precision, number in layers.get(kind.lower(), {}).items():
            counts[precision] = counts.get(precision, 0) + number
    return counts


def _precision(layer: Any, makers: Mapping[str, str]) -> str:
    given = [layer.get_input(i) for i in range(layer.num_inputs)]
    if layer.type.name in WEIGHTED:
        sources = [makers.get(tensor.name) for tensor in given if tensor is not None]
        # A bias stays in float, beside an int8 kernel too.
        if sources[:2] and all(source == "DEQUANTIZE" for source in sources[:2]):
            return "int8"
    word = str(layer.get_output(0).dtype.name)
    return _WORDS.get(word, word.lower())
