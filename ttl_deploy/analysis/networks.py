"""The networks that a run is compared with: itself before its first step, and two that share nothing with it."""

from __future__ import annotations

import torch
from torch import nn

from ttl_deploy.data.torch_data import mix_seeds
from ttl_deploy.errors import IntegrityError
from ttl_deploy.training.run import Run
from ttl_deploy.training.train import starting_model
from ttl_deploy.transfer import TransferModel, build

UNRELATED = (101, 102)
"""Seeds of the two random networks, added to the run's."""


def unrelated(run: Run) -> list[TransferModel]:
    """The run's network as drawn from two other seeds, nothing loaded."""
    return [_drawn(run, seed) for seed in UNRELATED]


def _drawn(run: Run, seed: int) -> TransferModel:
    torch.manual_seed(mix_seeds(run.config.seed, seed))
    return build(run.config.model).eval()


def start_of_run(run: Run, trained: TransferModel) -> TransferModel:
    """The run's network before its first step, rebuilt of its specification, its seed and its starting weights.

    Runs of earlier versions record no hash of these weights. Layers that were not trained tell of some whether they are
    still the same.

    Args:
        run: The run.
        trained: Its best model.

    Raises:
        WeightsError: The starting weights are gone or do not fit.
        IntegrityError: They are others than those that the run began with.
    """
    model = starting_model(run)
    for unit in trained.plan.frozen:
        other = trained.unit(unit).state_dict()
        changed = [
            name for name, tensor in model.unit(unit).state_dict().items() if not torch.equal(tensor, other[name])
        ]
        if changed:
            raise IntegrityError(
                f"are not what {run.name} began with: its layer {unit.name} was not trained and has other weights",
                where=run.config.weights,
                fix="restore the file",
            )
    return model


def parted(model: TransferModel, cut: str) -> tuple[nn.Sequential, nn.Sequential]:
    """What a model does up to a cut, and what it does from there, its head included; the very layers of the model."""
    place = [unit.name for unit in model.chain].index(cut) + 1
    units = [model.unit(unit) for unit in model.chain]
    return nn.Sequential(*units[:place]), nn.Sequential(*units[place:], model.head)
