"""Weighted sums of bilinear samples of several maps: what deformable attention is made of.

`sample` is the one function; on a CPU it is bags of rows of a table, on CUDA a Triton kernel,
elsewhere `sample_plainly`, which says the same with `grid_sample` and is what the tests compare
everything to.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from importlib.util import find_spec
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from mask2former.tracing import is_traced

# Torch 2.6 may only know the wider question; an export is a compilation, too.
is_exporting = getattr(torch.compiler, "is_exporting", torch.compiler.is_compiling)

CORNERS = ((0, 0), (0, 1), (1, 0), (1, 1))  # cells down and right of `here`, in their order
TOGETHER = 2048  # queries that are sampled for together: what lies between stays in the cache
Shapes = Sequence[tuple[int, int]]  # (height, width) of each level


@dataclass(frozen=True, eq=False)
class Grid:
    """The maps of all levels, each with a border of zeros, as rows of one table.

    A row holds the channels of one head in one cell: the heads of a cell follow one another, then
    the cells of a map row by row, then the levels. N counts heads x levels x points.

    Positions are in cells of a map with its border: the first cell's centre is at 1. With the
    border no corner of a sample needs to be asked whether it is inside.
    """

    shapes: tuple[tuple[int, int], ...]
    heads: int
    points: int
    limits: Float[Tensor, "2 N"]  # the last x and y that a border answers
    below: Int[Tensor, "N"]  # rows from a cell to the one below it
    around: Int[Tensor, "M 4 LP"]  # rows from a cell to each of `CORNERS`
    first: Int[Tensor, "N"]  # the row of a level's first border cell
    levels_table: Int[Tensor, "L 3"]  # without borders: height, width, and a level's first token
    cells: int  # of all levels with their borders, and what a last corner may reach

    @classmethod
    def of(cls, shapes: Shapes, heads: int, points: int, device: torch.device) -> Grid:
        """Kept from call to call: on an accelerator each of its tensors would be waited for."""
        # Traced or faked tensors shall not be met again outside.
        make = Grid._make.__wrapped__ if is_traced() else Grid._make
        return make(tuple(shapes), heads, points, device)

    @staticmethod
    @lru_cache(maxsize=64)
    def _make(
        shapes: tuple[tuple[int, int], ...], heads: int, points: int, device: torch.device
    ) -> Grid:
        starts, table, cells, tokens = [], [], 0, 0
        for h, w in shapes:
            starts.append(cells)
            table.append((h, w, tokens))
            cells += (h + 2) * (w + 2)
            tokens += h * w

        def spread(values: list[float], dtype: torch.dtype) -> Tensor:
            """A value of each level to [N]."""
            return torch.tensor(
                [v for v in values for _ in range(points)] * heads, dtype=dtype, device=device
            )

        with torch.inference_mode(False):
            limits = torch.stack(
                [spread([side + 1 for side in sides], torch.float32)
                 for sides in ([w for _, w in shapes], [h for h, _ in shapes])]
            )  # fmt: skip
            head = torch.arange(heads, dtype=torch.int32, device=device)
            below = spread([(w + 2) * heads for _, w in shapes], torch.int32)
            around = [down * below + right * heads for down, right in CORNERS]
            return Grid(
                shapes=shapes,
                heads=heads,
                points=points,
                limits=limits,
                below=below,
                around=torch.stack(around).unflatten(1, (heads, -1)).transpose(0, 1).contiguous(),
                first=spread([s * heads for s in starts], torch.int32)
                + head.repeat_interleave(len(shapes) * points),
                levels_table=torch.tensor(table, dtype=torch.int32, device=device),
                cells=cells + shapes[-1][1] + 3,
            )

    def reference(self) -> Float[Tensor, "S 2 1"]:
        """The place (x, y) of every cell of every level, as shares of its level."""
        places = []
        for h, w in self.shapes:
            y, x = (torch.arange(n, device=self.limits.device) for n in (h, w))
            y, x = torch.meshgrid((y + 0.5) / h, (x + 0.5) / w, indexing="ij")
            places.append(torch.stack((x, y), -1).flatten(0, 1))
        return torch.cat(places).unsqueeze(-1)

    def positions(
        self, reference: Float[Tensor, "#B S 2 #N"], offsets: Float[Tensor, "B S 2 N"]
    ) -> Float[Tensor, "B S 2 N"]:
        """Positions of the samples that lie at `offsets` (in cells of each level) from a place.

        Rounded as the official code does: many offsets are whole at first, so that samples lie on
        the border of two cells, where the gradient depends on the side.
        """
        sizes = self.limits - 1
        return torch.addcdiv(reference, offsets, sizes).mul_(sizes).add_(0.5)

    def table(self, value: Float[Tensor, "B S M c"]) -> Float[Tensor, "B cells M c"]:
        """The levels with their borders, in fp32 at least."""
        batch, _, heads, width = value.shape
        wide = torch.promote_types(value.dtype, torch.float32)
        table = value.new_zeros(batch, self.cells, heads, width, dtype=wide)
        for inside, level in zip(self.insides(table), self.levels(value), strict=True):
            inside.copy_(level)
        return table

    def insides(
        self, table: Float[Tensor, "B cells M c"], y: int = 1, x: int = 1
    ) -> list[Float[Tensor, "B h w M c"]]:
        """The maps in a table without their borders, or maps as large that begin elsewhere."""
        views, start = [], 0
        for h, w in self.shapes:
            level = table[:, start : start + (h + 2) * (w + 2)].unflatten(1, (h + 2, w + 2))
            views.append(level[:, y : y + h, x : x + w])
            start += (h + 2) * (w + 2)
        return views

    def levels(self, value: Float[Tensor, "B S M c"]) -> list[Float[Tensor, "B h w M c"]]:
        parts = value.split([h * w for h, w in self.shapes], 1)
        return [p.unflatten(1, shape) for p, shape in zip(parts, self.shapes, strict=True)]


def sample(
    value: Float[Tensor, "B S M c"],
    grid: Grid,
    positions: Float[Tensor, "B Q 2 N"],
    weights: Float[Tensor, "B Q N"],
) -> Float[Tensor, "B Q Mc"]:
    """For each query and head the weighted sum of samples at its positions on all levels.

    `value` holds the levels one after the other (S tokens) for M heads, `positions` are x and y as
    `Grid` counts them; outside the maps there are zeros.
    """
    if value.device.type == "cuda" and not is_exporting() and has_triton():
        from mask2former.modeling.sampling_triton import FusedSample

        fused: Tensor = FusedSample.apply(value, grid, positions, weights)  # type: ignore[no-untyped-call]
        return fused
    if value.device.type != "cpu":
        return sample_plainly(value, grid, positions, weights)
    sampled: Tensor = Bags.apply(value, grid, positions, weights)  # type: ignore[no-untyped-call]
    return sampled


@lru_cache(maxsize=1)
def has_triton() -> bool:
    return find_spec("triton") is not None


def sample_plainly(
    value: Float[Tensor, "B S M c"],
    grid: Grid,
    positions: Float[Tensor, "B Q 2 N"],
    weights: Float[Tensor, "B Q N"],
) -> Float[Tensor, "B Q Mc"]:
    """As `sample`, with `grid_sample`, on any device; in fp32 at least, for the places' sake."""
    dtype = torch.promote_types(value.dtype, torch.float32)
    batch, queries = positions.shape[:2]
    places = (2 * positions - 1) / (grid.limits - 1) - 1
    places = places.unflatten(-1, (grid.heads, -1, grid.points))  # [B, Q, 2, M, L, P]
    places = places.permute(4, 0, 3, 1, 5, 2).flatten(1, 2)  # [L, B M, Q, P, 2]
    sampled = [
        F.grid_sample(
            level.permute(0, 3, 4, 1, 2).flatten(0, 1).to(dtype),
            place.to(dtype),
            align_corners=False,
        )
        for level, place in zip(grid.levels(value), places, strict=True)
    ]
    stacked = torch.stack(sampled, -2).flatten(-2)  # [B M, c, Q, L P]
    mixed = weights.unflatten(-1, (grid.heads, -1)).transpose(1, 2).flatten(0, 1).unsqueeze(1)
    summed: Tensor = (stacked * mixed).sum(-1)
    return summed.view(batch, -1, queries).transpose(1, 2).to(value.dtype)


