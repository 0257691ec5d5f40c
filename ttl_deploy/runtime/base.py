"""What every runtime promises: a session takes batches and gives float32 outputs, or says why it cannot.

`Session.run` checks what goes in and comes out and a subclass fills `_run`; a runtime registers itself in `RUNTIMES`.
"""

from __future__ import annotations

import os
from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import psutil
from numpy.typing import NDArray

from ttl_deploy import aliases, hardware
from ttl_deploy.artifact import Artifact
from ttl_deploy.closing import Closing
from ttl_deploy.cores import usable_cores, usable_threads
from ttl_deploy.errors import BadInputError, DamagedError, IntegrityError, MissingDependencyError, near
from ttl_deploy.inputs.image import normalise
from ttl_deploy.inputs.windows import inputs_of
from ttl_deploy.registry import Registry
from ttl_deploy.runtime.native import refuse_native
from ttl_deploy.spec import ArtifactManifest, Placement, PreprocessSpec
from ttl_deploy.tasks import Task, task_of

WINDOWS = 4
"""Windows of a study that run together: features of a volume take hundreds of mebibytes."""


@dataclass(frozen=True)
class Stages:
    """Where the time of one run went by the GPU's own clock, milliseconds.

    Attributes:
        to_device_ms: Copy of the batch from host memory.
        compute_ms: The network.
        to_host_ms: Copy of the logits to host memory.
    """

    to_device_ms: float
    compute_ms: float
    to_host_ms: float


class Session(Closing):
    """A model on a device, ready to run batches; close it, or use it in `with`.

    Attributes:
        runtime: Name of the engine.
        device: `cpu` or `cuda`.
        threads: Threads that compute one batch on a CPU.
        task: What the outputs mean: classes, probabilities, and which class is said.
        input_shape: Shape of one input without the batch, such as (channels, height, width).
        cuda_graph: Whether a run replays a captured CUDA graph; None where there is no such thing.
        input_type: `float32`, preprocessed, or `uint8`, pixels that the model itself normalises.
        activation: What the model does to its logits: `none`, `softmax` or `sigmoid`.
    """

    cuda_graph: bool | None = None

    def __init__(
        self,
        *,
        runtime: str,
        device: str,
        threads: int,
        task: Task,
        input_shape: tuple[int, ...],
        input_type: str = "float32",
        activation: str = "none",
    ) -> None:
        self.runtime = runtime
        self.device = device
        self.threads = threads
        self.task = task
        self.input_shape = input_shape
        self.input_type = input_type
        self.activation = activation
        self._open = True

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names in the order of the logits."""
        return self.task.classes

    @property
    def size(self) -> tuple[int, ...]:
        """Of an input, (height, width)."""
        return self.input_shape[:-1] if self.input_type == "uint8" else self.input_shape[1:]

    def prepare(self, pixels: NDArray[np.uint8], preprocess: PreprocessSpec) -> NDArray[Any]:
        """Makes the model's input of 8-bit pixels: normalises them, unless the model does that itself.

        Args:
            pixels: (N, H, W, C) uint8, as `ttl_deploy.inputs.image` gives them.
            preprocess: Mean and standard deviation.

        Returns:
            What `run` takes.
        """
        return pixels if self.input_type == "uint8" else normalise(pixels, preprocess)

    def probabilities(self, outputs: NDArray[np.float32]) -> NDArray[np.float64]:
        """Class probabilities of what `run` gave: the task's, unless the model has an activation of its own.

        Args:
            outputs: (N, classes).
        """
        if self.activation == "none":
            return self.task.probabilities(outputs)
        return np.asarray(outputs, dtype=np.float64)

    def run(self, batch: NDArray[Any]) -> NDArray[np.float32]:
        """Runs one batch.

        Args:
            batch: (N, *input_shape) of `input_type`, N at least 1; `prepare` makes it.

        Returns:
            (N, classes) float32: logits, or what the model's activation makes of them; of a task of pixels maps.

        Raises:
            ValueError: The batch has another shape or type, or the session is closed.
            IntegrityError: The model gave another shape than its record promises.
        """
        self._check(batch)
        logits = self._run(np.ascontiguousarray(batch))
        expected = (len(batch), *self.task.outputs(self.size))
        if logits.shape != expected:
            raise IntegrityError(f"{self.runtime} gave logits of shape {logits.shape}, expected {expected}")
        return logits.astype(np.float32, copy=False)

    def expect(self, images: int) -> None:
        """Says that batches of so many inputs will come often: an engine may make itself ready for them.

        What is answered does not depend on it.
        """

    def run_images(self, images: Sequence[NDArray[np.uint8]], preprocess: PreprocessSpec) -> NDArray[np.float32]:
        """The same of images as they were loaded, in one batch; of studies in windows what the task gathers of them.

        Args:
            images: Each as `ttl_deploy.inputs.reading.load_input` gives it, at least one.
            preprocess: The rule that they were loaded by.
        """
        if preprocess.windows is None:
            return self.run(self.prepare(np.stack(images), preprocess))
        inputs = [inputs_of(pixels, preprocess) for pixels in images]
        flat = [window for windows in inputs for window in windows]
        batches = (np.stack(flat[start : start + WINDOWS]) for start in range(0, len(flat), WINDOWS))
        outputs = np.concatenate([self.run(self.prepare(batch, preprocess)) for batch in batches])
        return self.task.gather(outputs, np.array([len(windows) for windows in inputs], dtype=np.int64))

    def stages(self) -> Stages | None:
        """Where the last run's time went, by the GPU's clock; None where the engine does not tell."""
        return None

    def peak_device_mib(self) -> float | None:
        """Most GPU memory this session's engine ever held, MiB; None where it does not tell."""
        return None

    @abstractmethod
    def _run(self, batch: NDArray[Any]) -> NDArray[Any]:
        """Computes the outputs of a checked, C-contiguous batch; the result is the caller's to keep."""

    def close(self) -> None:
        """Gives the engine's memory back. Closing twice is allowed."""
        if self._open:
            self._open = False
            self._close()

    def _close(self) -> None:
        """Releases what the subclass holds; most engines need no more than losing their last reference."""

    def _check(self, batch: NDArray[Any]) -> None:
        if not self._open:
            raise ValueError("the session is closed")
        if not isinstance(batch, np.ndarray) or batch.dtype != self.input_type:
            got = getattr(batch, "dtype", type(batch).__name__)
            raise ValueError(f"a batch is a {self.input_type} array, got {got}")
        if batch.shape[1:] != self.input_shape or batch.shape[0] == 0:
            shape = ", ".join(["N", *map(str, self.input_shape)])
            raise ValueError(f"a batch is ({shape}) with N at least 1, got {batch.shape}")


