"""Features of prepared images at every cut of a network, in one pass: pooled for classifiers, sampled for SVCCA.

A cut's features are reduced as soon as they are there, and never lie in memory together with those of the others.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ttl_deploy.data.prepared import Prepared
from ttl_deploy.data.torch_data import ImageBatches, evaluation_loader
from ttl_deploy.kept_memory import freed_memory_kept
from ttl_deploy.progress import SILENT, Reporter
from ttl_deploy.spec import TrainConfig
from ttl_deploy.transfer import TransferModel
from ttl_deploy.zoo import BACKBONES
from ttl_deploy.zoo.backbone import trace_shapes

Floats = NDArray[np.float32]
T = TypeVar("T")


@dataclass(frozen=True)
class Pass(Generic[T]):
    """A pass over some images, cut by cut.

    Attributes:
        model: On its device.
        cuts: Names of the units whose output is wanted.
        images: The images.
        config: Device, and how many images go through a unit at once.
        reduce: What is kept of a cut's features (N, C, *positions), by the cut's name.
        batch_size: Images whose features are reduced together; None: the configured batch.
        reporter: Told how far it is.
    """

    model: TransferModel
    cuts: Sequence[str]
    images: ImageBatches
    config: TrainConfig
    reduce: Callable[[str, Tensor], T]
    batch_size: int | None = None
    reporter: Reporter = SILENT

    def __iter__(self) -> Iterator[dict[str, T]]:
        """What is kept, by cut, a batch at a time."""
        self.model.to(torch.device(self.config.accelerator)).eval()
        with self.reporter.task("features", len(self.images)) as advance:
            for batch, _labels in evaluation_loader(self.images, self.batch_size or self.config.batch_size):
                # Batch by batch: what is kept of each would lie among what is freed, and the memory of all would grow.
                with freed_memory_kept(self.config.accelerator == "cpu"):
                    found = self._through(batch)
                yield found
                advance(len(batch), "")

    # Not around the loop: a generator would leave its mode behind wherever it is suspended.
    @torch.inference_mode()
    def _through(self, batch: Tensor) -> dict[str, T]:
        backbone = BACKBONES.get(self.model.spec.backbone)
        features, found = batch.to(torch.device(self.config.accelerator)), {}
        for unit in self.model.chain:
            features = _in_parts(self.model.unit(unit), features, self.config.batch_size)
            if unit.name in self.cuts:
                found[unit.name] = self.reduce(unit.name, backbone.with_channels_first(features))
            if len(found) == len(self.cuts):
                break
        return found


def _in_parts(unit: nn.Module, features: Tensor, size: int) -> Tensor:
    """What a unit makes of features, so many images at a time: what it needs inside is a multiple of what it gives."""
    if len(features) <= size:
        return torch.as_tensor(unit(features))
    return torch.cat([unit(features[i : i + size]) for i in range(0, len(features), size)])


def shapes_at(model: TransferModel, cuts: Sequence[str]) -> dict[str, tuple[int, ...]]:
    """(C, *positions) of one image's features by cut."""
    backbone = BACKBONES.get(model.spec.backbone)
    traced = trace_shapes((model.unit(unit) for unit in model.chain), model.spec.input_shape)
    shapes = {unit.name: shape for unit, shape in zip(model.chain, traced, strict=True)}
    return {cut: backbone.channels_first(shapes[cut]) for cut in cuts}


def numbers(features: Tensor) -> Floats:
    """A tensor as float32 in memory."""
    return np.asarray(features.float().cpu().numpy(), dtype=np.float32)


def pooled_features(
    model: TransferModel,
    cuts: Sequence[str],
    prepared: Prepared,
    indices: NDArray[np.int64],
    config: TrainConfig,
    *,
    reporter: Reporter = SILENT,
) -> dict[str, Floats]:
    """Each channel's mean over all positions, as the head `gap` sees it; of a study in windows, of its middle one.

    Args:
        model: Holds every unit of `cuts`.
        cuts: Names of units.
        prepared: The images.
        indices: Which of them.
        config: Preprocessing, batch size and device.
        reporter: Told how far it is.

    Returns:
        (N, channels) float32 by cut.
    """
    parts: dict[str, list[Floats]] = {cut: [] for cut in cuts}
    images = ImageBatches(prepared, prepared.shown(indices), config.preprocess)

    def mean(_cut: str, features: Tensor) -> Floats:
        return numbers(features.flatten(2).mean(2))

    for found in Pass(model, cuts, images, config, mean, reporter=reporter):
        for cut, rows in found.items():
            parts[cut].append(rows)
    return {cut: np.concatenate(rows) for cut, rows in parts.items()}


class _Places:
    """Draws one position of each image of a batch at a cut, and gives the same for every network.

    Args:
        seed: Of the positions.
    """

    def __init__(self, seed: int) -> None:
        self._generator = np.random.default_rng(seed)
        self._drawn: dict[str, NDArray[np.int64]] = {}

    def draw(self, cut: str, features: Tensor) -> Floats:
        """Features at positions drawn anew."""
        count, _channels, places = features.flatten(2).shape
        self._drawn[cut] = self._generator.integers(places, size=count)
        return self.same(cut, features)

    def same(self, cut: str, features: Tensor) -> Floats:
        """Features at the positions that were drawn last."""
        chosen = torch.from_numpy(self._drawn[cut]).to(features.device)
        flat = features.flatten(2)
        return numbers(flat[torch.arange(len(flat), device=flat.device), :, chosen])


def sampled_features(
    models: Sequence[TransferModel],
    cuts: Sequence[str],
    prepared: Prepared,
    indices: NDArray[np.int64],
    config: TrainConfig,
    *,
    seed: int = 0,
    reporter: Reporter = SILENT,
) -> dict[str, list[Floats]]:
    """Features at the same place of the same images in several networks.

    Every image gives one of its h x w positions, drawn anew at each cut: the places of one image resemble each other,
    and as rows of their own they would pass for evidence that is not there.

    Args:
        models: Networks with the same shapes at every cut.
        cuts: Names of units, bottom first.
        prepared: The images.
        indices: Which of them.
        config: Preprocessing, batch size and device.
        seed: Of the drawn positions.
        reporter: Told how far it is.

    Returns:
        By cut, (images, channels) float32 for each model, row by row the same place of the same image.
    """
    images, places = ImageBatches(prepared, prepared.shown(indices), config.preprocess), _Places(seed)
    first, *others = models
    passes = [Pass(first, cuts, images, config, places.draw, reporter=reporter)]
    passes += [Pass(model, cuts, images, config, places.same) for model in others]
    parts: dict[str, list[list[Floats]]] = {cut: [[] for _ in models] for cut in cuts}
    for batches in zip(*passes, strict=True):
        for cut in cuts:
            for part, found in zip(parts[cut], batches, strict=True):
                part.append(found[cut])
    return {cut: [np.concatenate(part) for part in lists] for cut, lists in parts.items()}
