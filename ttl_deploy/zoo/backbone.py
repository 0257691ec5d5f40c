"""What a backbone is: an ordered list of units that never cut through a skip connection, and names for the cuts.

Nothing here knows about training or export, nor how many blocks, dimensions or channels a network has.
"""

from __future__ import annotations

import copy
import functools
import math
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Self

import torch
from torch import Tensor, nn

from ttl_deploy.errors import BadInputError, near
from ttl_deploy.registry import Registry
from ttl_deploy.spec import InputSpec, make_record
from ttl_deploy.zoo.cut_point import CutPoint

Layout = Literal["channels_first", "channels_last", "tokens"]
"""How units give features, without the batch: (C, ...), (..., C), or a sequence of tokens (T, C)."""


class Zoo(Registry["Backbone"]):
    """The backbones by name; those of a family, such as `timm:resnet18`, are made when they are asked for.

    Arguments as for `Registry`.
    """

    def __init__(self, kind: str, package: str, entry_points: str) -> None:
        super().__init__(kind, package, entry_points)
        self._families: dict[str, Callable[[str], Backbone]] = {}
        self._made: dict[str, Backbone] = {}

    def family(self, word: str) -> Callable[[Callable[[str], Backbone]], Callable[[str], Backbone]]:
        """Decorator of a function that makes a backbone of what follows `word:` in its name."""

        def add(make: Callable[[str], Backbone]) -> Callable[[str], Backbone]:
            self._families[word] = make
            return make

        return add

    def get(self, name: str) -> Backbone:
        """See `Registry.get`; a family's own error where it has no such backbone."""
        own = self.full_name(name)
        word, mark, rest = own.partition(":")
        if not mark or word not in self._families:
            return super().get(name)
        if own not in self._made:
            self._made[own] = self._families[word](rest)
        return self._made[own]

    def full_name(self, name: str) -> str:
        """The name with a colon after a family's word, where a slash stands too; any other as it is."""
        self._discover()
        word, mark, rest = name.strip().partition("/")
        return f"{word}:{rest}" if mark and word in self._families else name


BACKBONES = Zoo("backbone", "ttl_deploy.zoo", "ttl_deploy.backbones")


@dataclass(frozen=True)
class Unit:
    """A run of layers with one input and one output, between two places where the network may be cut.

    Attributes:
        name: The network's own name (`layer3.3`).
        block: Number of its block, from 1; 0 for the stem.
        prefix: What precedes its parameters' names in the original network's state dict.
        cut: Whether the network may be cut after it.
        ends_block: Whether it is the last unit of its block.
    """

    name: str
    block: int
    prefix: str
    cut: bool = True
    ends_block: bool = False


