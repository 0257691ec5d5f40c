"""`timm:NAME`: any network of timm whose features are those of a list of blocks, one after the other.

Units are what timm's `blocks`, `stages` or `layers` hold, or the stages that its `feature_info` names. Whether they run
one after the other is not taken on trust: the chain's operators are compared with those of timm's `forward_features`,
one by one, before the network is cut anywhere.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import timm
import torch
from timm.models import get_arch_name
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from ttl_deploy.errors import BadInputError, near
from ttl_deploy.zoo.backbone import BACKBONES, Layout, Unit, mark_block_ends, trace_shapes
from ttl_deploy.zoo.timm_network import MAPS, TimmBackbone, stem_of

_LISTS = ("blocks", "stages", "layers")
_STEM = "stem"


class TimmModel(TimmBackbone):
    """One of timm's networks.

    Args:
        source: timm's name, with a tag or without.

    Raises:
        BadInputError: timm does not know it, or it cannot be cut; the error says why.
    """

    unslimmed = "how timm's layers are divided is not known here"

    def __init__(self, source: str) -> None:
        network = _on_meta(source)
        published: Any = timm.get_pretrained_cfg(source)
        shape = tuple(published.input_size)
        lists = _lists(network, source)
        above = _run_after(network, lists, shape, source)
        units = _units(network, lists)
        super().__init__(f"timm:{source}", source, units, lists, above or _norm_of_head(network))
        self.first_weight = _reads_image(network, shape[0])
        with torch.device("meta"):
            stem = stem_of(self.network(), lists).eval()
        chain = [stem, *(network.get_submodule(name) for name in (*(unit.name for unit in units[1:]), *above))]
        _compare(source, network, chain, shape)
        self.layout = _layout(source, trace_shapes(chain[: len(units)], shape))
        self._describe(network)

    def _describe(self, network: Any) -> None:
        """What tokens there are, and what follows the last block."""
        if self.layout == "tokens":
            self.prefix_tokens = int(getattr(network, "num_prefix_tokens", 0))
            self.class_token = getattr(network, "cls_token", None) is not None
        self._only_norms = all(isinstance(network.get_submodule(name), nn.LayerNorm) for name in self._top)
        if self.layout == "channels_last" and not self._only_norms:
            raise _cannot(self._source, "its channels come last, and more than a norm follows its blocks")
        if self._top or self.layout == "channels_last":
            parent, _, name = self._top[0].rpartition(".") if self._top else ("", "", MAPS)
            self.tail = Unit(name, self.units[-1].block, f"{parent}." if parent else "", cut=False)

    def finish(self, top: Unit) -> Unit | None:
        """See `Backbone.finish`."""
        return self.tail if self._only_norms else None


@BACKBONES.family("timm")
def make(source: str) -> TimmModel:
    """The network of a name of timm's.

    Raises:
        BadInputError: timm does not know it, or it cannot be cut; the error says why.
    """
    return TimmModel(source)


def _cannot(source: str, why: str) -> BadInputError:
    return BadInputError(f"timm:{source} cannot be cut: {why}", fix="choose another backbone")


def _on_meta(source: str) -> Any:
    """The network without weights."""
    if not timm.is_model(source):
        name = get_arch_name(source)
        raise BadInputError(f"timm has no network {name!r}", fix=near(name, timm.list_models()))
    try:
        with torch.device("meta"):
            return timm.create_model(source, pretrained=False, num_classes=0).eval()
    # What keeps a network from being built, such as a tag that it does not have, is not told apart.
    except Exception as error:
        raise _cannot(source, _words(error)) from error


def _words(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:120]}"


def _lists(network: Any, source: str) -> list[str]:
    """The children that hold the blocks."""
    children = dict(network.named_children())
    for name in _LISTS:
        if isinstance(children.get(name), nn.Sequential | nn.ModuleList) and len(children[name]) > 0:
            return [name]
    features = getattr(network, "feature_info", None) or []
    named = {str(entry["module"]).partition(".")[0] for entry in features} - {_STEM}
    found = [name for name, child in children.items() if name in named and next(child.children(), None) is not None]
    if not found:
        raise _cannot(source, "timm names neither a list of blocks nor stages of it")
    return found


def _units(network: Any, lists: Sequence[str]) -> tuple[Unit, ...]:
    stages = [(name, network.get_submodule(name)) for name in lists]
    if len(stages) == 1:
        stages = [(f"{lists[0]}.{name}", child) for name, child in stages[0][1].named_children()]
    units = [
        Unit(name, number, f"{name}.", cut)
        for number, (path, stage) in enumerate(stages, start=1)
        for name, cut in _blocks(path, stage)
    ]
    below = next(iter(network.named_children()))[0] != lists[0]
    return mark_block_ends([Unit(_STEM, 0, "", cut=below), *units])


def _blocks(path: str, stage: nn.Module) -> Iterator[tuple[str, bool]]:
    """Names of a stage's parts, and whether the network may be cut after each; of what is no stage, its own name."""
    children = dict(stage.named_children())
    if isinstance(stage, nn.Sequential) or (type(stage).__name__.endswith("Stage") and "blocks" not in children):
        yield from ((f"{path}.{name}", True) for name in children)
    elif isinstance(children.get("blocks"), nn.Sequential | nn.ModuleList):
        for name, child in children.items():
            if name == "blocks":
                yield from ((f"{path}.blocks.{i}", True) for i in range(len(child)))  # type: ignore[arg-type]
            elif not isinstance(child, nn.Identity):
                yield f"{path}.{name}", False
    else:
        yield path, True


