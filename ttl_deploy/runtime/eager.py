"""PyTorch eager as a session: the model that was validated, and whole networks to compare with.

It runs runs and specs, not artifacts, so it is no entry of `RUNTIMES`. Torch is imported when a session is opened.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ttl_deploy.runtime import torch_variants
from ttl_deploy.runtime.base import Session, Stages, default_threads
from ttl_deploy.spec import ModelSpec
from ttl_deploy.tasks import task_of

if TYPE_CHECKING:
    from ttl_deploy.transfer import TransferModel


class EagerSession(Session):
    """A PyTorch module in inference mode.

    Args:
        model: In evaluation mode.
        threads: Threads for one batch; None: one per core.
        device: `cpu` or `cuda`.
        variant: Way to run it, a name in `torch_variants.VARIANTS`.

    Raises:
        BadInputError: The device has no such variant.
        MissingDependencyError: The variant or the device cannot be used here.
    """

    def __init__(
        self, model: TransferModel, *, threads: int | None = None, device: str = "cpu", variant: str = "eager"
    ) -> None:
        import torch

        threads = threads or default_threads()
        super().__init__(
            runtime=torch_variants.runtime_name(variant),
            device=device,
            threads=threads,
            task=task_of(model.spec),
            input_shape=model.spec.input_shape,
        )
        torch.set_num_threads(threads)
        self._model = torch_variants.prepare(variant, model, device)
        self._clock = torch_variants.StageClock(torch.cuda) if device == "cuda" else None
        if device == "cuda":
            self.cuda_graph = variant == "cuda-graph"

    def _run(self, batch: NDArray[np.float32]) -> NDArray[Any]:
        import torch

        with torch.inference_mode():
            self._mark()
            images = torch.from_numpy(batch).to(self.device)
            self._mark()
            output = self._model(images)
            self._mark()
            logits = output.float().cpu()
            self._mark()
        result: NDArray[Any] = logits.numpy()
        return result

    def stages(self) -> Stages | None:
        """By CUDA events on the stream of the last run; None on a CPU."""
        return self._clock.read() if self._clock else None

    def peak_device_mib(self) -> float | None:
        """What PyTorch's allocator reserved at most, the CUDA context not included; None on a CPU."""
        import torch

        return torch.cuda.max_memory_reserved() / 2**20 if self.device == "cuda" else None

    def _mark(self) -> None:
        if self._clock:
            self._clock.mark()


def load_run(folder: Path, *, threads: int | None = None, device: str = "cpu", variant: str = "eager") -> Session:
    """A finished run's best model, in fp32 unless the variant says otherwise.

    Raises:
        BadInputError: It is not a finished run.
        IntegrityError: Its weights changed since they were evaluated.
    """
    from ttl_deploy.training.run import finished_run
    from ttl_deploy.training.train import load_model

    return EagerSession(load_model(finished_run(folder)), threads=threads, device=device, variant=variant)


def load_untrained(
    spec: ModelSpec, *, threads: int | None = None, device: str = "cpu", variant: str = "eager"
) -> Session:
    """A model with random weights: as fast as a trained one, and nothing else."""
    from ttl_deploy.transfer import build

    return EagerSession(build(spec).eval(), threads=threads, device=device, variant=variant)


def bench_loader(argument: dict[str, Any], threads: int) -> Session:
    """Opens what a bench job names.

    Args:
        argument: `{"run": folder}` or `{"spec": ModelSpec as a dict}`, and optionally `device` and `variant`.
        threads: Threads for one batch.
    """
    how: dict[str, Any] = {
        "threads": threads,
        "device": argument.get("device", "cpu"),
        "variant": argument.get("variant", "eager"),
    }
    if "run" in argument:
        return load_run(Path(argument["run"]), **how)
    return load_untrained(ModelSpec.model_validate(argument["spec"]), **how)
