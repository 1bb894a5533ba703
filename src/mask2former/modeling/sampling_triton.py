"""`sampling.sample` for CUDA: one Triton kernel forward, one backward.

A program answers a block of queries for one head. Forward nothing but the sum is written; backward
the samples are read again, and the gradient of the maps is added up atomically, in fp32: its last
bits change from run to run. Triton comes with torch's CUDA builds.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from jaxtyping import Float
from torch import Tensor

from mask2former.modeling.sampling import Grid

BLOCK = 32  # queries of a program


@triton.jit  # type: ignore[untyped-decorator]
def _program(  # type: ignore[no-untyped-def]
    queries, cells, HEADS: tl.constexpr, WIDTH: tl.constexpr,
    BLOCK: tl.constexpr, CHANNELS: tl.constexpr,
):  # fmt: skip
    """What a program answers: its head, its queries among all, where their channels lie."""
    image, head = tl.program_id(1).to(tl.int64), tl.program_id(2)
    query = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    known = query < queries
    channels = tl.arange(0, CHANNELS)
    in_channels = channels < WIDTH
    base = (image * cells * HEADS + head) * WIDTH
    row = image * queries + query
    place = row[:, None] * (HEADS * WIDTH) + head * WIDTH + channels[None, :]
    answered = known[:, None] & in_channels[None, :]
    return head, row, known, base, channels, in_channels, place, answered


@triton.jit  # type: ignore[untyped-decorator]
def _look(  # type: ignore[no-untyped-def]
    positions, weights, levels, row, known, head, level, point,
    HEADS: tl.constexpr, LEVELS: tl.constexpr, POINTS: tl.constexpr,
):  # fmt: skip
    """One sample of each query: its number, weight and place, and which of its corners exist."""
    samples: tl.constexpr = HEADS * LEVELS * POINTS
    height = tl.load(levels + 3 * level)
    width = tl.load(levels + 3 * level + 1)
    first = tl.load(levels + 3 * level + 2)
    n = (head * LEVELS + level) * POINTS + point
    x = tl.load(positions + row * 2 * samples + n, mask=known, other=0.0) - 1
    y = tl.load(positions + row * 2 * samples + samples + n, mask=known, other=0.0) - 1
    weight = tl.load(weights + row * samples + n, mask=known, other=0.0).to(tl.float32)
    # Also answers what is not a number: no comparison with it is true.
    near = known & (x > -1) & (y > -1) & (x < width) & (y < height)
    x, y = tl.where(near, x, 0.0), tl.where(near, y, 0.0)
    x0, y0 = tl.floor(x), tl.floor(y)
    fx, fy = x - x0, y - y0
    x0, y0 = x0.to(tl.int32), y0.to(tl.int32)
    left, right = near & (x0 >= 0), near & (x0 + 1 < width)
    top, bottom = y0 >= 0, y0 + 1 < height
    cell = first + y0 * width + x0
    corners = left & top, right & top, left & bottom, right & bottom
    return n, weight, near, fx, fy, cell, width, corners


@triton.jit
def _corner(value, base, row, stride, inside, channels, in_channels):  # type: ignore[no-untyped-def]
    """The channels of one cell for each query, zeros outside the map."""
    return tl.load(
        value + base + row[:, None] * stride + channels[None, :],
        mask=inside[:, None] & in_channels[None, :],
        other=0.0,
    ).to(tl.float32)


@triton.jit  # type: ignore[untyped-decorator]
def _forward(  # type: ignore[no-untyped-def]
    value, positions, weights, levels, out,
    queries, cells, HEADS: tl.constexpr, WIDTH: tl.constexpr, LEVELS: tl.constexpr,
    POINTS: tl.constexpr, BLOCK: tl.constexpr, CHANNELS: tl.constexpr,
):  # fmt: skip
    head, row, known, base, channels, in_channels, place, answered = _program(
        queries, cells, HEADS, WIDTH, BLOCK, CHANNELS
    )
    stride = HEADS * WIDTH
    total = tl.zeros((BLOCK, CHANNELS), tl.float32)
    for level in range(LEVELS):
        for point in range(POINTS):
            _, weight, _, fx, fy, cell, width, (a, b, c, d) = _look(
                positions, weights, levels, row, known, head, level, point, HEADS, LEVELS, POINTS
            )
            total += (weight * (1 - fx) * (1 - fy))[:, None] * _corner(
                value, base, cell, stride, a, channels, in_channels
            )
            total += (weight * fx * (1 - fy))[:, None] * _corner(
                value, base, cell + 1, stride, b, channels, in_channels
            )
            total += (weight * (1 - fx) * fy)[:, None] * _corner(
                value, base, cell + width, stride, c, channels, in_channels
            )
            total += (weight * fx * fy)[:, None] * _corner(
                value, base, cell + width + 1, stride, d, channels, in_channels
            )
    tl.store(out + place, total, mask=answered)


@triton.jit
def _visit(  # type: ignore[no-untyped-def]
    value, gradient, base, row, stride, inside, share, given, channels, in_channels
):
    """Add each query's gradient, times its share, to a cell; returns its dot product with it."""
    seen = _corner(value, base, row, stride, inside, channels, in_channels)
    tl.atomic_add(
        gradient + base + row[:, None] * stride + channels[None, :],
        share[:, None] * given,
        mask=inside[:, None] & in_channels[None, :],
    )
    return tl.sum(given * seen, 1)


