"""PyTorch eager as a session: the model that was validated, and whole networks to compare with.

It runs runs and specs, not artifacts, so it is no entry of `RUNTIMES`. Torch is imported when a session is opened.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ttl_deploy.runtime.base import Session, default_threads
from ttl_deploy.spec import ModelSpec

if TYPE_CHECKING:
    from ttl_deploy.transfer import TransferModel


class EagerSession(Session):
    """A PyTorch module in inference mode.

    Args:
        model: In evaluation mode.
        threads: Threads for one batch; None: one per core.
        device: `cpu` or `cuda`.
    """

    def __init__(self, model: TransferModel, *, threads: int | None = None, device: str = "cpu") -> None:
        import torch

        threads = threads or default_threads()
        super().__init__(
            runtime="pytorch",
            device=device,
            threads=threads,
            classes=model.spec.classes,
            input_shape=model.spec.input_shape,
        )
        torch.set_num_threads(threads)
        self._model = model.to(device)

    def _run(self, batch: NDArray[np.float32]) -> NDArray[Any]:
        import torch

        with torch.inference_mode():
            logits: NDArray[Any] = self._model(torch.from_numpy(batch).to(self.device)).float().cpu().numpy()
        return logits


def load_run(folder: Path, *, threads: int | None = None, device: str = "cpu") -> Session:
    """A finished run's best model in fp32.

    Raises:
        BadInputError: It is not a finished run.
        IntegrityError: Its weights changed since they were evaluated.
    """
    from ttl_deploy.training.run import finished_run
    from ttl_deploy.training.train import load_model

    return EagerSession(load_model(finished_run(folder)), threads=threads, device=device)


def load_untrained(spec: ModelSpec, *, threads: int | None = None, device: str = "cpu") -> Session:
    """A model with random weights: as fast as a trained one, and nothing else."""
    from ttl_deploy.transfer import build

    return EagerSession(build(spec).eval(), threads=threads, device=device)


def bench_loader(argument: dict[str, Any], threads: int) -> Session:
    """Opens what a bench job names: `{"run": folder}` or `{"spec": ModelSpec as a dict}`, and optionally `device`."""
    device = argument.get("device", "cpu")
    if "run" in argument:
        return load_run(Path(argument["run"]), threads=threads, device=device)
    return load_untrained(ModelSpec.model_validate(argument["spec"]), threads=threads, device=device)
