"""Reading masks at points (paper, section 3.3): coordinates are (x, y) in [0, 1] of the canvas."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

Generators = Sequence[torch.Generator] | None  # one an image; None: torch's own draws for all


def uniform_points(
    rows: Sequence[int], count: int, device: torch.device, generators: Generators
) -> Float[Tensor, "N P 2"]:
    """`count` points for each of the `rows` masks of every image, in order.

    With generators what an image draws is a function of its own seed, whatever it is batched with.
    """
    if generators is None:
        return torch.rand(sum(rows), count, 2, device=device)
    points = torch.empty(sum(rows), count, 2, device=device)
    for part, generator in zip(points.split(list(rows)), generators, strict=True):
        part.uniform_(generator=generator)
    return points


def sample_maps(
    maps: Float[Tensor, "N C h w"], points: Float[Tensor, "N P 2"]
) -> Float[Tensor, "N C P"]:
    """Bilinear samples, zeros outside; differentiable."""
    grid = 2 * points.unsqueeze(1) - 1
    return F.grid_sample(maps, grid.to(maps.dtype), align_corners=False).squeeze(2)


def sample_masks(
    masks: Bool[Tensor, "N H W"], points: Float[Tensor, "N P 2"] | Float[Tensor, "1 P 2"]
) -> Float[Tensor, "N P"]:
    """Bilinear samples of binary masks, read where they lie: no fp32 copy of them is made."""
    n, h, w = masks.shape
    flat = masks.reshape(n, h * w)
    position = points * points.new_tensor((w, h)) - 0.5
    corner = position.floor()
    fraction = position - corner
    x0, y0 = corner.long().unbind(-1)
    fx, fy = fraction.unbind(-1)
    out = torch.zeros(n, points.shape[1], device=points.device)
    for x, wx in ((x0, 1 - fx), (x0 + 1, fx)):
        for y, wy in ((y0, 1 - fy), (y0 + 1, fy)):
            inside = (x >= 0) & (x < w) & (y >= 0) & (y < h)
            index = y.clamp(0, h - 1) * w + x.clamp(0, w - 1)
            weight = wx * wy * inside
            if len(points) == 1:
                out += flat[:, index[0]] * weight
            else:
                out += flat.gather(1, index) * weight
    return out


@torch.no_grad()
def uncertain_points(
    maps: Float[Tensor, "N h w"],
    count: int,
    oversample: float,
    importance: float,
    rows: Sequence[int] | None = None,
    generators: Generators = None,
) -> Float[Tensor, "N P 2"]:
    """`count` points for each map: most where its logit is closest to zero, the rest uniform.

    As PointRend: `oversample * count` candidates, of which the `importance` share is kept. `rows`
    are how many maps every image has, where there are generators.
    """
    rows = (len(maps),) if rows is None else rows
    candidates = uniform_points(rows, int(count * oversample), maps.device, generators)
    keep = int(importance * count)
    distance = sample_maps(maps.unsqueeze(1), candidates).squeeze(1).abs()
    index = distance.topk(keep, dim=1, largest=False).indices
    chosen = candidates.gather(1, index.unsqueeze(-1).expand(-1, -1, 2))
    return torch.cat((chosen, uniform_points(rows, count - keep, maps.device, generators)), 1)
