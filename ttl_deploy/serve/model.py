"""The model a server answers with: sessions that threads take turns with, and the outputs it can give."""

from __future__ import annotations

import queue
import re
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ttl_deploy import runtime as runtimes
from ttl_deploy.artifact import Artifact, open_artifact
from ttl_deploy.closing import Closing
from ttl_deploy.cores import usable_cores
from ttl_deploy.errors import BadInputError
from ttl_deploy.inputs.mask import whole_mask
from ttl_deploy.runtime import Session
from ttl_deploy.runtime.base import default_threads
from ttl_deploy.serve.decoders import Decoders
from ttl_deploy.serve.request_error import RequestError
from ttl_deploy.serve.statistics import Statistics
from ttl_deploy.spec import Placement, Trust

VERSION = "1"
"""The only version a server or a Triton repository holds of a model."""

_MOST_DECODERS = 8
"""Processes that decode images; each takes 60 MiB, and no engine on a CPU keeps up with more of them."""
_LAST_RUN_S = 0.1
"""Seconds that the closing of a model waits for a batch under way."""

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,127}")


@dataclass(frozen=True)
class Answer:
    """What the model says of a batch.

    Attributes:
        logits: (N, classes), or (N, 1, H, W) of masks, float32; None where the model's own activation has replaced
            them.
        probabilities: Of the same shape, float32: their softmax or sigmoid, or what the activation gives.
        labels: What is said of each image: the most probable class, what the operating point makes of the two, or
            which share of it is inside.
        masks: (N, 1, H, W) uint8 of 0 and 1, in the network's size; None of a model that says none.
        sizes: (width, height) of each image, where encoded images got masks.
    """

    logits: NDArray[np.float32] | None
    probabilities: NDArray[np.float32]
    labels: tuple[str, ...]
    masks: NDArray[np.uint8] | None = None
    sizes: tuple[tuple[int, int], ...] = ()