class Bags(torch.autograd.Function):
    """`sample` as weighted bags of rows: the four corners of every sample of a query's head.

    Nothing that is sampled is ever stored, and nothing but the arguments is kept for the backward
    pass, whose scatter is made of bags, too: each row gathers what read it, in one fixed order.
    """

    @staticmethod
    def forward(
        ctx: Any,
        value: Float[Tensor, "B S M c"],
        grid: Grid,
        positions: Float[Tensor, "B Q 2 N"],
        weights: Float[Tensor, "B Q N"],
    ) -> Float[Tensor, "B Q Mc"]:
        ctx.grid = grid
        ctx.save_for_backward(value, positions, weights)
        table = grid.table(value).view(-1, value.shape[-1])
        weights = weights.to(table.dtype)
        together = positions.shape[1] if torch.compiler.is_compiling() else TOGETHER
        sums = []
        for places, weighed in zip(
            positions.split(together, 1), weights.split(together, 1), strict=True
        ):
            rows, shares = Corners(grid, places).bags(weighed)
            part = F.embedding_bag(rows, table, mode="sum", per_sample_weights=shares)
            sums.append(part.to(value.dtype).view(*places.shape[:2], -1))
        return torch.cat(sums, 1)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        value, positions, weights = ctx.saved_tensors
        grid: Grid = ctx.grid
        for_value, _, for_positions, for_weights = ctx.needs_input_grad
        gradient = gradients[0].reshape(-1, value.shape[-1])
        corners = Corners(grid, positions)
        all_rows, offsets = corners.rows()
        value_gradient = position_gradient = weight_gradient = None
        if for_value:
            value_gradient = gathered(gradient, corners, weights).to(value.dtype)
        if for_positions or for_weights:
            table = grid.table(value).view(-1, value.shape[-1])
            here, right, below, diagonal = (
                dots.view(weights.shape).to(positions.dtype)
                for dots in row_dots(gradient, table, all_rows, offsets)
            )
            top, bottom = torch.lerp(here, right, corners.x), torch.lerp(below, diagonal, corners.x)
            weight_gradient = torch.lerp(top, bottom, corners.y).to(weights.dtype)
            slopes = (
                torch.lerp(right.sub_(here), diagonal.sub_(below), corners.y),
                bottom.sub_(top),
            )
            inside = (positions > 0) & (positions < grid.limits)
            position_gradient = torch.stack(slopes, 2).mul_(weights.unsqueeze(2)).mul_(inside)
        return value_gradient, None, position_gradient, weight_gradient


