"""Gradients of depthwise convolutions in float32: no further from the truth than autocast's, and only of those."""

import itertools
from contextlib import nullcontext
from unittest import mock

import pytest
import torch
from torch import nn

from ttl_deploy.training import depthwise
from ttl_deploy.training.depthwise import FloatDepthwiseGradients

SLOW = [(kernel, stride, bias) for kernel, stride, bias in itertools.product((3, 5), (1, 2), (True, False))][2:]


def gradients(layer: nn.Module, image: torch.Tensor, within: bool) -> list[torch.Tensor]:
    """Output and gradients of image and parameters under autocast, or in float64 where the image is of that."""
    leaf = image.clone().requires_grad_()
    layer.zero_grad()
    short = torch.autocast("cpu", dtype=torch.bfloat16, enabled=image.dtype != torch.float64)
    with FloatDepthwiseGradients() if within else nullcontext(), short:
        output = layer(leaf)
    torch.manual_seed(1)
    output.backward(torch.randn(output.shape).bfloat16().to(output.dtype))
    assert leaf.grad is not None
    found = [output, leaf.grad, *(one.grad for one in layer.parameters() if one.grad is not None)]
    return [one.detach().double() for one in found]


@pytest.mark.parametrize(("kernel", "stride", "bias"), SLOW)
@pytest.mark.parametrize("dilation", [1, 2])
def test_they_are_nearer_to_those_of_float64(kernel, stride, bias, dilation):
    torch.manual_seed(0)
    layer = nn.Conv2d(8, 8, kernel, stride, kernel // 2, dilation, groups=8, bias=bias)
    image = torch.randn(4, 8, 13, 12)
    ours, autocast = (gradients(layer, image, within) for within in (True, False))
    exact = gradients(layer.double(), image.double(), False)
    assert len(ours) == len(exact) == 3 + bias
    assert torch.equal(ours[0], autocast[0])
    for mine, usual, truth in zip(ours[1:], autocast[1:], exact[1:], strict=True):
        assert (mine - truth).norm() <= 1.05 * (usual - truth).norm()
        assert (mine - truth).norm() < 0.01 * truth.norm()


@pytest.mark.parametrize(
    ("layer", "taken"),
    [
        (nn.Conv2d(8, 8, 5, groups=8), True),
        (nn.Conv2d(8, 8, 3, 2, groups=8), True),
        (nn.Conv2d(8, 8, 3, groups=8), False),
        (nn.Conv2d(8, 8, 5, groups=4), False),
        (nn.Conv2d(8, 16, 5, groups=8), False),
        (nn.Conv2d(1, 1, 5), False),
        (nn.Conv2d(8, 8, 5, padding="same", groups=8), False),
    ],
)
def test_only_slow_depthwise_convolutions_are_taken(layer, taken):
    image = torch.randn(2, layer.in_channels, 9, 9)
    with mock.patch.object(depthwise, "_Depthwise", wraps=depthwise._Depthwise) as seen:
        gradients(layer, image, True)
    assert seen.apply.called == taken


def test_what_is_frozen_gets_no_gradient():
    layer = nn.Conv2d(8, 8, 5, groups=8).requires_grad_(False)
    _output, of_image = gradients(layer, torch.randn(2, 8, 9, 9), True)
    assert of_image.abs().sum() > 0
