"""Builds a TensorRT engine from a typed ONNX file and says which precision it runs.

Needs `tensorrt` 10 or 11, or TensorRT for RTX, and nothing else: `ttl-deploy export --format trt` calls `build`,
`--format trt-rtx` calls `build_for`, and a build kit carries this very file to the machine that has the GPU, where
`python build_engine.py` calls the one whose library is there. Precision is a property of the ONNX graph (fp16 tensors,
Q/DQ pairs), never of a flag here, so one code path serves all versions: `parse`, `configure` and `serialise`, which are
given the library's module. An engine of full TensorRT is read back; one of TensorRT for RTX cannot be without its card,
so what is told of its precision is what the parsed network asks for, which a strongly typed network is bound to.
"""

from __future__ import annotations

import argparse
import contextlib
import errno
import hashlib
import importlib
import json
import secrets
import shutil
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

HARDWARE = ("none", "same-compute-capability", "ampere-plus")
"""On which GPUs the engine shall run: the model it was built on; all of its compute capability; Ampere and later."""

RTX_MODULES = ("tensorrt_rtx_bindings", "tensorrt_rtx")
"""Names under which TensorRT for RTX is installed: by its wheels, and by NVIDIA's archive."""

GENERATIONS: Mapping[str, str] = {
    "sm75": "Turing",
    "sm80": "Ampere",
    "sm86": "Ampere",
    "sm89": "Ada",
    "sm120": "Blackwell",
    "sm121": "Blackwell",
}
"""What it builds for, by the name of its compute capability (7.5 is sm75). Hopper (sm90) is not among them."""

TURING = "sm75"

REFUSED: Mapping[tuple[str, str], str] = {
    (TURING, "int8"): "the library builds an engine for Turing from a quantised graph whose convolutions are all float",
    (TURING, "bf16"): "Turing has no bfloat16",
}
"""What an architecture is refused by it, with the reason."""

AS_EXPORTED = "as exported"
"""The head of a graph that was not rewritten for Turing."""

WEIGHTED = ("CONVOLUTION", "DECONVOLUTION", "MATRIX_MULTIPLY", "EINSUM")
"""Kinds of layers that hold nearly all arithmetic of a network, and whose types are its precision."""

MIB = 2**20

_WORDS = {
    "int8": "int8",
    "half": "fp16",
    "fp16": "fp16",
    "bfloat16": "bf16",
    "bf16": "bf16",
    "float": "fp32",
    "fp32": "fp32",
}
_GRAPH = "model.onnx"
_SAMPLES = "samples.npz"
_LEVEL = 3
_NOISE = "catchCudaError"
_LOWEST_FIRST = ("int8", "fp16", "bf16", "fp32")
_MOVES = ("reformat", "noop", "shuffle", "constant", "cast", "quantize", "dequantize", "shape")
_NETWORK_MOVES = (
    *("CAST", "CONSTANT", "SHUFFLE", "SHAPE", "SLICE", "GATHER", "CONCATENATION", "IDENTITY", "SQUEEZE", "UNSQUEEZE"),
    *("QUANTIZE", "DEQUANTIZE"),
)
_NETWORK_WORDS = {"FLOAT": "fp32", "HALF": "fp16", "BF16": "bf16", "INT8": "int8"}


class BuildError(RuntimeError):
    """No engine, or not the one that was asked for; the message says why in one line."""


@dataclass(frozen=True)
class Settings:
    """What `profile.json` holds.

    Attributes:
        precision: `fp32`, `tf32`, `fp16` or `int8`: what the graph is, and what the engine must be found to run.
        input: Name of the graph's input.
        minimum: Smallest shape of the input, batch first.
        optimum: The shape the engine is made fast for.
        maximum: Largest shape.
        workspace_mib: Most scratch memory a layer may use; None: what the GPU has.
        optimization_level: 0 (builds fast) to 5 (searches longest); None: the library has no such choice.
        version_compatible: Whether later versions of TensorRT may load the engine too.
        hardware: One of `HARDWARE`.
    """

    precision: str
    input: str
    minimum: tuple[int, ...]
    optimum: tuple[int, ...]
    maximum: tuple[int, ...]
    workspace_mib: int | None = None
    optimization_level: int | None = _LEVEL
    version_compatible: bool = False
    hardware: str = "none"

    @classmethod
    def of(cls, content: dict[str, Any]) -> Settings:
        """Settings from the JSON of `as_dict`."""
        fields: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in content.items()}
        return cls(**fields)

    def as_dict(self) -> dict[str, Any]:
        """Plain types, for JSON."""
        return {k: list(v) if isinstance(v, tuple) else v for k, v in vars(self).items()}


