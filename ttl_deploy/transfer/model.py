"""`TransferModel`: a chain of units and a head, built from a `ModelSpec`; layers that are not run are not in it.

State dicts that leave the module use the original network's parameter names, so they load into torchvision and
timm, and back.
"""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from ttl_deploy.errors import BadInputError
from ttl_deploy.spec import ModelSpec
from ttl_deploy.spec.methods import METHOD_GROUP, METHOD_OPTIONS
from ttl_deploy.spec.options import OptionedRegistry
from ttl_deploy.transfer.heads import HEADS, TapHead, TokenHead, refuse_misfit, usual_head
from ttl_deploy.transfer.taps import Place, places_of, steps
from ttl_deploy.zoo import BACKBONES, Backbone, Unit
from ttl_deploy.zoo.backbone import chain_shape, layout, trace_shapes

HEAD = "head"

_RESOLVED = 512
"""Specs whose answer is kept: a search counts every cut of a network many times."""


@dataclass(frozen=True)
class Plan:
    """What a transfer method does with each unit.

    Attributes:
        reused: Units that take the source's weights, bottom first.
        slimmed: Units above them that are built anew with divided channels and random weights; where a network's last
            norm must follow a cut with other channels, that norm, as wide as the features.
        frozen: Reused units that are not trained, nor are their batch-norm statistics.
        rate_scale: Factor on the base learning rate by unit name; 1 where a unit is not named.
    """

    reused: tuple[Unit, ...]
    slimmed: tuple[Unit, ...] = ()
    frozen: tuple[Unit, ...] = ()
    rate_scale: Mapping[str, float] = field(default_factory=dict)


MethodPlanner = Callable[[Backbone, ModelSpec], Plan]
"""Reads what its own record of options asks for from the spec's `method_options`."""

METHODS: OptionedRegistry[MethodPlanner] = OptionedRegistry(METHOD_OPTIONS, "ttl_deploy.transfer", METHOD_GROUP)


class TransferModel(nn.Module):
    """A backbone's units followed by a head: images (N, C, H, W) to logits (N, classes), or to maps of them.

    Args:
        spec: What it is built from.
        plan: What the method does with each unit.
        modules: The units' modules by unit name.
        head: Features to logits.
        taps: What the head reads; none: the last features.
    """

    def __init__(
        self,
        spec: ModelSpec,
        plan: Plan,
        modules: Mapping[str, nn.Module],
        head: nn.Module,
        taps: Sequence[Place] = (),
    ) -> None:
        super().__init__()
        self.spec = spec
        self.plan = plan
        self.chain = (*plan.reused, *plan.slimmed)
        self.units = nn.ModuleDict({unit_key(unit): modules[unit.name] for unit in self.chain})
        self.head = head
        self.taps = tuple(taps)
        for unit in plan.frozen:
            self.unit(unit).requires_grad_(False)

    def forward(self, images: Tensor) -> Tensor:
        """Logits, before softmax."""
        if self.taps:
            return self._from_taps(images)
        features = images
        for unit in self.units.values():
            features = unit(features)
        logits: Tensor = self.head(features)
        return logits

    def _from_taps(self, images: Tensor) -> Tensor:
        features, found = images, {}
        for name, unit in self.units.items():
            for part, step in steps(unit, frozenset(tap.part for tap in self.taps if tap.unit == name)):
                features = found[name, part] = step(features)
        logits: Tensor = self.head(*(found[tap.unit, tap.part] for tap in self.taps))
        return logits

    def unit(self, unit: Unit) -> nn.Module:
        """The module of a unit."""
        return self.units[unit_key(unit)]

    def train(self, mode: bool = True) -> Self:
        """Frozen units stay in evaluation mode, so that their batch-norm statistics do not move."""
        super().train(mode)
        for unit in self.plan.frozen:
            self.unit(unit).eval()
        return self

    def parameter_groups(
        self, learning_rate: float, rate_new: float | None = None, new: Collection[Unit] = ()
    ) -> list[dict[str, Any]]:
        """Optimizer groups, the head's first, with the method's learning rates; frozen units are left out.

        Args:
            learning_rate: Base rate.
            rate_new: Base rate of what starts at random: the head, slimmed units, `new`. None: the same.
            new: Reused units that start at random all the same.
        """
        random = {unit.name for unit in (*self.plan.slimmed, *new)}
        fresh = learning_rate if rate_new is None else rate_new
        groups: dict[float, list[nn.Parameter]] = {fresh: list(self.head.parameters())}
        for unit in self.chain:
            parameters = [p for p in self.unit(unit).parameters() if p.requires_grad]
            rate = (fresh if unit.name in random else learning_rate) * self.plan.rate_scale.get(unit.name, 1.0)
            groups.setdefault(rate, []).extend(parameters)
        return [{"params": params, "lr": rate} for rate, params in groups.items() if params]

    def network_state(self) -> dict[str, Tensor]:
        """All tensors under the original network's names; the head's under `head.`."""
        return {name: tensor.detach() for name, tensor in self._named_tensors()}

    def load_network_state(self, state: Mapping[str, Tensor]) -> None:
        """Loads what `network_state` gave.

        Raises:
            BadInputError: A tensor is missing, superfluous or of another shape or type.
        """
        self.refuse_other_state(state)
        with torch.no_grad():
            for name, tensor in self._named_tensors():
                tensor.copy_(state[name])

    def refuse_other_state(self, state: Mapping[str, Tensor]) -> None:
        """Raises `BadInputError` where a tensor is missing, superfluous or of another shape or type."""
        own = dict(self._named_tensors())
        wrong = [k for k in own if k not in state or _form(own[k]) != _form(state[k])] + [
            k for k in state if k not in own
        ]
        if wrong:
            raise BadInputError(f"weights do not fit the model: {len(wrong)} tensors, first {wrong[0]!r}")

    def _named_tensors(self) -> Iterator[tuple[str, Tensor]]:
        for unit in self.chain:
            for name, tensor in self.unit(unit).state_dict(keep_vars=True).items():
                yield unit.prefix + name, tensor
        for name, tensor in self.head.state_dict(keep_vars=True).items():
            yield f"{HEAD}.{name}", tensor


