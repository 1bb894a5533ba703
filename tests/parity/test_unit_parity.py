"""Single functions against the official code's recordings.

Not compared: deformable attention with a padding mask on the value, which the official model never
uses and ours does not have.
"""

from __future__ import annotations

import json
from functools import cache
from typing import Any

import pytest
import torch
from recordings import REFERENCE, check, in_order, needs_recordings
from safetensors.torch import load_file
from torch import Tensor

import tiny
from mask2former.loss.criterion import mask_losses
from mask2former.loss.matcher import cross_entropy_cost, dice_cost
from mask2former.loss.points import sample_maps, uncertain_points
from mask2former.modeling.deformable_attention import DeformableAttention
from mask2former.modeling.position_encoding import sine_2d, sine_3d
from mask2former.modeling.sampling import Grid, sample, sample_plainly

pytestmark = needs_recordings
CPU = torch.device("cpu")


@cache
def units() -> dict[str, Tensor]:
    return load_file(REFERENCE / "units" / "units.safetensors")


@cache
def facts() -> dict[str, Any]:
    return json.loads((REFERENCE / "units" / "units.json").read_text())


def shapes() -> list[tuple[int, int]]:
    return [(h, w) for h, w in units()["msda.spatial_shapes"].tolist()]


@pytest.mark.parametrize("function", [sample, sample_plainly])
def test_deformable_sampling_and_its_gradients(function: Any) -> None:
    names = ("value", "locations", "weights")
    inputs = [units()[f"msda.core.{name}"].clone().requires_grad_() for name in names]
    out = tiny.sampled(function, inputs[0], shapes(), inputs[1], inputs[2])
    check(out.detach(), units()["msda.core.output"], 1e-5, "output")
    out.backward(units()["msda.core.grad_output"])
    for name, x in zip(names, inputs, strict=True):
        assert x.grad is not None
        expected = units()[f"msda.core.grad_{name}"]
        check(x.grad, expected, 1e-5 * expected.abs().max().item(), f"gradient of {name}")


def module() -> DeformableAttention:
    sizes = facts()["msda"]
    return DeformableAttention(sizes["d_model"], sizes["levels"], sizes["heads"], sizes["points"])


def test_deformable_module() -> None:
    """In the recording a query has another place on each level, in our model one for all."""
    attention = module()
    theirs = {
        "offsets": "sampling_offsets",
        "weights": "attention_weights",
        "value": "value_proj",
        "output": "output_proj",
    }
    attention.load_state_dict(
        {
            f"{ours}.{kind}": units()[f"msda.module.param.{name}.{kind}"]
            for ours, name in theirs.items()
            for kind in ("weight", "bias")
        }
    )
    query, tokens = units()["msda.module.query"], units()["msda.module.input_flatten"]
    references = units()["msda.module.reference_points"]  # [B, S, L, 2]
    grid = Grid.of(shapes(), attention.heads, attention.points, CPU)
    places = references.repeat_interleave(attention.points, 2).repeat(1, 1, attention.heads, 1)
    with torch.no_grad():
        out = attention(tokens, query - tokens, grid, places.transpose(-1, -2))
    check(out, units()["msda.module.output"], 1e-5, "output")


def test_initial_offsets() -> None:
    expected = units()["msda.default_init.sampling_offsets.bias"]
    check(module().offsets.bias.detach(), expected, 1e-6, "offsets")
    assert not module().offsets.weight.any()


@pytest.mark.parametrize("size", ["3x4.20", "5x7.16", "9x11.18"])
def test_image_positions(size: str) -> None:
    plane, features = size.split(".")
    height, width = map(int, plane.split("x"))
    code = sine_2d(height, width, 2 * int(features), device=CPU)
    check(code[None], units()[f"pos2d.{size}"], 2e-6, size)


@pytest.mark.parametrize("size", ["1x3x5.10", "3x4x6.16", "5x2x3.16"])
def test_clip_positions(size: str) -> None:
    volume, features = size.split(".")
    frames, height, width = map(int, volume.split("x"))
    code = sine_3d(frames, height, width, 2 * int(features), device=CPU)
    check(code[None], units()[f"pos3d.{size}"], 2e-6, size)


def test_point_sampling() -> None:
    out = sample_maps(units()["point_sample.input"], units()["point_sample.coords"])
    check(out, units()["point_sample.output"], 1e-6, "samples")


def test_uncertain_points(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = [units()["uncertain.rand.0"], units()["uncertain.rand.1"]]

    def rand(*size: int, **options: Any) -> Tensor:
        numbers = drawn.pop(0)
        assert numbers.shape == size
        return numbers

    monkeypatch.setattr(torch, "rand", rand)
    points = uncertain_points(units()["point_sample.input"][:, 0], 30, 3.0, 0.75)
    check(in_order(points), in_order(units()["uncertain.points"]), 0.0, "points")


def test_mask_losses() -> None:
    expected = facts()["loss"]
    entropy, dice = mask_losses(units()["loss.logits"], units()["loss.targets"], None)
    assert entropy.item() / expected["num_masks"] == pytest.approx(expected["sigmoid_ce"], rel=1e-6)
    assert dice.item() / expected["num_masks"] == pytest.approx(expected["dice"], rel=1e-6)


def test_mask_costs() -> None:
    logits, truth = units()["cost.logits"], units()["cost.targets"]
    check(cross_entropy_cost(logits, truth), units()["cost.sigmoid_ce"], 3e-6, "cross-entropy")
    check(dice_cost(logits, truth), units()["cost.dice"], 1e-6, "dice")