@dataclass(frozen=True)
class Engine:
    """A built engine.

    Attributes:
        plan: The serialised engine.
        layers: What the engine inspector says of its layers.
        counts: How many layers compute in which precision.
        tf32_layers: How many run a kernel whose name says TF32.
        timing_cache: Kernel timings, for the next build on this GPU.
        tensorrt: Version that built it.
    """

    plan: bytes
    layers: list[dict[str, Any]]
    counts: dict[str, int]
    tf32_layers: int
    timing_cache: bytes
    tensorrt: str

    def details(self, settings: Settings, gpu: str, compute_capability: str) -> dict[str, Any]:
        """What must be known to run the engine, for `details` of an artifact's manifest."""
        return {
            "tensorrt": self.tensorrt,
            "gpu": gpu,
            "compute_capability": compute_capability,
            "layers": self.counts,
            "tf32_layers": self.tf32_layers,
            "profile": settings.as_dict(),
        }


def build(onnx: bytes, settings: Settings, timing_cache: bytes = b"") -> Engine:
    """Builds an engine and refuses it where it does not run the asked precision.

    Args:
        onnx: A serialised ONNX model whose tensors have the types they shall be computed in.
        settings: How to build.
        timing_cache: Timings of an earlier build on this GPU, or nothing; ignored where they do not fit.

    Raises:
        BuildError: The graph cannot be parsed or built, or the engine runs another precision.
    """
    import tensorrt as trt

    parsed = parse(trt, onnx)
    config = configure(parsed, settings)
    cache = _timing_cache(config, timing_cache)
    plan = serialise(parsed, config)
    layers = inspect(plan, version_compatible=settings.version_compatible)
    counts = count_precisions(layers)
    tf32 = count_tf32(layers)
    check_precision(settings.precision, counts, tf32)
    return Engine(plan, layers, counts, tf32, bytes(cache.serialize()), str(trt.__version__))


@dataclass(frozen=True)
class Built:
    """An engine of TensorRT for RTX, for one architecture.

    Attributes:
        plan: The serialised engine. Its bytes differ from build to build in names of symbols.
        layers: How many layers of the network compute in which precision, by kind.
    """

    plan: bytes
    layers: dict[str, dict[str, int]]


def build_for(trt: Any, onnx: bytes, settings: Settings, architecture: str) -> Built:
    """Builds an engine ahead of time for one architecture, on any machine: no GPU is asked.

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


def rtx_details(version: str, settings: Settings, built: Mapping[str, Built], head: str) -> dict[str, Any]:
    """What must be known to run engines of TensorRT for RTX, for `details` of an artifact's manifest.

    Args:
        version: Of the library.
        settings: How they were built.
        built: By architecture. The layers are what the network asks for, not what a card ran.
        head: What stands in the graph for matrix products.
    """
    return {
        "tensorrt_rtx": version,
        "targets": list(built),
        "engines": {
            name: {"file": engine_file(name), "compute_capability": capability(name), "bytes": len(engine.plan)}
            for name, engine in built.items()
        },
        "layers": next(iter(built.values())).layers,
        "head": head,
        "profile": settings.as_dict(),
    }


def engine_file(architecture: str) -> str:
    """Name of an architecture's engine in the artifact."""
    return f"model-{architecture}.engine"


def capability(architecture: str) -> str:
    """The compute capability of an architecture: `sm86` is `8.6`."""
    digits = architecture.removeprefix("sm")
    return f"{digits[:-1]}.{digits[-1]}"