def of_manifest(manifest: ArtifactManifest) -> dict[str, Any]:
    """The arguments of `Session` that an artifact's manifest decides.

    Raises:
        DamagedError: Its preprocessing makes windows, over which its task has no maximum.
    """
    task = task_of(manifest.model, manifest.operating_point)
    if manifest.preprocess.windows is not None and task.ungathered is not None:
        raise DamagedError(f"is no possible manifest: {task.ungathered[0]}", fix="export the run again")
    return {
        "task": task,
        "input_shape": manifest.input_shape,
        "input_type": manifest.input_type,
        "activation": manifest.activation,
    }


class Load(Protocol):
    """Opens an artifact in one engine."""

    def __call__(self, artifact: Artifact, *, threads: int, device: str) -> Session:
        """Opens an artifact.

        Raises:
            MissingDependencyError: The device cannot be used.
            IntegrityError: The engine refuses the model, or the model is not what the manifest says.
        """


@dataclass(frozen=True)
class Runtime:
    """One engine.

    Attributes:
        name: What `--runtime` calls it.
        formats: Artifact formats it runs.
        devices: Devices it knows.
        available: Gives the reason why the engine cannot be used here, or None where it can. It imports no engine.
        open: Opens an artifact; call it through `load`.
        rank: Where several engines run a format, the lowest is the default.
        lacks: Device and precision of artifacts that it reads and has no kernels for: never the default for them.
        part: What it runs of an artifact, in the manifest's details; None: the model file.
        quick: Precisions that it computes faster than engines of lower rank, each where the processor has any of these
            instruction sets, as `Hardware.isa` names them.
    """

    name: str
    formats: tuple[str, ...]
    devices: tuple[str, ...]
    available: Callable[[], str | None]
    open: Load
    rank: int = 100
    lacks: tuple[tuple[str, str], ...] = ()
    part: str | None = None
    quick: Mapping[str, frozenset[str]] = field(default_factory=dict)

    def suits(self, format: str, precision: str, device: str) -> bool:
        """Whether it runs such artifacts, if it can be used here."""
        return format in self.formats and device in self.devices and (device, precision) not in self.lacks

    def has_its_part(self, manifest: ArtifactManifest) -> bool:
        """Whether an artifact of a format that it runs holds what it runs."""
        return self.part is None or bool(manifest.details.get(self.part))

    def is_quick(self, precision: str) -> bool:
        """Whether it is faster here than engines of lower rank."""
        return bool(self.quick.get(precision, frozenset()) & set(hardware.describe().isa))

    def load(self, artifact: Artifact, placement: Placement = Placement()) -> Session:
        """Opens an artifact.

        Args:
            artifact: What to run.
            placement: On which of `devices`, and with how many threads for one batch; None: one per physical core that
                this process may use.

        Raises:
            BadInputError: The runtime does not run this format or know this device.
            MissingDependencyError: The engine or the device is not here.
            IntegrityError: The engine refuses the model, or it would run native code for which nobody answers.
        """
        if artifact.manifest.format not in self.formats:
            able = [engine.name for engine in RUNTIMES if artifact.manifest.format in engine.formats]
            raise BadInputError(
                f"runtime {self.name} runs {', '.join(self.formats)}, not {artifact.manifest.format}",
                where=artifact.folder,
                fix=f"valid for it: {', '.join(able)}",
            )
        device = placement.device
        if device not in self.devices:
            raise BadInputError(f"runtime {self.name} has no device {device!r}", fix=near(device, self.devices))
        refuse_native(artifact, self.name)
        reason = self.available()
        if reason is not None:
            raise MissingDependencyError(f"runtime {self.name} cannot be used: {reason}")
        session = self.open(artifact, threads=placement.threads or default_threads(), device=device)
        try:
            artifact.refuse_changed()
        except BaseException:
            session.close()
            raise
        return session


