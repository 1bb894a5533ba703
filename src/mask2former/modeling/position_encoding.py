"""Sine position encodings, for images and for clips."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor

TEMPERATURE = 10000.0
NEAR_TEMPERATURE = 20.0  # of absolute positions: every wave tells neighbours apart


def _angles(
    length: int, features: int, period: float | None, device: torch.device
) -> Float[Tensor, "length features"]:
    """Sine and cosine in turn of the positions 1 .. length, at falling frequencies."""
    position = torch.arange(1, length + 1, dtype=torch.float32, device=device)
    if period is None:  # the whole axis is one turn of the fastest wave, whatever its length
        position = position / (length + 1e-6) * (2 * math.pi)
        temperature = TEMPERATURE
    else:
        position = (position - 0.5) / period * (2 * math.pi)
        temperature = NEAR_TEMPERATURE
    i = torch.arange(features, dtype=torch.float32, device=device)
    angles = position[:, None] / temperature ** (2 * (i // 2) / features)
    return torch.stack((angles[:, 0::2].sin(), angles[:, 1::2].cos()), -1).flatten(1)


def sine_2d(
    height: int,
    width: int,
    channels: int,
    *,
    period: float | None = None,
    device: torch.device,
) -> Float[Tensor, "channels height width"]:
    """DETR's encoding: first half of the channels for y, second for x.

    With `period` (in cells) positions are absolute instead of relative to the map: the fastest
    wave repeats after that many cells, so that a model sees the same code at every canvas size.
    """
    y = _angles(height, channels // 2, period, device)[:, None, :].expand(-1, width, -1)
    x = _angles(width, channels // 2, period, device)[None, :, :].expand(height, -1, -1)
    return torch.cat((y, x), -1).permute(2, 0, 1)


def sine_3d(
    frames: int, height: int, width: int, channels: int, *, device: torch.device
) -> Float[Tensor, "frames channels height width"]:
    """The video model's encoding: the image's plus one of the frame over all channels."""
    plane = sine_2d(height, width, channels, device=device)
    time = _angles(frames, channels, None, device)
    return plane + time[:, :, None, None]