def named(compute_capability: str) -> str:
    """The architecture of a compute capability: `8.6` is `sm86`."""
    return f"sm{compute_capability.replace('.', '')}"


@dataclass(frozen=True, eq=False)
class Parsed:
    """A network that a library has read, and what must live as long as it does.

    Attributes:
        trt: The library's module.
        builder: Its builder.
        network: What the graph says.
        parser: Holds the weights that the network points to.
        messages: Errors that the library logs.
    """

    trt: Any
    builder: Any
    network: Any
    parser: Any
    messages: Any


def parse(trt: Any, onnx: bytes) -> Parsed:
    """Reads a graph.

    Args:
        trt: The module `tensorrt`, or that of another edition of it.
        onnx: A serialised ONNX model.

    Raises:
        BuildError: The library cannot read it.
    """
    messages = _messages(trt)
    builder = trt.Builder(messages)
    # TensorRT 11 knows strongly typed networks only and gave the flag another value: it goes by its name.
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, messages)
    if not parser.parse(onnx):
        errors = [
            str(parser.get_error(i)).partition(f"[checkMacros.cpp::{_NOISE}")[0] for i in range(parser.num_errors)
        ]
        raise BuildError(_line("TensorRT cannot read the graph", errors or messages.errors))
    return Parsed(trt, builder, network, parser, messages)


def configure(parsed: Parsed, settings: Settings) -> Any:
    """The builder's configuration for a parsed network.

    Raises:
        BuildError: The library is too old for a setting, or refuses the shapes.
    """
    config = parsed.builder.create_builder_config()
    _set_options(parsed.trt, config, settings)
    profile = parsed.builder.create_optimization_profile()
    profile.set_shape(settings.input, settings.minimum, settings.optimum, settings.maximum)
    if config.add_optimization_profile(profile) < 0:
        raise BuildError(f"TensorRT refuses the shapes {settings.minimum} to {settings.maximum} of {settings.input}")
    return config


def serialise(parsed: Parsed, config: Any) -> bytes:
    """The engine's bytes.

    Raises:
        BuildError: It cannot be built; the error says what the library logged.
    """
    serialised = parsed.builder.build_serialized_network(parsed.network, config)
    if serialised is None:
        raise BuildError(_line("TensorRT cannot build the engine", parsed.messages.errors))
    return bytes(serialised)


def inspect(plan: bytes, *, version_compatible: bool = False) -> list[dict[str, Any]]:
    """What the engine inspector says of an engine's layers.

    Raises:
        BuildError: The engine cannot be loaded, or it was built without details.
    """
    import tensorrt as trt

    messages = _messages(trt)
    runtime = trt.Runtime(messages)
    if version_compatible:
        runtime.engine_host_code_allowed = True
    engine = runtime.deserialize_cuda_engine(plan)
    if engine is None:
        raise BuildError(_line("TensorRT cannot load the engine it built", messages.errors))
    inspector = engine.create_engine_inspector()
    layers = json.loads(inspector.get_engine_information(trt.LayerInformationFormat.JSON)).get("Layers", [])
    if not layers or not all(isinstance(layer, dict) for layer in layers):
        raise BuildError("the engine inspector tells no layer's types, so the precision cannot be checked")
    return list(layers)


def count_precisions(layers: list[dict[str, Any]]) -> dict[str, int]:
    """How many layers compute in which precision: the narrowest type among a layer's inputs and weights.

    Layers that only move, reorder or convert data are left out: they say nothing about the arithmetic.
    """
    counts: dict[str, int] = {}
    for layer in layers:
        kind = f"{layer.get('LayerType', '')} {layer.get('ParameterType', '')}".lower()
        types = set(_types(layer))
        if types and not any(word in kind for word in _MOVES):
            lowest = next(precision for precision in _LOWEST_FIRST if precision in types)
            counts[lowest] = counts.get(lowest, 0) + 1
    return counts


def count_tf32(layers: list[dict[str, Any]]) -> int:
    """How many layers run a kernel whose name says TF32."""
    return sum("tf32" in str(layer.get("TacticName", "")).lower() for layer in layers)


