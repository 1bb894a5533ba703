"""Folders of transformers that are wrong or old; that right ones agree is in tests/parity."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

import tiny
from mask2former.modeling.pixel_decoder import PixelDecoderConfig
from mask2former.modeling.resnet import ResNetConfig
from mask2former.structures import View
from mask2former.weights import load_model, save_model

PIXELS = PixelDecoderConfig(channels=32, layers=1, heads=4, feedforward=40)
SWIN = replace(tiny.CONFIG, backbone=tiny.SWIN, pixel_decoder=PIXELS)
RESNETS = {
    "bottleneck": ResNetConfig(depths=(1, 2, 1, 1), stem_channels=8, width=8, channels=32),
    "basic": replace(tiny.RESNET, norm="frozen_batch_norm"),
    "trained norms": tiny.RESNET,
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    save_model(tiny.model(SWIN), tmp_path, "transformers")
    return tmp_path


def change(folder: Path, **fields: Any) -> None:
    """Change their config.json as if others had written it; None removes a key."""
    tree = json.loads((folder / "config.json").read_text())
    tree = {k: v for k, v in (tree | fields).items() if v is not None}
    tree.pop("mask2former_config", None)
    (folder / "config.json").write_text(json.dumps(tree))


@pytest.mark.parametrize("backbone", [tiny.SWIN, *RESNETS.values()], ids=["swin", *RESNETS])
def test_what_went_out_comes_back(tmp_path: Path, backbone: Any) -> None:
    model = tiny.model(replace(SWIN, backbone=backbone, view=View(max_detections=7)))
    save_model(model, tmp_path, "transformers")
    loaded = load_model(tmp_path)
    assert loaded.config == model.config
    assert loaded.state_dict().keys() == model.state_dict().keys()
    for name, tensor in model.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], tensor), name


def test_classes_and_view_of_a_folder_that_others_made(folder: Path) -> None:
    names = ["road", "sidewalk", "car", "person", "bicycle"]
    change(folder, id2label={str(i): name for i, name in enumerate(names)})
    view = {"size": 480, "max_size": 1024, "image_mean": [0.5] * 3, "image_std": [0.2] * 3}
    (folder / "preprocessor_config.json").write_text(json.dumps(view))
    config = load_model(folder).config
    assert [c.name for c in config.categories] == names
    assert [c.is_thing for c in config.categories] == [False, False, True, True, True]
    assert (config.view.shortest_side, config.view.longest_side) == (480, 1024)
    assert config.view.mean == (127.5, 127.5, 127.5)
    assert config.view.std == (51.0, 51.0, 51.0)
    (folder / "preprocessor_config.json").unlink()
    assert load_model(folder).config.view == View()


def test_weights_in_several_files(folder: Path) -> None:
    tensors = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    index = {}
    for i, name in enumerate(tensors):
        index[name] = f"model-0000{i % 2 + 1}-of-00002.safetensors"
    for shard in set(index.values()):
        save_file({n: t for n, t in tensors.items() if index[n] == shard}, folder / shard)
    path = folder / "model.safetensors.index.json"
    path.write_text(json.dumps({"weight_map": index}))
    model = tiny.model(SWIN)
    for name, tensor in load_model(folder).state_dict().items():
        assert torch.equal(model.state_dict()[name], tensor), name


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"model_type": "maskformer"}, "model_type is 'maskformer', not 'mask2former'"),
        ({"id2label": None}, "id2label is missing"),
        ({"num_queries": None}, "key 'num_queries' is missing"),
        ({"pre_norm": True}, "pre_norm"),
        ({"backbone_config": {"model_type": "vit"}}, "model_type is 'vit'; known are swin"),
    ],
)
def test_config_that_is_wrong(folder: Path, fields: dict[str, Any], said: str) -> None:
    change(folder, **fields)
    with pytest.raises(ValueError, match=rf"config\.json: .*{said}"):
        load_model(folder)


def test_weights_missing_or_lacking(folder: Path) -> None:
    tensors = load_file(folder / "model.safetensors")
    del tensors["class_predictor.bias"]
    save_file(tensors, folder / "model.safetensors")
    with pytest.raises(ValueError, match=r"missing: decoder\.head\.class_logits\.bias"):
        load_model(folder)
    (folder / "model.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match=r"neither model\.safetensors nor pytorch_model"):
        load_model(folder)


def test_classes_are_named_already(folder: Path) -> None:
    with pytest.raises(ValueError, match="names the classes already"):
        load_model(folder, classes="coco")


def test_resnet_that_theirs_is_not(tmp_path: Path) -> None:
    backbone = ResNetConfig(depths=(1, 1, 1, 1), stem_channels=8, width=8, channels=16)
    model = tiny.model(replace(SWIN, backbone=backbone))
    with pytest.raises(ValueError, match="its width is 8, but 16 channels of bottleneck blocks"):
        save_model(model, tmp_path, "transformers")