def _run_after(network: Any, lists: Sequence[str], shape: Sequence[int], source: str) -> list[str]:
    """Children that `forward_features` runs after the blocks, in their order."""
    ran: list[str] = []
    handles = [
        child.register_forward_hook(lambda *_run, name=name: ran.append(name))
        for name, child in network.named_children()
        if not isinstance(child, nn.Identity)
    ]
    try:
        _operators(network.forward_features, shape)
    # A network's own code, on the size of its own pretraining.
    except Exception as error:
        raise _cannot(source, f"its features cannot be traced ({_words(error)})") from error
    finally:
        for handle in handles:
            handle.remove()
    children = [name for name, _child in network.named_children()]
    return [name for name in ran if children.index(name) > children.index(lists[-1])]


def _norm_of_head(network: Any) -> list[str]:
    """The last norm of networks in which it follows the pooling."""
    layers = dict(network.named_modules())
    return [name for name in ("fc_norm", "head.norm") if isinstance(layers.get(name), nn.LayerNorm)]


def _reads_image(network: nn.Module, channels: int) -> str:
    kernels = (name for name, p in network.named_parameters() if p.ndim == 4 and p.shape[1] == channels)
    return next(kernels, "")


class _Recorder(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Keeps each operator with the shapes and numbers that it is given."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.seen: list[tuple[str, str]] = []

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        self.seen.append((str(func), _said([*args, *(kwargs or {}).items()])))
        return func(*args, **(kwargs or {}))


def _said(values: Iterable[Any]) -> str:
    return ",".join(
        str(tuple(value.shape))
        if isinstance(value, Tensor)
        else f"[{_said(value)}]"
        if isinstance(value, list | tuple)
        else str(value)
        for value in values
    )


def _operators(run: Callable[[Tensor], Any], shape: Sequence[int]) -> list[tuple[str, str]]:
    with torch.no_grad(), _Recorder() as recorder:
        run(torch.empty((1, *shape), device="meta"))
    seen: list[tuple[str, str]] = recorder.seen
    return seen


def _compare(source: str, network: Any, chain: Sequence[nn.Module], shape: Sequence[int]) -> None:
    """Refuses a network whose parts, one after the other, do not compute its features."""
    wanted = _operators(network.forward_features, shape)
    try:
        found = _operators(nn.Sequential(*chain), shape)
    # A block that wants more than what the one below it gave fails in its own way.
    except Exception as error:
        raise _cannot(source, f"its blocks do not run one after the other ({_words(error)})") from error
    if found != wanted:
        raise _cannot(source, "its blocks, one after the other, are not all that it computes")


def _layout(source: str, shapes: Sequence[Sequence[int]]) -> Layout:
    """How the units give features, by the shapes that they have of a square image."""
    axes = {len(shape) for shape in shapes}
    if axes == {2}:
        return "tokens"
    if axes != {3}:
        raise _cannot(source, "its units give features of several kinds, maps and sequences")
    height, width, channels = shapes[-1]
    return "channels_last" if height == width != channels else "channels_first"
