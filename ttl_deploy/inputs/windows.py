"""A study read as windows of slices: which slices each window has. No torch.

Huang 2020 (PENet) takes windows one after the other and fills up the last one with air; here the last one is moved back
to end with the study, so that every window shows only what was scanned.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from ttl_deploy.spec import PreprocessSpec


def window_starts(slices: int, depth: int, stride: int) -> NDArray[np.int64]:
    """The first slice of each window: 0, stride, 2 stride, …, and the last one ends with the study.

    Args:
        slices: Of the study, at least `depth`.
        depth: Slices of a window.
        stride: Slices from a window to the next.
    """
    last = slices - depth
    return np.minimum(np.arange(0, last + stride, stride, dtype=np.int64), last)


def inputs_of(pixels: NDArray[np.uint8], spec: PreprocessSpec) -> Sequence[NDArray[np.uint8]]:
    """The network's inputs from one image or study, none of them a copy.

    Args:
        pixels: As `ttl_deploy.inputs.reading.load_input` gives them.
        spec: The rule that it was read by.

    Returns:
        Arrays of the shape `spec.input.array_shape`: the image itself, or the windows of the study.
    """
    if spec.windows is None:
        return [pixels]
    depth, stride = spec.windows
    return [pixels[start : start + depth] for start in window_starts(len(pixels), depth, stride)]
