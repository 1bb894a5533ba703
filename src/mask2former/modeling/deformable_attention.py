"""Multi-scale deformable attention (Zhu et al., ICLR 2021).

Every query looks at a few points of every level, bilinearly interpolated. `sample` is the one
function behind it; `sample_reference` says the same plainly and is what the tests compare it to.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from scipy.sparse import csr_array
from torch import Tensor, nn

Shapes = Sequence[tuple[int, int]]  # (height, width) of each level


def sample_reference(
    value: Float[Tensor, "B S M c"],
    shapes: Shapes,
    locations: Float[Tensor, "B Q M L P 2"],
    weights: Float[Tensor, "B Q M L P"],
) -> Float[Tensor, "B Q Mc"]:
    """Weighted sum of bilinear samples, with `grid_sample`.

    `value` holds the levels one after the other (S tokens) for M heads; `locations` are (x, y) in
    [0, 1] of each level; outside there are zeros.
    """
    batch, queries, heads, levels, points, _ = locations.shape
    sampled: list[Tensor] = []
    for level, (h, w) in zip(value.split([h * w for h, w in shapes], 1), shapes, strict=True):
        maps = level.permute(0, 2, 3, 1).reshape(batch * heads, -1, h, w)
        grid = 2 * locations[:, :, :, len(sampled)].transpose(1, 2).flatten(0, 1) - 1
        sampled.append(F.grid_sample(maps, grid, align_corners=False))
    stacked = torch.stack(sampled, -2).flatten(-2)  # [B*M, c, Q, L*P]
    mixed = weights.transpose(1, 2).reshape(batch * heads, 1, queries, levels * points)
    return (stacked * mixed).sum(-1).view(batch, -1, queries).transpose(1, 2)


def sample(
    value: Float[Tensor, "B S M c"],
    shapes: Shapes,
    locations: Float[Tensor, "B Q M L P 2"],
    weights: Float[Tensor, "B Q M L P"],
) -> Float[Tensor, "B Q Mc"]:
    """As `sample_reference`, as one weighted bag of rows: 4 corners of each point of each level.

    On a CPU it takes a third of `grid_sample`'s time, for no sampled value is ever stored.
    """
    batch, tokens, heads, width = value.shape
    queries = locations.shape[1]
    rows, corner_weights = _corners(shapes, locations, tokens)
    bags = batch * queries * heads
    mixed = (corner_weights * weights.unsqueeze(-1)).reshape(bags, -1)
    table = value.reshape(-1, width)
    out: Tensor = WeightedBags.apply(  # type: ignore[no-untyped-call]
        table, rows.view(bags, -1), mixed.to(value.dtype)
    )
    return out.view(batch, queries, heads * width)


class WeightedBags(torch.autograd.Function):
    """Each bag's weighted sum of rows of a table: `embedding_bag` with a backward of our own.

    Torch's sorts all indices first, which takes longer than everything else together. Here the
    gradient of the table is a product with a transposed sparse matrix, row after row in one fixed
    order: deterministic on the CPU.
    """

    @staticmethod
    def forward(
        ctx: Any,
        table: Float[Tensor, "R c"],
        rows: Int[Tensor, "bags n"],
        weights: Float[Tensor, "bags n"],
    ) -> Float[Tensor, "bags c"]:
        ctx.save_for_backward(table, rows, weights)
        return F.embedding_bag(rows, table, mode="sum", per_sample_weights=weights)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, None, Tensor | None]:
        table, rows, weights = ctx.saved_tensors
        gradient = gradients[0].contiguous()
        bags, n = rows.shape
        table_gradient = weights_gradient = None
        if ctx.needs_input_grad[0]:
            table_gradient = scatter_rows(gradient, rows, weights, len(table))
        if ctx.needs_input_grad[2]:
            offsets = torch.arange(0, bags * n, n, device=rows.device, dtype=rows.dtype)
            bag_of = torch.arange(bags, device=rows.device, dtype=rows.dtype).repeat_interleave(n)
            weights_gradient = torch.ops.aten._embedding_bag_per_sample_weights_backward(
                gradient, table, rows.flatten(), offsets, bag_of, 0
            ).view(bags, n)
        return table_gradient, None, weights_gradient


def scatter_rows(
    gradient: Float[Tensor, "bags c"],
    rows: Int[Tensor, "bags n"],
    weights: Float[Tensor, "bags n"],
    size: int,
) -> Float[Tensor, "size c"]:
    """Add each bag's gradient, times the weight, to every row of the bag."""
    bags, n = rows.shape
    if gradient.device.type == "cpu":
        starts = np.arange(0, bags * n + 1, n, dtype=np.int32)
        columns = rows.flatten().numpy().astype(np.int32, copy=False)
        wide = torch.promote_types(gradient.dtype, torch.float32)  # scipy knows no bf16
        matrix = csr_array(
            (weights.to(wide).flatten().numpy(), columns, starts), shape=(bags, size), copy=False
        )
        return torch.from_numpy(matrix.T @ gradient.to(wide).numpy()).to(gradient.dtype)
    out = torch.zeros(size, gradient.shape[1], device=gradient.device, dtype=gradient.dtype)
    for i in range(n):  # one corner at a time: all at once would be n copies of the gradient
        out.index_add_(0, rows[:, i], weights[:, i, None] * gradient)
    return out


