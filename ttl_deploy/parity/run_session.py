"""Streams images through a session: batch by batch, so that memory does not grow with the number of images.

Pixels are normalised by `ttl_deploy.inputs.image`, the same code that training's evaluation used.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np
from numpy.typing import NDArray

from ttl_deploy.runtime import Session
from ttl_deploy.spec import PreprocessSpec
from ttl_deploy.tasks import softmax

_TINY = float(np.finfo(np.float32).tiny)
"""Stands for a probability of zero, whose logarithm would be infinite."""


def logits_of(
    session: Session, pixel_batches: Iterable[NDArray[np.uint8]], preprocess: PreprocessSpec
) -> NDArray[np.float32]:
    """The session's logits for all images; for a model that ends in an activation, what it was applied to.

    Softmax forgets a constant per image: `without_constant` takes it from the other side too.

    Args:
        session: Runs the batches.
        pixel_batches: Batches of 8-bit pixels as `ttl_deploy.inputs.image` gives them, of any sizes; consumed once.
        preprocess: Their normalisation.

    Returns:
        (N, classes) float32, in the order of the images; (0, classes) without images.

    Raises:
        ValueError: The pixels do not fit the session's input.
    """
    rows = list(logit_batches(session, pixel_batches, preprocess))
    return np.concatenate(rows) if rows else np.empty((0, len(session.classes)), dtype=np.float32)


def logit_batches(
    session: Session, pixel_batches: Iterable[NDArray[np.uint8]], preprocess: PreprocessSpec
) -> Iterator[NDArray[np.float32]]:
    """The same batch by batch, (N, ...) each; batches without images are passed over."""
    for pixels in pixel_batches:
        if len(pixels):
            yield _logits(session, session.run(session.prepare(pixels, preprocess)))


def without_constant(logits: NDArray[np.float32]) -> NDArray[np.float32]:
    """Logits as they can be had back from probabilities: their logarithms, a constant per image less.

    Args:
        logits: (N, classes).
    """
    return np.log(np.maximum(softmax(logits), _TINY)).astype(np.float32)


def _logits(session: Session, outputs: NDArray[np.float32]) -> NDArray[np.float32]:
    if session.activation == "none":
        return outputs
    values = np.clip(outputs.astype(np.float64), _TINY, 1)
    below_one = np.clip(1 - values, _TINY, 1) if session.activation == "sigmoid" else 1.0
    return np.asarray(np.log(values) - np.log(below_one), dtype=np.float32)
