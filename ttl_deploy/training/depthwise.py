"""Gradients of depthwise convolutions in float32, where a processor trains in bfloat16.

oneDNN has no fast kernel for most of them in bfloat16: of EfficientNet-Lite0 at 224 pixels they take 1.8 of a step's
3 seconds, and in float32 a quarter of that (`reports/speed.md`). The outputs stay those of autocast.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode


class FloatDepthwiseGradients(TorchFunctionMode):
    """Within it, under autocast to bfloat16 on a processor, 2-D depthwise convolutions are derived in float32.

    The kernels of 3x3 without stride stay as they are: theirs is fast.
    """

    def __torch_function__(
        self,
        called: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        if called is torch.conv2d and not kwargs and _slow(*args):
            image, weight, bias, *how = args
            with torch.autocast("cpu", enabled=False):
                return _Depthwise.apply(image, weight, bias, *how)
        return called(*args, **(kwargs or {}))


def _slow(
    image: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
) -> bool:
    """Whether it is one of those, of the form in which modules call it."""
    plain = not isinstance(padding, str) and not isinstance(stride, int)
    depthwise = image.ndim == 4 and groups == weight.shape[0] == image.shape[1] > 1
    return plain and depthwise and (tuple(weight.shape[2:]) != (3, 3) or tuple(stride) != (1, 1))


class _Depthwise(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, image: Tensor, weight: Tensor, bias: Tensor | None, *how: Any) -> Tensor:
        short = image.bfloat16()
        ctx.save_for_backward(short, weight)
        ctx.how, ctx.biased, ctx.kind = how, bias is not None, image.dtype
        return torch.conv2d(short, weight.bfloat16(), None if bias is None else bias.bfloat16(), *how)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        short, weight = ctx.saved_tensors
        stride, padding, dilation, groups = ctx.how
        image_grad, weight_grad, bias_grad = torch.ops.aten.convolution_backward(
            grads[0].float(),
            short.float(),
            weight.float(),
            [weight.shape[0]] if ctx.biased else None,
            stride,
            padding,
            dilation,
            False,
            [0] * len(stride),
            groups,
            ctx.needs_input_grad[:3],
        )
        return None if image_grad is None else image_grad.to(ctx.kind), weight_grad, bias_grad, *[None] * len(ctx.how)
