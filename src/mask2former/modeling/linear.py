"""Linear layers, at the full speed of a CPU where they have many rows.

oneDNN's 1x1 convolution is a tenth to a quarter faster there than the product of matrices that
`F.linear` is, and adds the bias as it goes instead of writing it down first. The gradient of the
weights alone is faster as a product, but where MKL lags.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from mask2former import onednn
from mask2former.onednn import Activation

MANY = 1536  # rows; with fewer it is no faster, and oneDNN at times three times slower
LARGE = 4_000_000  # multiplications; with fewer, oneDNN's linear layer is no faster than MKL's


class Linear(nn.Linear):
    """`nn.Linear` by way of `linear`."""

    def forward(
        self, x: Float[Tensor, "*N C"], activation: Activation = "none"
    ) -> Float[Tensor, "*N D"]:
        return linear(x, self.weight, self.bias, activation)


def linear(
    x: Float[Tensor, "*N C"],
    weight: Float[Tensor, "D C"],
    bias: Float[Tensor, "D"] | None,
    activation: Activation = "none",
) -> Float[Tensor, "*N D"]:
    """`activation(F.linear(...))`, up to rounding."""
    if gains_as_linear(x, weight.shape[0]):
        return onednn.linear(x, weight, bias, activation)
    if not gains(x):
        return activated(F.linear(x, weight, bias), activation)
    # What is differentiated is activated afterwards.
    inside, outside = ("none", activation) if torch.is_grad_enabled() else (activation, "none")
    rows = x.flatten(0, -2)
    out: Tensor = RowsByConvolution.apply(rows, weight, bias, inside)  # type: ignore[no-untyped-call]
    return activated(as_rows(out).view(*x.shape[:-1], -1), outside)


def activated(x: Float[Tensor, "*N D"], activation: Activation) -> Float[Tensor, "*N D"]:
    if activation == "none":
        return x
    return F.relu(x) if activation == "relu" else F.gelu(x)


def gradients_of_linear(
    gradient: Float[Tensor, "N D"],
    rows: Float[Tensor, "N C"],
    weight: Float[Tensor, "D C"],
    needed: Sequence[bool],
) -> tuple[Float[Tensor, "N C"] | None, Float[Tensor, "D C"] | None, Float[Tensor, "D"] | None]:
    """Those of rows, weight and bias that are `needed`, for backward passes."""
    return (
        linear(gradient, weight.T, None) if needed[0] else None,
        gradient_of_weight(gradient, rows) if needed[1] else None,
        gradient.sum(0) if needed[2] else None,
    )


def gradient_of_weight(
    gradient: Float[Tensor, "N D"], rows: Float[Tensor, "N C"]
) -> Float[Tensor, "D C"]:
    # With one thread torch does not give such a convolution to oneDNN.
    if not gains(rows) or not onednn.outruns_mkl() or torch.get_num_threads() == 1:
        return gradient.T @ rows
    images = as_image(gradient), as_image(rows)
    return onednn.gradient_of_kernel(*images).flatten(1)


def feed_forward(
    x: Float[Tensor, "*N C"], first: nn.Linear, second: nn.Linear, dropout: nn.Dropout
) -> Float[Tensor, "*N C"]:
    """`second(dropout(relu(first(x))))`; what lies between, 4 times `x`, is made and kept once."""
    # Whoever puts a layer of another kind in its place, as LoRA does, means it to be called.
    plain = type(first) is type(second) is nn.Linear and not (dropout.training and dropout.p)
    if plain and gains_as_linear(x, first.out_features):
        hidden = linear(x, first.weight, first.bias, "relu")
        return linear(hidden, second.weight, second.bias)
    rows = x.flatten(0, -2)
    if not plain or not gains(x):
        # In place, and flat, for in place on a view autograd would copy it.
        fed: Tensor = second(dropout(F.relu_(first(rows))))
        return fed.view_as(x)
    out: Tensor = FeedForwardByConvolution.apply(  # type: ignore[no-untyped-call]
        rows, first.weight, first.bias, second.weight, second.bias
    )
    return as_rows(out).view_as(x)


def gains(x: Float[Tensor, "*N C"]) -> bool:
    """Whether a convolution is faster for such rows."""
    return onednn.runs(x) and x.dtype == torch.float32 and x.numel() >= MANY * x.shape[-1]


def gains_as_linear(x: Float[Tensor, "*N C"], outputs: int) -> bool:
    """Whether oneDNN's own linear layer, which has no gradient, is faster: bf16, or a few rows."""
    if not onednn.fuses(x):
        return False
    few = x.numel() < MANY * x.shape[-1]
    large = x.numel() * outputs >= LARGE
    return x.dtype == torch.bfloat16 or (few and large and onednn.outruns_mkl())


def convolved(
    rows: Float[Tensor, "N C"],
    weight: Float[Tensor, "D C"],
    bias: Float[Tensor, "D"] | None,
    activation: Activation = "none",
) -> Float[Tensor, "1 D 1 N"]:
    """Rows are the pixels of an image one pixel high that has its channels last.

    It stays one, for autograd forbids to work in place on a view that a function returns.
    """
    kernel = weight[:, :, None, None]
    return onednn.convolve(as_image(rows), kernel, bias, activation=activation)


def as_image(rows: Float[Tensor, "N C"]) -> Float[Tensor, "1 C 1 N"]:
    return rows.contiguous()[None, None].permute(0, 3, 1, 2)


def as_rows(image: Float[Tensor, "1 C 1 N"]) -> Float[Tensor, "N C"]:
    return image.permute(0, 2, 3, 1).flatten(0, 2)


class RowsByConvolution(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        rows: Float[Tensor, "N C"],
        weight: Float[Tensor, "D C"],
        bias: Float[Tensor, "D"] | None,
        activation: Activation,
    ) -> Float[Tensor, "1 D 1 N"]:
        ctx.save_for_backward(rows, weight)
        return convolved(rows, weight, bias, activation)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        rows, weight = ctx.saved_tensors
        needed = ctx.needs_input_grad
        return *gradients_of_linear(as_rows(gradients[0]), rows, weight, needed), None


class FeedForwardByConvolution(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        rows: Float[Tensor, "N C"],
        weight1: Float[Tensor, "D C"],
        bias1: Float[Tensor, "D"],
        weight2: Float[Tensor, "C D"],
        bias2: Float[Tensor, "C"],
    ) -> Float[Tensor, "1 C 1 N"]:
        hidden = as_rows(convolved(rows, weight1, bias1, "relu"))
        ctx.save_for_backward(rows, hidden, weight1, weight2)
        return convolved(hidden, weight2, bias2)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        rows, hidden, weight1, weight2 = ctx.saved_tensors
        of_first, of_second = ctx.needs_input_grad[:3], ctx.needs_input_grad[3:]
        inner, *second = gradients_of_linear(
            as_rows(gradients[0]), hidden, weight2, (any(of_first), *of_second)
        )
        if inner is None:
            return None, None, None, *second
        # In place: where the activation was cut off there is no gradient.
        torch.ops.aten.threshold_backward.grad_input(inner, hidden, 0, grad_input=inner)
        return *gradients_of_linear(inner, rows, weight1, of_first), *second
