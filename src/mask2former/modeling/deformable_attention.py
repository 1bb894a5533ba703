"""Multi-scale deformable attention (Zhu et al., ICLR 2021).

Every query looks at a few points of every level, bilinearly interpolated: see `sampling.py`.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from mask2former.modeling.linear import Linear, gradients_of_linear, linear
from mask2former.modeling.sampling import Grid, sample
from mask2former.tracing import is_traced


class DeformableAttention(nn.Module):
    """Deformable attention of tokens to points around their own place on every level."""

    def __init__(self, channels: int, levels: int, heads: int, points: int) -> None:
        super().__init__()
        self.levels, self.heads, self.points = levels, heads, points
        self.offsets = nn.Linear(channels, heads * levels * points * 2)
        self.weights = nn.Linear(channels, heads * levels * points)
        self.value = Linear(channels, channels)
        self.output = Linear(channels, channels)
        self._initialise()

    def _initialise(self) -> None:
        """Heads look in different directions, points farther and farther; all weigh the same."""
        angle = torch.arange(self.heads, dtype=torch.float32) * (2 * math.pi / self.heads)
        direction = torch.stack((angle.cos(), angle.sin()), -1)
        direction = direction / direction.abs().max(-1, keepdim=True).values
        step = torch.arange(1, self.points + 1, dtype=torch.float32)
        bias = direction[:, None, None, :] * step[:, None]
        bias = bias.expand(self.heads, self.levels, self.points, 2)
        nn.init.zeros_(self.offsets.weight)
        self.offsets.bias.data.copy_(bias.flatten())
        nn.init.zeros_(self.weights.weight)
        nn.init.zeros_(self.weights.bias)
        for layer in (self.value, self.output):
            nn.init.xavier_uniform_(layer.weight)
            nn.init.zeros_(layer.bias)

    def forward(
        self,
        tokens: Float[Tensor, "B S C"],
        position: Float[Tensor, "#B S C"],
        grid: Grid,
        reference: Float[Tensor, "#B S 2 #N"],
    ) -> Float[Tensor, "B S C"]:
        """Tokens with their `position` decide where to look and how much, tokens are looked at.

        `reference` is the place (x, y) of each query in [0, 1]; offsets are in cells of each level.
        """
        batch, length, _ = tokens.shape
        value = self.value(tokens).view(batch, length, self.heads, -1)
        weight, bias = self.offsets_and_weights()
        count = self.heads * self.levels * self.points
        asked = linear_of_sum(tokens, position, weight, bias)
        offsets, weights = asked.split((2 * count, count), -1)
        # Places are fp32 in every precision: in bf16 a map of 300 cells has no half cells.
        offsets = offsets.float().view(batch, length, 2, count)
        weights = weights.to(torch.promote_types(weights.dtype, torch.float32))
        weights = softmax_of_few(weights.unflatten(-1, (self.heads, -1))).flatten(2)
        mixed: Tensor = self.output(
            sample(value, grid, grid.positions(reference, offsets), weights)
        )
        return mixed

    def offsets_and_weights(self) -> tuple[Float[Tensor, "3N C"], Float[Tensor, "3N"]]:
        """Both in one product, which gives all x before all y: [M, L, P, 2] is stored."""
        both = (self.offsets.weight, self.offsets.bias[:, None])
        weight, bias = (x.unflatten(0, (-1, 2)).transpose(0, 1).flatten(0, 1) for x in both)
        return torch.cat((weight, self.weights.weight)), torch.cat((bias[:, 0], self.weights.bias))


def softmax_of_few(x: Float[Tensor, "*N n"]) -> Float[Tensor, "*N n"]:
    """`x.softmax(-1)`; over a dozen numbers torch takes eight times as long on a CPU."""
    if x.device.type != "cpu" or is_traced():
        return x.softmax(-1)
    shares: Tensor = SoftmaxOfFew.apply(x)  # type: ignore[no-untyped-call]
    return shares


class SoftmaxOfFew(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Float[Tensor, "*N n"]) -> Float[Tensor, "*N n"]:
        powers = x.exp()
        sums = powers.sum(-1, keepdim=True)
        # The greatest need not be looked for and taken off, unless a power is out of range.
        in_range = bool(sums.numel()) and sums.min() > 1e-20 and sums.max() < 1e20
        shares: Tensor = powers.div_(sums) if in_range else x.softmax(-1)
        ctx.save_for_backward(shares)
        return shares

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        (shares,) = ctx.saved_tensors
        weighted: Tensor = gradients[0] * shares
        sums = weighted.sum(-1, keepdim=True)
        return weighted.addcmul_(shares, sums, value=-1)


def linear_of_sum(
    x: Float[Tensor, "B S C"],
    y: Float[Tensor, "#B S C"],
    weight: Float[Tensor, "D C"],
    bias: Float[Tensor, "D"],
) -> Float[Tensor, "B S D"]:
    """`linear(x + y, ...)`, whose sum is made once more in the backward pass rather than kept.

    `x` and `y` are kept anyway, `x` for the layer's values and `y` for all layers.
    """
    plain = torch.compiler.is_compiling() or torch.is_autocast_enabled(x.device.type)
    if torch.is_grad_enabled() and not plain:
        summed: Tensor = LinearOfSum.apply(x, y, weight, bias)  # type: ignore[no-untyped-call]
        return summed
    return linear(x + y, weight, bias)


class LinearOfSum(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Float[Tensor, "B S C"],
        y: Float[Tensor, "#B S C"],
        weight: Float[Tensor, "D C"],
        bias: Float[Tensor, "D"],
    ) -> Float[Tensor, "B S D"]:
        ctx.save_for_backward(x, y, weight)
        return linear(x + y, weight, bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        x, y, weight = ctx.saved_tensors
        for_x, for_y, *others = ctx.needs_input_grad
        of_rows, *of_others = gradients_of_linear(
            gradients[0].flatten(0, 1), (x + y).flatten(0, 1), weight, (for_x or for_y, *others)
        )
        of_sum = None if of_rows is None else of_rows.view_as(x)
        return (
            of_sum if for_x else None,
            of_sum.sum_to_size(y.shape) if for_y and of_sum is not None else None,
            *of_others,
        )
