"""The names of mmdetection's and mmsegmentation's `.pth` files, turned into the official ones.

Their config is a Python file, which nothing here runs: the model is read off the shapes instead.
"""

from __future__ import annotations

import re
from typing import Any

from torch import Tensor

_HEADS = ("panoptic_head.", "decode_head.")  # of mmdetection, of mmsegmentation
_PIXELS = "sem_seg_head.pixel_decoder."
_DECODER = "sem_seg_head.predictor."
_BLOCK = r"backbone\.stages\.(\d+)\.blocks\.(\d+)\."
_THEIR_BLOCK = r"backbone.layers.\1.blocks.\2."

# Regular expressions from their names, without the head's prefix, to the official ones.
_NAMES = (
    # ResNet, as torchvision names it
    (r"backbone\.conv1\.(.*)", r"backbone.stem.conv1.\1"),
    (r"backbone\.bn1\.(.*)", r"backbone.stem.conv1.norm.\1"),
    (r"backbone\.layer(\d)\.(\d+)\.conv(\d)\.(.*)", r"backbone.res{1}.\2.conv\3.\4"),
    (r"backbone\.layer(\d)\.(\d+)\.bn(\d)\.(.*)", r"backbone.res{1}.\2.conv\3.norm.\4"),
    (r"backbone\.layer(\d)\.(\d+)\.downsample\.0\.(.*)", r"backbone.res{1}.\2.shortcut.\3"),
    (r"backbone\.layer(\d)\.(\d+)\.downsample\.1\.(.*)", r"backbone.res{1}.\2.shortcut.norm.\3"),
    # Swin
    (r"backbone\.patch_embed\.projection\.(.*)", r"backbone.patch_embed.proj.\1"),
    (_BLOCK + r"attn\.w_msa\.(.*)", _THEIR_BLOCK + r"attn.\3"),
    (_BLOCK + r"ffn\.layers\.0\.0\.(.*)", _THEIR_BLOCK + r"mlp.fc1.\3"),
    (_BLOCK + r"ffn\.layers\.1\.(.*)", _THEIR_BLOCK + r"mlp.fc2.\3"),
    (_BLOCK + r"(norm\d\..*)", _THEIR_BLOCK + r"\3"),
    (r"backbone\.stages\.(\d+)\.(downsample\..*)", r"backbone.layers.\1.\2"),
    # Pixel decoder
    (r"pixel_decoder\.input_convs\.(\d)\.conv\.(.*)", _PIXELS + r"input_proj.\1.0.\2"),
    (r"pixel_decoder\.input_convs\.(\d)\.gn\.(.*)", _PIXELS + r"input_proj.\1.1.\2"),
    (r"pixel_decoder\.level_encoding\.weight", _PIXELS + "transformer.level_embed"),
    (
        r"pixel_decoder\.encoder\.layers\.(\d+)\.(?:self_attn|attentions\.0)\.(.*)",
        _PIXELS + r"transformer.encoder.layers.\1.self_attn.\2",
    ),
    (
        r"pixel_decoder\.encoder\.layers\.(\d+)\.(?:ffn|ffns\.0)\.layers\.0\.0\.(.*)",
        _PIXELS + r"transformer.encoder.layers.\1.linear1.\2",
    ),
    (
        r"pixel_decoder\.encoder\.layers\.(\d+)\.(?:ffn|ffns\.0)\.layers\.1\.(.*)",
        _PIXELS + r"transformer.encoder.layers.\1.linear2.\2",
    ),
    (
        r"pixel_decoder\.encoder\.layers\.(\d+)\.norms\.0\.(.*)",
        _PIXELS + r"transformer.encoder.layers.\1.norm1.\2",
    ),
    (
        r"pixel_decoder\.encoder\.layers\.(\d+)\.norms\.1\.(.*)",
        _PIXELS + r"transformer.encoder.layers.\1.norm2.\2",
    ),
    (r"pixel_decoder\.lateral_convs\.0\.conv\.(.*)", _PIXELS + r"adapter_1.\1"),
    (r"pixel_decoder\.lateral_convs\.0\.gn\.(.*)", _PIXELS + r"adapter_1.norm.\1"),
    (r"pixel_decoder\.output_convs\.0\.conv\.(.*)", _PIXELS + r"layer_1.\1"),
    (r"pixel_decoder\.output_convs\.0\.gn\.(.*)", _PIXELS + r"layer_1.norm.\1"),
    (r"pixel_decoder\.mask_feature\.(.*)", _PIXELS + r"mask_features.\1"),
    # Transformer decoder
    (
        r"transformer_decoder\.layers\.(\d+)\.(?:cross_attn|attentions\.0)\.attn\.(.*)",
        _DECODER + r"transformer_cross_attention_layers.\1.multihead_attn.\2",
    ),
    (
        r"transformer_decoder\.layers\.(\d+)\.(?:self_attn|attentions\.1)\.attn\.(.*)",
        _DECODER + r"transformer_self_attention_layers.\1.self_attn.\2",
    ),
    (
        r"transformer_decoder\.layers\.(\d+)\.norms\.0\.(.*)",
        _DECODER + r"transformer_cross_attention_layers.\1.norm.\2",
    ),
    (
        r"transformer_decoder\.layers\.(\d+)\.norms\.1\.(.*)",
        _DECODER + r"transformer_self_attention_layers.\1.norm.\2",
    ),
    (
        r"transformer_decoder\.layers\.(\d+)\.norms\.2\.(.*)",
        _DECODER + r"transformer_ffn_layers.\1.norm.\2",
    ),
    (
        r"transformer_decoder\.layers\.(\d+)\.(?:ffn|ffns\.0)\.layers\.0\.0\.(.*)",
        _DECODER + r"transformer_ffn_layers.\1.linear1.\2",
    ),
    (
        r"transformer_decoder\.layers\.(\d+)\.(?:ffn|ffns\.0)\.layers\.1\.(.*)",
        _DECODER + r"transformer_ffn_layers.\1.linear2.\2",
    ),
    (r"transformer_decoder\.post_norm\.(.*)", _DECODER + r"decoder_norm.\1"),
    (r"query_embed\.(.*)", _DECODER + r"query_embed.\1"),
    (r"query_feat\.(.*)", _DECODER + r"query_feat.\1"),
    (r"level_embed\.(.*)", _DECODER + r"level_embed.\1"),
    (r"cls_embed\.(.*)", _DECODER + r"class_embed.\1"),
    (r"mask_embed\.(\d)\.(.*)", _DECODER + r"mask_embed.layers.{2}.\2"),
)
_SURPLUS = re.compile(
    r".*(num_batches_tracked|relative_position_index)|data_preprocessor\..*"
    r"|panoptic_fusion_head\..*|(panoptic|decode)_head\.(loss_|conv_seg).*"
)


