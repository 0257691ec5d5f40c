"""Starting weights: random, ImageNet, a file of tensors, or an earlier run; counted tensor by tensor.

Nothing is ever unpickled. Loading refuses when none of the layers that should be reused found its weights.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ttl_deploy import files
from ttl_deploy.errors import WeightsError
from ttl_deploy.transfer.model import HEAD, TransferModel
from ttl_deploy.transfer.weights_file import finite, read_safetensors, read_torch, state_of
from ttl_deploy.zoo import BACKBONES, Backbone

RUN_WEIGHTS = "best.safetensors"
"""The weights of a run folder."""

_WRAPPERS = ("state_dict", "model_state_dict", "model_state", "model", "model_ema", "net")
_PREFIXES = ("module.", "model.", "backbone.", "encoder.", "network.", "resnet.", "_orig_mod.", "features.")


@dataclass(frozen=True)
class LoadReport:
    """What became of the source's tensors.

    Attributes:
        source: Where they came from.
        matched: Tensors of reused units that were loaded.
        wanted: Tensors of reused units.
        missing: Names of those that were not in the source or have another shape.
        unused: Tensors of the source that the model does not hold (dropped layers, the old classifier).
        adapted: Whether the first convolution was fitted to another number of input channels.
    """

    source: str
    matched: int
    wanted: int
    missing: tuple[str, ...] = ()
    unused: int = 0
    adapted: bool = False

    def __str__(self) -> str:
        if self.source == "random":
            return "weights: random"
        text = f"weights from {self.source}: {self.matched} of {self.wanted} tensors of the reused layers loaded"
        if self.missing:
            text += f", {len(self.missing)} missing (first {self.missing[0]!r})"
        if self.adapted:
            text += ", first convolution fitted to the input channels"
        return f"{text}; {self.unused} tensors of the source not used"


def initialise(model: TransferModel, weights: str) -> LoadReport:
    """Gives a freshly built model its starting weights.

    Args:
        model: Randomly initialised.
        weights: `random`, `imagenet`, or the path of a `.safetensors`, `.pth`, `.pt` or run folder.

    Raises:
        WeightsError: The source cannot be read, or none of the reused layers found its weights in it.
    """
    if weights == "random":
        return LoadReport("random", 0, 0)
    backbone = BACKBONES.get(model.spec.backbone)
    state = finite(backbone.pretrained(), weights) if weights == "imagenet" else read_weights(Path(weights))
    state, adapted = _adapt_channels(_strip_prefix(backbone.upgrade(state), model), backbone, model.spec.input.channels)
    return _copy(model, state, weights, adapted)


def read_weights(path: Path) -> Mapping[str, Tensor]:
    """Reads a file of tensors or a run's best weights.

    Raises:
        WeightsError: It is missing, damaged, or holds anything but tensors of finite numbers.
    """
    file = weights_file(path)
    if file.suffix == ".safetensors":
        return read_safetensors(file)[0]
    return finite(_tensors_of(read_torch(file), file), file)


def weights_file(path: Path) -> Path:
    """The file of a path that is one, or a run's folder.

    Raises:
        WeightsError: It is missing.
    """
    folder = files.is_folder(path)
    file = path / RUN_WEIGHTS if folder else path
    if not files.exists(file):
        hint = "the folder is not a finished run" if folder else "no such file"
        raise WeightsError(hint, where=path, fix="pass imagenet, random, a .safetensors or .pth file, or a run folder")
    return file


def _tensors_of(content: Any, file: Path) -> Mapping[str, Tensor]:
    for wrapper in _WRAPPERS:
        if isinstance(content, Mapping) and isinstance(content.get(wrapper), Mapping):
            content = content[wrapper]
    tensors = state_of(content)
    if not tensors:
        raise WeightsError("holds no named tensors", where=file, fix="pass a state dict")
    return tensors


def _wanted(model: TransferModel) -> dict[str, Tensor]:
    """Tensors of the reused units by their network names; the counters of batch norms are not weights."""
    return {
        unit.prefix + name: tensor
        for unit in model.plan.reused
        for name, tensor in model.unit(unit).state_dict(keep_vars=True).items()
        if not name.endswith("num_batches_tracked")
    }


def _strip_prefix(state: Mapping[str, Tensor], model: TransferModel) -> Mapping[str, Tensor]:
    """Drops the wrapper's prefix (`module.`, `backbone.` …) under which most names fit."""
    wanted = set(_wanted(model))
    candidates: list[Mapping[str, Tensor]] = [state]
    for prefix in _PREFIXES:
        for base in list(candidates):
            stripped = {k.removeprefix(prefix): v for k, v in base.items() if k.startswith(prefix)}
            if stripped:
                candidates.append(stripped)
    return max(candidates, key=lambda names: len(wanted.intersection(names)))


def _adapt_channels(
    state: Mapping[str, Tensor], backbone: Backbone, channels: int
) -> tuple[Mapping[str, Tensor], bool]:
    """Sums the first convolution over its input channels for grey input, so that a grey image acts as before.

    For more or fewer than its own, the kernels of its channels are dealt out in turn, and scaled so that channels which
    are all alike act as a grey image did (as timm's `adapt_input_conv` does).
    """
    first = state.get(backbone.first_weight)
    if first is None or first.ndim < 2 or first.shape[1] == channels:
        return state, False
    if channels == 1:
        return {**state, backbone.first_weight: first.sum(1, keepdim=True)}, True
    own = first.shape[1]
    if own == 1:
        return state, False
    dealt = first[:, [channel % own for channel in range(channels)]]
    return {**state, backbone.first_weight: dealt * (own / channels)}, True


def _copy(model: TransferModel, state: Mapping[str, Tensor], source: str, adapted: bool) -> LoadReport:
    wanted = _wanted(model)
    found = [name for name, tensor in wanted.items() if name in state and state[name].shape == tensor.shape]
    if not found:
        raise WeightsError(
            f"none of the {len(wanted)} tensors of the layers kept from {model.spec.backbone} is in it",
            where=source,
            fix=f"pass weights of a {model.spec.backbone} (it holds names like {next(iter(state), '')!r})",
        )
    other = [name for name in found if state[name].is_floating_point() != wanted[name].is_floating_point()]
    if other:
        raise WeightsError(
            f"holds {other[0]!r} as {str(state[other[0]].dtype).removeprefix('torch.')}, which are no weights",
            where=source,
            fix="save it again as floating-point numbers, or choose another",
        )
    with torch.no_grad():
        for name in found:
            wanted[name].copy_(state[name])
    missing = tuple(name for name in wanted if name not in set(found))
    unused = sum(
        1
        for name in state
        if name not in wanted and not name.startswith(f"{HEAD}.") and not name.endswith("num_batches_tracked")
    )
    return LoadReport(source, len(found), len(wanted), missing, unused, adapted)
