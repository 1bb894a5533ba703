"""Multi-scale deformable attention (Zhu et al., ICLR 2021).

Every query looks at a few points of every level, bilinearly interpolated: see `sampling.py`.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from mask2former.modeling.sampling import Grid, sample


class DeformableAttention(nn.Module):
    """Deformable attention of tokens to points around their own place on every level."""

    def __init__(self, channels: int, levels: int, heads: int, points: int) -> None:
        super().__init__()
        self.levels, self.heads, self.points = levels, heads, points
        self.offsets = nn.Linear(channels, heads * levels * points * 2)
        self.weights = nn.Linear(channels, heads * levels * points)
        self.value = nn.Linear(channels, channels)
        self.output = nn.Linear(channels, channels)
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
        for linear in (self.value, self.output):
            nn.init.xavier_uniform_(linear.weight)
            nn.init.zeros_(linear.bias)

    def forward(
        self,
        query: Float[Tensor, "B S C"],
        tokens: Float[Tensor, "B S C"],
        grid: Grid,
        reference: Float[Tensor, "#B S 2 #N"],
    ) -> Float[Tensor, "B S C"]:
        """`query` decides where to look and how much, `tokens` are looked at.

        `reference` is the place (x, y) of each query in [0, 1]; offsets are in cells of each level.
        """
        batch, length, _ = tokens.shape
        value = self.value(tokens).view(batch, length, self.heads, -1)
        weight, bias = self.offsets_and_weights()
        count = self.heads * self.levels * self.points
        offsets, weights = F.linear(query, weight, bias).split((2 * count, count), -1)
        # Places are fp32 in every precision: in bf16 a map of 300 cells has no half cells.
        offsets = offsets.float().view(batch, length, 2, count)
        weights = weights.unflatten(-1, (self.heads, -1)).softmax(-1).flatten(2)
        mixed: Tensor = self.output(
            sample(value, grid, grid.positions(reference, offsets), weights)
        )
        return mixed

    def offsets_and_weights(self) -> tuple[Float[Tensor, "3N C"], Float[Tensor, "3N"]]:
        """Both in one product, which gives all x before all y: [M, L, P, 2] is stored."""
        both = (self.offsets.weight, self.offsets.bias[:, None])
        weight, bias = (x.unflatten(0, (-1, 2)).transpose(0, 1).flatten(0, 1) for x in both)
        return torch.cat((weight, self.weights.weight)), torch.cat((bias[:, 0], self.weights.bias))