def is_mmdetection(tensors: dict[str, Tensor]) -> bool:
    return any(name.startswith(_HEADS) for name in tensors)


def class_names(content: Any) -> tuple[tuple[str, ...], frozenset[str]] | None:
    """What a checkpoint's `meta` says that its classes are called, and which of them are stuff.

    Version 3 keeps `dataset_meta["classes"]`, version 2 `CLASSES`; None if it does not say.
    """
    meta = content.get("meta") if isinstance(content, dict) else None
    if not isinstance(meta, dict):
        return None
    of_data = meta.get("dataset_meta")
    of_data = of_data if isinstance(of_data, dict) else {}
    names = of_data.get("classes", meta.get("CLASSES"))
    if not isinstance(names, list | tuple) or not all(isinstance(name, str) for name in names):
        return None
    stuff = of_data.get("stuff_classes")
    return tuple(names), frozenset(stuff if isinstance(stuff, list | tuple) else ())


def official_tensors(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Their tensors as the official code has them; what has no place keeps its name."""
    found = {}
    for name, tensor in tensors.items():
        if _SURPLUS.fullmatch(name):
            continue
        official = official_name(name)
        if ".downsample." in official and ".layers." in official:
            tensor = merged_in_official_order(tensor)
        found[official] = tensor
    return found


def official_name(name: str) -> str:
    """The official name of one of theirs; `name` itself if it has none."""
    bare = name
    for prefix in _HEADS:
        bare = bare.removeprefix(prefix)
    for pattern, replacement in _NAMES:
        match = re.fullmatch(pattern, bare)
        if match:
            first = match[1] if match.re.groups else ""
            if first.isdigit():  # their stages count from 1, their linear layers by twos
                replacement = replacement.replace("{1}", str(int(first) + 1))
                replacement = replacement.replace("{2}", str(int(first) // 2))
            return match.expand(replacement)
    return bare


def merged_in_official_order(tensor: Tensor) -> Tensor:
    """Patch merging's norm or reduction: they keep the 4 pixels of a channel together, row by row;
    the official code keeps the channels of a pixel together, column by column."""
    grouped = tensor.unflatten(-1, (-1, 4))  # [..., C, pixel]
    official: Tensor = grouped[..., [0, 2, 1, 3]].transpose(-1, -2).flatten(-2)
    return official
