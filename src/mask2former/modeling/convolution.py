"""Convolution as torch has it, with the gradient of its weights at full speed on a CPU."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from mask2former.modeling import winograd


class Conv2d(nn.Conv2d):
    """`nn.Conv2d` by way of `convolve`, for what it knows: no groups, no dilation, zeros around."""

    def forward(self, x: Float[Tensor, "B C h w"]) -> Float[Tensor, "B D h2 w2"]:
        known = self.groups == 1 and self.dilation == (1, 1) and self.padding_mode == "zeros"
        if not known or isinstance(self.padding, str):
            return super().forward(x)
        return convolve(x, self.weight, self.bias, self.stride, self.padding)


def convolve(
    x: Float[Tensor, "B C h w"],
    weight: Float[Tensor, "D C k k"],
    bias: Float[Tensor, "D"] | None,
    stride: tuple[int, ...],
    padding: tuple[int, ...],
) -> Float[Tensor, "B D h2 w2"]:
    """`F.conv2d`; where a CPU is to find the gradient of a 3x3 kernel, it is of plain copies.

    With channels last and without AVX-512, oneDNN is slow at it: 256 channels at 128x128 take five
    times as long as forward. In the plain layout they take as long as forward.
    """
    if (
        weight.requires_grad
        and weight.shape[-1] > 1
        and x.device.type == "cpu"
        and torch.is_grad_enabled()
        and not torch.is_autocast_enabled("cpu")
        and not torch.compiler.is_compiling()
    ):
        mixed: Tensor = PlainWeightGradient.apply(x, weight, bias, stride, padding)  # type: ignore[no-untyped-call]
        return mixed
    if winograd.gains(x, weight, stride, padding):
        return winograd.convolve(x, weight, bias)
    return F.conv2d(x, weight, bias, stride, padding)


class PlainWeightGradient(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Float[Tensor, "B C h w"],
        weight: Float[Tensor, "D C k k"],
        bias: Float[Tensor, "D"] | None,
        stride: tuple[int, ...],
        padding: tuple[int, ...],
    ) -> Float[Tensor, "B D h2 w2"]:
        ctx.save_for_backward(x, weight)
        ctx.stride, ctx.padding = stride, padding
        return F.conv2d(x, weight, bias, stride, padding)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (gradient,), (x, weight) = gradients, ctx.saved_tensors
        for_x, for_weight, for_bias = ctx.needs_input_grad[:3]
        shared = (None, ctx.stride, ctx.padding, (1, 1), False, (0, 0), 1)
        of = torch.ops.aten.convolution_backward
        x_gradient = weight_gradient = bias_gradient = None
        if for_x:
            x_gradient = of(gradient, x, weight, *shared, (True, False, False))[0]
        if for_weight:
            plain = (gradient.contiguous(), x.contiguous(), weight.contiguous())
            weight_gradient = of(*plain, *shared, (False, True, False))[1]
        if for_bias:
            bias_gradient = gradient.sum((0, 2, 3))
        return x_gradient, weight_gradient, bias_gradient, None, None
