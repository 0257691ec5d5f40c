"""Starting weights: random, ImageNet, a file of tensors, or an earlier run; counted tensor by tensor.

What the reused layers take of them is an initialisation's (`inits`), by default everything. Nothing is ever unpickled.
Loading refuses when none of the layers that should be reused found its weights.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ttl_deploy import files
from ttl_deploy.errors import BadInputError, WeightsError
from ttl_deploy.spec.model import WHOLE
from ttl_deploy.transfer.inits import INITS, Filled, Init, Part, divided
from ttl_deploy.transfer.model import HEAD, TransferModel
from ttl_deploy.transfer.weights_file import finite, read_safetensors, read_torch, state_of
from ttl_deploy.zoo import BACKBONES, Backbone, Unit

RANDOM = "random"

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
        wanted: Tensors of reused units that should have been.
        missing: Names of those that were not in the source or have another shape.
        unused: Tensors of the source that the model does not hold (dropped layers, the old classifier).
        adapted: Whether the first convolution was fitted to another number of input channels.
        init: The initialisation that was asked for.
        drawn: Tensors of reused units that it drew or computed.
        reset: Tensors of norms that it set to 1 and 0.
        sha256: Of the source's file, or of ImageNet's tensors (`tensors_sha256`); None where nothing was read.
    """

    source: str
    matched: int
    wanted: int
    missing: tuple[str, ...] = ()
    unused: int = 0
    adapted: bool = False
    init: str = WHOLE
    drawn: int = 0
    reset: int = 0
    sha256: str | None = None

    def __str__(self) -> str:
        if self.source == RANDOM:
            return "weights: random" + (f", {self.init}: {self.drawn} tensors drawn" if self.drawn else "")
        text = f"weights from {self.source}: {self.matched} of {self.wanted} tensors of the reused layers loaded"
        if self.init != WHOLE:
            text += f", {self.init}: {self.drawn} drawn, {self.reset} of norms set to 1 and 0"
        if self.missing:
            text += f", {len(self.missing)} missing (first {self.missing[0]!r})"
        if self.adapted:
            text += ", first convolution fitted to the input channels"
        return f"{text}; {self.unused} tensors of the source not used"


def initialise(model: TransferModel, weights: str, init: str = WHOLE) -> LoadReport:
    """Gives a freshly built model its starting weights.

    Args:
        model: Randomly initialised.
        weights: `random`, `imagenet`, or the path of a `.safetensors`, `.pth`, `.pt` or run folder.
        init: What the reused units take of them: words of `INITS`, as in `weights:block:2+stats`.

    Raises:
        WeightsError: The source cannot be read, or none of the reused layers found its weights in it.
        BadInputError: There is no such initialisation, or it needs weights and they are random.
    """
    backbone = BACKBONES.get(model.spec.backbone).at(model.spec.input.size)
    weights, init = start_of(weights, init, backbone)
    if (weights, init) == (RANDOM, WHOLE):
        return LoadReport(RANDOM, 0, 0)
    parts = [(way, _held(model, units)) for way, units in divided(init, backbone)]
    wanted = {name: tensor for way, units in parts if way.reads for name, tensor in _tensors(model, units).items()}
    source, adapted, sha256 = _source(model, backbone, weights, wanted) if wanted else ({}, False, None)
    filled = sum((_fill(way, model, units, source, backbone) for way, units in parts), Filled())
    return LoadReport(
        weights,
        len(filled.taken),
        len(filled.taken) + len(filled.missing),
        filled.missing,
        _unused(source, wanted),
        adapted,
        init,
        len(filled.drawn),
        len(filled.reset),
        sha256,
    )


