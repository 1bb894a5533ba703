"""State dicts named as mmdetection and mmsegmentation do, written out from their modules."""

from __future__ import annotations

import os
import sys
import types
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import tiny
from mask2former.modeling.mask2former import Mask2Former, Mask2FormerConfig
from mask2former.modeling.pixel_decoder import PixelDecoderConfig
from mask2former.modeling.resnet import ResNetConfig
from mask2former.weights import load_model
from mask2former.weights.mmdetection import merged_in_official_order

PIXELS = PixelDecoderConfig(channels=32, layers=2, heads=4, feedforward=40)
CONFIGS = {
    "resnet": replace(
        tiny.CONFIG,
        backbone=ResNetConfig(depths=(1, 2, 1, 1), stem_channels=8, width=8, channels=32),
        pixel_decoder=PIXELS,
    ),
    "swin": replace(tiny.CONFIG, backbone=replace(tiny.SWIN, drop_path=0.3), pixel_decoder=PIXELS),
}


def copied(out: dict[str, Tensor], source: dict[str, Tensor], pairs: dict[str, str]) -> None:
    """All tensors under each of our prefixes, moved to theirs."""
    for ours, theirs in pairs.items():
        found = [name for name in source if name.startswith(ours)]
        assert found, ours
        for name in found:
            out[theirs + name.removeprefix(ours)] = source.pop(name)