def _corners(
    shapes: Shapes, locations: Float[Tensor, "B Q M L P 2"], tokens: int
) -> tuple[Int[Tensor, "B Q M L P 4"], Float[Tensor, "B Q M L P 4"]]:
    """Row in the table [B * S * M, c] and bilinear weight of each point's four corners."""
    device = locations.device
    batch, _, heads = locations.shape[:3]
    size = torch.tensor([(w, h) for h, w in shapes], device=device)  # [L, 2]
    starts = torch.tensor(
        [sum(h * w for h, w in shapes[:i]) for i in range(len(shapes))], device=device
    )
    position = locations * size[:, None] - 0.5
    corner = position.detach().floor()
    fraction = position - corner
    low = corner.int()
    both = torch.stack((low, low + 1), -2)  # [..., corner, xy]
    inside = (both >= 0) & (both < size[:, None, None])
    factor = torch.stack((1 - fraction, fraction), -2) * inside
    both = torch.minimum(both.clamp(min=0), (size - 1)[:, None, None].int())
    x, y = both.unbind(-1)
    token = (y * size[:, :1, None].int()).unsqueeze(-1) + x.unsqueeze(-2)
    token = token.flatten(-2) + starts.int()[:, None, None]
    image = torch.arange(batch, device=device, dtype=torch.int32).view(-1, 1, 1, 1, 1, 1)
    head = torch.arange(heads, device=device, dtype=torch.int32).view(-1, 1, 1, 1)
    rows = (image * tokens + token) * heads + head
    corner_weights = (factor[..., 1].unsqueeze(-1) * factor[..., 0].unsqueeze(-2)).flatten(-2)
    return rows, corner_weights


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
        reference: Float[Tensor, "S 2"],
        shapes: Shapes,
    ) -> Float[Tensor, "B S C"]:
        """`query` decides where to look and how much, `tokens` are looked at.

        `reference` is the place (x, y) of each query in [0, 1]; offsets are in cells of each level.
        """
        batch, length, _ = tokens.shape
        value = self.value(tokens).view(batch, length, self.heads, -1)
        # Places are fp32 in every precision: in bf16 a map of 300 cells has no half cells.
        offsets = self.offsets(query).float()
        offsets = offsets.view(batch, length, self.heads, self.levels, self.points, 2)
        size = torch.tensor([(w, h) for h, w in shapes], device=query.device)
        locations = reference.view(1, -1, 1, 1, 1, 2) + offsets / size[:, None]
        weights = self.weights(query).view(batch, length, self.heads, -1).softmax(-1)
        weights = weights.view(batch, length, self.heads, self.levels, self.points)
        mixed: Tensor = self.output(sample(value, shapes, locations, weights))
        return mixed