def start_of(weights: str, init: str, backbone: Backbone) -> tuple[str, str]:
    """The same start in fewest words: weights that nothing reads are `random`, and so is what is left as it was built.

    Raises:
        BadInputError: The initialisation is none of the network's, or needs weights and they are random; that `weights`
            alone then asks for nothing is what random weights mean.
    """
    ways = [way for way, _units in divided(init, backbone)]
    if not any(way.reads for way in ways):
        return RANDOM, WHOLE if all(way is INITS.get(RANDOM) for way in ways) else init
    if weights == RANDOM and init != WHOLE:
        raise BadInputError(
            "needs weights, and they are random",
            where=f"init {init}",
            fix="start from imagenet, a file or a run; or choose init random",
        )
    return weights, init


def started_anew(backbone: Backbone, init: str) -> tuple[Unit, ...]:
    """The network's units whose weights an initialisation does not copy."""
    return tuple(unit for way, units in divided(init, backbone) if not way.copies for unit in units)


def _held(model: TransferModel, units: Sequence[Unit]) -> tuple[Unit, ...]:
    """Those of the network's units that the model reuses."""
    return tuple(unit for unit in units if unit in model.plan.reused)


def _fill(
    way: Init, model: TransferModel, units: Sequence[Unit], source: Mapping[str, Tensor], backbone: Backbone
) -> Filled:
    own = {name: source[name] for name in _tensors(model, units) if way.reads and name in source}
    return way.fill(Part([(unit.prefix, model.unit(unit)) for unit in units], own, backbone.first_weight))


def _source(
    model: TransferModel, backbone: Backbone, weights: str, wanted: Mapping[str, Tensor]
) -> tuple[Mapping[str, Tensor], bool, str]:
    """The source's tensors under the network's names, without those of a wanted name and another shape; its SHA-256."""
    state = finite(backbone.pretrained(), weights) if weights == "imagenet" else read_weights(Path(weights))
    sha256 = tensors_sha256(state) if weights == "imagenet" else files.sha256(weights_file(Path(weights)))
    named = _strip_prefix(backbone.upgrade(state), _tensors(model, model.plan.reused))
    state, adapted = _adapt_channels(backbone.fit(named), backbone, model.spec.input.channels)
    fitting = {name for name in wanted if name in state and state[name].shape == wanted[name].shape}
    _refuse_unusable(state, wanted, fitting, weights, backbone)
    usable = {name: tensor for name, tensor in state.items() if name in fitting or name not in wanted}
    return usable, adapted, sha256


def tensors_sha256(state: Mapping[str, Tensor]) -> str:
    """Hex SHA-256 over names, types, shapes and numbers in the order of the names, in whatever file they were."""
    digest = hashlib.sha256()
    for name, tensor in sorted(state.items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.detach().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


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


def _tensors(model: TransferModel, units: Sequence[Unit]) -> dict[str, Tensor]:
    return Part([(unit.prefix, model.unit(unit)) for unit in units], {}, "").tensors()


def _strip_prefix(state: Mapping[str, Tensor], names: Collection[str]) -> Mapping[str, Tensor]:
    """Drops the wrapper's prefix (`module.`, `backbone.` …) under which most of the network's names fit."""
    wanted = set(names)
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


def _refuse_unusable(
    state: Mapping[str, Tensor],
    wanted: Mapping[str, Tensor],
    fitting: Collection[str],
    source: str,
    backbone: Backbone,
) -> None:
    if not fitting:
        raise WeightsError(
            f"none of the {len(wanted)} tensors of the layers kept from {backbone.name} is in it",
            where=source,
            fix=f"pass weights of a {backbone.name} (it holds names like {next(iter(state), '')!r})",
        )
    other = [n for n in wanted if n in fitting and state[n].is_floating_point() != wanted[n].is_floating_point()]
    if other:
        raise WeightsError(
            f"holds {other[0]!r} as {str(state[other[0]].dtype).removeprefix('torch.')}, which are no weights",
            where=source,
            fix="save it again as floating-point numbers, or choose another",
        )


def _unused(state: Mapping[str, Tensor], wanted: Collection[str]) -> int:
    return sum(
        1
        for name in state
        if name not in wanted and not name.startswith(f"{HEAD}.") and not name.endswith("num_batches_tracked")
    )