def count_layers(network: Any) -> dict[str, dict[str, int]]:
    """How many layers of a parsed network compute in which precision, by kind; layers that only move data left out.

    A layer with weights whose inputs all come from dequantisation counts as int8: the two become one int8 kernel.
    """
    layers = [network.get_layer(i) for i in range(network.num_layers)]
    makers = {layer.get_output(i).name: layer.type.name for layer in layers for i in range(layer.num_outputs)}
    counts: dict[str, dict[str, int]] = {}
    for layer in layers:
        if layer.type.name in _NETWORK_MOVES:
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


def check_precision(precision: str, counts: dict[str, int], tf32_layers: int = 0) -> None:
    """Refuses an engine that does not run what was asked for.

    fp32 and tf32 allow no narrower layer; fp32 no TF32 kernel either. fp16 and int8 must be what most layers run: some
    may be left wider on purpose, and a softmax or a mean often is. TF32 is a permission: an engine for which plain fp32
    kernels were faster is a sound tf32 engine, and `tf32_layers` tells.

    Raises:
        BuildError: It runs another precision.
    """
    said = ", ".join(f"{number} {name}" for name, number in sorted(counts.items())) or "none of a known type"
    asked = "fp32" if precision == "tf32" else precision
    total, right = sum(counts.values()), counts.get(asked, 0)
    if asked == "fp32" and right < total:
        raise BuildError(f"the engine is not {precision}: its computing layers are {said}")
    if precision == "fp32" and tf32_layers:
        raise BuildError(f"the engine is not fp32: {tf32_layers} of its layers run TF32 kernels")
    if not right or 2 * right < total:
        raise BuildError(f"the engine does not run {precision}: its computing layers are {said}")


def check_device(settings: Settings, gpu: str, compute_capability: str) -> None:
    """Refuses what a GPU cannot do, before minutes are spent on it.

    Raises:
        BuildError: TF32, or an engine for Ampere and later, on an older GPU.
    """
    older = int(compute_capability.split(".")[0]) < 8
    if older and settings.hardware == "ampere-plus":
        raise BuildError(
            f"ampere-plus excludes Turing and older, and {gpu} has compute capability {compute_capability}; "
            "same-compute-capability covers all GPUs like it"
        )
    if older and settings.precision == "tf32":
        raise BuildError(f"{gpu} (compute capability {compute_capability}) has no TF32; build fp16 or fp32")


def refuse_for_rtx(settings: Settings, architecture: str) -> None:
    """Refuses what TensorRT for RTX cannot give a card, or would leave out without a word.

    Raises:
        BuildError: With the reason and the way out.
    """
    again = "write the kit again without it, or install tensorrt"
    if architecture not in GENERATIONS:
        builds = ", ".join(GENERATIONS)
        raise BuildError(f"TensorRT for RTX builds nothing for {architecture}, but for {builds}; install tensorrt")
    reason = REFUSED.get((architecture, settings.precision))
    if reason is not None:
        raise BuildError(
            f"{settings.precision} cannot be had for {architecture}: {reason}; write the kit with --precision fp16"
        )
    if settings.precision == "tf32":
        raise BuildError("no tf32 is built with TensorRT for RTX; write the kit in fp32 or fp16, or install tensorrt")
    if settings.version_compatible or settings.hardware != "none":
        raise BuildError(f"TensorRT for RTX ignores version_compatible and hardware; {again}")
    if settings.optimization_level not in (None, _LEVEL):
        raise BuildError(f"TensorRT for RTX ignores optimization_level; {again}")


