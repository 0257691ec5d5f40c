"""Features of a frozen bottom, computed once per augmentation view and read from disk in every epoch after.

A frozen unit gives the same output for the same pixels for ever, so layer-wise finetuning need not run it again.
With at least as many views as epochs, or without augmentation, training is the uncached training; with fewer, view
`(epoch - 1) % views` stands for the epoch's own augmentation.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning_fabric import Fabric
from numpy.typing import NDArray
from torch import Tensor, nn

from ttl_deploy import files
from ttl_deploy.data.torch_data import Batch, ImageBatches, evaluation_loader
from ttl_deploy.documents import read_json
from ttl_deploy.errors import BadInputError, DamagedError
from ttl_deploy.progress import Reporter
from ttl_deploy.spec import TrainConfig
from ttl_deploy.training.run import FEATURES, FEATURES_RECORD
from ttl_deploy.transfer import TransferModel
from ttl_deploy.zoo.backbone import trace_shapes

_DTYPES: dict[str, tuple[torch.dtype, type[np.generic]]] = {
    "fp32": (torch.float32, np.float32),
    # NumPy knows neither bfloat16 nor what a half of it would be: its bits travel as integers.
    "bf16": (torch.bfloat16, np.uint16),
    "fp16": (torch.float16, np.float16),
}


class UpperPart(nn.Module):
    """The units above the frozen ones and the head: features to logits. Shares its layers with the model.

    Args:
        model: Has frozen units.
    """

    def __init__(self, model: TransferModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, features: Tensor) -> Tensor:
        """Logits, before softmax."""
        for unit in self.model.chain[len(self.model.plan.frozen) :]:
            features = self.model.unit(unit)(features)
        logits: Tensor = self.model.head(features)
        return logits


class FeatureBatches(ImageBatches):
    """Stands where a training's images stand, and gives their features instead.

    Args:
        features: (views, N, *shape), memory-mapped.
        labels: (N,).
        dtype: What the stored bits are.
    """

    def __init__(self, features: NDArray[Any], labels: NDArray[np.int64], dtype: torch.dtype) -> None:
        self._features, self._labels, self._dtype = features, labels, dtype
        self.epoch = 0

    def __len__(self) -> int:
        return len(self._labels)

    def __getitems__(self, positions: Sequence[int]) -> Batch:
        """See `ImageBatches.__getitems__`."""
        rows = np.asarray(positions)
        view = view_of(self.epoch, len(self._features)) - 1
        values = torch.from_numpy(self._features[view][rows])
        return values.view(self._dtype), torch.from_numpy(self._labels[rows])


def view_of(epoch: int, views: int) -> int:
    """Which view, from 1, an epoch, from 1, trains on; evaluation is epoch 0 and has one view."""
    return (epoch - 1) % views + 1 if epoch else 1


def feature_shape(model: TransferModel) -> tuple[int, ...]:
    """Shape (C, ...) of what the frozen units give for one image.

    Raises:
        BadInputError: The method freezes nothing.
    """
    if not model.plan.frozen:
        raise BadInputError(
            f"method {model.spec.method} freezes nothing, so there are no features to keep",
            fix="drop --cache-features, or pass --method lwft",
        )
    if model.taps:
        raise BadInputError(
            f"head {model.spec.head} reads features below the frozen layers' last, which are not kept",
            fix="drop --cache-features",
        )
    return trace_shapes([model.unit(unit) for unit in model.plan.frozen], model.spec.input_shape)[-1]


def check_size(config: TrainConfig, shape: Sequence[int], train: int, val: int) -> int:
    """Bytes of the features of `train` images in every view and of `val` in one.

    Raises:
        BadInputError: They are more than the configuration allows; the error says how many views fit.
    """
    image = math.prod(shape) * np.dtype(_DTYPES[config.precision][1]).itemsize
    total = image * (train * config.cache_features + val)
    limit = int(config.cache_limit * 2**30)
    if total > limit:
        fit = max(0, (limit - image * val) // (image * train))
        raise BadInputError(
            f"{config.cache_features} views of the features are {total / 2**30:.3g} GiB, more than the limit of "
            f"{config.cache_limit:.3g} GiB",
            fix=f"pass --cache-features {fit}"
            if fit
            else "drop --cache-features, or raise the limit (`ttl-deploy train --cache-limit`)",
        )
    return total


def cached_batches(
    fabric: Fabric,
    config: TrainConfig,
    model: TransferModel,
    folder: Path,
    sides: dict[str, tuple[ImageBatches, NDArray[np.int64]]],
    reporter: Reporter,
) -> dict[str, FeatureBatches]:
    """The features of both sides, computed unless the run's folder holds them.

    Args:
        fabric: Device, precision and processes; the first process of a node computes.
        config: The protocol.
        model: On its device.
        folder: The run's.
        sides: The images and labels of `train` and `val`.
        reporter: Told of the size and of progress.

    Raises:
        StorageError: The disk is full.
    """
    shape = feature_shape(model)
    counts = {side: len(labels) for side, (_images, labels) in sides.items()}
    total = check_size(config, shape, counts["train"], counts["val"])
    views = {"train": config.cache_features, "val": 1}
    if fabric.is_global_zero and not _valid(folder, config):
        reporter.info(
            f"features below the trained layers: {config.cache_features} views of {counts['train']} images, "
            f"{total / 2**20:.0f} MiB in {folder}"
        )
        for side, (images, _labels) in sides.items():
            _fill(fabric, config, model, folder / FEATURES.format(side), images, (views[side], counts[side], *shape))
        files.write_json(folder / FEATURES_RECORD, _record(config))
    fabric.barrier()
    dtype, _stored = _DTYPES[config.precision]
    return {
        side: FeatureBatches(
            _opened(folder / FEATURES.format(side), (views[side], counts[side], *shape)), labels, dtype
        )
        for side, (_images, labels) in sides.items()
    }


def remove_features(folder: Path) -> None:
    """Frees the disk: the features of a finished run are of no more use."""
    for name in (FEATURES_RECORD, FEATURES.format("train"), FEATURES.format("val")):
        (folder / name).unlink(missing_ok=True)


def _record(config: TrainConfig) -> dict[str, Any]:
    """All that decides the features; the numbers of epochs and minutes do not."""
    return {"config": config.model_copy(update={"epochs": None, "max_minutes": None}).digest()}


def _valid(folder: Path, config: TrainConfig) -> bool:
    try:
        return bool(read_json(folder / FEATURES_RECORD) == _record(config))
    except BadInputError:
        return False


def _opened(path: Path, shape: tuple[int, ...]) -> NDArray[Any]:
    fix = f"remove it and {FEATURES_RECORD}: they are then computed again"
    try:
        found: NDArray[Any] = np.load(path, mmap_mode="r")
    except (OSError, ValueError, EOFError) as error:
        raise DamagedError("is missing or damaged", where=path, fix=fix) from error
    if found.shape != shape:
        raise DamagedError(f"holds features of the shape {found.shape}, not {shape}", where=path, fix=fix)
    return found


def _fill(
    fabric: Fabric,
    config: TrainConfig,
    model: TransferModel,
    path: Path,
    images: ImageBatches,
    shape: tuple[int, ...],
) -> None:
    dtype, stored = _DTYPES[config.precision]
    with files.atomic_path(path) as temporary:
        target = np.lib.format.open_memmap(temporary, mode="w+", dtype=stored, shape=shape)
        for view in range(shape[0]):
            images.epoch, row = view + 1, 0
            for batch, _labels in evaluation_loader(images, config.batch_size):
                values = _bottom(fabric, config, model, batch).to(dtype).cpu().contiguous()
                bits = values.view(torch.uint16) if dtype == torch.bfloat16 else values
                target[view, row : row + len(batch)] = bits.numpy()
                row += len(batch)
        target.flush()
        del target


def _bottom(fabric: Fabric, config: TrainConfig, model: TransferModel, batch: Tensor) -> Tensor:
    if config.precision != "fp32" and batch.ndim == 4:
        batch = batch.contiguous(memory_format=torch.channels_last)
    features = fabric.to_device(batch)
    with torch.inference_mode(), fabric.autocast():
        for unit in model.plan.frozen:
            features = model.unit(unit).eval()(features)
    result: Tensor = features
    return result