class Corners:
    """The four cells around every position, in the order here, right, below, diagonal."""

    def __init__(self, grid: Grid, positions: Float[Tensor, "B Q 2 N"]) -> None:
        kept = positions.clamp(torch.zeros_like(grid.limits), grid.limits)
        cells = kept.int().clamp_(min=0)  # not a number becomes a number: the loss names it later
        fractions = kept.frac_()
        self.x, self.y = fractions.unbind(2)
        x, y = cells.unbind(2)
        self.here = torch.addcmul(grid.first, y, grid.below).add_(x, alpha=grid.heads)
        if len(positions) > 1:
            image = torch.arange(len(positions), dtype=torch.int32, device=positions.device)
            self.here += image[:, None, None] * (grid.cells * grid.heads)
        self.grid = grid

    def bags(
        self, weights: Float[Tensor, "B Q N"]
    ) -> tuple[Int[Tensor, "bags 4n"], Float[Tensor, "bags 4n"]]:
        """The rows that each query's heads read, all corners in one bag, and what each weighs."""
        heads, _, n = self.grid.around.shape
        rows = self.here.reshape(-1, heads, 1, n) + self.grid.around
        shares = [share.reshape(-1, heads, 1, n) for share in self.shares(weights)]
        return rows.view(-1, 4 * n), torch.cat(shares, 2).view(-1, 4 * n)

    def rows(self) -> tuple[tuple[Int[Tensor, "bags n"], ...], tuple[int, ...]]:
        """The row of each corner, less what it lies beside: an offset for all of them."""
        heads, bag = self.grid.heads, len(self.grid.shapes) * self.grid.points
        here, below = self.here, self.here + self.grid.below
        here, below = here.view(-1, bag), below.view(-1, bag)
        return (here, here, below, below), (0, heads, 0, heads)

    def shares(self, weights: Float[Tensor, "B Q N"]) -> tuple[Float[Tensor, "B Q N"], ...]:
        """What each corner weighs."""
        right = weights * self.x
        here = weights - right
        diagonal, below = right * self.y, here * self.y
        return here.sub_(below), right.sub_(diagonal), below, diagonal


