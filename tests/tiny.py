"""Small models, images and targets for tests; made by formula, so that every release agrees."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from mask2former.modeling.decoder import DecoderConfig
from mask2former.modeling.mask2former import Mask2Former, Mask2FormerConfig
from mask2former.modeling.pixel_decoder import PixelDecoderConfig
from mask2former.modeling.resnet import ResNetConfig
from mask2former.modeling.sampling import Grid
from mask2former.modeling.swin import SwinConfig
from mask2former.structures import Category, Targets, View

HEIGHT, WIDTH = 64, 96


def categories(count: int) -> tuple[Category, ...]:
    """Every second one is a thing."""
    return tuple(
        Category(id=i + 1, name=f"class {i}", is_thing=i % 2 == 0, color=(20 * i, 100, 0))
        for i in range(count)
    )


RESNET = ResNetConfig(
    depths=(1, 1, 1, 1), block="basic", stem_channels=8, width=8, channels=8, norm="batch_norm"
)
SWIN = SwinConfig(width=8, depths=(1, 2, 1, 1), heads=(1, 1, 2, 2), window=3, drop_path=0.0)
CONFIG = Mask2FormerConfig(
    categories=categories(5),
    backbone=RESNET,
    pixel_decoder=PixelDecoderConfig(channels=32, layers=1, heads=4, points=2, feedforward=32),
    decoder=DecoderConfig(
        channels=32, mask_channels=32, layers=3, heads=4, feedforward=32, queries=6
    ),
    view=View(shortest_side=64, longest_side=128),
)


def model(config: Mask2FormerConfig = CONFIG, **decoder: Any) -> Mask2Former:
    """A model with weights by formula; `decoder` are fields of its DecoderConfig.

    What the pixel decoder must have for them, it has.
    """
    changed = replace(config.decoder, **decoder)
    pixels = replace(
        config.pixel_decoder,
        position_period=changed.position_period,
        mask_positions=changed.anchored_masks,
    )
    built = Mask2Former(replace(config, decoder=changed, pixel_decoder=pixels))
    fill(built)
    return built


def wave(count: int, seed: float) -> Tensor:
    """Numbers in -1 .. 1 that look drawn at random, the same everywhere."""
    x = torch.arange(1, count + 1, dtype=torch.float64) * 12.9898 + seed * 78.233
    return 2 * (torch.sin(x) * 43758.5453 % 1).float() - 1


@torch.no_grad()
def fill(module: nn.Module) -> None:
    """Give every parameter and statistic a value of the usual size."""
    for seed, (name, tensor) in enumerate(module.state_dict().items()):
        if not tensor.is_floating_point():
            continue
        values = wave(tensor.numel(), seed).reshape(tensor.shape)
        if name.endswith("running_var") or (tensor.ndim == 1 and name.endswith("weight")):
            values = 1 + 0.1 * values  # of a normalisation
        elif tensor.ndim < 2:
            values = 0.1 * values
        else:
            values = values * math.sqrt(3 / tensor[0].numel())
        tensor.copy_(values)


def images(batch: int = 2) -> Tensor:
    """Normalised images [B, 3, H, W]: waves of a few pixels' length."""
    y, x = torch.meshgrid(torch.arange(HEIGHT) / 1.0, torch.arange(WIDTH) / 1.0, indexing="ij")
    rows = [
        torch.sin(x * (0.11 + 0.03 * c) + y * (0.07 + 0.02 * b)) + torch.cos(y * 0.13 * (b + 1))
        for b in range(batch)
        for c in range(3)
    ]
    return torch.stack(rows).view(batch, 3, HEIGHT, WIDTH)


def discs(centres: list[tuple[int, int, int]]) -> Tensor:
    """Masks [N, 1, H, W]: (x, y, radius) in pixels."""
    y, x = torch.meshgrid(torch.arange(HEIGHT), torch.arange(WIDTH), indexing="ij")
    masks = [(x - cx) ** 2 + (y - cy) ** 2 < r**2 for cx, cy, r in centres]
    return torch.stack(masks).unsqueeze(1) if masks else torch.zeros(0, 1, HEIGHT, WIDTH).bool()


def targets() -> tuple[Targets, ...]:
    """Two images: three objects and one."""
    return (
        Targets(
            labels=torch.tensor([0, 3, 1]),
            masks=discs([(20, 20, 15), (70, 30, 22), (45, 55, 8)]),
        ),
        Targets(labels=torch.tensor([4]), masks=discs([(60, 30, 25)])),
    )


def nothing() -> Targets:
    return Targets(labels=torch.zeros(0, dtype=torch.int64), masks=discs([]))


def assert_gradients(module: nn.Module) -> None:
    """Every parameter has a gradient, and all are finite."""
    for name, parameter in module.named_parameters():
        assert parameter.grad is not None, f"{name} has no gradient"
        assert parameter.grad.isfinite().all(), f"the gradient of {name} is not finite"


def sampled(
    function: Any, value: Tensor, shapes: Any, locations: Tensor, weights: Tensor
) -> Tensor:
    """One of `modeling.sampling`'s, asked in the terms of the official code.

    `locations` [B, Q, M, L, P, 2] are shares of each level, `weights` are [B, Q, M, L, P].
    """
    heads, points = locations.shape[2], locations.shape[4]
    grid = Grid.of(shapes, heads, points, value.device)
    positions = locations.movedim(-1, 2).flatten(3) * (grid.limits - 1) + 0.5
    out: Tensor = function(value, grid, positions, weights.flatten(2))
    return out