class ServedModel(Closing):
    """An artifact that several threads may ask at once; close it, or use it in `with`.

    Args:
        artifact: Folder of the artifact.
        name: What clients call it; None: the name of the run it was exported from.
        placement: Where it runs; threads None: the physical cores, divided among the sessions.
        sessions: How many batches run at the same time.
        max_batch: Most images of one request.
        decode_seconds: Time for the decoding of one image; a process that takes longer is ended.
        trust: Whose artifact it may be.

    Attributes:
        statistics: What the model has done so far.

    Raises:
        BadInputError: The name or a number cannot be used.
        IntegrityError: The artifact was changed, is not signed by the key, or is native code that nobody answers for.
        MissingDependencyError: No engine here runs it.
    """

    def __init__(
        self,
        artifact: str | Path,
        *,
        name: str | None = None,
        placement: Placement = Placement(),
        sessions: int = 1,
        max_batch: int = 64,
        decode_seconds: float = 30.0,
        trust: Trust = Trust(),
    ) -> None:
        self.artifact = open_artifact(Path(artifact), trust=trust)
        runtimes.runtime_for(self.artifact, placement)
        self.name = served_name(self.artifact, name)
        self.max_batch = max_batch
        self.statistics = Statistics()
        share = placement.replace(threads=placement.threads or max(1, default_threads() // sessions))
        self._open: list[Session] = []
        self._free: queue.SimpleQueue[Session] = queue.SimpleQueue()
        with ExitStack() as undo:
            processes = min(_MOST_DECODERS, usable_cores())
            self._decoders = Decoders(self.artifact.manifest.preprocess, processes, decode_seconds)
            undo.callback(self._decoders.close)
            for _ in range(sessions):
                session = runtimes.load(self.artifact, share)
                undo.callback(session.close)
                # The first run of an engine is slow; no client shall wait for it.
                session.expect(1)
                session.run(np.zeros((1, *session.input_shape), dtype=session.input_type))
                self._open.append(session)
                self._free.put(session)
            self._decoders.wait()
            undo.pop_all()
        self.classes = self._open[0].classes
        self.input_shape = self._open[0].input_shape
        self.input_type = self._open[0].input_type
        self.output_shape = self._open[0].task.outputs(self.artifact.manifest.model.input.size)
        self.gives_masks = self._open[0].task.DENSE
        self.gives_logits = self._open[0].activation == "none"
        self.input_name = self.artifact.manifest.input_name
        self.runtime = self._open[0].runtime
        self.sessions = sessions

    def of_images(self, images: Sequence[bytes]) -> Answer:
        """Answers for encoded images, preprocessed by the one rule.

        Args:
            images: Contents of image files.

        Raises:
            RequestError: No image, too many, or one cannot be read.
        """
        self._refuse_many(len(images))
        begin = time.perf_counter()
        pixels, sizes = self._decoded(images)
        preprocess = self.artifact.manifest.preprocess
        if preprocess.windows is not None:
            self.statistics.record("compute_input", time.perf_counter() - begin)
            return self._answer(len(pixels), lambda session: session.run_images(pixels, preprocess))
        batch = self._open[0].prepare(np.stack(pixels), preprocess)
        self.statistics.record("compute_input", time.perf_counter() - begin)
        return replace(self._answer(len(pixels), lambda session: session.run(batch)), sizes=sizes)

    def of_tensor(self, batch: NDArray[Any]) -> Answer:
        """Answers for a batch that the client preprocessed, or of pixels where the model does that itself.

        Args:
            batch: (N, *input_shape) of `input_type`.

        Raises:
            RequestError: Another shape, too many images, values that are no numbers, or a model that reads studies in
                windows: whose a window is, a tensor does not say.
        """
        if self.artifact.manifest.preprocess.windows is not None:
            raise RequestError(f"{self.input_name}: studies are read in windows here; send the content of their files")
        if batch.shape[1:] != self.input_shape:
            shape = ", ".join(["N", *map(str, self.input_shape)])
            raise RequestError(f"{self.input_name} has the shape {list(batch.shape)}, expected [{shape}]")
        self._refuse_many(len(batch))
        if not np.isfinite(batch).all():
            raise RequestError(f"{self.input_name} holds values that are not finite numbers")
        return self._answer(len(batch), lambda session: session.run(batch))

    def whole_masks(self, answer: Answer) -> Iterator[NDArray[np.uint8]]:
        """The masks of encoded images, one after the other: (height, width) of each image itself, 0 and 1.

        A mask of the network's size is laid where the preprocessing took its pixels from; see
        `ttl_deploy.inputs.mask.whole_mask`.
        """
        for (mask,), size in zip(() if answer.masks is None else answer.masks, answer.sizes, strict=False):
            yield whole_mask(mask, self.artifact.manifest.preprocess, size)

    def interrupt(self) -> None:
        """Ends the decoding that is under way; its requests fail, others go on."""
        self._decoders.interrupt()

    def close(self) -> None:
        """Ends the decoders and gives the engines' memory back, but that of an engine that still computes."""
        self._decoders.close()
        with suppress(queue.Empty):
            for _ in self._open:
                self._free.get(timeout=_LAST_RUN_S).close()

    def _refuse_many(self, images: int) -> None:
        if not 1 <= images <= self.max_batch:
            raise RequestError(f"{images} images in one request; give 1 to {self.max_batch}")

    def _decoded(self, images: Sequence[bytes]) -> tuple[list[NDArray[np.uint8]], tuple[tuple[int, int], ...]]:
        """The pixels, and where they get masks their sizes."""
        named = [(content, f"image {i}") for i, content in enumerate(images)]
        if not self.gives_masks:
            return [self._decoders.pixels(*image) for image in named], ()
        pixels, sizes = zip(*(self._decoders.sized(*image) for image in named), strict=True)
        return list(pixels), sizes

    def _answer(self, images: int, run: Callable[[Session], NDArray[np.float32]]) -> Answer:
        session = self._free.get()
        begin = time.perf_counter()
        try:
            outputs = run(session)
        finally:
            self._free.put(session)
        self.statistics.record_run(images, time.perf_counter() - begin)
        probabilities = session.probabilities(outputs)
        return Answer(
            outputs if self.gives_logits else None,
            probabilities.astype(np.float32),
            session.task.said(probabilities),
            session.task.decide(probabilities).astype(np.uint8) if self.gives_masks else None,
        )


def served_name(artifact: Artifact, name: str | None = None) -> str:
    """What clients call a model: the given name, or its run's with what no URL or folder holds made `-`.

    Raises:
        BadInputError: The given name cannot be part of a URL.
    """
    chosen = name if name is not None else re.sub(r"[^A-Za-z0-9_.-]+", "-", artifact.manifest.source.name).strip("-._")
    if name is None and not chosen:
        return "model"
    if not _NAME.fullmatch(chosen):
        raise BadInputError(f"{chosen!r} cannot name a model", fix="use letters, digits, '_', '-' and '.'")
    return chosen