def theirs(model: Mask2Former, head: str, *, version: int = 3) -> dict[str, Tensor]:
    """The model's state dict as theirs is named; version 2 named parts of layers otherwise."""
    source = dict(model.state_dict())
    out: dict[str, Tensor] = {}
    config: Mask2FormerConfig = model.config
    depths = config.backbone.depths
    if isinstance(config.backbone, ResNetConfig):
        copied(
            out,
            source,
            {"backbone.stem.conv.": "backbone.conv1.", "backbone.stem.norm.": "backbone.bn1."},
        )
        for stage, depth in enumerate(depths):
            for block in range(depth):
                ours = f"backbone.stages.{stage}.{block}."
                there = f"backbone.layer{stage + 1}.{block}."
                for i in range(3):
                    copied(
                        out,
                        source,
                        {
                            f"{ours}convs.{i}.conv.": f"{there}conv{i + 1}.",
                            f"{ours}convs.{i}.norm.": f"{there}bn{i + 1}.",
                        },
                    )
                if block == 0:
                    copied(
                        out,
                        source,
                        {
                            f"{ours}shortcut.conv.": f"{there}downsample.0.",
                            f"{ours}shortcut.norm.": f"{there}downsample.1.",
                        },
                    )
        counters = [name for name in out if name.endswith("running_mean")]
        for name in counters:
            out[name.replace("running_mean", "num_batches_tracked")] = torch.tensor(5)
    else:
        copied(
            out,
            source,
            {
                "backbone.patch_embed.": "backbone.patch_embed.projection.",
                "backbone.patch_norm.": "backbone.patch_embed.norm.",
            },
        )
        for stage, depth in enumerate(depths):
            copied(out, source, {f"backbone.stages.{stage}.norm.": f"backbone.norm{stage}."})
            for block in range(depth):
                ours = f"backbone.stages.{stage}.blocks.{block}."
                copied(
                    out,
                    source,
                    {
                        f"{ours}norm1.": f"{ours}norm1.",
                        f"{ours}norm2.": f"{ours}norm2.",
                        f"{ours}attention.": f"{ours}attn.w_msa.",
                        f"{ours}mlp.0.": f"{ours}ffn.layers.0.0.",
                        f"{ours}mlp.2.": f"{ours}ffn.layers.1.",
                    },
                )
        for stage in range(3):
            for part in ("norm.weight", "norm.bias", "reduction.weight"):
                tensor = source.pop(f"backbone.merges.{stage}.{part}")
                # Ours: [pixel, C], pixels column by column; theirs: [C, pixel], row by row.
                pixels = tensor.unflatten(-1, (2, 2, -1)).movedim(-1, -3).transpose(-1, -2)
                out[f"backbone.stages.{stage}.downsample.{part}"] = pixels.flatten(-3)
    pixels, queries = f"{head}.pixel_decoder.", f"{head}.transformer_decoder."
    ffn = "ffn" if version == 3 else "ffns.0"
    for level in range(3):
        copied(
            out,
            source,
            {
                f"pixel_decoder.projections.{level}.0.": f"{pixels}input_convs.{level}.conv.",
                f"pixel_decoder.projections.{level}.1.": f"{pixels}input_convs.{level}.gn.",
            },
        )
    out[f"{pixels}level_encoding.weight"] = source.pop("pixel_decoder.level_embedding")
    for i in range(config.pixel_decoder.layers):
        ours, there = f"pixel_decoder.layers.{i}.", f"{pixels}encoder.layers.{i}."
        attention = there + ("self_attn." if version == 3 else "attentions.0.")
        copied(
            out,
            source,
            {
                f"{ours}attention.offsets.": f"{attention}sampling_offsets.",
                f"{ours}attention.weights.": f"{attention}attention_weights.",
                f"{ours}attention.value.": f"{attention}value_proj.",
                f"{ours}attention.output.": f"{attention}output_proj.",
                f"{ours}norm1.": f"{there}norms.0.",
                f"{ours}norm2.": f"{there}norms.1.",
                f"{ours}linear1.": f"{there}{ffn}.layers.0.0.",
                f"{ours}linear2.": f"{there}{ffn}.layers.1.",
            },
        )
    copied(
        out,
        source,
        {
            "pixel_decoder.lateral.": f"{pixels}lateral_convs.0.conv.",
            "pixel_decoder.lateral_norm.": f"{pixels}lateral_convs.0.gn.",
            "pixel_decoder.output.": f"{pixels}output_convs.0.conv.",
            "pixel_decoder.output_norm.": f"{pixels}output_convs.0.gn.",
            "pixel_decoder.mask_features.": f"{pixels}mask_feature.",
        },
    )
    for i in range(config.decoder.layers):
        ours, there = f"decoder.layers.{i}.", f"{queries}layers.{i}."
        cross, own = (
            ("cross_attn", "self_attn") if version == 3 else ("attentions.0", "attentions.1")
        )
        copied(
            out,
            source,
            {
                f"{ours}cross_attention.norm.": f"{there}norms.0.",
                f"{ours}self_attention.norm.": f"{there}norms.1.",
                f"{ours}feedforward.norm.": f"{there}norms.2.",
                f"{ours}cross_attention.": f"{there}{cross}.attn.",
                f"{ours}self_attention.": f"{there}{own}.attn.",
                f"{ours}feedforward.linear1.": f"{there}{ffn}.layers.0.0.",
                f"{ours}feedforward.linear2.": f"{there}{ffn}.layers.1.",
            },
        )
    copied(
        out,
        source,
        {
            "decoder.head.norm.": f"{queries}post_norm.",
            "decoder.head.class_logits.": f"{head}.cls_embed.",
            "decoder.head.mask_embedding.": f"{head}.mask_embed.",
        },
    )
    for ours, there in (
        ("query_features", "query_feat"),
        ("query_positions", "query_embed"),
        ("level_embedding", "level_embed"),
    ):
        out[f"{head}.{there}.weight"] = source.pop(f"decoder.{ours}")
    assert not source
    out[f"{head}.loss_cls.class_weight"] = torch.ones(6)
    return out


@pytest.mark.parametrize("backbone", CONFIGS)
@pytest.mark.parametrize(
    ("head", "version"), [("panoptic_head", 3), ("panoptic_head", 2), ("decode_head", 3)]
)
def test_their_checkpoints_are_read(tmp_path: Path, backbone: str, head: str, version: int) -> None:
    model = tiny.model(CONFIGS[backbone])
    content = {"meta": {"epoch": 50}, "state_dict": theirs(model, head, version=version)}
    torch.save(content, tmp_path / "mask2former_r50.pth")
    loaded = load_model(tmp_path / "mask2former_r50.pth")
    assert loaded.config.backbone == model.config.backbone
    assert loaded.config.pixel_decoder == model.config.pixel_decoder
    assert loaded.config.decoder == model.config.decoder
    for key, tensor in model.state_dict().items():
        assert torch.equal(loaded.state_dict()[key], tensor), key


def test_a_tensor_that_has_no_place_is_named(tmp_path: Path) -> None:
    tensors = theirs(tiny.model(CONFIGS["resnet"]), "panoptic_head")
    tensors["panoptic_head.extra.weight"] = torch.zeros(2)
    torch.save({"state_dict": tensors}, tmp_path / "a.pth")
    with pytest.raises(ValueError, match=r"unknown: extra\.weight"):
        load_model(tmp_path)