@triton.jit  # type: ignore[untyped-decorator]
def _backward(  # type: ignore[no-untyped-def]
    value, positions, weights, levels, gradient,
    value_gradient, position_gradient, weight_gradient,
    queries, cells, HEADS: tl.constexpr, WIDTH: tl.constexpr, LEVELS: tl.constexpr,
    POINTS: tl.constexpr, BLOCK: tl.constexpr, CHANNELS: tl.constexpr,
):  # fmt: skip
    head, row, known, base, channels, in_channels, place, answered = _program(
        queries, cells, HEADS, WIDTH, BLOCK, CHANNELS
    )
    stride = HEADS * WIDTH
    samples: tl.constexpr = HEADS * LEVELS * POINTS
    given = tl.load(gradient + place, mask=answered, other=0.0).to(tl.float32)
    for level in range(LEVELS):
        for point in range(POINTS):
            n, weight, near, fx, fy, cell, width, (a, b, c, d) = _look(
                positions, weights, levels, row, known, head, level, point, HEADS, LEVELS, POINTS
            )
            here = _visit(
                value, value_gradient, base, cell, stride, a,
                weight * (1 - fx) * (1 - fy), given, channels, in_channels,
            )  # fmt: skip
            right = _visit(
                value, value_gradient, base, cell + 1, stride, b,
                weight * fx * (1 - fy), given, channels, in_channels,
            )  # fmt: skip
            below = _visit(
                value, value_gradient, base, cell + width, stride, c,
                weight * (1 - fx) * fy, given, channels, in_channels,
            )  # fmt: skip
            diagonal = _visit(
                value, value_gradient, base, cell + width + 1, stride, d,
                weight * fx * fy, given, channels, in_channels,
            )  # fmt: skip
            upper, lower = here + (right - here) * fx, below + (diagonal - below) * fx
            dx = weight * ((right - here) * (1 - fy) + (diagonal - below) * fy)
            dx, dy = tl.where(near, dx, 0.0), tl.where(near, weight * (lower - upper), 0.0)
            tl.store(position_gradient + row * 2 * samples + n, dx, mask=known)
            tl.store(position_gradient + row * 2 * samples + samples + n, dy, mask=known)
            tl.store(weight_gradient + row * samples + n, upper + (lower - upper) * fy, mask=known)


class FusedSample(torch.autograd.Function):
    """`sampling.sample` and its gradients as kernels."""

    @staticmethod
    def forward(
        ctx: Any,
        value: Float[Tensor, "B S M c"],
        grid: Grid,
        positions: Float[Tensor, "B Q 2 N"],
        weights: Float[Tensor, "B Q N"],
    ) -> Float[Tensor, "B Q Mc"]:
        value, positions, weights = value.contiguous(), positions.contiguous(), weights.contiguous()
        ctx.grid = grid
        ctx.save_for_backward(value, positions, weights)
        out = value.new_empty(*positions.shape[:2], value.shape[2:].numel())
        launch(_forward, grid, value, positions, weights, out)
        return out

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        value, positions, weights = ctx.saved_tensors
        summed = torch.zeros_like(value, dtype=torch.float32)
        position_gradient = torch.empty_like(positions)
        weight_gradient = torch.empty_like(weights)
        given = gradients[0].contiguous()
        results = summed, position_gradient, weight_gradient
        launch(_backward, ctx.grid, value, positions, weights, given, *results)
        return summed.to(value.dtype), None, position_gradient, weight_gradient


def launch(
    kernel: Any,
    grid: Grid,
    value: Float[Tensor, "B S M c"],
    positions: Float[Tensor, "B Q 2 N"],
    weights: Float[Tensor, "B Q N"],
    *rest: Tensor,
) -> None:
    """Run a kernel for all queries, heads and images; `rest` is what only it takes."""
    batch, cells, heads, width = value.shape
    queries = positions.shape[1]
    kernel[triton.cdiv(queries, BLOCK), batch, heads](
        value,
        positions,
        weights,
        grid.levels_table,
        *rest,
        queries,
        cells,
        HEADS=heads,
        WIDTH=width,
        LEVELS=len(grid.shapes),
        POINTS=grid.points,
        BLOCK=BLOCK,
        CHANNELS=triton.next_power_of_2(width),
    )
