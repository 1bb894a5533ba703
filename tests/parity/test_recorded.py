"""Numbers of our own, recorded: what a change of the model or of the loss must not move unnoticed.

Weights, images, targets and points come from formulas, so that they are the same everywhere. If a
change is meant, say why and record anew:

    PYTHONPATH=src:tests python tests/parity/test_recorded.py
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import tiny
from mask2former.loss.criterion import Criterion, LossConfig
from mask2former.modeling.mask2former import Mask2Former, Mask2FormerConfig
from mask2former.modeling.resnet import ResNetConfig
from mask2former.structures import Output

FILE = Path(__file__).with_name("recorded.json")
CONFIGS = {
    "resnet": replace(
        tiny.CONFIG,
        backbone=ResNetConfig(depths=(1, 1, 1, 1), stem_channels=8, width=4, channels=16),
    ),
    "swin": replace(tiny.CONFIG, backbone=tiny.SWIN),
    "compact": replace(
        tiny.CONFIG,
        pixel_decoder=replace(tiny.CONFIG.pixel_decoder, position_period=64.0, mask_positions=True),
        decoder=replace(
            tiny.CONFIG.decoder,
            selected_share=5 / 96,
            anchored_masks=True,
            position_period=64.0,
        ),
    ),
    "clip": replace(tiny.CONFIG, decoder=replace(tiny.CONFIG.decoder, temporal_positions=True)),
}


def rand(*size: int, **options: object) -> Tensor:
    """Stands for torch.rand: the same numbers from every release."""
    count = int(torch.Size(size).numel())
    return ((tiny.wave(count, 0.5) + 1) / 2).clamp(0, 1 - 1e-6).reshape(size)


def measure(config: Mask2FormerConfig, patch: pytest.MonkeyPatch) -> dict[str, Any]:
    """A few logits, sums of all, and losses and gradients of one step."""
    is_clip = config.decoder.temporal_positions
    model = tiny.model(config).train()
    images, targets = tiny.images(), tiny.targets()
    if is_clip:  # two frames, in which the objects stand still
        images = torch.stack((images, images.flip(0)), 1)
        targets = tuple(replace(t, masks=t.masks.expand(-1, 2, -1, -1)) for t in targets)
    patch.setattr(Mask2Former, "canvas_origin", lambda self: (32, 64))
    patch.setattr(torch, "rand", rand)
    output: Output = model(images)
    losses = Criterion(LossConfig(points=96), config.categories)(output, targets)
    losses.total.backward()
    patch.undo()
    return {
        "class logits": output.class_logits[0, :3, :3].flatten().tolist(),
        "mask logits": output.mask_logits[1, :2, ..., 3::7, 5::9].flatten().tolist(),
        "class logits, mean size": output.class_logits.abs().mean().item(),
        "mask logits, mean size": output.mask_logits.abs().mean().item(),
        "classification": losses.classification.tolist(),
        "mask": losses.mask.tolist(),
        "dice": losses.dice.tolist(),
        "gradient norms": [module_norm(part) for part in model.children()],
    }


def module_norm(module: torch.nn.Module) -> float:
    return (
        sum(p.grad.square().sum().item() for p in module.parameters() if p.grad is not None) ** 0.5
    )


@pytest.mark.parametrize("name", CONFIGS)
def test_numbers_are_those_recorded(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    measured, expected = measure(CONFIGS[name], monkeypatch), json.loads(FILE.read_text())[name]
    assert measured.keys() == expected.keys()
    for key, value in measured.items():
        assert value == pytest.approx(expected[key], rel=1e-4, abs=1e-4), key


if __name__ == "__main__":
    with pytest.MonkeyPatch.context() as patch:
        numbers = {name: measure(config, patch) for name, config in CONFIGS.items()}
    FILE.write_text(json.dumps(numbers, indent=1) + "\n")