class Backbone(ABC):
    """A network of the zoo.

    Attributes:
        name: Name in the zoo.
        units: Everything up to the last cut point, bottom first.
        tail: Layers above the last cut point that only the whole network runs (a last norm, an expanding
            convolution), or None.
        input_size: Image size of its pretraining, pixels; of volumes depth, height and width.
        first_weight: State-dict name of the convolution that reads the image.
        usual_block: The block after which the paper truncates networks of the family (Tables 1 to 3), or None where it
            has none.
        normalisation: Mean and standard deviation, on the 0..1 scale, that every channel had in its pretraining, or
            those of each of its channels; None: ImageNet's own.
        dims: Spatial dimensions of its input: 2 for an image, 3 for a volume.
        container: What may stand before its units' names, as it does in the original network.
        unslimmed: Why its units have no slim form; None: they have one.
        layout: How its units give features. Where the last one is not `tokens`, heads get them channels first.
        prefix_tokens: Tokens before those of the image.
        class_token: Whether the first of them is there to be classified.
    """

    name: str
    units: tuple[Unit, ...]
    tail: Unit | None = None
    input_size: int | tuple[int, ...] = 224
    first_weight: str
    usual_block: int | None = None
    normalisation: tuple[float, float] | tuple[tuple[float, ...], tuple[float, ...]] | None = None
    dims: int = 2
    container: str = "features."
    unslimmed: str | None = None
    layout: Layout = "channels_first"
    prefix_tokens: int = 0
    class_token: bool = False

    @property
    def kind(self) -> str:
        """Of its inputs, as in `InputSpec`."""
        return "image" if self.dims == 2 else "volume"

    def input_spec(self, size: int | str | Sequence[int] | None = None, channels: int = 3) -> InputSpec:
        """One input of the network.

        Args:
            size: As for `InputSpec`; None: that of its pretraining.
            channels: Its channels.

        Raises:
            BadInputError: The size is not of the network's number of axes, or out of range.
        """
        return make_record(InputSpec, kind=self.kind, size=self.input_size if size is None else size, channels=channels)

    def at(self, size: Sequence[int]) -> Self:
        """The network for inputs of a size, where that decides what it holds, such as a position embedding.

        Args:
            size: (height, width) in pixels, or (depth, height, width).
        """
        return self

    @abstractmethod
    def build(self, channels: int = 3) -> dict[str, nn.Module]:
        """Builds every unit, tail included, with the network's own random initialisation; on the device `meta` too.

        Args:
            channels: Input channels.
        """

    @abstractmethod
    def slim(self, unit: Unit, original: nn.Module, channels: int, factor: int) -> tuple[nn.Module, int]:
        """Builds a unit with its layers' channels divided, randomly initialised (TransFusion; paper, section 3.1).

        Args:
            unit: Which unit.
            original: The unit at full width.
            channels: Channels of its input.
            factor: Divisor of the channels; 2 is the paper's halving.

        Returns:
            The slim unit and the channels of its output.
        """

    @abstractmethod
    def pretrained(self) -> Mapping[str, Tensor]:
        """Fetches ImageNet weights (from the cache where they are there).

        Raises:
            WeightsError: They cannot be fetched; the error names the address and the way out.
        """

    def finish(self, top: Unit) -> Unit | None:
        """What must follow the topmost unit that is kept, such as a last norm; None: nothing.

        It takes the original's weights where the original has as many channels there, or else is built by `slim`.

        Args:
            top: Of the units; not the tail.
        """
        return None

    def channels_first(self, shape: Sequence[int]) -> tuple[int, ...]:
        """(C, *positions) of the shape of a unit's features without the batch; tokens have one axis of positions."""
        return tuple(shape) if self.layout == "channels_first" else (shape[-1], *shape[:-1])

    def with_channels_first(self, features: Tensor) -> Tensor:
        """(N, C, *positions) of a unit's features."""
        return features if self.layout == "channels_first" else features.movedim(-1, 1)

    def upgrade(self, state: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """Renames the keys of checkpoints from older versions of the network's library."""
        return state

    def fit(self, state: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """A source's tensors, under the network's names, in the shapes that this size of input asks for."""
        return state

    @property
    def all_units(self) -> tuple[Unit, ...]:
        """The units and the tail."""
        return (*self.units, *([self.tail] if self.tail else []))

    @functools.cached_property
    def layers(self) -> tuple[tuple[Unit, ...], ...]:
        """The units, tail included, as layers in the sense of LWFT (paper, section 3.1), bottom first.

        A layer has weights that mix channels. A unit without any, such as DenseNet's last batch norm, belongs to the
        layer below it.
        """
        modules = layout(self, 3)
        grouped: list[tuple[Unit, ...]] = []
        for unit in self.all_units:
            if not grouped or any(weight.ndim > 1 for weight in modules[unit.name].parameters()):
                grouped.append((unit,))
            else:
                grouped[-1] += (unit,)
        return tuple(grouped)

    @functools.cached_property
    def cut_points(self) -> tuple[CutPoint, ...]:
        """Every place where the network may be cut, bottom first."""
        given, modules = self.input_spec().shape, layout(self, 3)
        traced = trace_shapes((modules[unit.name] for unit in self.units), given)
        shapes = [self.channels_first(shape) for shape in traced]
        return tuple(
            CutPoint(index, unit.name, unit.block, shape[0], self.stride(given[-1], self._side(shape)), unit.ends_block)
            for index, (unit, shape) in enumerate(zip(self.units, shapes, strict=True))
            if unit.cut
        )

    def _side(self, shape: Sequence[int]) -> int:
        """Length of the last axis of (C, *positions); the tokens of an image are a square."""
        return math.isqrt(shape[-1] - self.prefix_tokens) if self.layout == "tokens" else shape[-1]

    def stride(self, given: int, left: int) -> int:
        """Input size over feature size, of the last axis; a network without padding loses a little more."""
        return round(given / left)

    def resolve(self, cut: str | int) -> CutPoint:
        """Finds a cut point by its name, by `block:N`, by a block's name (`layer3`: its end) or by its index.

        Raises:
            BadInputError: There is no such cut; the error lists the nearest names.
        """
        text = str(cut).strip().removeprefix(self.container)
        matches = [point for point in self.cut_points if _matches(point, text)]
        if not matches:
            names = [point.name for point in self.cut_points]
            raise BadInputError(
                f"cut {text!r} does not exist in {self.name}",
                fix=f"{near(text, names)}; `ttl-deploy cuts {self.name}` lists all {len(names)}",
            )
        return matches[-1]


def _matches(point: CutPoint, text: str) -> bool:
    if text.startswith("block:"):
        return point.ends_block and text == f"block:{point.block}"
    if text.isdecimal():
        return point.index == int(text)
    return point.name == text or point.name.startswith(text + ".")


def trace_shapes(modules: Iterable[nn.Module], shape: Sequence[int]) -> list[tuple[int, ...]]:
    """Shapes after each module of a chain, found without computing anything.

    Args:
        modules: The chain, bottom first; left as it is.
        shape: Shape of one input without the batch, for example (3, 224, 224).

    Raises:
        BadInputError: The input is too small for the chain.
    """
    features = torch.empty((1, *shape), device="meta")
    shapes = []
    for module in modules:
        try:
            features = _run_on_meta(module, features)
        except RuntimeError as error:
            raise _too_small(shape) from error
        shapes.append(tuple(features.shape[1:]))
    return shapes


@functools.lru_cache(maxsize=64)
def layout(backbone: Backbone, channels: int) -> Mapping[str, nn.Module]:
    """A network's units on the device `meta`, by name, made once; whoever changes one takes a copy.

    Args:
        backbone: The network.
        channels: Input channels.
    """
    with torch.inference_mode(False), torch.device("meta"):
        return backbone.build(channels)


def chain_shape(backbone: Backbone, given: tuple[int, ...], units: tuple[str, ...]) -> tuple[int, ...]:
    """The shape after the last of some of a network's units; what was found of those below it is kept.

    Args:
        backbone: The network.
        given: Shape of one input without the batch, for example (3, 224, 224).
        units: Their names, bottom first.

    Raises:
        BadInputError: The input is too small for them.
    """
    # Made first: what fails in it is not the size of the input.
    layout(backbone, given[0])
    try:
        return _after(backbone, given, units)
    except RuntimeError as error:
        raise _too_small(given) from error


@functools.lru_cache(maxsize=4096)
def _after(backbone: Backbone, given: tuple[int, ...], units: tuple[str, ...]) -> tuple[int, ...]:
    *below, top = units
    features = torch.empty((1, *(_after(backbone, given, tuple(below)) if below else given)), device="meta")
    return tuple(_run_on_meta(layout(backbone, given[0])[top], features).shape[1:])


def _too_small(given: Sequence[int]) -> BadInputError:
    return BadInputError(f"{_called(given)} is too small for this network", fix="raise --image-size")


def _called(shape: Sequence[int]) -> str:
    if len(shape) > 3:
        return f"a volume of {'x'.join(map(str, shape[1:]))} voxels"
    return f"an image of {shape[-1]} pixels"


def _run_on_meta(module: nn.Module, features: Tensor) -> Tensor:
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        result: Tensor = ghost(module)(features)
    return result


def ghost(module: nn.Module) -> nn.Module:
    """A copy in evaluation mode on the device `meta`, for shapes and counts: no value is copied on the way.

    Args:
        module: Left as it is.
    """
    # What deepcopy finds here counts as copied already.
    copied: dict[int, Any] = {id(buffer): buffer.to("meta") for buffer in module.buffers()}
    for parameter in module.parameters():
        if type(parameter) is nn.Parameter:
            empty = torch.empty_like(parameter, device="meta")
            copied[id(parameter)] = nn.Parameter(empty, requires_grad=parameter.requires_grad)
    return copy.deepcopy(module, copied).to("meta").eval()


def residual_units(depths: Sequence[int], stem: str = "") -> tuple[Unit, ...]:
    """The stem and the residual blocks of a ResNet: `layer2.0` is the first of the second stage.

    Args:
        depths: Blocks per stage.
        stem: What precedes the names of the stem's parameters.
    """
    blocks = [
        Unit(f"layer{stage}.{i}", stage, f"layer{stage}.{i}.")
        for stage, depth in enumerate(depths, start=1)
        for i in range(depth)
    ]
    return mark_block_ends([Unit("stem", 0, stem), *blocks])


def mark_block_ends(units: Sequence[Unit]) -> tuple[Unit, ...]:
    """Sets `ends_block` on the last unit of every block above the stem."""
    last = {unit.block: unit.name for unit in units if unit.block > 0}
    ends = set(last.values())
    return tuple(Unit(u.name, u.block, u.prefix, u.cut, u.name in ends) for u in units)
