"""Bilinear resizing of maps whose channels come last in memory, by whole factors.

It is `F.interpolate(x, size, mode="bilinear")` up to rounding. With channels last torch takes ten
times as long for it on a CPU as it takes to write the result.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from mask2former.tracing import is_traced


def enlarge(x: Float[Tensor, "B C h w"], size: torch.Size) -> Float[Tensor, "B C H W"]:
    """Quick where nothing is to be differentiated and `size` is the double."""
    double = tuple(size) == (2 * x.shape[-2], 2 * x.shape[-1])
    if not double or min(x.shape[-2:]) < 2 or torch.is_grad_enabled() or not runs_on_cpu(x):
        # The plain layout takes torch a third of the time.
        return F.interpolate(x.contiguous(), size=tuple(size), mode="bilinear")
    return doubled(doubled(x.permute(0, 2, 3, 1), 2), 1).permute(0, 3, 1, 2)


def shrink(x: Float[Tensor, "B C H W"], size: torch.Size) -> Float[Tensor, "B C h w"]:
    """Quick where the factor is even; then the middle of a new cell lies between two old ones."""
    even = all(old % (2 * new) == 0 for old, new in zip(x.shape[-2:], size, strict=True))
    if not even or not runs_on_cpu(x):
        return F.interpolate(x, size=tuple(size), mode="bilinear")
    for axis, new in zip((-2, -1), size, strict=True):
        cells = x.unflatten(axis, (new, -1))
        middle = cells.shape[axis] // 2
        x = torch.lerp(cells.select(axis, middle - 1), cells.select(axis, middle), 0.5)
    return x


def runs_on_cpu(x: Tensor) -> bool:
    return x.device.type == "cpu" and not is_traced()


def doubled(x: Float[Tensor, "B h w C"], axis: int) -> Float[Tensor, "B H W C"]:
    """Twice as many cells along `axis`: each a quarter of the way to the neighbour on its side.

    Beyond the border there is none, so the first and the last are what they were.
    """
    last = x.shape[axis] - 1
    out = x.new_empty(*x.shape[:axis], last + 1, 2, *x.shape[axis + 1 :])
    first_halves, second_halves = out.unbind(axis + 1)
    left, right = x.narrow(axis, 0, last), x.narrow(axis, 1, last)
    torch.lerp(right, left, 0.25, out=first_halves.narrow(axis, 1, last))
    torch.lerp(left, right, 0.25, out=second_halves.narrow(axis, 0, last))
    first_halves.select(axis, 0).copy_(x.select(axis, 0))
    second_halves.select(axis, last).copy_(x.select(axis, last))
    return out.flatten(axis, axis + 1)
