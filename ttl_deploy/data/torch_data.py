"""Batches for PyTorch from prepared images: augmented for training, exactly as deployed for evaluation.

Every sample's augmentation is seeded by (seed, epoch, sample), so neither workers nor a resume change it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import BatchSampler, DataLoader, Dataset, DistributedSampler, SequentialSampler

from ttl_deploy.data.augment import Augmentation
from ttl_deploy.data.prepared import Prepared
from ttl_deploy.inputs.image import normalise
from ttl_deploy.spec import AugmentSpec, PreprocessSpec

Batch = tuple[Tensor, Tensor]
"""Images (N, C, H, W), or volumes (N, C, D, H, W), float32 and labels (N,) int64, or masks (N, 1, H, W) uint8."""


class ImageBatches(Dataset[Batch]):
    """Some of the inputs that the prepared images are, fetched a batch at a time.

    Args:
        prepared: The images.
        inputs: Which; `Prepared.inputs` and `Prepared.shown` give their numbers.
        preprocess: Normalisation.
        augment: Training-time augmentation, or None.
        seed: Seed of the augmentation.
    """

    def __init__(
        self,
        prepared: Prepared,
        inputs: NDArray[np.int64],
        preprocess: PreprocessSpec,
        augment: AugmentSpec | None = None,
        seed: int = 0,
    ) -> None:
        self._prepared = prepared
        self._inputs = inputs
        self._preprocess = preprocess
        self._augmentation = Augmentation(augment, preprocess.input.size) if augment else None
        self._seed = seed
        self.epoch = 0

    def __len__(self) -> int:
        return len(self._inputs)

    def __getitems__(self, positions: Sequence[int]) -> Batch:
        """A whole batch at once; PyTorch's loader calls this instead of one item at a time."""
        rows = self._inputs[np.asarray(positions)]
        pixels = self._prepared.input_pixels(rows)
        targets = self._prepared.input_targets(rows)
        if self._augmentation:
            pixels, targets = self._augmented(pixels, targets, rows)
        images = torch.from_numpy(normalise(pixels, self._preprocess))
        return images, torch.from_numpy(np.ascontiguousarray(targets))

    def _augmented(
        self, pixels: NDArray[np.uint8], targets: NDArray[Any], rows: NDArray[np.int64]
    ) -> tuple[NDArray[np.uint8], NDArray[Any]]:
        """Both of them changed; targets only where they are masks."""
        assert self._augmentation is not None
        images = torch.from_numpy(np.moveaxis(pixels, -1, -3).copy())
        masks = None if self._prepared.masks is None else torch.from_numpy(targets.copy())
        seeds = [mix_seeds(self._seed, self.epoch, row) for row in rows.tolist()]
        images, masks = self._augmentation(images, seeds, masks)
        return images.movedim(-3, -1).numpy(), targets if masks is None else masks.numpy()


def mix_seeds(*numbers: int) -> int:
    """One seed from several numbers, without the collisions of adding them."""
    return int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0] >> np.uint64(1))


def training_loader(
    images: ImageBatches, batch_size: int, *, epoch: int, seed: int, workers: int, rank: int = 0, world: int = 1
) -> DataLoader[Batch]:
    """Shuffled batches of one epoch for one process of `world`.

    A last batch of one image is dropped, because batch norm cannot take statistics from one value.
    """
    images.epoch = epoch
    sampler: DistributedSampler[int] = DistributedSampler(images, world, rank, shuffle=True, seed=seed)
    sampler.set_epoch(epoch)
    lonely = len(sampler) % batch_size == 1 and len(sampler) > 1
    batches = BatchSampler(sampler, batch_size, drop_last=lonely)
    return DataLoader(images, batch_sampler=batches, num_workers=workers, collate_fn=_whole)


def evaluation_loader(images: ImageBatches, batch_size: int) -> DataLoader[Batch]:
    """Batches in order, nothing dropped."""
    return DataLoader(
        images, batch_sampler=BatchSampler(SequentialSampler(images), batch_size, False), collate_fn=_whole
    )


def _whole(batch: Any) -> Any:
    return batch