def trtexec(settings: Settings, onnx: str = "model.onnx", engine: str = "model.engine", major: int = 11) -> str:
    """The equivalent `trtexec` line.

    Args:
        settings: How to build.
        onnx: Path of the graph.
        engine: Path of the engine.
        major: Version of TensorRT: 11 has strongly typed networks only, 10 must be told.
    """
    words = ["trtexec", f"--onnx={onnx}", f"--saveEngine={engine}"]
    words += ["--stronglyTyped"] if major < 11 else []
    for name, shape in (("min", settings.minimum), ("opt", settings.optimum), ("max", settings.maximum)):
        words.append(f"--{name}Shapes={settings.input}:{'x'.join(map(str, shape))}")
    level = settings.optimization_level
    words += [] if level is None else [f"--builderOptimizationLevel={level}"]
    words += ["--profilingVerbosity=detailed"]
    words += ["--exportLayerInfo=layers.json", "--timingCacheFile=timing.cache"]
    words += [f"--memPoolSize=workspace:{settings.workspace_mib}M"] if settings.workspace_mib else []
    words += ["--noTF32"] if settings.precision != "tf32" else []
    words += ["--versionCompatible"] if settings.version_compatible else []
    names = {"ampere-plus": "ampere+", "same-compute-capability": "sameComputeCapability"}
    words += [f"--hardwareCompatibilityLevel={names[settings.hardware]}"] if settings.hardware in names else []
    return " ".join(words)


def _messages(trt: Any) -> Any:
    """A logger that keeps the errors, because a failed call says no more than None."""

    class Messages(trt.ILogger):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self.errors: list[str] = []

        def log(self, severity: Any, msg: str) -> None:
            # Without a driver TensorRT for RTX asks for one and goes on: that is no error of the graph's.
            if severity in (trt.ILogger.Severity.INTERNAL_ERROR, trt.ILogger.Severity.ERROR) and _NOISE not in msg:
                self.errors.append(msg)

    return Messages()


def _set_options(trt: Any, config: Any, settings: Settings) -> None:
    if settings.optimization_level is not None:
        config.builder_optimization_level = settings.optimization_level
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
    if settings.workspace_mib is not None:
        config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, settings.workspace_mib * MIB)
    # TensorRT sets this flag by itself, which would make every fp32 engine a TF32 engine on Ampere and later.
    (config.set_flag if settings.precision == "tf32" else config.clear_flag)(trt.BuilderFlag.TF32)
    if settings.version_compatible:
        config.set_flag(trt.BuilderFlag.VERSION_COMPATIBLE)
    if settings.hardware == "ampere-plus":
        config.hardware_compatibility_level = trt.HardwareCompatibilityLevel.AMPERE_PLUS
    elif settings.hardware == "same-compute-capability":
        if not hasattr(trt.HardwareCompatibilityLevel, "SAME_COMPUTE_CAPABILITY"):
            raise BuildError(f"TensorRT {trt.__version__} has no SAME_COMPUTE_CAPABILITY; 10.9 and later have")
        config.hardware_compatibility_level = trt.HardwareCompatibilityLevel.SAME_COMPUTE_CAPABILITY


def _timing_cache(config: Any, content: bytes) -> Any:
    """The cache in use: the given one, or an empty one where that is of another GPU or version."""
    for candidate in (content, b"") if content else (b"",):
        cache = config.create_timing_cache(candidate)
        if cache is not None and config.set_timing_cache(cache, False):
            return cache
    raise BuildError("TensorRT refuses even an empty timing cache")


def _types(layer: dict[str, Any]) -> Iterator[str]:
    """The floating and 8-bit types of a layer's inputs and weights, in our words."""
    texts = [tensor.get("Format/Datatype", "") for tensor in layer.get("Inputs", []) if isinstance(tensor, dict)]
    weights = layer.get("Weights")
    texts += [weights.get("Type", "")] if isinstance(weights, dict) else []
    for text in texts:
        words = text.lower().replace(".", " ").split()
        yield from (_WORDS[word] for word in words if word in _WORDS)


def _precision(layer: Any, makers: Mapping[str, str]) -> str:
    given = [layer.get_input(i) for i in range(layer.num_inputs)]
    if layer.type.name in WEIGHTED:
        sources = [makers.get(tensor.name) for tensor in given if tensor is not None]
        # A bias stays in float, beside an int8 kernel too.
        if sources[:2] and all(source == "DEQUANTIZE" for source in sources[:2]):
            return "int8"
    word = str(layer.get_output(0).dtype.name)
    return _NETWORK_WORDS.get(word, word.lower())


