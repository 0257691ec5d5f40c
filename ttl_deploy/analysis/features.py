"""Features of prepared images at every cut of a network, in one pass: pooled for classifiers, sampled for SVCCA."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ttl_deploy.data.prepared import Prepared
from ttl_deploy.data.torch_data import ImageBatches, evaluation_loader
from ttl_deploy.spec import TrainConfig
from ttl_deploy.transfer import TransferModel
from ttl_deploy.zoo import BACKBONES

Floats = NDArray[np.float32]


@dataclass(frozen=True)
class _Pass:
    """A pass over some images, cut by cut.

    Attributes:
        model: On its device.
        cuts: Names of the units whose output is wanted.
        images: The images.
        config: Batch size and device.
    """

    model: TransferModel
    cuts: Sequence[str]
    images: ImageBatches
    config: TrainConfig

    def __iter__(self) -> Iterator[dict[str, Tensor]]:
        """Features (N, C, ...) by cut, a batch at a time."""
        self.model.to(torch.device(self.config.accelerator)).eval()
        for batch, _labels in evaluation_loader(self.images, self.config.batch_size):
            yield self._through(batch)

    # Not around the loop: a generator would leave its mode behind wherever it is suspended.
    @torch.inference_mode()
    def _through(self, batch: Tensor) -> dict[str, Tensor]:
        backbone = BACKBONES.get(self.model.spec.backbone)
        features, found = batch.to(torch.device(self.config.accelerator)), {}
        for unit in self.model.chain:
            features = self.model.unit(unit)(features)
            if unit.name in self.cuts:
                found[unit.name] = backbone.with_channels_first(features)
            if len(found) == len(self.cuts):
                break
        return found


def pooled_features(
    model: TransferModel, cuts: Sequence[str], prepared: Prepared, indices: NDArray[np.int64], config: TrainConfig
) -> dict[str, Floats]:
    """Each channel's mean over all positions, as the head `gap` sees it; of a study in windows, of its middle one.

    Args:
        model: Holds every unit of `cuts`.
        cuts: Names of units.
        prepared: The images.
        indices: Which of them.
        config: Preprocessing, batch size and device.

    Returns:
        (N, channels) float32 by cut.
    """
    parts: dict[str, list[Floats]] = {cut: [] for cut in cuts}
    images = ImageBatches(prepared, prepared.shown(indices), config.preprocess)
    for found in _Pass(model, cuts, images, config):
        for cut, features in found.items():
            parts[cut].append(features.flatten(2).mean(2).float().cpu().numpy())
    return {cut: np.concatenate(rows) for cut, rows in parts.items()}


def sampled_features(
    models: Sequence[TransferModel],
    cuts: Sequence[str],
    prepared: Prepared,
    indices: NDArray[np.int64],
    config: TrainConfig,
    *,
    seed: int = 0,
) -> dict[str, list[Floats]]:
    """Features at the same place of the same images in several networks.

    Every image gives one of its h x w positions, drawn anew at each cut: the places of one image resemble each other,
    and as rows of their own they would pass for evidence that is not there.

    Args:
        models: Networks with the same shapes at every cut.
        cuts: Names of units.
        prepared: The images.
        indices: Which of them.
        config: Preprocessing, batch size and device.
        seed: Of the drawn positions.

    Returns:
        By cut, (images, channels) float32 for each model, row by row the same place of the same image.
    """
    generator = np.random.default_rng(seed)
    images = ImageBatches(prepared, prepared.shown(indices), config.preprocess)
    passes = [_Pass(model, cuts, images, config) for model in models]
    parts: dict[str, list[list[Floats]]] = {cut: [[] for _ in models] for cut in cuts}
    for batches in zip(*passes, strict=True):
        for cut in cuts:
            columns = [found[cut].flatten(2).transpose(1, 2).float().cpu().numpy() for found in batches]
            count, places = columns[0].shape[:2]
            chosen = generator.integers(places, size=count)
            for part, column in zip(parts[cut], columns, strict=True):
                part.append(column[np.arange(count), chosen])
    return {cut: [np.concatenate(part) for part in lists] for cut, lists in parts.items()}