def _form(tensor: Tensor) -> tuple[torch.Size, torch.dtype]:
    return tensor.shape, tensor.dtype


@dataclass(frozen=True)
class Resolved:
    """A spec whose names were looked up.

    Attributes:
        spec: With the cut in the network's own words and its method's options in full.
        backbone: The network.
        plan: What the method does with each unit.
    """

    spec: ModelSpec
    backbone: Backbone
    plan: Plan


def resolve(spec: ModelSpec) -> Resolved:
    """Looks a spec's names and options up; of an equal spec the answer is kept, so that a command parses a cut once.

    Raises:
        BadInputError: Unknown backbone, method, head, cut or option, a method without the cut it needs, or a head that
            cannot read what the backbone gives.
    """
    backbone = BACKBONES.get(spec.backbone)
    spec = spec.model_copy(update={"backbone": BACKBONES.full_name(spec.backbone)})
    if "head" not in spec.model_fields_set:
        spec = spec.model_copy(update={"head": usual_head(backbone)})
    refuse_misfit(spec.head, backbone)
    return _resolved(spec, backbone, METHODS.get(spec.method))


@functools.lru_cache(maxsize=_RESOLVED)
def _resolved(spec: ModelSpec, backbone: Backbone, planner: MethodPlanner) -> Resolved:
    backbone = backbone.at(spec.input.size)
    if spec.cut is not None:
        spec = spec.model_copy(update={"cut": backbone.resolve(spec.cut).name})
    options = METHOD_OPTIONS.complete(spec.method, spec.method_options)
    spec = spec.model_copy(update={"method_options": options})
    return Resolved(spec, backbone, _finished(backbone, planner(backbone, spec)))


def _finished(backbone: Backbone, plan: Plan) -> Plan:
    """A plan with what must follow its topmost unit."""
    top = (*plan.reused, *plan.slimmed)[-1]
    unit = None if top == backbone.tail else backbone.finish(top)
    if unit is None:
        return plan
    if plan.slimmed or backbone.resolve(top.name).channels != backbone.cut_points[-1].channels:
        return replace(plan, slimmed=(*plan.slimmed, unit))
    return replace(plan, reused=(*plan.reused, unit))


def build(spec: ModelSpec) -> TransferModel:
    """Builds the model with random weights.

    Raises:
        BadInputError: The spec names something unknown, or the image is too small for the layers kept.
    """
    found = resolve(spec)
    return _assembled(found, found.backbone.build(found.spec.input.channels))


