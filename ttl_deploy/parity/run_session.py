"""Streams images through a session: batch by batch, so that memory does not grow with the number of images.

Pixels are normalised by `ttl_deploy.preprocess`, the same code that training's evaluation used.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from ttl_deploy.preprocess import normalise
from ttl_deploy.runtime import Session
from ttl_deploy.spec import PreprocessSpec


def logits_of(
    session: Session, pixel_batches: Iterable[NDArray[np.uint8]], preprocess: PreprocessSpec
) -> NDArray[np.float32]:
    """The session's logits for all images.

    Args:
        session: Runs the batches.
        pixel_batches: Batches of 8-bit pixels as `ttl_deploy.preprocess` gives them, of any sizes; consumed once.
        preprocess: Their normalisation.

    Returns:
        (N, classes) float32, in the order of the images; (0, classes) without images.

    Raises:
        ValueError: The pixels do not fit the session's input.
    """
    rows = [session.run(normalise(pixels, preprocess)) for pixels in pixel_batches if len(pixels)]
    return np.concatenate(rows) if rows else np.empty((0, len(session.classes)), dtype=np.float32)
