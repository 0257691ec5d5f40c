"""Runs the engine that `build_engine.py` made on the kit's samples and compares with what was expected.

Needs the library that built it and `numpy`. Exit code 0: it computes the model; 1: it does not; 2: it cannot be run.
This is a check of the build: whether the engine still is the validated model is said by `ttl-deploy verify` on the
whole test split.
"""

from __future__ import annotations

import argparse
import importlib
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

TOLERANCE = {"fp32": 1e-3, "tf32": 1e-2, "fp16": 2e-2, "int8": 0.25}
"""Largest difference to the same graph in ONNX Runtime, in units of how much the expected outputs vary. All leave room
for another order of rounding, and catch a wrong layer, not a rounding: an int8 step that falls on the other side moves
every later layer. `ttl-deploy verify` is stricter."""

SMALLEST_SPREAD = 0.1


def compare(
    expected: NDArray[Any], got: NDArray[Any], precision: str, boundary: float | None = None
) -> tuple[bool, str]:
    """Whether an engine's outputs are the expected ones, and the numbers behind it.

    Args:
        expected: (N, classes) outputs of the typed graph.
        got: (N, classes) outputs of the engine.
        precision: Key of `TOLERANCE`.
        boundary: The output from which on a label is said, where each is said by itself; None: the largest is.
    """
    if got.shape != expected.shape or not np.isfinite(got).all():
        return False, f"the engine gave {got.shape} outputs, {int((~np.isfinite(got)).sum())} of them not finite"
    spread = max(SMALLEST_SPREAD, float(expected.std(axis=0).max()))
    difference = np.abs(got - expected)
    worst, bound = float(difference.max()) / spread, TOLERANCE[precision]
    # An image between two classes may fall to either side; one that is clear of it by more than the bound may not.
    clear = _margins(expected, boundary) > 2 * bound * spread
    wrong = int((clear & ~same_decisions(expected, got, boundary)).sum())
    facts = (
        f"largest difference {worst:.2g} of the outputs' spread (bound {bound:g}), "
        f"other class on {wrong} of {int(clear.sum())} clear images"
    )
    return worst <= bound and wrong == 0, facts


def same_decisions(one: NDArray[Any], other: NDArray[Any], boundary: float | None) -> NDArray[np.bool_]:
    """(N,) whether all that is said of an image is the same; see `compare`."""
    if boundary is None:
        return np.asarray(one.argmax(axis=1) == other.argmax(axis=1))
    return np.asarray(((one >= boundary) == (other >= boundary)).all(axis=1))


def _margins(outputs: NDArray[Any], boundary: float | None) -> NDArray[Any]:
    """(N,) how far an image's outputs are from another decision."""
    if boundary is not None:
        return np.asarray(np.abs(outputs - boundary).min(axis=1))
    ordered = np.sort(outputs, axis=1)
    return np.asarray(ordered[:, -1] - ordered[:, -2])


def boundary_of(samples: Any) -> float | None:
    """The output from which on a label is said; None where the largest output is."""
    if "sigmoid" not in samples or not bool(samples["sigmoid"]):
        return None
    return 0.0 if str(samples["activation"]) == "none" else 0.5


def inputs_of(samples: Any) -> NDArray[Any]:
    """The engine's inputs: pixels where the graph normalises, else normalised in the arithmetic of training."""
    pixels = samples["pixels"]
    if bool(samples["embedded"]):
        return np.ascontiguousarray(pixels)
    scale = (1 / (255 * samples["std"])).astype(np.float32)
    offset = (samples["mean"] / samples["std"]).astype(np.float32)
    return np.ascontiguousarray((pixels.astype(np.float32) * scale - offset).transpose(0, 3, 1, 2))


def run_engine(folder: Path, inputs: NDArray[Any], *, cuda_graph: bool) -> NDArray[Any]:
    """The engine's outputs, one batch of its smallest size after the other."""
    # Both lie beside this file in the kit.
    cuda_driver, engine_run = importlib.import_module("cuda_driver"), importlib.import_module("trt_engine_run")
    manifest = json.loads((folder / "manifest.json").read_text())
    with cuda_driver.Cuda() as cuda:
        name, how = engine_for(manifest, cuda.device().compute_capability)
        engine = engine_run.EngineRun(
            (folder / name).read_bytes(),
            cuda,
            input=manifest["input_name"],
            output=manifest["output_name"],
            cuda_graph=cuda_graph,
            **how,
        )
        step = engine.profiles[0][0]
        padded = np.resize(inputs, (-(-len(inputs) // step) * step, *inputs.shape[1:]))
        parts = [engine.run(padded[i : i + step]) for i in range(0, len(padded), step)]
        engine.close()
    return np.concatenate(parts)[: len(inputs)]


def engine_for(manifest: Mapping[str, Any], compute_capability: str) -> tuple[str, dict[str, Any]]:
    """The engine's file for a GPU, and what its library must be told.

    Raises:
        ValueError: There is none for this GPU, or its library is here in another version.
    """
    details = manifest["details"]
    if "rtx" not in details:
        return manifest["model_file"], {"host_code": details["engine"]["profile"]["version_compatible"]}
    trt, _ = importlib.import_module("build_engine").library(ahead=True)
    built, here = details["rtx"]["tensorrt_rtx"], str(trt.__version__)
    if built != here:
        raise ValueError(
            f"TensorRT for RTX {built} built the engines and is the only one that runs them, here is {here}"
        )
    engines = {engine["compute_capability"]: engine["file"] for engine in details["rtx"]["engines"].values()}
    if compute_capability not in engines:
        raise ValueError(f"there are engines for {', '.join(engines)}, this GPU has {compute_capability}")
    return engines[compute_capability], {"trt": trt, "kernels": b""}


def main() -> int:
    """Checks the engine in the kit around this file."""
    kit = Path(__file__).resolve().parent
    options = argparse.ArgumentParser(description="Check the TensorRT engine that this kit built.")
    options.add_argument("--artifact", type=Path, default=kit / "artifact", help="folder that build_engine.py wrote")
    options.add_argument("--cuda-graph", action="store_true", help="run through a CUDA graph")
    chosen = options.parse_args()
    precision = json.loads((kit / "profile.json").read_text())["precision"]
    try:
        with np.load(kit / "samples.npz", allow_pickle=False) as samples:
            expected, pytorch, activation = samples["expected"], samples["pytorch"], str(samples["activation"])
            boundary = boundary_of(samples)
            got = run_engine(chosen.artifact, inputs_of(samples), cuda_graph=chosen.cuda_graph)
    except ImportError as error:
        sys.stderr.write(f"error: {error.name} cannot be imported ({error}); install it and numpy\n")
        return 2
    except (RuntimeError, OSError, KeyError, ValueError) as error:
        sys.stderr.write(f"error: {error}; run build_engine.py first\n")
        return 2
    passed, facts = compare(expected, got, precision, boundary)
    sys.stdout.write(f"{'pass' if passed else 'fail'}: {precision}, {len(got)} samples; {facts}\n")
    if activation == "none":
        same = float(same_decisions(got, pytorch, boundary).mean())
        sys.stdout.write(
            f"same label as PyTorch fp32 on {same:.1%}; largest difference {np.abs(got - pytorch).max():.3g}\n"
        )
    return 0 if passed else 1


if __name__ == "__main__":
    sys.exit(main())