def _line(what: str, reasons: list[str]) -> str:
    said = " ".join("; ".join(reasons).split())[:1000]
    return f"{what}: {said}" if said else what


# --- The rest runs in a kit only: it turns the kit into an artifact that ttl-deploy can run and verify. ---


def main() -> int:
    """Builds the engine of the kit around this file."""
    kit = Path(__file__).resolve().parent
    options = argparse.ArgumentParser(description="Build the TensorRT engine of this kit.")
    options.add_argument("--out", type=Path, default=kit / "artifact", help="folder of the artifact (artifact)")
    options.add_argument("--timing-cache", type=Path, default=kit / "timing.cache", help="kept between builds")
    options.add_argument(
        "--for",
        dest="targets",
        metavar="sm75,sm86",
        help="build for these cards with TensorRT for RTX, on any machine; without: for the GPU that is here",
    )
    chosen = options.parse_args()
    try:
        manifest = _intact(kit)
        settings = Settings.of(json.loads((kit / "profile.json").read_text()))
        trt, rtx = library(ahead=chosen.targets is not None)
        told = _build_rtx(trt, kit, settings, manifest, chosen) if rtx else _build_here(kit, settings, manifest, chosen)
    except ImportError as error:
        return _fail(
            f"neither TensorRT nor TensorRT for RTX can be imported ({error}); install tensorrt from NVIDIA's package "
            "index, or tensorrt_rtx_cu13_bindings and tensorrt_rtx_cu13_libs"
        )
    except (RuntimeError, OSError, ValueError) as error:
        return _fail(str(error))
    sys.stdout.write(f"{chosen.out}: {told}; next: python verify_engine.py\n")
    return 0


def library(*, ahead: bool = False) -> tuple[Any, bool]:
    """The library that builds, and whether it is TensorRT for RTX.

    Args:
        ahead: Whether it must be, because it alone builds for cards that are not here.

    Raises:
        ImportError: None is installed, or the first that is cannot be imported.
    """
    names = RTX_MODULES if ahead else ("tensorrt", *RTX_MODULES)
    for name in names:
        try:
            return importlib.import_module(name), name in RTX_MODULES
        except ModuleNotFoundError as error:
            if error.name != name:
                raise
    raise ModuleNotFoundError(f"no module named {' or '.join(names)}", name=names[0])


def _build_here(kit: Path, settings: Settings, manifest: dict[str, Any], chosen: argparse.Namespace) -> str:
    """Builds with full TensorRT for the GPU that is here."""
    gpu, compute_capability = _device()
    check_device(settings, gpu, compute_capability)
    known = chosen.timing_cache.read_bytes() if chosen.timing_cache.exists() else b""
    built = build((kit / _GRAPH).read_bytes(), settings, known)
    chosen.timing_cache.write_bytes(built.timing_cache)
    contents = {
        "model.engine": built.plan,
        "engine.json": json.dumps({"Layers": built.layers}, indent=1).encode(),
        _SAMPLES: (kit / _SAMPLES).read_bytes(),
    }
    fields = {
        "format": "trt",
        "precision": settings.precision,
        "model_file": "model.engine",
        "details": {**manifest["details"], "engine": built.details(settings, gpu, compute_capability)},
        "tools": {**manifest["tools"], "tensorrt": built.tensorrt},
        # Parity was judged on the graph, which is no part of this artifact.
        "parity": None,
    }
    _write_artifact(chosen.out, contents, {**manifest, **fields})
    return f"{len(built.plan)} bytes, layers {built.counts}"


def _build_rtx(trt: Any, kit: Path, settings: Settings, manifest: dict[str, Any], chosen: argparse.Namespace) -> str:
    """Builds with TensorRT for RTX: the graph, whose parity was judged, becomes an artifact with engines inside."""
    architectures = _architectures(chosen.targets)
    for architecture in architectures:
        refuse_for_rtx(settings, architecture)
    heeded = replace(settings, optimization_level=None)
    graph = (kit / _GRAPH).read_bytes()
    built = {name: _built_for(trt, graph, heeded, name) for name in architectures}
    contents = {engine_file(name): engine.plan for name, engine in built.items()}
    contents |= {name: (kit / name).read_bytes() for name in (_GRAPH, _SAMPLES)}
    version = str(trt.__version__)
    details = {name: detail for name, detail in manifest["details"].items() if name != "kit"}
    fields = {
        "details": {**details, "rtx": rtx_details(version, heeded, built, AS_EXPORTED)},
        "tools": {**manifest["tools"], "tensorrt_rtx": version},
    }
    _write_artifact(chosen.out, contents, {**manifest, **fields})
    return f"engines for {', '.join(built)}, layers {weighted(built[architectures[0]].layers)}"


