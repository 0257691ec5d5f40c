"""Drives the conversion of the format `torch-trt` with the real Torch-TensorRT, to serialised engines, without a GPU.

Torch-TensorRT for TensorRT for RTX is the one edition whose builder needs no GPU. It wants an older release of that
library than the extra `rtx` pins, so it gets an environment of its own, laid over the one that calls: PyTorch and all
else are taken from there. What asks for a GPU on the way is answered as a card of Ampere would answer, and an engine is
not loaded, only read: its profile stands in its bytes. Says why and exits 0 where the packages cannot be had.
"""

from __future__ import annotations

import argparse
import platform
import re
import struct
import subprocess
import sys
import sysconfig
import tempfile
import venv
from collections.abc import Iterator
from importlib import metadata
from itertools import product
from pathlib import Path
from types import ModuleType
from typing import Any

ROOT = Path(__file__).parents[1]
LOCK = Path(__file__).with_suffix(".lock")
TORCH = "2.14."
"""PyTorch's release that the locked Torch-TensorRT was compiled for."""

SIZE, LARGEST = 32, 8
CUTS = {"resnet18": None, "resnet18 to layer2.0": "layer2.0"}
PRECISIONS = {"fp32": "FLOAT", "fp16": "HALF"}
OPTIMA = (1, 4)


def main() -> int:
    """Makes the environment and runs `inside` in it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--inside", action="store_true", help="this is the environment: convert")
    if parser.parse_args().inside:
        return inside()
    with tempfile.TemporaryDirectory() as folder:
        reason = unfit() or install(Path(folder))
        if reason:
            sys.stdout.write(f"skipped, nothing was converted: {reason}\n")
            return 0
        return subprocess.run([python(Path(folder)), "-W", "ignore", __file__, "--inside"], check=False).returncode


def unfit() -> str | None:
    """Why the locked packages cannot run here, or None."""
    if (platform.system(), platform.machine()) != ("Linux", "x86_64"):
        return "Torch-TensorRT for RTX is locked for Linux on x86-64"
    here = metadata.version("torch")
    if not here.startswith(TORCH):
        return f"Torch-TensorRT is locked for PyTorch {TORCH}x, here is {here}"
    if any(line.startswith(("cuda-", "nvidia-")) for line in metadata.requires("torch") or ()):
        return None
    return "Torch-TensorRT needs a PyTorch with CUDA's libraries, and this one has none"


def python(folder: Path) -> str:
    """The environment's interpreter."""
    return str(folder / "bin" / "python")


def install(folder: Path) -> str | None:
    """Makes the environment; gives why it cannot be made, or None."""
    venv.create(folder, with_pip=False)
    # --no-deps: its metadata asks for a source distribution that fetches the library from elsewhere.
    wanted = ["install", "--quiet", "--no-deps", "--only-binary=:all:", "--require-hashes", "--requirement", str(LOCK)]
    command = [sys.executable, "-m", "pip", "--python", python(folder), *wanted]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        lines = [line for line in done.stderr.splitlines() if line.startswith("ERROR")] or [done.stderr.strip()]
        return f"its packages cannot be had: {lines[-1]}"
    (site,) = (folder / "lib").glob("python*/site-packages")
    # What is installed here comes first; the calling environment after it.
    (site / "below.pth").write_text(f"{ROOT}\n{sysconfig.get_path('purelib')}\n")
    return None


def inside() -> int:
    """Converts every case and says what is in its engine; 1 where it is not what was asked for."""
    built = pretend()
    wrong = 0
    for (name, cut), (precision, kind), optimum in product(CUTS.items(), PRECISIONS.items(), OPTIMA):
        built.clear()
        convert(cut, precision, optimum)
        ((plan, kinds),) = built
        profiles = list(profiles_in(plan, (3, SIZE, SIZE)))
        right = profiles == [(1, optimum, LARGEST)] and kinds == {kind}
        wrong += not right
        sys.stdout.write(
            f"{'right' if right else 'WRONG'}: {name}, {precision}, made fast for {optimum}: engine of "
            f"{len(plan) / 1e6:.1f} MB, profiles {profiles}, convolutions {', '.join(sorted(kinds))}\n"
        )
    return int(wrong > 0)


