"""Linear layers, at the full speed of a CPU where they have many rows.

oneDNN's 1x1 convolution is a tenth to a quarter faster there than the product of matrices that
`F.linear` is, and adds the bias as it goes instead of writing it down first. The gradient of the
weights alone is faster as a product.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

MANY = 1536  # rows; with fewer it is no faster, and oneDNN at times three times slower


class Linear(nn.Linear):
    """`nn.Linear` by way of `linear`."""

    def forward(self, x: Float[Tensor, "*N C"]) -> Float[Tensor, "*N D"]:
        return linear(x, self.weight, self.bias)


def linear(
    x: Float[Tensor, "*N C"], weight: Float[Tensor, "D C"], bias: Float[Tensor, "D"] | None
) -> Float[Tensor, "*N D"]:
    """`F.linear`, up to rounding."""
    if not gains(x):
        return F.linear(x, weight, bias)
    image = as_image(x.flatten(0, -2))
    if torch.is_grad_enabled() and (x.requires_grad or weight.requires_grad):
        out: Tensor = PixelByPixel.apply(image, weight, bias)  # type: ignore[no-untyped-call]
    else:
        out = convolved(image, weight, bias)
    return as_rows(out).view(*x.shape[:-1], -1)


def feed_forward(
    x: Float[Tensor, "*N C"], first: nn.Linear, second: nn.Linear, dropout: nn.Dropout
) -> Float[Tensor, "*N C"]:
    """`second(dropout(relu(first(x))))`; what lies between, 4 times `x`, is made and kept once."""
    rows = x.flatten(0, -2)
    # Whoever puts a layer of another kind in its place, as LoRA does, means it to be called.
    plain = type(first) is type(second) is nn.Linear
    if not plain or not gains(x) or (dropout.training and dropout.p):
        # In place, and flat, for in place on a view autograd would copy it.
        fed: Tensor = second(dropout(F.relu_(first(rows))))
        return fed.view_as(x)
    arguments = (as_image(rows), first.weight, first.bias, second.weight, second.bias)
    if torch.is_grad_enabled():
        out: Tensor = FeedForwardPixels.apply(*arguments)  # type: ignore[no-untyped-call]
    else:
        out = convolved(F.relu_(convolved(*arguments[:3])), *arguments[3:])
    return as_rows(out).view_as(x)


def gains(x: Float[Tensor, "*N C"]) -> bool:
    """Whether a convolution is faster for such rows."""
    return (
        x.device.type == "cpu"
        and x.dtype == torch.float32
        and x.numel() >= MANY * x.shape[-1]
        and torch.backends.mkldnn.is_available()
        and not torch.is_autocast_enabled("cpu")
        and not torch.compiler.is_compiling()
    )


def as_image(rows: Float[Tensor, "N C"]) -> Float[Tensor, "1 C 1 N"]:
    """Rows are the pixels of an image one pixel high that has its channels last."""
    return rows.contiguous()[None, None].permute(0, 3, 1, 2)


def as_rows(image: Float[Tensor, "1 C 1 N"]) -> Float[Tensor, "N C"]:
    return image.permute(0, 2, 3, 1).flatten(0, 2)


def convolved(
    image: Float[Tensor, "1 C 1 N"], weight: Float[Tensor, "D C"], bias: Float[Tensor, "D"] | None
) -> Float[Tensor, "1 D 1 N"]:
    return F.conv2d(image, weight[:, :, None, None], bias)


class PixelByPixel(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        image: Float[Tensor, "1 C 1 N"],
        weight: Float[Tensor, "D C"],
        bias: Float[Tensor, "D"] | None,
    ) -> Float[Tensor, "1 D 1 N"]:
        ctx.save_for_backward(image, weight)
        return convolved(image, weight, bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (gradient,), (image, weight) = gradients, ctx.saved_tensors
        return gradients_of_convolved(gradient, image, weight, ctx.needs_input_grad)


class FeedForwardPixels(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        image: Float[Tensor, "1 C 1 N"],
        weight1: Float[Tensor, "D C"],
        bias1: Float[Tensor, "D"],
        weight2: Float[Tensor, "C D"],
        bias2: Float[Tensor, "C"],
    ) -> Float[Tensor, "1 C 1 N"]:
        hidden = F.relu_(convolved(image, weight1, bias1))
        ctx.save_for_backward(image, hidden, weight1, weight2)
        return convolved(hidden, weight2, bias2)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        image, hidden, weight1, weight2 = ctx.saved_tensors
        of_image, of_weight1, of_bias1, *of_second = ctx.needs_input_grad
        of_first = (of_image, of_weight1, of_bias1)
        second = gradients_of_convolved(gradients[0], hidden, weight2, (any(of_first), *of_second))
        if second[0] is None:
            return None, None, None, *second[1:]
        # In place: where the activation was cut off there is no gradient.
        inner = torch.ops.aten.threshold_backward.grad_input(
            second[0], hidden, 0, grad_input=second[0]
        )
        return *gradients_of_convolved(inner, image, weight1, of_first), *second[1:]


def gradients_of_convolved(
    gradient: Float[Tensor, "1 D 1 N"],
    image: Float[Tensor, "1 C 1 N"],
    weight: Float[Tensor, "D C"],
    needed: tuple[bool, ...],
) -> tuple[Float[Tensor, "1 C 1 N"] | None, Float[Tensor, "D C"] | None, Float[Tensor, "D"] | None]:
    """The gradients of `convolved` in its three arguments, those that are `needed`."""
    rows = as_rows(gradient)
    return (
        convolved(gradient, weight.T, None) if needed[0] else None,
        rows.T @ as_rows(image) if needed[1] else None,
        rows.sum(0) if needed[2] else None,
    )
