"""An image's targets in the forms in which masks are compared: at points, or in cells."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int64, UInt8
from torch import Tensor

from mask2former.structures import Targets


@dataclass(frozen=True, kw_only=True)
class Truth:
    """A target, and its masks made ready once for all predictions that are compared with it."""

    target: Targets
    masks: PackedMasks | None = None  # N x T of them, to be read at points
    ignore: PackedMasks | None = None  # T of them: void and crowds
    coverage: Coverage | None = None

    @classmethod
    def of(cls, target: Targets, *, points: bool, cells: tuple[int, int] | None = None) -> Truth:
        """For comparison at `points`, in `cells` of a map of this size (h, w), or for both."""
        ignore = None if target.ignore is None or not points else PackedMasks.of(target.ignore)
        return cls(
            target=target,
            masks=PackedMasks.of(target.masks.flatten(0, 1)) if points else None,
            ignore=ignore,
            coverage=None if cells is None else Coverage.of(target, cells),
        )


@dataclass(frozen=True, kw_only=True)
class Coverage:
    """One image's targets in the cells of the stride-4 map: the covered share of each cell."""

    truth: Float[Tensor, "N T h w"]
    valid: Bool[Tensor, "T h w"] | None  # False where void and crowd pixels are left out

    @classmethod
    def of(cls, target: Targets, size: tuple[int, int]) -> Coverage:
        """Average the masks over the cells of a map of `size` (h, w)."""
        valid = None
        if target.ignore is not None:
            valid = F.adaptive_avg_pool2d(target.ignore.float(), size) < 0.5
        return cls(truth=F.adaptive_avg_pool2d(target.masks.float(), size), valid=valid)


@dataclass(frozen=True, kw_only=True)
class PackedMasks:
    """Binary masks of which one byte says what a bilinear sample needs to know: its four corners.

    Bits 0 to 3 are the pixel itself, its right, lower and diagonal neighbour; a border of zeros is
    around every mask, so that no corner has to be asked whether it is inside.
    """

    codes: UInt8[Tensor, "NC"]  # the cells of all masks, (height + 2) x (width + 2) each
    size: tuple[int, int]  # height, width
    count: int

    @classmethod
    def of(cls, masks: Bool[Tensor, "N H W"]) -> PackedMasks:
        count, height, width = masks.shape
        codes = F.pad(masks.bool().view(torch.uint8), (1, 1, 1, 1))
        # On a CPU one by one: what is written stays in the cache.
        for code in codes if codes.device.type == "cpu" else (codes,):
            code[..., :-1] |= code[..., 1:] << 1
            below = code[..., 1:, :] << 2  # and, known by now, its right neighbour
            code[..., :-1, :] |= below
        return cls(codes=codes.flatten(), size=(height, width), count=count)

    def at(
        self,
        points: Float[Tensor, "M P 2"] | Float[Tensor, "1 P 2"],
        which: Int64[Tensor, "M"] | None = None,
    ) -> Float[Tensor, "M P"]:
        """Bilinear samples, zeros outside, of the masks `which` (all, in order, if not said)."""
        height, width = self.size
        if which is None:
            which = torch.arange(self.count, device=points.device)
        sides = points.new_tensor((width, height))
        position = (points * sides).add_(0.5)  # with the border, the first pixel's centre is at 1
        position = position.transpose(1, 2).contiguous()
        position.clamp_(min=0)
        x, y = torch.minimum(position, sides[:, None] + 1, out=position).unbind(1)
        column, row = x.long(), y.long()
        fx, fy = x - column, y - row
        index = row.mul_(width + 2).add_(column) + which[:, None] * ((height + 2) * (width + 2))
        code = self.codes.index_select(0, index.flatten()).view(index.shape)
        here, right, below, diagonal = (((code >> bit) & 1).to(fx.dtype) for bit in range(4))
        top, bottom = torch.lerp(here, right, fx), torch.lerp(below, diagonal, fx)
        return torch.lerp(top, bottom, fy)
