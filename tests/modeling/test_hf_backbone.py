from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import tiny
from mask2former.modeling.hf_backbone import HFBackbone, HFBackboneConfig, pretrained_backbone
from mask2former.modeling.mask2former import Mask2Former
from mask2former.training import checkpoint
from mask2former.training.config import ScenesData, TrainConfig
from mask2former.weights import load_model, save_model
from mask2former.weights.pretrained import load_backbone

transformers = pytest.importorskip("transformers", minversion="5.0")

SCALES: dict[str, Any] = {"hidden_sizes": [8, 16, 24, 32], "depths": [1, 1, 1, 1]}
PLAIN: dict[str, Any] = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
NETWORKS: dict[str, dict[str, Any]] = {
    "convnext": SCALES,
    "convnextv2": SCALES,
    "dinov3_convnext": SCALES,
    "pvt_v2": SCALES | {"num_attention_heads": [1, 1, 2, 2]},
    "swinv2": {
        "embed_dim": 8,
        "depths": [1, 1, 1, 1],
        "num_heads": [1, 1, 2, 2],
        "window_size": 4,
    },
    "dinov2": PLAIN | {"patch_size": 14},
    "dinov2_with_registers": PLAIN | {"patch_size": 14},
    # As many layers as there are scales: still a plain one.
    "dinov3_vit": PLAIN | {"num_hidden_layers": 4, "intermediate_size": 32},
}


def network(kind: str, **fields: Any) -> HFBackboneConfig:
    return HFBackboneConfig(model={"model_type": kind, **NETWORKS[kind]}, **fields)


@pytest.mark.parametrize("kind", NETWORKS)
def test_four_maps_at_the_usual_strides(kind: str) -> None:
    torch.manual_seed(0)
    backbone = HFBackbone(network(kind)).train()
    images = torch.randn(2, 3, 64, 96)
    maps = backbone(images)
    assert [tuple(x.shape) for x in maps] == [
        (2, c, 64 // s, 96 // s) for c, s in zip(backbone.channels, (4, 8, 16, 32), strict=True)
    ]
    sum(x.square().mean() for x in maps).backward()
    without = [n for n, p in backbone.named_parameters() if p.grad is None]
    assert all("mask_token" in name or "norm" in name for name in without)


@pytest.mark.parametrize("kind", ["convnextv2", "dinov2"])
def test_a_model_with_it_trains_and_is_saved(kind: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = Mask2Former(replace(tiny.CONFIG, backbone=network(kind))).train()
    output = model(tiny.images())
    assert output.mask_logits.shape == (2, 6, 16, 24)
    output.mask_logits.mean().backward()
    model.save_pretrained(tmp_path)
    loaded = load_model(tmp_path)
    assert loaded.config == model.config
    for name, tensor in model.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], tensor), name
    with pytest.raises(ValueError, match=f"its backbone is '{kind}' of transformers"):
        save_model(model, tmp_path / "out", "detectron2")


@pytest.mark.parametrize("kind", ["convnext", "dinov3_vit"])
def test_frozen_it_is_not_trained(kind: str) -> None:
    torch.manual_seed(0)
    model = Mask2Former(replace(tiny.CONFIG, backbone=network(kind, frozen=True))).train()
    model(tiny.images()).mask_logits.mean().backward()
    backbone = model.backbone
    assert isinstance(backbone, HFBackbone)
    assert not backbone.body.training
    assert all(p.grad is None and not p.requires_grad for p in backbone.body.parameters())
    if backbone.is_plain:  # its pyramid is ours to train
        assert all(p.grad is not None for p in backbone.pyramid.parameters())
    assert all(p.grad is not None for p in model.pixel_decoder.projections.parameters())


@pytest.mark.parametrize("kind", ["convnext", "dinov2"])
def test_pretrained_weights_are_taken(kind: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    config = transformers.AutoConfig.for_model(kind, **NETWORKS[kind])
    source = transformers.AutoModel.from_config(config)
    source.save_pretrained(tmp_path)
    found = pretrained_backbone(str(tmp_path), frozen=True)
    assert found.frozen
    model = Mask2Former(replace(tiny.CONFIG, backbone=found))
    load_backbone(model, tmp_path)
    backbone = model.backbone
    assert isinstance(backbone, HFBackbone)
    theirs = source.state_dict()
    shared = [name for name in backbone.body.state_dict() if name in theirs]
    assert len(shared) > 10
    for name in shared:
        assert torch.equal(backbone.body.state_dict()[name], theirs[name]), name


@pytest.mark.parametrize(
    ("model", "said"),
    [
        ({"model_type": "bert"}, "transformers has no backbone 'bert'"),
        ({"model_type": "no such thing"}, "transformers has no backbone 'no such thing'"),
        ({}, "transformers has no backbone None"),
        ({"model_type": "swinv2", "patch_size": 8}, "gives maps of .* cells for 64 pixels"),
    ],
)
def test_what_is_no_backbone(model: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=rf"backbone\.model: .*{said}"):
        HFBackbone(HFBackboneConfig(model=model))


def test_weights_of_another_network_are_refused(tmp_path: Path) -> None:
    """transformers itself only warns, and leaves what did not fit as it was drawn."""
    for folder, kind, fields in (
        ("swin", "swin", NETWORKS["swinv2"]),
        ("shallow", "convnext", SCALES),
        ("narrow", "convnext", SCALES | {"hidden_sizes": [4, 16, 24, 32]}),
    ):
        config = transformers.AutoConfig.for_model(kind, **fields)
        transformers.AutoModel.from_config(config).save_pretrained(tmp_path / folder)
    deep = HFBackboneConfig(model={"model_type": "convnext", **SCALES, "depths": [1, 1, 3, 1]})
    for folder, network_config, said in (
        ("swin", network("convnext"), "missing: "),
        ("shallow", deep, r"missing: .*stages\.2"),
        ("narrow", network("convnext"), "of another shape"),
    ):
        model = Mask2Former(replace(tiny.CONFIG, backbone=network_config))
        with pytest.raises(
            ValueError, match=rf"{folder}: no weights of this backbone(.|\n)*{said}"
        ):
            load_backbone(model, tmp_path / folder)


def test_a_config_is_what_a_file_gives_back(tmp_path: Path) -> None:
    """Tuples become lists and keys texts, so that a training can be gone on with."""
    given = HFBackboneConfig(
        model={"model_type": "convnext", "depths": (1, 1, 1, 1), "id2label": {0: "a"}}
    )
    config = TrainConfig(model=replace(tiny.CONFIG, backbone=given), data=ScenesData())
    checkpoint.write(tmp_path, {"step": 1}, config)
    assert checkpoint.read(tmp_path, config) is not None


def test_weights_that_are_not_there(tmp_path: Path) -> None:
    model = Mask2Former(replace(tiny.CONFIG, backbone=network("convnext")))
    with pytest.raises(ValueError, match="absent: no weights of this backbone"):
        load_backbone(model, tmp_path / "absent")