RUNTIMES: Registry[Runtime] = Registry("runtime", "ttl_deploy.runtime", "ttl_deploy.runtimes", aliases.RUNTIMES)


def load(artifact: Artifact, placement: Placement = Placement()) -> Session:
    """Opens an artifact in the named runtime, or in that of `runtime_for`.

    Args:
        artifact: What to run.
        placement: Where: as for `runtime_for`, and `Runtime.load`.

    Raises:
        BadInputError: Unknown runtime, or it does not run this format or know the device.
        MissingDependencyError: No runtime for the format can be used here; the error says why.
        IntegrityError: The engine refuses the model, or it would run native code for which nobody answers.
    """
    return runtime_for(artifact, placement).load(artifact, placement)


def runtime_for(artifact: Artifact, placement: Placement = Placement()) -> Runtime:
    """The named runtime, or that in which parity was judged, or the best-ranked of those that run it on the device.

    Each only where it can be used here.

    Raises:
        BadInputError: Unknown runtime.
        MissingDependencyError: No runtime for the format can be used here; the error says why.
        IntegrityError: It would run native code for which nobody answers.
    """
    named = placement.runtime
    chosen = RUNTIMES.get(named) if named is not None else _first_available(artifact, placement.device)
    refuse_native(artifact, chosen.name)
    return chosen


def suitable(format: str, precision: str, device: str) -> list[Runtime]:
    """The runtimes that can be used here for such artifacts, the default first."""
    return [engine for engine in _by_rank() if engine.suits(format, precision, device) and engine.available() is None]


def quickest(artifact: Artifact, device: str) -> str | None:
    """The engine in which an artifact is fast on this machine, if that is not the first of its format."""
    precision = artifact.manifest.precision
    return next((engine.name for engine in able(artifact, device)[1:] if engine.is_quick(precision)), None)


def is_first(session: Session, artifact: Artifact) -> bool:
    """Whether a session's engine is the default of an artifact of which nothing was judged."""
    manifest = artifact.manifest
    runs = (each for each in _by_rank() if each.suits(manifest.format, manifest.precision, session.device))
    first = next((each for each in runs if each.has_its_part(manifest)), None)
    return first is not None and first.name == session.runtime


def able(artifact: Artifact, device: str) -> list[Runtime]:
    """The runtimes that can run an artifact here, the format's first before the others."""
    manifest = artifact.manifest
    found = suitable(manifest.format, manifest.precision, device)
    return [engine for engine in found if engine.has_its_part(manifest)]


def home_device(artifact: Artifact) -> str:
    """Where an artifact is checked: on the CPU if any runtime runs its format there, else on the GPU."""
    devices = {device for engine in RUNTIMES if artifact.manifest.format in engine.formats for device in engine.devices}
    return "cuda" if devices == {"cuda"} else "cpu"


def default_threads() -> int:
    """Physical cores that this process may use: a second hyperthread per core only slows matrix products down.

    No more than `OMP_NUM_THREADS` says, see `cores.usable_threads`.
    """
    physical, logical = psutil.cpu_count(logical=False) or 1, os.cpu_count() or 1
    usable = usable_cores()
    cores = usable if logical <= physical or usable < physical else max(1, usable * physical // logical)
    return min(cores, usable_threads())


def _by_rank() -> list[Runtime]:
    return sorted(RUNTIMES, key=lambda engine: engine.rank)


def _first_available(artifact: Artifact, device: str) -> Runtime:
    name, precision = artifact.manifest.format, artifact.manifest.precision
    found, parity = able(artifact, device), artifact.manifest.parity
    if found:
        return next((engine for engine in found if parity is not None and engine.name == parity.runtime), found[0])
    reasons = [f"{engine.name}: {engine.available()}" for engine in _by_rank() if engine.suits(name, precision, device)]
    raise MissingDependencyError(
        f"no runtime here runs {name} {precision} on {device} ({'; '.join(reasons) or 'none is known'})",
        where=artifact.folder,
    )