def test_patch_merging_gives_the_same_numbers() -> None:
    """Theirs unfolds the map, the official code stacks four strided views of it."""
    channels = 5
    torch.manual_seed(0)
    maps = torch.randn(2, channels, 6, 8)
    reduction, norm = torch.randn(2 * channels, 4 * channels), torch.randn(4 * channels)
    unfolded = F.unfold(maps, 2, stride=2).transpose(1, 2)  # [B, cells, 4C]
    wanted = (unfolded * norm) @ reduction.T

    x = maps.permute(0, 2, 3, 1)
    parts = (x[:, 0::2, 0::2], x[:, 1::2, 0::2], x[:, 0::2, 1::2], x[:, 1::2, 1::2])
    stacked = torch.cat(parts, -1).flatten(1, 2)
    found = (stacked * merged_in_official_order(norm)) @ merged_in_official_order(reduction).T
    torch.testing.assert_close(found, wanted)


class HistoryBuffer:
    """As mmengine's: numbers in arrays, and methods, which are pickled by getattr."""

    def __init__(self) -> None:
        self.values = np.array([1.0, 2.0])
        self.last = np.float64(2)
        self.statistics = {"min": HistoryBuffer.min}

    def min(self) -> float:
        return float(self.values.min())


@pytest.fixture
def history(monkeypatch: pytest.MonkeyPatch) -> type[HistoryBuffer]:
    """The class under mmengine's name, as long as it is pickled."""
    name = "mmengine.logging.history_buffer"
    for part in ("mmengine", "mmengine.logging", name):
        monkeypatch.setitem(sys.modules, part, types.ModuleType(part))
    sys.modules[name].HistoryBuffer = HistoryBuffer  # type: ignore[attr-defined]
    monkeypatch.setattr(HistoryBuffer, "__module__", name)
    return HistoryBuffer


@pytest.mark.parametrize("version", [2, 3])
def test_a_training_of_theirs_with_its_log_and_its_class_names(
    tmp_path: Path, history: type[HistoryBuffer], version: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = tiny.model(CONFIGS["swin"])
    names = [f"kind {i}" for i in range(len(model.config.categories))]
    meta = {"CLASSES": names}
    if version == 3:
        meta = {"dataset_meta": {"classes": tuple(names), "stuff_classes": names[:2]}}
    content = {
        "meta": {**meta, "epoch": 12},
        "state_dict": theirs(model, "panoptic_head", version=version),
        "message_hub": {"log_scalars": {"train/loss": history()}},
    }
    torch.save(content, tmp_path / "epoch_12.pth")
    monkeypatch.undo()  # from here on, there is no mmengine
    loaded = load_model(tmp_path)
    assert [category.name for category in loaded.config.categories] == names
    stuff = [not category.is_thing for category in loaded.config.categories]
    assert stuff == [version == 3] * 2 + [False] * (len(names) - 2)
    mine = tuple("abcdefgh"[: len(names)])
    asked = load_model(tmp_path, classes=mine)
    assert tuple(category.name for category in asked.config.categories) == mine
    for key, tensor in model.state_dict().items():
        assert torch.equal(loaded.state_dict()[key], tensor), key


def test_a_meta_that_does_not_fit(tmp_path: Path) -> None:
    tensors = theirs(tiny.model(CONFIGS["resnet"]), "panoptic_head")
    torch.save({"meta": {"CLASSES": ["a"]}, "state_dict": tensors}, tmp_path / "a.pth")
    with pytest.raises(ValueError, match="but its 'meta' names 1; name them by 'classes'"):
        load_model(tmp_path)


def test_the_log_opens_no_door(tmp_path: Path, history: type[HistoryBuffer]) -> None:
    """A file that holds it may hold nothing else that is foreign."""
    marker = tmp_path / "it-ran"
    log = history()
    log.statistics["min"] = Runs(f"touch {marker}")  # type: ignore[assignment]
    torch.save({"state_dict": {"a": torch.zeros(1)}, "log": log}, tmp_path / "a.pth")
    with pytest.raises(ValueError, match="without executing code"):
        load_model(tmp_path)
    assert not marker.exists()


class Runs:
    def __init__(self, command: str) -> None:
        self.command = command

    def __reduce__(self) -> tuple[Callable[[str], int], tuple[str]]:
        return os.system, (self.command,)
