"""Sine position encodings, for images and for clips."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor

TEMPERATURE = 10000.0
NEAR_TEMPERATURE = 20.0  # of absolute positions: every wave tells neighbours apart


Origin = tuple[int, int]  # (y, x) in pixels


def _angles(
    position: Float[Tensor, "length"], features: int, temperature: float
) -> Float[Tensor, "length features"]:
    """Sine and cosine in turn of the positions (in turns of the fastest wave)."""
    i = torch.arange(features, dtype=torch.float32, device=position.device)
    angles = position[:, None] * (2 * math.pi) / temperature ** (2 * (i // 2) / features)
    return torch.stack((angles[:, 0::2].sin(), angles[:, 1::2].cos()), -1).flatten(1)


def _relative(length: int, device: torch.device) -> Float[Tensor, "length"]:
    """1 .. length as shares of the axis: the official counting, with its epsilon."""
    count = torch.arange(1, length + 1, dtype=torch.float32, device=device)
    return count / (length + 1e-6)


def sine_2d(
    height: int,
    width: int,
    channels: int,
    *,
    stride: int = 1,
    period: float | None = None,
    origin: Origin = (0, 0),
    device: torch.device,
) -> Float[Tensor, "channels height width"]:
    """DETR's encoding: first half of the channels for y, second for x.

    With `period` (pixels) positions are absolute instead of shares of the canvas: the fastest wave
    repeats after so many pixels, so that a model sees the same code at every canvas size. `origin`
    is where the map (of cells of `stride` pixels) lies on a larger canvas.
    """
    axes = []
    for length, start in ((height, origin[0]), (width, origin[1])):
        if period is None:
            axes.append(_angles(_relative(length, device), channels // 2, TEMPERATURE))
        else:
            centre = (torch.arange(length, device=device) + 0.5) * stride + start
            axes.append(_angles(centre / period, channels // 2, NEAR_TEMPERATURE))
    y, x = axes[0][:, None, :].expand(-1, width, -1), axes[1][None, :, :].expand(height, -1, -1)
    return torch.cat((y, x), -1).permute(2, 0, 1)


def sine_3d(
    frames: int, height: int, width: int, channels: int, *, device: torch.device
) -> Float[Tensor, "frames channels height width"]:
    """The video model's encoding: the image's plus one of the frame over all channels."""
    plane = sine_2d(height, width, channels, device=device)
    time = _angles(_relative(frames, device), channels, TEMPERATURE)
    return plane + time[:, :, None, None]
