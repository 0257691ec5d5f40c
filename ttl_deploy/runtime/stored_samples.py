"""Does an engine compute on this card what its graph computed where it was made? A few stored inputs tell.

An engine can load and run, and answer zeros: an error of the library is logged and not raised. So a runtime runs the
samples when it loads an engine, before any answer of it is given out.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ttl_deploy.errors import IntegrityError

SAMPLES_FILE = "samples.npz"

TOLERANCE: Mapping[str, float] = {"fp32": 1e-3, "tf32": 1e-2, "fp16": 2e-2, "bf16": 1e-1, "int8": 0.25}
"""Largest difference to the typed graph on a CPU, in units of how much the expected outputs vary over the samples."""

ROUNDING: Mapping[str, float] = {"fp32": 1e-5, "tf32": 2e-3, "fp16": 2e-3, "bf16": 2e-2, "int8": 2e-2}
"""What another order of rounding may add, relative to the largest expected output: where outputs hardly vary, it alone
decides. `ttl-deploy verify` on the card is the strict judge; this finds wrong kernels and zeros."""


@dataclass(frozen=True)
class Samples:
    """Stored inputs.

    Attributes:
        pixels: (N, H, W, C) uint8, which `Session.prepare` makes the engine's inputs of.
        expected: (N, classes) outputs of the typed graph.
    """

    pixels: NDArray[np.uint8]
    expected: NDArray[np.float32]


def read_samples(path: Path) -> Samples:
    """Reads an artifact's samples.

    Args:
        path: An `.npz` whose hash the artifact's manifest holds.

    Raises:
        IntegrityError: It is no such file.
    """
    try:
        # NumPy leaves a file open that it opened by name and found damaged.
        with path.open("rb") as stream, np.load(stream, allow_pickle=False) as stored:
            return Samples(stored["pixels"], stored["expected"])
    except Exception as error:
        raise IntegrityError("holds no samples to check an engine with", where=path, fix="export again") from error


def refuse_wrong(
    run: Callable[[NDArray[Any]], NDArray[np.float32]],
    inputs: NDArray[Any],
    expected: NDArray[np.float32],
    precision: str,
    where: Path,
) -> None:
    """Runs the samples one by one and refuses an engine that does not give what its graph gave.

    Args:
        run: The engine, for any batch.
        inputs: The samples as the engine takes them.
        expected: (N, classes) what is expected.
        precision: Key of `TOLERANCE`.
        where: The engine's file, for the error.

    Raises:
        IntegrityError: The outputs are zeros, not finite, of another shape or too far away.
    """
    got = np.concatenate([run(inputs[i : i + 1]) for i in range(len(inputs))])
    wrong = fault(expected, got, precision)
    if wrong is not None:
        raise IntegrityError(
            f"does not compute on this GPU what was validated: {wrong}",
            where=where,
            fix="take another format or precision here, or export again with another version of the library",
        )


def fault(expected: NDArray[Any], got: NDArray[Any], precision: str) -> str | None:
    """What is wrong with an engine's outputs, in words, or None.

    Args:
        expected: (N, classes) outputs of the typed graph.
        got: Outputs of the engine for the same inputs.
        precision: Key of `TOLERANCE`.
    """
    if got.shape != expected.shape:
        return f"outputs of shape {got.shape}, expected {expected.shape}"
    if not np.isfinite(got).all():
        return f"{int((~np.isfinite(got)).sum())} of {got.size} outputs are not finite"
    if not got.any() and expected.any():
        return f"all {got.size} outputs are 0"
    spread, largest = float(expected.std(axis=0).max()), float(np.abs(expected).max())
    bound = TOLERANCE[precision] * spread + ROUNDING[precision] * largest
    worst = float(np.abs(got.astype(np.float64) - expected).max())
    return None if worst <= bound else f"the stored samples differ by up to {worst:.3g} (bound {bound:.2g})"
