"""Reading masks at points (paper, section 3.3): coordinates are (x, y) in [0, 1] of the canvas."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
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
    return F.grid_sample(maps, grid_of(points).to(maps.dtype), align_corners=False).squeeze(2)


def grid_of(points: Float[Tensor, "N P 2"]) -> Float[Tensor, "N 1 P 2"]:
    """The points as `grid_sample` counts them: from -1 to 1."""
    return (2 * points.unsqueeze(1)).sub_(1)


def scatter_points(
    slope: Float[Tensor, "N P"], points: Float[Tensor, "N P 2"], size: tuple[int, int]
) -> Float[Tensor, "N h w"]:
    """The gradient of maps of `size` (h, w) that were sampled at the points, from the samples'."""
    shape = slope.new_empty(1).expand(len(points), 1, *size)  # its values lead to what is dropped
    bilinear, zeros = 0, 0
    gradient: Tensor = torch.ops.aten.grid_sampler_2d_backward(
        slope[:, None, None], shape, grid_of(points), bilinear, zeros, False, [True, False]
    )[0]
    return gradient.squeeze(1)


def sample_pixels(
    pixels: Float[Tensor, "T h w D"], points: Float[Tensor, "P 2"]
) -> Float[Tensor, "TP D"]:
    """As `sample_maps`, for many channels at points that all frames share; no gradient.

    On a CPU the four cells around a point are fetched as whole rows of channels: a tenth of the
    time of `grid_sample`, which goes through every channel by itself.
    """
    frames, height, width, depth = pixels.shape
    if pixels.device.type != "cpu":
        sampled = sample_maps(pixels.movedim(-1, 1), points.expand(frames, -1, -1))
        return sampled.transpose(1, 2).flatten(0, 1)
    position = points * points.new_tensor((width, height)) - 0.5
    corner = position.floor()
    share = torch.stack((corner + 1 - position, position - corner))  # [2, P, 2]: before, after
    place = torch.stack((corner, corner + 1)).long()
    last = torch.tensor((width - 1, height - 1))
    share = share * ((place >= 0) & (place <= last))
    x, y = place.clamp_(min=0).minimum(last).unbind(-1)
    index = (y[:, None] * width + x).flatten(0, 1).T.repeat(frames, 1)  # [T P, 4]
    index += torch.arange(frames).repeat_interleave(len(points))[:, None] * (height * width)
    weight = (share[:, None, :, 1] * share[..., 0]).flatten(0, 1).T.repeat(frames, 1)
    # Detached: what wants a gradient takes a path that is many times slower.
    table = pixels.detach().reshape(-1, depth).contiguous()
    return F.embedding_bag(index, table, mode="sum", per_sample_weights=weight)


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
    distance = sample_maps(maps.unsqueeze(1), candidates).squeeze(1).abs_()
    first = torch.arange(len(maps), device=maps.device)[:, None] * candidates.shape[1]
    index = (least(distance, keep) + first).flatten()
    chosen = candidates.flatten(0, 1).index_select(0, index).view(len(maps), keep, 2)
    return torch.cat((chosen, uniform_points(rows, count - keep, maps.device, generators)), 1)


def least(x: Float[Tensor, "N P"], count: int) -> Int64[Tensor, "N K"]:
    """Where the `count` least numbers of each row are, in any order."""
    if x.device.type == "cpu" and 0 < count < x.shape[1]:  # a third of the time of topk
        return torch.from_numpy(np.argpartition(x.numpy(), count - 1, axis=1)[:, :count])
    return x.topk(count, dim=1, largest=False, sorted=False).indices
