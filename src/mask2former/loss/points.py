"""Reading masks at points (paper, section 3.3): coordinates are (x, y) in [0, 1] of the canvas."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor


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
    maps: Float[Tensor, "N h w"], count: int, oversample: float, importance: float
) -> Float[Tensor, "N P 2"]:
    """`count` points for each map: most where its logit is closest to zero, the rest uniform.

    As PointRend: `oversample * count` candidates, of which the `importance` share is kept.
    """
    n = len(maps)
    candidates = torch.rand(n, int(count * oversample), 2, device=maps.device)
    keep = int(importance * count)
    distance = sample_maps(maps.unsqueeze(1), candidates).squeeze(1).abs()
    index = distance.topk(keep, dim=1, largest=False).indices
    chosen = candidates.gather(1, index.unsqueeze(-1).expand(-1, -1, 2))
    uniform = torch.rand(n, count - keep, 2, device=maps.device)
    return torch.cat((chosen, uniform), 1)
