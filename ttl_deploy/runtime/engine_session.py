"""What sessions of a TensorRT engine share, whichever edition runs it: opening, parts of a batch, the stored samples.

An edition says which file of the artifact it runs on a device, and how it is loaded. Nothing is answered by an engine
that gave other outputs than its graph for the samples that came with it, or whose library logged an error.
"""

from __future__ import annotations

from abc import abstractmethod
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ttl_deploy.artifact import Artifact
from ttl_deploy.errors import BadInputError, IntegrityError, MissingDependencyError
from ttl_deploy.runtime.base import Session, of_manifest
from ttl_deploy.runtime.binding import port_differences
from ttl_deploy.runtime.cuda_driver import Cuda, CudaError, Device
from ttl_deploy.runtime.graph_facts import Port
from ttl_deploy.runtime.stored_samples import SAMPLES_FILE, read_samples, refuse_wrong
from ttl_deploy.runtime.trt_engine_run import EngineError, EngineRun, LoggedError


class EngineSession(Session):
    """An engine on the first visible GPU.

    Args:
        artifact: Holds the engine.
        runtime: Name of the runtime.
        threads: Not used; the GPU computes.
        device: `cuda`.

    Raises:
        MissingDependencyError: There is no driver, GPU or library.
        BadInputError: The engine was built for another GPU or another version of the library.
        IntegrityError: The library refuses the engine or logs an error, or the engine is not what the manifest says or
            does not compute what its graph does.
    """

    def __init__(self, artifact: Artifact, *, runtime: str, threads: int, device: str) -> None:
        super().__init__(runtime=runtime, device=device, threads=threads, **of_manifest(artifact.manifest))
        self._cuda = open_cuda()
        self._engine: EngineRun | None = None
        try:
            self._plan = self._choose(artifact, self._cuda.device())
            self._engine = self._load(artifact, self._plan, self._cuda)
            _refuse_other_ends(artifact, self._plan, self._engine)
            self._refuse_wrong(artifact)
        except EngineError as error:
            self._close()
            raise IntegrityError(str(error), where=self._plan) from error
        except BaseException:
            self._close()
            raise

    @abstractmethod
    def _choose(self, artifact: Artifact, device: Device) -> Path:
        """The file of the engine for a device.

        Raises:
            BadInputError: There is none, or it does not run here.
            IntegrityError: The manifest does not say what the engine was built for.
        """

    @abstractmethod
    def _load(self, artifact: Artifact, plan: Path, cuda: Cuda) -> EngineRun:
        """The engine of a file.

        Raises:
            EngineError: The library refuses it.
        """

    def _run(self, batch: NDArray[Any]) -> NDArray[Any]:
        assert self._engine is not None
        largest = self._engine.largest
        # The engine has a largest batch and a caller knows none: a longer one is run in parts.
        parts = [self._run_part(batch[start : start + largest]) for start in range(0, len(batch), largest)]
        return parts[0] if len(parts) == 1 else np.concatenate(parts)

    def _run_part(self, part: NDArray[Any]) -> NDArray[np.float32]:
        assert self._engine is not None
        try:
            return self._engine.run(part)
        except LoggedError as error:
            raise IntegrityError(str(error), where=self._plan) from error
        except EngineError as error:
            raise BadInputError(str(error), fix="export the run again with another profile") from error

    def _refuse_wrong(self, artifact: Artifact) -> None:
        """Artifacts of older versions hold no samples."""
        manifest = artifact.manifest
        if SAMPLES_FILE not in manifest.files:
            return
        stored = read_samples(artifact.folder / SAMPLES_FILE)
        inputs = self.prepare(stored.pixels, manifest.preprocess)
        refuse_wrong(self._of_any_batch, inputs, stored.expected, manifest.precision, self._plan)

    def _of_any_batch(self, batch: NDArray[Any]) -> NDArray[np.float32]:
        """The outputs of a batch that may be smaller than any the engine takes: it is filled up with its own images."""
        assert self._engine is not None
        least = min(low for low, _ in self._engine.profiles)
        return self._run(np.ascontiguousarray(np.resize(batch, (max(least, len(batch)), *batch.shape[1:]))))[
            : len(batch)
        ]

    def _close(self) -> None:
        if self._engine is not None:
            self._engine.close()
        self._cuda.close()


def open_cuda() -> Cuda:
    """The first visible GPU.

    Raises:
        MissingDependencyError: There is no driver or no GPU.
    """
    try:
        return Cuda()
    except CudaError as error:
        raise MissingDependencyError(f"CUDA cannot be used: {error}") from error


def _refuse_other_ends(artifact: Artifact, plan: Path, engine: EngineRun) -> None:
    manifest = artifact.manifest
    inputs, outputs = engine.shapes
    found = (
        Port((manifest.input_name,), engine.input_type.name, (None, *inputs)),
        Port((manifest.output_name,), "float32", (None, *outputs)),
    )
    differing = list(port_differences(manifest, found[:1], found[1:]))
    if differing:
        raise IntegrityError(f"is not what its manifest says: {differing[0]}", where=plan)
