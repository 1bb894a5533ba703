"""AdamW with the paper's parameter groups, and the schedules of its recipes."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import nn


@dataclass(frozen=True, kw_only=True)
class OptimizerConfig:
    """The default is the paper's, with COCO's step schedule written as shares of the training."""

    rate: float = 1e-4
    backbone_multiplier: float = 0.1
    layer_decay: float = 1.0  # each block of the backbone learns so much slower than the next
    weight_decay: float = 0.05
    clip_norm: float = 0.01  # of all gradients together
    schedule: Literal["step", "poly", "cosine", "constant"] = "step"
    milestones: tuple[float, ...] = (0.8889, 0.9630)  # where "step" divides the rate by 10
    power: float = 0.9  # of "poly"
    warmup_steps: int = 0  # linear, from 0


# Parameters that are no nn.Embedding here but are one in the official model.
_EMBEDDINGS = (
    "decoder.query_features",
    "decoder.query_positions",
    "decoder.level_embedding",
)
# Where a parameter of a backbone, ours or of transformers, stands: its stage and its block.
_BLOCK = re.compile(r"\b(?:stages|layers?)\.(\d+)\.(?:(?:blocks|layers)\.)?(?:(\d+)\.)?")
_STEM = re.compile(r"backbone\.(stem|patch_embed|patch_norm|body\.(\w+\.)?embeddings)\b")
_MERGE = re.compile(r"backbone\.merges\.(\d+)\.")
_NORMS = (nn.LayerNorm, nn.GroupNorm, nn.BatchNorm2d)


def parameter_groups(model: nn.Module, config: OptimizerConfig) -> list[dict[str, Any]]:
    """Backbone at a tenth of the rate; no decay for norms, embeddings and Swin's position bias."""
    slower = layer_factors(model, config.layer_decay)
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for module_name, module in model.named_modules():
        for name, parameter in module.named_parameters(module_name, recurse=False):
            if not parameter.requires_grad:
                continue
            spared = (
                isinstance(module, _NORMS)
                or name in _EMBEDDINGS
                or name.endswith("relative_position_bias_table")
            )
            rate = config.rate
            if name.startswith("backbone."):
                rate *= config.backbone_multiplier * slower[name]
            key = (rate, 0.0 if spared else config.weight_decay)
            groups.setdefault(key, []).append(parameter)
    return [
        {"params": parameters, "lr": rate, "base_rate": rate, "weight_decay": decay}
        for (rate, decay), parameters in groups.items()
    ]


def layer_factors(model: nn.Module, decay: float) -> dict[str, float]:
    """What the rate of each parameter of the backbone is multiplied with (BEiT; ICLR 2022).

    1 for its last block, `decay` for the one before it, and so on down to the stem.
    """
    names = [name for name, _ in model.named_parameters() if name.startswith("backbone.")]
    found = {name: place for name in names if (place := _place(name)) is not None}
    last: dict[int, int] = {}
    for stage, block in found.values():
        last[stage] = max(last.get(stage, 0), block or 0)
    places = {
        name: (stage, last[stage] if block is None else block)
        for name, (stage, block) in found.items()
    }
    order = sorted(set(places.values()), reverse=True)
    # What stands after all blocks learns as fast as the last of them.
    return {name: decay ** order.index(places[name]) if name in places else 1.0 for name in names}


def _place(name: str) -> tuple[int, int | None] | None:
    """Stage and block (None: its stage's last) of a backbone's parameter; the stem is stage -1.

    None for what comes after all blocks.
    """
    if _STEM.match(name):
        return (-1, 0)
    merge = _MERGE.match(name)
    if merge:  # it leads to the stage that follows
        return (int(merge[1]) + 1, 0)
    found = _BLOCK.search(name)
    if found is None:
        return None
    if "downsampling_layer" in name:  # ConvNeXt begins its stages with it
        return (int(found[1]), 0)
    return (int(found[1]), None if found[2] is None else int(found[2]))


def build_optimizer(
    model: nn.Module, config: OptimizerConfig, *, fused: bool = True
) -> torch.optim.AdamW:
    return torch.optim.AdamW(parameter_groups(model, config), lr=config.rate, fused=fused)


def rate_factor(step: int, steps: int, config: OptimizerConfig) -> float:
    """What every rate is multiplied with at a step of a training of `steps` steps."""
    warmup = min((step + 1) / config.warmup_steps, 1.0) if config.warmup_steps else 1.0
    progress = step / steps
    factor: float
    if config.schedule == "poly":
        factor = (1 - progress) ** config.power
    elif config.schedule == "cosine":
        factor = 0.5 * (1 + math.cos(math.pi * progress))
    elif config.schedule == "step":
        factor = math.pow(0.1, _passed(progress, config.milestones))
    else:
        factor = 1.0
    return warmup * factor


def _passed(progress: float, milestones: Sequence[float]) -> int:
    return sum(progress >= milestone for milestone in milestones)


def set_rates(optimizer: torch.optim.Optimizer, factor: float) -> None:
    for group in optimizer.param_groups:
        group["lr"] = group["base_rate"] * factor
