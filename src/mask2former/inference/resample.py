"""Mask logits at the size of the image, a block of rows at a time.

The official steps are: upsample to the padded canvas, crop to the image, resize to the output, both
times bilinearly. All three are linear and act on each axis alone, so per axis they are one matrix,
and a block of output rows can be made without its neighbours.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from math import ceil, floor

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

Size = tuple[int, int]  # (height, width) in pixels

# Floats in a block: on a CPU it should fit the caches, an accelerator wants few launches.
CPU_BLOCK = 2**20
ACCELERATOR_BLOCK = 2**26
GROUP = 8  # blocks whose sources are stretched together; a few rows belong to two groups


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """What one image measured on its way through the model."""

    padded: Size  # the canvas that the model saw
    image: Size  # the resized image, in the top left corner of the canvas
    output: Size  # what the results shall have, usually that of the original image


def upsampled(
    logits: Float[Tensor, "N h w"], sizes: Sizes
) -> Iterator[tuple[slice, Float[Tensor, "N R W"]]]:
    """Mask logits at the output size, a block of rows at a time."""
    height, width = sizes.output
    columns = Axis(logits.shape[2], sizes.padded[1], sizes.image[1], width, logits.device)
    rows = Axis(logits.shape[1], sizes.padded[0], sizes.image[0], height, logits.device)
    for group in blocks(height, len(logits) * width, logits.device, blocks_each=GROUP):
        # Stretched to the full width a group at a time: the whole would be the largest map of all.
        stretched = rows.sources(group)
        wide = columns.apply(logits[:, stretched])
        for part in blocks(group.stop - group.start, len(logits) * width, logits.device):
            block = slice(group.start + part.start, group.start + part.stop)
            source = rows.sources(block)
            inner = slice(source.start - stretched.start, source.stop - stretched.start)
            yield block, rows.matrix[block, source] @ wide[:, inner]


def blocks(
    length: int, cost: int, device: torch.device, *, blocks_each: int = 1
) -> Iterator[slice]:
    """Slices of a dimension, of which each item costs so many floats; or of several blocks each."""
    step = max(1, (CPU_BLOCK if device.type == "cpu" else ACCELERATOR_BLOCK) // cost)
    step *= blocks_each
    for start in range(0, length, step):
        yield slice(start, min(start + step, length))


class Axis:
    """Along one axis: resize stored logits to the canvas, crop to the image, resize to the output.

    `matrix` is [output, stored]; only a band around its diagonal is not zero.
    """

    def __init__(
        self, stored: int, padded: int, image: int, output: int, device: torch.device
    ) -> None:
        # What the two steps do to each unit vector; exactly torch's coordinates and weights.
        basis = torch.eye(stored, device=device)[None]
        canvas = F.interpolate(basis, size=padded, mode="linear", align_corners=False)
        resized = F.interpolate(
            canvas[..., :image], size=output, mode="linear", align_corners=False
        )
        self.matrix = resized[0].T.contiguous()
        self._image_per_output = image / output
        self._stored_per_padded = stored / padded
        self._stored = stored

    def sources(self, block: slice) -> slice:
        """Which stored items a block of outputs is made of, or a few more."""
        # A tap's centre is at most one item away from the position that is asked for.
        low = (block.start * self._image_per_output - 1) * self._stored_per_padded - 1
        high = (block.stop * self._image_per_output + 1) * self._stored_per_padded + 1
        return slice(max(0, floor(low - 0.5)), min(self._stored, ceil(high + 0.5)))

    def apply(self, values: Float[Tensor, "*N stored"]) -> Float[Tensor, "*N output"]:
        """Resample the last dimension."""
        output = len(self.matrix)
        result = values.new_empty(*values.shape[:-1], output)
        for start in range(0, output, 128):  # tiles skip most of the zeros of the matrix
            block = slice(start, min(start + 128, output))
            source = self.sources(block)
            result[..., block] = values[..., source] @ self.matrix[block, source].T
        return result
