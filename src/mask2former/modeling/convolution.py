"""Convolution as torch has it, with the gradient of its weights at full speed on a CPU."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from mask2former.modeling import winograd


class Conv2d(nn.Conv2d):
    """`nn.Conv2d` by way of `convolve`, for what it knows: no groups, no dilation, zeros around."""

    def forward(self, x: Float[Tensor, "B C h w"]) -> Float[Tensor, "B D h2 w2"]:
        padding = self.known_padding()
        if padding is None:
            return super().forward(x)
        return convolve(x, self.weight, self.bias, self.stride, padding)

    def known_padding(self) -> tuple[int, ...] | None:
        """Zeros around; None where it is of another kind than those that are known."""
        known = self.groups == 1 and self.dilation == (1, 1) and self.padding_mode == "zeros"
        return None if not known or isinstance(self.padding, str) else self.padding


def convolve(
    x: Float[Tensor, "B C h w"],
    weight: Float[Tensor, "D C k k"],
    bias: Float[Tensor, "D"] | None,
    stride: tuple[int, ...],
    padding: tuple[int, ...],
) -> Float[Tensor, "B D h2 w2"]:
    """`F.conv2d`, up to rounding; on a CPU in the quickest way for a 3x3 kernel, and backward."""
    if (
        weight.requires_grad
        and weight.shape[-1] > 1
        and x.device.type == "cpu"
        and torch.is_grad_enabled()
        and not torch.compiler.is_compiling()
        and not torch.is_autocast_enabled("cpu")
    ):
        mixed: Tensor = QuickConvolution.apply(x, weight, bias, stride, padding)  # type: ignore[no-untyped-call]
        return mixed
    if winograd.gains(x, weight, stride, padding):
        return winograd.convolve(x, weight, bias)
    return F.conv2d(x, weight, bias, stride, padding)


class QuickConvolution(torch.autograd.Function):
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
        return convolve(x, weight, bias, stride, padding)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (gradient,), (x, weight) = gradients, ctx.saved_tensors
        for_x, for_weight, for_bias = ctx.needs_input_grad[:3]
        shared = (None, ctx.stride, ctx.padding, (1, 1), False, (0, 0), 1)
        of = torch.ops.aten.convolution_backward
        x_gradient = weight_gradient = bias_gradient = None
        if for_x and winograd.gains(gradient, weight, ctx.stride, ctx.padding):
            x_gradient = winograd.convolve(gradient, weight.flip(2, 3).transpose(0, 1))
        elif for_x:
            x_gradient = of(gradient, x, weight, *shared, (True, False, False))[0]
        if for_weight:
            maps = (gradient, x, weight)
            if not channels_last_are_quick():
                maps = (gradient.contiguous(), x.contiguous(), weight.contiguous())
            weight_gradient = of(*maps, *shared, (False, True, False))[1]
        if for_bias:
            bias_gradient = gradient.sum((0, 2, 3))
        return x_gradient, weight_gradient, bias_gradient, None, None


@lru_cache(maxsize=1)
def channels_last_are_quick() -> bool:
    """Whether oneDNN finds the gradient of a kernel quickly from maps with channels last.

    Without AVX-512 256 channels at 128x128 take it five times as long as forward, and in the plain
    layout as long as forward; with AVX-512 it is the plain layout that takes twice as long.
    """
    return torch.backends.cpu.get_cpu_capability().startswith("AVX512")
