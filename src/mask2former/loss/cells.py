"""What each stride-8 cell is told to be, where queries are selected from cells.

The matcher tells one query of an image per object what it is: a signal so thin that a model trained
from nothing finds masks long before it tells classes apart. Here every cell about the middle of a
thing learns its class: CenterNet's idea (Zhou et al., 2019), with the area for its Gaussian.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

REACH = 0.15  # of the root of a thing's area: how far from its middle its cells lie


@torch.no_grad()
def cell_labels(
    labels: Int64[Tensor, "N"],
    coverage: Float[Tensor, "N T H W"],
    is_thing: Bool[Tensor, "N"],
    size: tuple[int, ...],
    no_object: int,
) -> Int64[Tensor, "T h w"]:
    """The class of the smallest thing whose middle is in a cell or near it, else `no_object`.

    `coverage` is how much of each cell of a finer map every object covers; `size` is (h, w).
    """
    (h, w), (frames, height, width) = size, coverage.shape[1:]
    nothing = torch.full((frames, h, w), no_object, device=labels.device)
    labels, coverage = labels[is_thing], coverage[is_thing]
    if len(labels) == 0:
        return nothing
    rows, columns = coverage.sum(3), coverage.sum(2)  # [N, T, H], [N, T, W]
    area = rows.sum(2)  # [N, T], in cells of the finer map
    y, x = middle(rows, area), middle(columns, area)
    cell_y = (torch.arange(h, device=labels.device) + 0.5) * (height / h)
    cell_x = (torch.arange(w, device=labels.device) + 0.5) * (width / w)
    dy, dx = cell_y - y[..., None], cell_x - x[..., None]  # [N, T, h], [N, T, w]
    near = dy[..., None] ** 2 + dx[..., None, :] ** 2 <= (REACH**2 * area)[..., None, None]
    inside = (dy.abs() <= height / h / 2)[..., None] & (dx.abs() <= width / w / 2)[..., None, :]
    claimed = (near | inside) & (area > 0)[..., None, None]
    size_of = torch.where(claimed, area[..., None, None], torch.inf)
    smallest = size_of.min(0)
    return torch.where(smallest.values < torch.inf, labels[smallest.indices], nothing)


def middle(profile: Float[Tensor, "N T L"], area: Float[Tensor, "N T"]) -> Float[Tensor, "N T"]:
    """The centre of mass along one axis, in cells."""
    place = torch.arange(profile.shape[2], device=profile.device) + 0.5
    return (profile * place).sum(2) / area.clamp(min=1e-6)