def _assembled(found: Resolved, modules: Mapping[str, nn.Module]) -> TransferModel:
    """The model of a network's own modules, by unit name, of which it takes those that the plan reuses."""
    spec, backbone, plan = found.spec, found.backbone, found.plan
    reused = {unit.name: modules[unit.name] for unit in plan.reused}
    shape = chain_shape(backbone, spec.input_shape, tuple(reused))
    slimmed = _slim_chain(backbone, plan, modules, backbone.channels_first(shape)[0], spec.slim)
    if slimmed:
        shape = trace_shapes(slimmed.values(), shape)[-1]
    return _with_head(found, {**reused, **slimmed}, shape)


def build_unfilled(spec: ModelSpec) -> TransferModel:
    """Builds a model for weights that are all loaded next; zeros stand where `build` has random numbers.

    To draw a whole network's weights takes longer than to read those of the layers that are kept.

    Raises:
        BadInputError: As `build`.
    """
    # Looked up first: what is imported on the way may hold parameters of its own.
    resolve(spec)
    with _Undrawn():
        return build(spec)


class _Undrawn(TorchFunctionMode):
    """Fills parameters with zeros where PyTorch would draw them; drawing until a number fits still ends."""

    # Functions beside the methods that they call: within a function that was let through, nothing is seen here.
    DRAWS: ClassVar = {
        *(nn.init.kaiming_uniform_, nn.init.kaiming_normal_, nn.init.uniform_, nn.init.normal_),
        *(Tensor.uniform_, Tensor.normal_),
    }

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = kwargs or {}
        drawn = (args[0] if args else given.get("tensor")) if func in self.DRAWS else None
        if not isinstance(drawn, nn.Parameter):
            return func(*args, **given)
        drawn.detach().zero_()
        return drawn


def weightless(spec: ModelSpec) -> TransferModel:
    """A model to count: counting needs no weights, and drawing those of every candidate would take seconds.

    Its layers are those of other such models too, so that a network is laid out once, however many of its cuts are
    counted. It is counted outside the block that makes it: there ptflops sees every tensor function twice.
    """
    found = resolve(spec)
    modules = dict(layout(found.backbone, found.spec.input.channels))
    for unit in found.plan.frozen:
        modules[unit.name] = copy.deepcopy(modules[unit.name])
    with torch.device("meta"):
        return _assembled(found, modules)


def _with_head(found: Resolved, modules: Mapping[str, nn.Module], shape: Sequence[int]) -> TransferModel:
    """The model of its units' modules, whose last features have a shape (C, ...), or (T, C) where they are tokens."""
    spec, plan = found.spec, found.plan
    builder, outputs = HEADS.get(spec.head), len(spec.classes)
    if isinstance(builder, TokenHead):
        return TransferModel(spec, plan, modules, builder.build(shape, outputs, found.backbone.prefix_tokens))
    if not isinstance(builder, TapHead):
        return TransferModel(spec, plan, modules, builder(shape, outputs))
    keyed = {unit_key(unit): modules[unit.name] for unit in (*plan.reused, *plan.slimmed)}
    taps = builder.taps(places_of(keyed, spec.input_shape), spec.input.size)
    head = builder.build([tap.shape for tap in taps], outputs, spec.input.size)
    return TransferModel(spec, plan, modules, head, taps)


def require_cut(spec: ModelSpec) -> str:
    """The spec's cut.

    Raises:
        BadInputError: The method needs one and the spec has none.
    """
    if spec.cut is None:
        raise BadInputError(
            f"method {spec.method} needs a cut",
            fix=f"pass --cut NAME; `ttl-deploy cuts {spec.backbone}` lists them",
        )
    return spec.cut


def refuse_cut(spec: ModelSpec) -> None:
    """Raises `BadInputError` where a method that keeps every layer was given a cut."""
    if spec.cut is not None or spec.layers is not None:
        raise BadInputError(f"method {spec.method} keeps every layer and takes no cut", fix="drop --cut")


def split_at(backbone: Backbone, cut: str) -> tuple[tuple[Unit, ...], tuple[Unit, ...]]:
    """The units up to and including a cut, and those above it, tail included."""
    index = backbone.resolve(cut).index + 1
    return backbone.all_units[:index], backbone.all_units[index:]


def _slim_chain(
    backbone: Backbone, plan: Plan, modules: Mapping[str, nn.Module], channels: int, factor: int
) -> dict[str, nn.Module]:
    slimmed = {}
    for unit in plan.slimmed:
        slimmed[unit.name], channels = backbone.slim(unit, modules[unit.name], channels, factor)
    return slimmed


def unit_key(unit: Unit) -> str:
    """Name of a unit's module within `TransferModel.units`."""
    return unit.name.replace(".", "_")
