from __future__ import annotations

from dataclasses import replace

import pytest
import torch

import tiny
from mask2former.modeling.hf_backbone import HFBackboneConfig
from mask2former.modeling.mask2former import Mask2Former
from mask2former.training.optimizer import (
    OptimizerConfig,
    build_optimizer,
    layer_factors,
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


@pytest.mark.parametrize("kind", ["resnet", "swin"])
def test_rates_decay_block_by_block_to_the_stem(kind: str) -> None:
    backbone = tiny.RESNET if kind == "resnet" else tiny.SWIN
    model = tiny.model(replace(tiny.CONFIG, backbone=backbone))
    factors = layer_factors(model, 0.5)
    blocks = sum(backbone.depths)
    expected = {
        "resnet": {
            "backbone.stem.conv.weight": blocks,
            "backbone.stages.0.0.convs.0.conv.weight": blocks - 1,
            "backbone.stages.1.0.shortcut.norm.bias": 2,
            "backbone.stages.3.0.convs.1.conv.weight": 0,
        },
        "swin": {
            "backbone.patch_embed.weight": blocks,
            "backbone.patch_norm.bias": blocks,
            "backbone.stages.0.norm.weight": blocks - 1,
            "backbone.merges.0.reduction.weight": blocks - 2,  # with the first of stage 2
            "backbone.stages.1.blocks.0.norm1.bias": blocks - 2,
            "backbone.stages.1.blocks.1.mlp.0.weight": blocks - 3,
            "backbone.stages.1.norm.weight": blocks - 3,  # with the last of its stage
            "backbone.stages.3.blocks.0.attention.qkv.bias": 0,
        },
    }[kind]
    assert {name: factors[name] for name in expected} == {
        name: 0.5**depth for name, depth in expected.items()
    }
    assert factors.keys() == {n for n, _ in model.named_parameters() if n.startswith("backbone.")}
    rates = {group["lr"] for group in parameter_groups(model, replace(CONFIG, layer_decay=0.5))}
    assert sorted(rates) == pytest.approx(
        sorted([1e-3, *(1e-4 * 0.5**depth for depth in range(blocks + 1))])
    )


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        (
            {"model_type": "dinov2", "hidden_size": 16, "num_hidden_layers": 3}
            | {"num_attention_heads": 2, "image_size": 56, "patch_size": 14},
            {
                "embeddings.cls_token": 3,
                "encoder.layer.0.norm1.weight": 2,
                "encoder.layer.2.norm1.weight": 0,
                "layernorm.weight": 0,
            },
        ),
        (
            {"model_type": "convnext", "hidden_sizes": [8, 8, 16, 16], "depths": [1, 1, 2, 1]},
            {
                "embeddings.patch_embeddings.weight": 5,
                "encoder.stages.0.layers.0.dwconv.weight": 4,
                "encoder.stages.2.downsampling_layer.0.weight": 2,
                "encoder.stages.2.layers.1.dwconv.weight": 1,
                "encoder.stages.3.layers.0.dwconv.weight": 0,
            },
        ),
    ],
    ids=["dinov2", "convnext"],
)
def test_backbones_of_transformers_have_their_blocks_too(
    fields: dict[str, object], expected: dict[str, int]
) -> None:
    pytest.importorskip("transformers")
    model = Mask2Former(replace(tiny.CONFIG, backbone=HFBackboneConfig(model=fields)))
    factors = layer_factors(model, 0.5)
    found = {name: factors[f"backbone.body.{name}"] for name in expected}
    assert found == {name: 0.5**depth for name, depth in expected.items()}