def _built_for(trt: Any, graph: bytes, settings: Settings, architecture: str) -> Built:
    try:
        return build_for(trt, graph, settings, architecture)
    except BuildError as error:
        if (architecture, settings.precision) != (TURING, "fp32"):
            raise
        # The library has no fp32 matrix product for Turing; the head is rewritten where onnx is.
        way_out = "ttl-deploy export RUN --format trt-rtx --precision fp32 --for sm75, or a kit in fp16"
        raise BuildError(f"{error}; {way_out}") from error


def _architectures(said: str | None) -> list[str]:
    """Those that were named, or that of the GPU that is here."""
    if said is not None:
        return list(dict.fromkeys(name.strip().lower() for name in said.split(",")))
    try:
        return [named(_device()[1])]
    except RuntimeError as error:
        raise BuildError(f"{error}; pass --for sm75,sm86 … to build for cards that are not here") from error


def _fail(message: str) -> int:
    sys.stderr.write(f"error: {message}\n")
    return 2


def _intact(kit: Path) -> dict[str, Any]:
    """The kit's manifest, after every file was found to be the one that was written."""
    manifest: dict[str, Any] = json.loads((kit / "manifest.json").read_text())
    for name, record in manifest["files"].items():
        path = kit / name
        if not path.is_file() or _sha256(path) != record["sha256"]:
            raise BuildError(f"{path}: is missing or has changed since the kit was made; write the kit again")
    return manifest


def _device() -> tuple[str, str]:
    """Name and compute capability of the GPU, from the driver."""
    cuda_driver = importlib.import_module("cuda_driver")  # beside this file in the kit
    with cuda_driver.Cuda() as cuda:
        device = cuda.device()
    return device.name, device.compute_capability


def _write_artifact(folder: Path, contents: Mapping[str, bytes], manifest: dict[str, Any]) -> None:
    # Nothing half-written takes the artifact's place, and nothing but an artifact is replaced.
    if folder.exists() and not (folder / "manifest.json").is_file():
        raise BuildError(f"{folder}: exists and is no artifact; choose another --out")
    # A name of its own: two builds into one folder must not write into each other's.
    staged = folder.with_name(f".{folder.name}.{secrets.token_hex(4)}.tmp")
    staged.mkdir(parents=True)
    try:
        _fill(staged, contents, manifest)
        _replace(staged, folder)
    finally:
        shutil.rmtree(staged, ignore_errors=True)


def _fill(staged: Path, contents: Mapping[str, bytes], manifest: dict[str, Any]) -> None:
    for name, content in contents.items():
        (staged / name).write_bytes(content)
    files = {name: {"sha256": _sha256(staged / name), "size": len(content)} for name, content in contents.items()}
    made = {**manifest, "files": files, "created": time.strftime("%Y-%m-%dT%H:%M:%S+00:00", time.gmtime())}
    (staged / "manifest.json").write_text(json.dumps(made, indent=2, sort_keys=True) + "\n")


def _replace(new: Path, folder: Path) -> None:
    """Puts the folder `new` in place; what was there goes only after the new one stands. The last of two stands."""
    old = new.with_suffix(".old")
    while True:
        with contextlib.suppress(FileNotFoundError):
            folder.rename(old)
        try:
            new.rename(folder)
            break
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                if old.exists():
                    old.rename(folder)
                raise
            shutil.rmtree(old, ignore_errors=True)
    shutil.rmtree(old, ignore_errors=True)


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


if __name__ == "__main__":
    sys.exit(main())
