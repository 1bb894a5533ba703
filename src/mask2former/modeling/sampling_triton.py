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
    image, head = tl.program_id(1).to(tl.int64), tl.program_id(2)
    query = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    known = query < queries
    channels = tl.arange(0, CHANNELS)
    in_channels = channels < WIDTH
    base = (image * cells * HEADS + head) * WIDTH
    stride = HEADS * WIDTH
    samples: tl.constexpr = HEADS * LEVELS * POINTS
    row = image * queries + query
    total = tl.zeros((BLOCK, CHANNELS), tl.float32)
    for level in range(LEVELS):
        height = tl.load(levels + 3 * level)
        width = tl.load(levels + 3 * level + 1)
        first = tl.load(levels + 3 * level + 2)
        for point in range(POINTS):
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
            total += (weight * (1 - fx) * (1 - fy))[:, None] * _corner(
                value, base, cell, stride, left & top, channels, in_channels
            )
            total += (weight * fx * (1 - fy))[:, None] * _corner(
                value, base, cell + 1, stride, right & top, channels, in_channels
            )
            total += (weight * (1 - fx) * fy)[:, None] * _corner(
                value, base, cell + width, stride, left & bottom, channels, in_channels
            )
            total += (weight * fx * fy)[:, None] * _corner(
                value, base, cell + width + 1, stride, right & bottom, channels, in_channels
            )
    place = row[:, None] * stride + head * WIDTH + channels[None, :]
    tl.store(out + place, total, mask=known[:, None] & in_channels[None, :])


@triton.jit
def _spread(  # type: ignore[no-untyped-def]
    gradient, base, row, stride, inside, share, given, channels, in_channels
):
    """Add each query's gradient, times its share, to the cell it was read from."""
    tl.atomic_add(
        gradient + base + row[:, None] * stride + channels[None, :],
        share[:, None] * given,
        mask=inside[:, None] & in_channels[None, :],
    )


@triton.jit  # type: ignore[untyped-decorator]
def _backward(  # type: ignore[no-untyped-def]
    value, positions, weights, levels, gradient,
    value_gradient, position_gradient, weight_gradient,
    queries, cells, HEADS: tl.constexpr, WIDTH: tl.constexpr, LEVELS: tl.constexpr,
    POINTS: tl.constexpr, BLOCK: tl.constexpr, CHANNELS: tl.constexpr,
):  # fmt: skip
    image, head = tl.program_id(1).to(tl.int64), tl.program_id(2)
    query = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    known = query < queries
    channels = tl.arange(0, CHANNELS)
    in_channels = channels < WIDTH
    base = (image * cells * HEADS + head) * WIDTH
    stride = HEADS * WIDTH
    samples: tl.constexpr = HEADS * LEVELS * POINTS
    row = image * queries + query
    place = row[:, None] * stride + head * WIDTH + channels[None, :]
    given = tl.load(
        gradient + place, mask=known[:, None] & in_channels[None, :], other=0.0
    ).to(tl.float32)  # fmt: skip
    for level in range(LEVELS):
        height = tl.load(levels + 3 * level)
        width = tl.load(levels + 3 * level + 1)
        first = tl.load(levels + 3 * level + 2)
        for point in range(POINTS):
            n = (head * LEVELS + level) * POINTS + point
            x = tl.load(positions + row * 2 * samples + n, mask=known, other=0.0) - 1
            y = tl.load(positions + row * 2 * samples + samples + n, mask=known, other=0.0) - 1
            weight = tl.load(weights + row * samples + n, mask=known, other=0.0).to(tl.float32)
            near = known & (x > -1) & (y > -1) & (x < width) & (y < height)
            x, y = tl.where(near, x, 0.0), tl.where(near, y, 0.0)
            x0, y0 = tl.floor(x), tl.floor(y)
            fx, fy = x - x0, y - y0
            x0, y0 = x0.to(tl.int32), y0.to(tl.int32)
            left, right = near & (x0 >= 0), near & (x0 + 1 < width)
            top, bottom = y0 >= 0, y0 + 1 < height
            cell = first + y0 * width + x0
            a = tl.sum(given * _corner(
                value, base, cell, stride, left & top, channels, in_channels), 1)  # fmt: skip
            b = tl.sum(given * _corner(
                value, base, cell + 1, stride, right & top, channels, in_channels), 1)  # fmt: skip
            c = tl.sum(given * _corner(
                value, base, cell + width, stride, left & bottom, channels, in_channels
            ), 1)  # fmt: skip
            d = tl.sum(given * _corner(
                value, base, cell + width + 1, stride, right & bottom, channels, in_channels
            ), 1)  # fmt: skip
            upper, lower = a + (b - a) * fx, c + (d - c) * fx
            dx = tl.where(near, weight * ((b - a) * (1 - fy) + (d - c) * fy), 0.0)
            dy = tl.where(near, weight * (lower - upper), 0.0)
            tl.store(position_gradient + row * 2 * samples + n, dx, mask=known)
            tl.store(position_gradient + row * 2 * samples + samples + n, dy, mask=known)
            tl.store(weight_gradient + row * samples + n, upper + (lower - upper) * fy, mask=known)
            _spread(value_gradient, base, cell, stride, left & top,
                    weight * (1 - fx) * (1 - fy), given, channels, in_channels)  # fmt: skip
            _spread(value_gradient, base, cell + 1, stride, right & top,
                    weight * fx * (1 - fy), given, channels, in_channels)  # fmt: skip
            _spread(value_gradient, base, cell + width, stride, left & bottom,
                    weight * (1 - fx) * fy, given, channels, in_channels)  # fmt: skip
            _spread(value_gradient, base, cell + width + 1, stride, right & bottom,
                    weight * fx * fy, given, channels, in_channels)  # fmt: skip


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
        batch, cells, heads, width = value.shape
        queries = positions.shape[1]
        out = value.new_empty(batch, queries, heads * width)
        programs = (triton.cdiv(queries, BLOCK), batch, heads)
        _forward[programs](
            value, positions, weights, grid.levels_table, out, queries, cells, **sizes(grid, width)
        )
        return out

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        value, positions, weights = ctx.saved_tensors
        grid: Grid = ctx.grid
        batch, cells, heads, width = value.shape
        queries = positions.shape[1]
        summed = torch.zeros_like(value, dtype=torch.float32)
        position_gradient = torch.empty_like(positions)
        weight_gradient = torch.empty_like(weights)
        programs = (triton.cdiv(queries, BLOCK), batch, heads)
        _backward[programs](
            value, positions, weights, grid.levels_table, gradients[0].contiguous(),
            summed, position_gradient, weight_gradient,
            queries, cells, **sizes(grid, width),
        )  # fmt: skip
        return summed.to(value.dtype), None, position_gradient, weight_gradient


def sizes(grid: Grid, width: int) -> dict[str, int]:
    return {
        "HEADS": grid.heads,
        "WIDTH": width,
        "LEVELS": len(grid.shapes),
        "POINTS": grid.points,
        "BLOCK": BLOCK,
        "CHANNELS": triton.next_power_of_2(width),
    }