def pretend() -> list[tuple[bytes, set[str]]]:
    """Answers for the GPU that is not there, and imports Torch-TensorRT.

    Returns:
        Engines as they will be built, each with the types of its network's convolutions.
    """
    import torch

    built: list[tuple[bytes, set[str]]] = []
    torch.cuda.get_device_capability = lambda *_: (8, 6)
    torch.cuda.current_device = lambda: 0
    torch.cuda.mem_get_info = lambda *_: (2, 2)
    sys.modules["tensorrt_rtx"] = library(built)
    from torch_tensorrt.dynamo.conversion import _conversion

    class Engine(torch.nn.Module):
        """Stands for the module that loads the engine."""

        def __init__(self, *_: Any, **__: Any) -> None:
            super().__init__()

        def set_output_tensors_as_unowned(self, _: bool) -> None:
            """Says who owns the outputs, of which there are none."""

    _conversion.TorchTensorRTModule = Engine
    return built


def library(built: list[tuple[bytes, set[str]]]) -> ModuleType:
    """TensorRT for RTX, whose builder builds for a card by its name and whose runtime loads nothing."""
    import tensorrt_rtx_bindings as real

    class Builder(real.Builder):
        def create_builder_config(self) -> Any:
            config = super().create_builder_config()
            config.num_compute_capabilities = 1
            assert config.set_compute_capability(real.ComputeCapability.SM86, 0)
            return config

        def build_serialized_network(self, network: Any, config: Any) -> bytes:
            plan = bytes(super().build_serialized_network(network, config))
            layers = [network.get_layer(i) for i in range(network.num_layers)]
            kinds = {layer.get_output(0).dtype.name for layer in layers if layer.type == real.LayerType.CONVOLUTION}
            built.append((plan, kinds))
            return plan

    class Loaded:
        def __init__(self, plan: bytes) -> None:
            self.plan = plan

        def get_aliased_input_tensor(self, _: str) -> None:
            """No output is an input."""

        def serialize(self) -> bytes:
            return self.plan

    class Runtime:
        def __init__(self, _: Any) -> None:
            pass

        def deserialize_cuda_engine(self, plan: bytes) -> Loaded:
            return Loaded(plan)

    module = ModuleType("tensorrt_rtx")
    module.__dict__.update(vars(real) | {"Builder": Builder, "Runtime": Runtime, "__path__": []})
    return module


def convert(cut: str | None, precision: str, optimum: int) -> None:
    """What the format does, up to the engine, of a network with random weights."""
    from ttl_deploy.formats import torch_trt
    from ttl_deploy.formats.exporter import ExportJob
    from ttl_deploy.formats.options import TorchTrtOptions
    from ttl_deploy.formats.program import in_precision
    from ttl_deploy.spec import ModelSpec, PreprocessSpec
    from ttl_deploy.transfer import build

    torch_trt.DEVICE = "cpu"
    method = "ttl" if cut else "ftl"
    spec = ModelSpec(backbone="resnet18", method=method, cut=cut, classes=("a", "b"), image_size=SIZE)
    options = TorchTrtOptions(opt_batch=optimum, max_batch=LARGEST)
    job = ExportJob(build(spec).eval(), PreprocessSpec.of(spec.input), precision, options)
    torch_trt._compile(in_precision(job.model, precision), job, options)


def profiles_in(plan: bytes, image: tuple[int, ...]) -> Iterator[tuple[int, ...]]:
    """The batches (min, opt, max) of each profile of an engine's only input, from the engine's bytes.

    They are three shapes of 64-bit numbers, each preceded by 24 bytes; the input's own shape stands alone.

    Args:
        plan: An engine of the locked release.
        image: Shape of one input.
    """
    rest = struct.pack(f"<{len(image)}q", *image)
    shape = b"(.{8})" + re.escape(rest)
    for found in re.finditer(b".{24}".join([shape] * 3), plan, re.DOTALL):
        yield tuple(struct.unpack("<q", batch)[0] for batch in found.groups())


if __name__ == "__main__":
    sys.exit(main())
