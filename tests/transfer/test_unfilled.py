"""Models whose weights come from elsewhere: nothing is drawn for them, and loaded they are the model that gave them."""

from __future__ import annotations

import pytest
import torch
from small import unlike
from torch import nn
from zoo_cross import small_spec

from ttl_deploy.complexity import count
from ttl_deploy.errors import BadInputError
from ttl_deploy.spec import ModelSpec
from ttl_deploy.transfer import METHODS, build, build_unfilled, weightless
from ttl_deploy.transfer.model import _Undrawn
from ttl_deploy.zoo import BACKBONES
from ttl_deploy.zoo.backbone import chain_shape, ghost


@pytest.mark.parametrize("backbone", unlike())
def test_nothing_is_drawn_and_what_is_loaded_computes_the_same(backbone: str) -> None:
    spec = small_spec(backbone, "ttl")
    drawn = build(spec).eval()
    before = torch.get_rng_state()
    loaded = build_unfilled(spec).eval()
    assert torch.equal(torch.get_rng_state(), before)
    loaded.load_network_state(drawn.network_state())
    images = torch.randn(2, *spec.input_shape, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        assert torch.equal(loaded(images), drawn(images))


def test_drawing_until_a_number_fits_ends() -> None:
    layer = nn.Linear(3, 3)
    with _Undrawn():
        nn.init.trunc_normal_(layer.weight, a=0.3, b=5.0)
    assert layer.weight.min() >= 0.3


def test_what_is_no_parameter_is_drawn() -> None:
    with _Undrawn():
        assert torch.empty(99).normal_().std() > 0.5


class Tied(nn.Module):
    """Two layers of one weight, one of them frozen's, and a norm."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.norm = nn.Linear(4, 4), nn.Linear(4, 4), nn.BatchNorm1d(4)
        self.second.weight = self.first.weight
        self.second.bias.requires_grad_(False)
        self.constant = torch.ones(4)
        self.register_buffer("unsaved", torch.arange(4), persistent=False)


def test_a_ghost_has_every_shape_and_no_value() -> None:
    module = Tied().train()
    copied = ghost(module)
    assert all(tensor.is_meta for tensor in (*copied.parameters(), *copied.buffers()))
    assert copied.second.weight is copied.first.weight
    assert [p.requires_grad for p in copied.parameters()] == [p.requires_grad for p in module.parameters()]
    assert {n: t.shape for n, t in copied.state_dict().items()} == {n: t.shape for n, t in module.state_dict().items()}
    assert not copied.training and module.training
    assert not any(tensor.is_meta for tensor in (*module.parameters(), *module.buffers()))


@pytest.mark.parametrize("backbone", ["resnet18", "convnext_tiny", "cbr_tiny"])
def test_models_that_share_their_layers_are_counted_as_those_that_do_not(backbone: str) -> None:
    methods = [name for name in METHODS.names() if name != "tf" or BACKBONES.get(backbone).unslimmed is None]
    specs = [small_spec(backbone, method) for method in (*methods, *reversed(methods))]
    ghosts = [weightless(spec) for spec in specs]
    for spec, model in zip(specs, ghosts, strict=True):
        assert count(model, spec.input_shape) == count(build(spec), spec.input_shape), spec.method


def test_an_image_that_is_too_small_is_told_in_its_own_pixels() -> None:
    names = tuple(unit.name for unit in BACKBONES.get("densenet121").units)
    with pytest.raises(BadInputError, match="an image of 8 pixels is too small"):
        chain_shape(BACKBONES.get("densenet121"), (3, 8, 8), names)
    spec = ModelSpec(backbone="densenet121", classes=("a", "b"), image_size=8)
    with pytest.raises(BadInputError, match="an image of 8 pixels is too small"):
        build(spec)
