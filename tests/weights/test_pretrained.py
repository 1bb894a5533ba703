"""Classifiers as torchvision, detectron2, Microsoft and transformers store them."""

from __future__ import annotations

import pickle
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

import tiny
from mask2former.modeling.mask2former import Mask2Former
from mask2former.modeling.resnet import ResNetConfig
from mask2former.training.config import ScenesData, TrainConfig
from mask2former.training.trainer import build_model
from mask2former.weights import load
from mask2former.weights.native import save_model
from mask2former.weights.pretrained import load_backbone

transformers = pytest.importorskip("transformers", minversion="5.0")

RESNET = replace(
    tiny.CONFIG, backbone=ResNetConfig(depths=(1, 2, 1, 1), stem_channels=8, width=8, channels=32)
)
SWIN = replace(tiny.CONFIG, backbone=tiny.SWIN)


def source(config: object = RESNET) -> Mask2Former:
    return tiny.model(config)  # type: ignore[arg-type]


def as_torchvision(model: Mask2Former) -> dict[str, Tensor]:
    """conv1, bn1, layer1.0.conv1 ..., as its ResNet's modules are called, and the classifier."""
    out = {"fc.weight": torch.zeros(3, 256), "fc.bias": torch.zeros(3)}
    for name, tensor in model.backbone.state_dict().items():
        parts = name.split(".")
        if parts[0] == "stem":
            out[f"{'conv1' if parts[1] == 'conv' else 'bn1'}.{parts[2]}"] = tensor
            continue
        stage, block, kind = int(parts[1]) + 1, parts[2], parts[3]
        if kind == "shortcut":
            place = f"downsample.{0 if parts[4] == 'conv' else 1}"
        else:
            place = f"{'conv' if parts[5] == 'conv' else 'bn'}{int(parts[4]) + 1}"
        out[f"layer{stage}.{block}.{place}.{parts[-1]}"] = tensor
    for name in [n for n in out if n.endswith("running_mean")]:
        out[name.replace("running_mean", "num_batches_tracked")] = torch.tensor(9)
    return out


def as_detectron2(model: Mask2Former) -> dict[str, Tensor]:
    """stem.conv1, stem.conv1.norm, res2.0.conv1 ..., and the classifier in the stem."""
    out = {"stem.fc.weight": torch.zeros(3, 256), "stem.fc.bias": torch.zeros(3)}
    for name, tensor in model.backbone.state_dict().items():
        parts = name.split(".")
        if parts[0] == "stem":
            place = "stem.conv1" + (".norm" if parts[1] == "norm" else "")
        elif parts[3] == "shortcut":
            place = f"res{int(parts[1]) + 2}.{parts[2]}.shortcut"
            place += ".norm" if parts[4] == "norm" else ""
        else:
            place = f"res{int(parts[1]) + 2}.{parts[2]}.conv{int(parts[4]) + 1}"
            place += ".norm" if parts[5] == "norm" else ""
        out[f"{place}.{parts[-1]}"] = tensor
    return out


def as_microsoft(model: Mask2Former) -> dict[str, Tensor]:
    """layers.0.blocks.0.attn.qkv ..., with a last norm and a head, and constants as buffers."""
    out = {
        "norm.weight": torch.ones(64),
        "norm.bias": torch.zeros(64),
        "head.weight": torch.zeros(3, 64),
        "head.bias": torch.zeros(3),
        "layers.0.blocks.1.attn_mask": torch.zeros(4, 9, 9),
        "layers.0.blocks.0.attn.relative_position_index": torch.zeros(9, 9),
    }
    for name, tensor in model.backbone.state_dict().items():
        if name.startswith("stages.") and name.split(".")[2] == "norm":
            continue
        place = name.replace("patch_embed.", "patch_embed.proj.")
        place = place.replace("patch_norm.", "patch_embed.norm.")
        place = place.replace("stages.", "layers.").replace("attention.", "attn.")
        place = place.replace("mlp.0.", "mlp.fc1.").replace("mlp.2.", "mlp.fc2.")
        if place.startswith("merges."):
            _, stage, rest = place.split(".", 2)
            place = f"layers.{stage}.downsample.{rest}"
        out[place] = tensor
    return out


def assert_taken(path: Path, config: object) -> None:
    wanted, model = source(config), Mask2Former(source(config).config)
    load_backbone(model, path)
    for name, tensor in wanted.backbone.state_dict().items():
        if ".norm." in name and name.count(".") == 3 and name.startswith("stages."):
            continue  # of Swin's maps: a classifier has none
        assert torch.equal(model.backbone.state_dict()[name], tensor), name