def gathered(
    gradient: Float[Tensor, "bags c"], corners: Corners, weights: Float[Tensor, "B Q N"]
) -> Float[Tensor, "B S M c"]:
    """The gradient of what was sampled: of every row, the bags that read it times their weights.

    Which bags read a row is sorted once, for the corner `here`. The other corners of a sample are
    read a cell further on, so what its row gathers for them belongs to the cell beside or below.
    """
    from scipy.sparse import csr_array  # here: only a training needs it, and it is slow to import

    grid, images = corners.grid, len(weights)
    rows = corners.here.flatten().numpy()
    starts = np.arange(0, len(rows) + 1, len(grid.shapes) * grid.points, dtype=np.int32)
    entries = np.arange(len(rows), dtype=np.int32)
    size = images * grid.cells * grid.heads
    by_row = csr_array((entries, rows, starts), shape=(len(gradient), size), copy=False).tocsc()
    order, bags, ends = map(torch.from_numpy, (by_row.data, by_row.indices, by_row.indptr))
    gradient = gradient.to(torch.promote_types(gradient.dtype, torch.float32))
    levels: list[Float[Tensor, "B h w M c"]] = []
    for (down, right), share in zip(CORNERS, corners.shares(weights), strict=True):
        share = share.flatten().index_select(0, order).to(gradient.dtype)
        part = F.embedding_bag(
            bags, gradient, ends, mode="sum", per_sample_weights=share, include_last_offset=True
        )
        found = grid.insides(part.view(images, grid.cells, grid.heads, -1), 1 - down, 1 - right)
        if not levels:
            levels = [level.clone() for level in found]
        else:
            for level, more in zip(levels, found, strict=True):
                level += more
    return torch.cat([level.flatten(1, 2) for level in levels], 1)


def row_dots(
    gradient: Float[Tensor, "bags c"],
    table: Float[Tensor, "R c"],
    all_rows: Sequence[Int[Tensor, "bags n"]],
    offsets: Sequence[int],
) -> Iterator[Float[Tensor, "bags n"]]:
    """The dot products of each bag's gradient with every row of the bag, for each set of rows.

    An offset is how far beyond them its rows lie in the table.
    """
    bags, n = all_rows[0].shape
    starts = torch.arange(0, bags * n + 1, n, dtype=torch.int32)
    wide = torch.promote_types(gradient.dtype, torch.float32)  # torch has no kernel for bf16
    gradient, table = gradient.to(wide), table.to(wide)
    unread = gradient.new_zeros(bags * n)
    hear_the_warning_once()
    for rows, beside in zip(all_rows, offsets, strict=True):
        below = table[beside:]
        wanted = torch.sparse_csr_tensor(
            starts, rows.flatten(), unread, (bags, len(below)), check_invariants=False
        )
        # The entries that `wanted` names of gradient @ table.T, and no other.
        yield torch.sparse.sampled_addmm(wanted, gradient, below.T, beta=0.0).values()


@lru_cache(maxsize=1)
def hear_the_warning_once() -> None:
    """Torch warns at a process's first CSR tensor that they are in beta; nobody here can act."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Sparse CSR tensor support is in beta")
        torch.eye(1).to_sparse_csr()
