"""The model that a checkpoint without a config holds, read off the shapes of its tensors.

What shapes do not tell is what the official code fixes (four points, three levels, one number of
heads for both decoders), and what the classes are.
"""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Mapping
from dataclasses import replace
from pathlib import Path

from torch import Tensor

from mask2former.data.class_lists import categories_named, class_list
from mask2former.data.dataset import generated_color
from mask2former.modeling.decoder import DecoderConfig
from mask2former.modeling.mask2former import Mask2FormerConfig
from mask2former.modeling.pixel_decoder import PixelDecoderConfig
from mask2former.modeling.resnet import ResNetConfig
from mask2former.modeling.swin import SwinConfig
from mask2former.structures import Category, View

_LEVELS_POINTS_AXES = 3 * 4 * 2
_STEM = "backbone.stem.conv1.weight"
_PIXELS = "sem_seg_head.pixel_decoder."
_LAYERS = _PIXELS + "transformer.encoder.layers."
_DECODER = "sem_seg_head.predictor."


def config_of(
    tensors: Mapping[str, Tensor],
    source: Path,
    *,
    classes: str | tuple[str, ...] | None = None,
    view: View | None = None,
) -> Mask2FormerConfig:
    """The config of official tensors; `source` is their file, for messages.

    `classes` are a benchmark's name or the classes' own names; without it they are numbered.
    ValueError if a tensor that must be there is missing, or the classes are of another number.
    """
    try:
        heads = len(tensors[_LAYERS + "0.self_attn.sampling_offsets.weight"]) // _LEVELS_POINTS_AXES
        pixels = PixelDecoderConfig(
            channels=len(tensors[_PIXELS + "layer_1.weight"]),
            layers=_count(tensors, _LAYERS + r"(\d+)\."),
            heads=heads,
            feedforward=len(tensors[_LAYERS + "0.linear1.weight"]),
        )
        queries = tensors[_DECODER + "query_embed.weight"]
        decoder = DecoderConfig(
            channels=queries.shape[1],
            mask_channels=len(tensors[_PIXELS + "mask_features.weight"]),
            layers=_count(tensors, _DECODER + r"transformer_ffn_layers\.(\d+)\."),
            heads=heads,
            feedforward=len(tensors[_DECODER + "transformer_ffn_layers.0.linear1.weight"]),
            queries=len(queries),
        )
        count = len(tensors[_DECODER + "class_embed.weight"]) - 1
        backbone = _resnet(tensors) if _STEM in tensors else _swin(tensors)
    except KeyError as e:
        raise ValueError(
            f"{source}: no Mask2Former of the official code: tensor {e} is missing"
        ) from None
    return Mask2FormerConfig(
        categories=categories_for(count, classes, source),
        backbone=backbone,
        pixel_decoder=pixels,
        decoder=decoder,
        view=view or View(),
    )


def categories_for(
    count: int, classes: str | tuple[str, ...] | None, source: Path
) -> tuple[Category, ...]:
    """`count` categories: those of a benchmark (or its things), or with the names that are given.

    ValueError if their number is not `count`.
    """
    if classes is None:
        return numbered(count)
    if isinstance(classes, str):
        whole = class_list(classes)
        things = tuple(category for category in whole if category.is_thing)
        for found in (whole, things):
            if len(found) == count:
                return found
        raise ValueError(
            f"{source}: tells {count} classes apart, but {classes} has {len(whole)}, of which"
            f" {len(things)} are things; name the list that it was trained on"
        )
    if len(classes) != count:
        raise ValueError(f"{source}: tells {count} classes apart, but {len(classes)} were named")
    return categories_named(classes)


def categories_of_meta(
    count: int, names: tuple[str, ...], stuff: Collection[str], source: Path
) -> tuple[Category, ...]:
    """Categories that the checkpoint itself names; ValueError if they are not `count`."""
    if len(names) != count:
        raise ValueError(
            f"{source}: tells {count} classes apart, but its 'meta' names {len(names)}; name them"
            " by 'classes'"
        )
    found = categories_named(names)
    return tuple(replace(c, is_thing=c.is_thing and c.name not in stuff) for c in found)


def numbered(count: int, *, is_thing: bool = True) -> tuple[Category, ...]:
    """Stand-ins for classes whose names nobody tells."""
    return tuple(
        Category(id=i, name=f"class {i}", is_thing=is_thing, color=generated_color(i))
        for i in range(count)
    )


def _count(tensors: Mapping[str, Tensor], pattern: str) -> int:
    """How many different numbers the first group of the pattern takes in the names."""
    found = {match[1] for match in map(re.compile(pattern).match, tensors) if match}
    if not found:
        raise KeyError(pattern)
    return len(found)


def _resnet(tensors: Mapping[str, Tensor]) -> ResNetConfig:
    stages = [_count(tensors, rf"backbone\.res{i}\.(\d+)\.") for i in (2, 3, 4, 5)]
    bottleneck = "backbone.res2.0.conv3.weight" in tensors
    last = tensors[f"backbone.res2.0.conv{3 if bottleneck else 2}.weight"]
    trained = "backbone.stem.conv1.norm.num_batches_tracked" in tensors
    return ResNetConfig(
        depths=(stages[0], stages[1], stages[2], stages[3]),
        block="bottleneck" if bottleneck else "basic",
        stem_channels=len(tensors[_STEM]),
        width=len(tensors["backbone.res2.0.conv1.weight"]),
        channels=len(last),
        norm="batch_norm" if trained else "frozen_batch_norm",
    )


def _swin(tensors: Mapping[str, Tensor]) -> SwinConfig:
    width = len(tensors["backbone.patch_embed.proj.weight"])
    depths = [_count(tensors, rf"backbone\.layers\.{i}\.blocks\.(\d+)\.") for i in range(4)]
    first = "backbone.layers.{}.blocks.0.attn.relative_position_bias_table"
    tables = [tensors[first.format(i)] for i in range(4)]
    heads = [table.shape[1] for table in tables]
    return SwinConfig(
        width=width,
        depths=(depths[0], depths[1], depths[2], depths[3]),
        heads=(heads[0], heads[1], heads[2], heads[3]),
        window=(math.isqrt(len(tables[0])) + 1) // 2,
        mlp_ratio=len(tensors["backbone.layers.0.blocks.0.mlp.fc1.weight"]) / width,
    )