def test_torchvision(tmp_path: Path) -> None:
    torch.save(as_torchvision(source()), tmp_path / "resnet.pth")
    assert_taken(tmp_path / "resnet.pth", RESNET)


def test_detectron2(tmp_path: Path) -> None:
    arrays = {name: tensor.numpy() for name, tensor in as_detectron2(source()).items()}
    content = {"model": arrays, "__author__": "torchvision", "matching_heuristics": True}
    (tmp_path / "R-50.pkl").write_bytes(pickle.dumps(content))
    assert_taken(tmp_path / "R-50.pkl", RESNET)


def test_official_swin(tmp_path: Path) -> None:
    torch.save({"model": as_microsoft(source(SWIN))}, tmp_path / "swin.pth")
    assert_taken(tmp_path / "swin.pth", SWIN)


def test_folders_of_transformers(tmp_path: Path) -> None:
    """Written by transformers, and its own maps are what our backbone then gives."""
    torch.manual_seed(0)
    swin = transformers.SwinModel(
        transformers.SwinConfig(
            embed_dim=8, depths=[1, 2, 1, 1], num_heads=[1, 1, 2, 2], window_size=3
        )
    )
    resnet = transformers.ResNetForImageClassification(
        transformers.ResNetConfig(
            embedding_size=8, hidden_sizes=[32, 64, 128, 256], depths=[1, 2, 1, 1]
        )
    ).eval()
    swin.save_pretrained(tmp_path / "swin")
    resnet.save_pretrained(tmp_path / "resnet")
    model = Mask2Former(SWIN)
    load_backbone(model, tmp_path / "swin")
    weight = swin.state_dict()["embeddings.patch_embeddings.projection.weight"]
    assert torch.equal(model.backbone.patch_embed.weight, weight)
    model = Mask2Former(RESNET).eval()
    load_backbone(model, tmp_path / "resnet")
    images = torch.randn(1, 3, 64, 96)
    with torch.no_grad():
        wanted = resnet.resnet(images).last_hidden_state
        torch.testing.assert_close(model.backbone(images)[-1], wanted, rtol=1e-4, atol=1e-5)


def test_another_architecture_is_told(tmp_path: Path) -> None:
    torch.save(as_torchvision(source()), tmp_path / "resnet.pth")
    with pytest.raises(ValueError, match=r"resnet\.pth: no weights of this backbone"):
        load_backbone(source(SWIN), tmp_path / "resnet.pth")
    deeper = replace(RESNET, backbone=replace(RESNET.backbone, depths=(1, 2, 2, 1)))
    with pytest.raises(ValueError, match=r"missing: backbone\.stages\.2\.1\.convs"):
        load_backbone(source(deeper), tmp_path / "resnet.pth")
    wider = replace(RESNET, backbone=replace(RESNET.backbone, stem_channels=16))
    with pytest.raises(ValueError, match=r"shape of backbone\.stem\.conv\.weight: \(8, 3, 7, 7\)"):
        load_backbone(source(wider), tmp_path / "resnet.pth")
    with pytest.raises(FileNotFoundError, match="backbone_weights names a file"):
        load_backbone(source(), tmp_path / "absent.pth")


def test_a_training_starts_from_it(tmp_path: Path) -> None:
    torch.save(as_torchvision(source()), tmp_path / "resnet.pth")
    config = TrainConfig(
        model=RESNET, data=ScenesData(), backbone_weights=str(tmp_path / "resnet.pth")
    )
    weights = build_model(config).backbone.state_dict()
    for name, tensor in source().backbone.state_dict().items():
        assert torch.equal(weights[name], tensor), name


def test_from_a_model_of_this_package(tmp_path: Path) -> None:
    save_model(source(), tmp_path / "model")
    model = Mask2Former(RESNET)
    load_backbone(model, tmp_path / "model")
    for name, tensor in source().backbone.state_dict().items():
        assert torch.equal(model.backbone.state_dict()[name], tensor), name
    embedded = load("scenes")
    other = Mask2Former(replace(RESNET, backbone=embedded.config.backbone))
    load_backbone(other, "scenes")
    weight = embedded.backbone.state_dict()["stem.conv.weight"]
    assert torch.equal(other.backbone.state_dict()["stem.conv.weight"], weight)
    frozen = replace(embedded.config.backbone, norm="frozen_batch_norm")
    other = Mask2Former(replace(RESNET, backbone=frozen))
    load_backbone(other, "scenes")  # whose norms count batches
    mean = embedded.backbone.state_dict()["stem.norm.running_mean"]
    assert torch.equal(other.backbone.state_dict()["stem.norm.running_mean"], mean)
