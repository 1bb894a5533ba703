from __future__ import annotations

from dataclasses import replace

import pytest
import torch

import tiny
from mask2former.training.optimizer import (
    OptimizerConfig,
    build_optimizer,
    parameter_groups,
    rate_factor,
    set_rates,
)

CONFIG = OptimizerConfig(rate=1e-3, backbone_multiplier=0.1, weight_decay=0.05)


def settings(backbone: object) -> dict[str, tuple[float, float]]:
    """Rate and decay of every parameter by its name."""
    model = tiny.model(replace(tiny.CONFIG, backbone=backbone), selected_share=3 / 96)
    names = {id(p): name for name, p in model.named_parameters()}
    found = {
        names[id(p)]: (group["lr"], group["weight_decay"])
        for group in parameter_groups(model, CONFIG)
        for p in group["params"]
    }
    assert found.keys() == dict(model.named_parameters()).keys()
    return found


@pytest.mark.parametrize("backbone", [tiny.RESNET, tiny.SWIN], ids=["resnet", "swin"])
def test_backbone_learns_slower(backbone: object) -> None:
    for name, (rate, _) in settings(backbone).items():
        assert rate == pytest.approx(1e-4 if name.startswith("backbone.") else 1e-3), name


def test_norms_embeddings_and_position_biases_do_not_decay() -> None:
    found = settings(tiny.SWIN) | settings(tiny.RESNET)
    spared = {name for name, (_, decay) in found.items() if decay == 0}
    assert all(decay in (0, 0.05) for _, decay in found.values())
    for name in (
        "backbone.stem.norm.weight",
        "backbone.stages.0.blocks.0.norm1.bias",
        "backbone.stages.0.blocks.0.attention.relative_position_bias_table",
        "backbone.merges.0.norm.weight",
        "pixel_decoder.projections.0.1.weight",
        "pixel_decoder.layers.0.norm1.weight",
        "decoder.query_features",
        "decoder.query_positions",
        "decoder.level_embedding",
        "decoder.selection.1.weight",
        "decoder.head.norm.bias",
    ):
        assert name in spared, name
    for name in (
        "backbone.stem.conv.weight",
        "backbone.stages.0.blocks.0.attention.qkv.bias",
        "pixel_decoder.projections.0.0.bias",
        "pixel_decoder.level_embedding",  # a plain parameter in the official code
        "decoder.layers.0.self_attention.in_proj_weight",
        "decoder.head.class_logits.bias",
    ):
        assert name not in spared, name


def test_frozen_parameters_are_left_out() -> None:
    model = tiny.model()
    model.backbone.requires_grad_(False)
    optimizer = build_optimizer(model, CONFIG)
    optimised = {id(p) for group in optimizer.param_groups for p in group["params"]}
    assert optimised == {id(p) for p in model.parameters()} - {
        id(p) for p in model.backbone.parameters()
    }


def test_rates_are_set_as_shares_of_each_groups_own() -> None:
    optimizer = build_optimizer(tiny.model(), CONFIG)
    set_rates(optimizer, 0.5)
    set_rates(optimizer, 0.1)
    assert {round(g["lr"], 9) for g in optimizer.param_groups} == {1e-4, 1e-5}


def factors(steps: int = 100, **fields: object) -> list[float]:
    config = OptimizerConfig(**fields)  # type: ignore[arg-type]
    return [rate_factor(step, steps, config) for step in range(steps)]


def test_step_schedule() -> None:
    found = factors(milestones=(0.5, 0.9))
    assert found[:50] == [1.0] * 50
    assert found[50:90] == pytest.approx([0.1] * 40)
    assert found[90:] == pytest.approx([0.01] * 10)


def test_default_is_cocos_schedule() -> None:
    """50 epochs: 368,750 steps, less after 327,778 and after 355,092."""
    config = OptimizerConfig()
    assert (config.rate, config.backbone_multiplier, config.weight_decay) == (1e-4, 0.1, 0.05)
    assert config.clip_norm == 0.01
    for milestone, before in ((327_778, 1.0), (355_092, 0.1)):
        assert rate_factor(milestone - 200, 368_750, config) == pytest.approx(before)
        assert rate_factor(milestone + 200, 368_750, config) == pytest.approx(before / 10)


def test_poly_schedule() -> None:
    found = factors(schedule="poly", power=0.9)
    assert found[0] == 1.0
    assert found[50] == pytest.approx(0.5**0.9)
    assert 0 < found[99] < 0.02


def test_cosine_schedule() -> None:
    found = factors(schedule="cosine")
    assert found[0] == 1.0
    assert found[50] == pytest.approx(0.5)
    assert found[25] + found[75] == pytest.approx(1.0)
    assert 0 < found[99] < 0.001


def test_constant_schedule_with_warm_up() -> None:
    found = factors(schedule="constant", warmup_steps=4)
    assert found[:6] == pytest.approx([0.25, 0.5, 0.75, 1.0, 1.0, 1.0])


def test_a_step_moves_every_parameter() -> None:
    model = tiny.model()
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    optimizer = build_optimizer(model, CONFIG)
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    for name, parameter in model.named_parameters():
        assert not torch.equal(parameter, before[name]), name
