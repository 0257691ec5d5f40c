"""Dead parameters and the memory of a forward pass, on networks small enough to work out by hand."""

import pytest
import torch
from torch import Tensor, nn

from ttl_deploy.complexity import count


class HalfUsed(nn.Module):
    """Holds an auxiliary head, a scale and a tied layer; runs the body and, through its second name, the tied one."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Linear(4, 4)
        self.auxiliary = nn.Linear(4, 10)
        self.scale = nn.Parameter(torch.ones(3))
        self.tied = nn.Linear(4, 4, bias=False)
        self.again = nn.Linear(4, 4, bias=False)
        self.again.weight = self.tied.weight

    def forward(self, features: Tensor) -> Tensor:
        features = self.body(features)
        if self.training:
            features = features + self.auxiliary(features).sum()
        return self.again(features)


def test_what_no_operator_reads_is_dead() -> None:
    """The auxiliary head (4 * 10 + 10) runs in training only, the scale (3) never."""
    cost = count(HalfUsed(), (4,))
    assert cost.parameters == (16 + 4) + (40 + 10) + 3 + 16
    assert cost.dead == 50 + 3


def test_frozen_and_dead_are_two_things() -> None:
    model = HalfUsed()
    model.body.requires_grad_(False)
    cost = count(model, (4,))
    assert cost.trainable == cost.parameters - 20
    assert cost.dead == 53


def test_counting_leaves_the_model_as_it_is() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)).train()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    count(model, (3, 8, 8))
    assert model.training
    assert all(tensor.equal(before[name]) for name, tensor in model.state_dict().items())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


class Skip(nn.Module):
    """`x + body(x)`: the input has to live until the addition."""

    def __init__(self, body: nn.Module) -> None:
        super().__init__()
        self.body = body

    def forward(self, features: Tensor) -> Tensor:
        return features + self.body(features)


def chain(*layers: nn.Module) -> nn.Sequential:
    return nn.Sequential(*layers)


def conv(channels: int, out: int) -> nn.Conv2d:
    return nn.Conv2d(channels, out, kernel_size=1, bias=False)


PIXELS = 4 * 8 * 8
"""Bytes of one fp32 channel of 8 x 8."""


@pytest.mark.parametrize(
    ("model", "channels"),
    [
        # image 1 and 4 channels, then 4 and 2: the first moment is 5, the second 6
        (chain(conv(1, 4), conv(4, 2)), 6),
        # the second convolution's output of 16 lives beside its input of 4
        (chain(conv(1, 4), conv(4, 16), conv(16, 1)), 20),
        # in place: relu adds nothing to 1 + 4
        (chain(conv(1, 4), nn.ReLU(inplace=True)), 5),
        # not in place: 4 and its copy
        (chain(conv(1, 4), nn.ReLU()), 8),
        # batch norm writes a new tensor
        (chain(conv(1, 4), nn.BatchNorm2d(4)), 8),
        # a view has no memory of its own; the linear layer's result is 2 numbers beside the 4 channels
        (chain(conv(1, 4), nn.Flatten(), nn.Linear(256, 2)), 5),
        # max pooling's positions are read by nobody: image 8, then 8 and a quarter of it
        (chain(nn.MaxPool2d(2)), 1.25),
        # skip: the image (1) lives to the addition; worst are the image, 6 and 1 at once
        (Skip(chain(conv(1, 6), conv(6, 1))), 8),
    ],
)
def test_the_peak_of_a_chain_worked_out_by_hand(model: nn.Module, channels: float) -> None:
    assert count(model, (1, 8, 8)).activation_peak == channels * PIXELS


def test_volumes_are_traced_as_images_are() -> None:
    model = nn.Sequential(nn.Conv3d(1, 2, 1, bias=False), nn.ReLU())
    assert count(model, (1, 4, 8, 8)).activation_peak == 4 * (2 + 2) * 4 * 8 * 8


def test_weights_in_fp32_are_what_a_weights_file_holds() -> None:
    """int8 by hand: 3x3x3x4 and 4x2 bytes, 4 and 2 scales; bias 2, batch norm's gamma, beta, mean, variance in fp32."""
    model = nn.Sequential(nn.Conv2d(3, 4, 3, bias=False), nn.BatchNorm2d(4), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    model.append(nn.Linear(4, 2))
    held = sum(t.numel() * t.element_size() for t in model.state_dict().values() if t.is_floating_point())
    weights = count(model, (3, 8, 8)).weight_bytes
    assert weights["fp32"] == held
    assert weights["fp16"] == weights["bf16"] == held / 2
    assert weights["int8"] == (108 + 8) + 4 * (4 + 2) + 4 * (2 + 16)
