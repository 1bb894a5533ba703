"""The format of transformers: a folder with `config.json`, `preprocessor_config.json`, weights.

What is read and written are the names in files, which all releases of transformers share; since
version 5 some have other names once they are loaded.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mask2former.data.class_lists import categories_named
from mask2former.modeling.decoder import DecoderConfig
from mask2former.modeling.hf_backbone import HFBackboneConfig
from mask2former.modeling.mask2former import Mask2Former, Mask2FormerConfig
from mask2former.modeling.pixel_decoder import PixelDecoderConfig
from mask2former.modeling.resnet import ResNetConfig
from mask2former.modeling.swin import SwinConfig
from mask2former.serialization import from_dict, to_dict
from mask2former.structures import View
from mask2former.weights import files
from mask2former.weights.names import Table, require_official, their_names

CONFIG, VIEW, WEIGHTS = "config.json", "preprocessor_config.json", "model.safetensors"
OURS = "mask2former_config"  # the entry of config.json that holds what theirs has no place for
ENCODER = "model.pixel_level_module.encoder."
_PIXELS = "model.pixel_level_module.decoder."
_DECODER = "model.transformer_module."
_BLOCK = r"backbone\.stages\.(\d+)\.blocks\.(\d+)\."
_THEIR_BLOCK = ENCODER + r"encoder.layers.\1.blocks.\2."

_SWIN: Table = (
    (r"backbone\.patch_embed\.(.*)", ENCODER + r"embeddings.patch_embeddings.projection.\1"),
    (r"backbone\.patch_norm\.(.*)", ENCODER + r"embeddings.norm.\1"),
    (
        _BLOCK + r"attention\.qkv\.(.*)",
        _THEIR_BLOCK + r"attention.self.<query|key|value>.\3",
    ),
    (_BLOCK + r"attention\.proj\.(.*)", _THEIR_BLOCK + r"attention.output.dense.\3"),
    (_BLOCK + r"attention\.(relative.*)", _THEIR_BLOCK + r"attention.self.\3"),
    (_BLOCK + r"norm1\.(.*)", _THEIR_BLOCK + r"layernorm_before.\3"),
    (_BLOCK + r"norm2\.(.*)", _THEIR_BLOCK + r"layernorm_after.\3"),
    (_BLOCK + r"mlp\.0\.(.*)", _THEIR_BLOCK + r"intermediate.dense.\3"),
    (_BLOCK + r"mlp\.2\.(.*)", _THEIR_BLOCK + r"output.dense.\3"),
    (r"backbone\.stages\.(\d+)\.norm\.(.*)", ENCODER + r"hidden_states_norms.stage{1+1}.\2"),
    (r"backbone\.merges\.(\d+)\.(.*)", ENCODER + r"encoder.layers.\1.downsample.\2"),
)
_RESNET: Table = (
    (r"backbone\.stem\.conv\.(.*)", ENCODER + r"embedder.embedder.convolution.\1"),
    (r"backbone\.stem\.norm\.(.*)", ENCODER + r"embedder.embedder.normalization.\1"),
    (
        r"backbone\.stages\.(\d+)\.(\d+)\.convs\.(\d+)\.conv\.(.*)",
        ENCODER + r"encoder.stages.\1.layers.\2.layer.\3.convolution.\4",
    ),
    (
        r"backbone\.stages\.(\d+)\.(\d+)\.convs\.(\d+)\.norm\.(.*)",
        ENCODER + r"encoder.stages.\1.layers.\2.layer.\3.normalization.\4",
    ),
    (
        r"backbone\.stages\.(\d+)\.(\d+)\.shortcut\.conv\.(.*)",
        ENCODER + r"encoder.stages.\1.layers.\2.shortcut.convolution.\3",
    ),
    (
        r"backbone\.stages\.(\d+)\.(\d+)\.shortcut\.norm\.(.*)",
        ENCODER + r"encoder.stages.\1.layers.\2.shortcut.normalization.\3",
    ),
)
_LAYER = r"decoder\.layers\.(\d+)\."
_THEIR_LAYER = _DECODER + r"decoder.layers.\1."
_HEADS: Table = (
    (r"pixel_decoder\.projections\.(.*)", _PIXELS + r"input_projections.\1"),
    (r"pixel_decoder\.level_embedding", _PIXELS + r"level_embed"),
    (
        r"pixel_decoder\.layers\.(\d+)\.attention\.offsets\.(.*)",
        _PIXELS + r"encoder.layers.\1.self_attn.sampling_offsets.\2",
    ),
    (
        r"pixel_decoder\.layers\.(\d+)\.attention\.weights\.(.*)",
        _PIXELS + r"encoder.layers.\1.self_attn.attention_weights.\2",
    ),
    (
        r"pixel_decoder\.layers\.(\d+)\.attention\.(value|output)\.(.*)",
        _PIXELS + r"encoder.layers.\1.self_attn.\2_proj.\3",
    ),
    (
        r"pixel_decoder\.layers\.(\d+)\.norm1\.(.*)",
        _PIXELS + r"encoder.layers.\1.self_attn_layer_norm.\2",
    ),
    (
        r"pixel_decoder\.layers\.(\d+)\.norm2\.(.*)",
        _PIXELS + r"encoder.layers.\1.final_layer_norm.\2",
    ),
    (
        r"pixel_decoder\.layers\.(\d+)\.linear(\d)\.(.*)",
        _PIXELS + r"encoder.layers.\1.fc\2.\3",
    ),
    (r"pixel_decoder\.lateral\.(.*)", _PIXELS + r"adapter_1.0.\1"),
    (r"pixel_decoder\.lateral_norm\.(.*)", _PIXELS + r"adapter_1.1.\1"),
    (r"pixel_decoder\.output\.(.*)", _PIXELS + r"layer_1.0.\1"),
    (r"pixel_decoder\.output_norm\.(.*)", _PIXELS + r"layer_1.1.\1"),
    (r"pixel_decoder\.mask_features\.(.*)", _PIXELS + r"mask_projection.\1"),
    (r"decoder\.query_features", _DECODER + r"queries_features.weight"),
    (r"decoder\.query_positions", _DECODER + r"queries_embedder.weight"),
    (r"decoder\.level_embedding", _DECODER + r"level_embed.weight"),
    (_LAYER + r"cross_attention\.norm\.(.*)", _THEIR_LAYER + r"cross_attn_layer_norm.\2"),
    (_LAYER + r"cross_attention\.(.*)", _THEIR_LAYER + r"cross_attn.\2"),
    (_LAYER + r"self_attention\.in_proj_(.*)", _THEIR_LAYER + r"self_attn.<q|k|v>_proj.\2"),
    (_LAYER + r"self_attention\.out_proj\.(.*)", _THEIR_LAYER + r"self_attn.out_proj.\2"),
    (_LAYER + r"self_attention\.norm\.(.*)", _THEIR_LAYER + r"self_attn_layer_norm.\2"),
    (_LAYER + r"feedforward\.norm\.(.*)", _THEIR_LAYER + r"final_layer_norm.\2"),
    (_LAYER + r"feedforward\.linear(\d)\.(.*)", _THEIR_LAYER + r"fc\2.\3"),
    (r"decoder\.head\.norm\.(.*)", _DECODER + r"decoder.layernorm.\1"),
    (r"decoder\.head\.class_logits\.(.*)", r"class_predictor.\1"),
    (
        r"decoder\.head\.mask_embedding\.(\d+)\.(.*)",
        _DECODER + r"decoder.mask_predictor.mask_embedder.{1/2}.0.\2",
    ),
)
_NAMES: dict[type, Table] = {SwinConfig: _SWIN + _HEADS, ResNetConfig: _RESNET + _HEADS}
# In their files, and not needed: constants, and a norm of Swin's that no map passes through.
_SURPLUS = (
    "criterion.empty_weight",
    "encoder.layernorm.weight",
    "encoder.layernorm.bias",
    "encoder.swin.layernorm.weight",
    "encoder.swin.layernorm.bias",
    ".relative_position_index",
    ".num_batches_tracked",
)


def is_ours(config: dict[str, Any]) -> bool:
    """Whether a `config.json` is of our own format and not of theirs."""
    return "categories" in config


# --- in -------------------------------------------------------------------------------------------


def read_config(folder: Path, config: dict[str, Any]) -> Mask2FormerConfig:
    """The model that a folder of transformers holds; `config` is its `config.json`.

    ValueError if it is another model's, or one that this package does not build.
    """
    path = folder / CONFIG
    if config.get("model_type") != "mask2former":
        raise ValueError(
            f"{path}: model_type is {config.get('model_type')!r}, not 'mask2former'; "
            "only Mask2Former models can be read"
        )
    if OURS in config:
        return from_dict(Mask2FormerConfig, config[OURS], f"{path}: {OURS}")
    if config.get("pre_norm") or config.get("enforce_input_projection"):
        raise ValueError(
            f"{path}: pre_norm or enforce_input_projection is on; no released model has them"
        )
    labels = config.get("id2label") or {}
    names = [labels[key] for key in sorted(labels, key=int)]
    if not names:
        raise ValueError(f"{path}: id2label is missing, so the classes have no names; add it")
    try:
        return Mask2FormerConfig(
            categories=categories_named(names),
            backbone=_backbone(path, config.get("backbone_config") or {"model_type": "swin"}),
            pixel_decoder=PixelDecoderConfig(
                channels=config["feature_size"],
                layers=config["encoder_layers"],
                heads=config["num_attention_heads"],
                feedforward=config["encoder_feedforward_dim"],
                dropout=float(config.get("dropout", 0.0)),
            ),
            decoder=DecoderConfig(
                channels=config["hidden_dim"],
                mask_channels=config["mask_feature_size"],
                layers=config["decoder_layers"] - 1,  # they count predictions
                heads=config["num_attention_heads"],
                feedforward=config["dim_feedforward"],
                queries=config["num_queries"],
                dropout=float(config.get("dropout", 0.0)),
            ),
            view=_view(folder),
        )
    except KeyError as e:
        raise ValueError(f"{path}: key {e} is missing") from None


def _backbone(path: Path, config: dict[str, Any]) -> ResNetConfig | SwinConfig:
    """Their backbone; what its config leaves out has the default of theirs."""
    kind = config.get("model_type")
    if kind == "swin":
        return SwinConfig(
            width=config.get("embed_dim", 96),
            depths=tuple(config.get("depths", (2, 2, 6, 2))),
            heads=tuple(config.get("num_heads", (3, 6, 12, 24))),
            window=config.get("window_size", 7),
            mlp_ratio=float(config.get("mlp_ratio", 4.0)),
            drop_path=float(config.get("drop_path_rate", 0.1)),
        )
    if kind == "resnet":
        sizes = config.get("hidden_sizes", (256, 512, 1024, 2048))
        basic = config.get("layer_type", "bottleneck") == "basic"
        return ResNetConfig(
            depths=tuple(config.get("depths", (3, 4, 6, 3))),
            block="basic" if basic else "bottleneck",
            stem_channels=config.get("embedding_size", 64),
            width=sizes[0] if basic else sizes[0] // 4,
            channels=sizes[0],
        )
    raise ValueError(f"{path}: backbone_config.model_type is {kind!r}; known are swin and resnet")


def _view(folder: Path) -> View:
    path = folder / VIEW
    if not path.exists():
        return View()
    view = files.read_json(path)
    size = view.get("size", {})
    if isinstance(size, int):  # before version 4.27
        size = {"shortest_edge": size, "longest_edge": view.get("max_size", 1333)}
    default = View()
    return View(
        shortest_side=size.get("shortest_edge", default.shortest_side),
        longest_side=size.get("longest_edge", default.longest_side),
        mean=_of_255(view.get("image_mean"), default.mean),
        std=_of_255(view.get("image_std"), default.std),
        size_divisor=view.get("size_divisor", view.get("size_divisibility", 32)),
    )


def _of_255(
    values: list[float] | None, default: tuple[float, float, float]
) -> tuple[float, float, float]:
    if values is None:
        return default
    red, green, blue = (round(255 * value, 6) for value in values)
    return red, green, blue


def read_weights(folder: Path) -> dict[str, Tensor]:
    """All tensors of a folder: safetensors or `.bin`, in one file or in several.

    FileNotFoundError if there are none; ValueError if one cannot be read.
    """
    for name, read in ((WEIGHTS, files.read_safetensors), ("pytorch_model.bin", files.read_torch)):
        index = folder / f"{name}.index.json"
        if index.exists():
            shards = sorted(set(files.read_json(index)["weight_map"].values()))
            return {k: v for shard in shards for k, v in read(folder / shard).items()}
        if (folder / name).exists():
            return read(folder / name)
    raise FileNotFoundError(f"{folder}: has neither {WEIGHTS} nor pytorch_model.bin")


def convert(tensors: dict[str, Tensor], model: Mask2Former) -> dict[str, Tensor]:
    """Their tensors under our names; those that have no place keep their own name."""
    table = _NAMES[type(model.config.backbone)]
    rest = {name: t for name, t in tensors.items() if not name.endswith(_SURPLUS)}
    counters = {name: t for name, t in tensors.items() if name.endswith(".num_batches_tracked")}
    ours = {}
    for name in model.state_dict():
        theirs = their_names(name, table)
        source = counters if name.endswith(".num_batches_tracked") else rest
        if all(part in source for part in theirs):
            parts = [source.pop(part) for part in theirs]
            ours[name] = parts[0] if len(parts) == 1 else torch.cat(parts)
    return ours | rest


# --- out ------------------------------------------------------------------------------------------


def save_model(model: Mask2Former, folder: Path, *, dtype: torch.dtype | None = None) -> None:
    """Write a folder that transformers loads. ValueError if it has no such model.

    `dtype` is how floating-point weights are stored (default: as they are).
    """
    pixels = require_official(model.config, "transformers")
    backbone = model.config.backbone
    if isinstance(backbone, ResNetConfig):
        width = backbone.channels // (4 if backbone.block == "bottleneck" else 1)
        if backbone.width != width:
            raise ValueError(
                f"transformers cannot hold this ResNet: its width is {backbone.width}, but"
                f" {backbone.channels} channels of {backbone.block} blocks need {width}"
            )
    files.write_files(
        folder,
        {
            WEIGHTS: files.safetensors_writer(_their_tensors(model), format="pt", dtype=dtype),
            CONFIG: files.json_writer(_their_config(model.config, pixels)),
            VIEW: files.json_writer(_their_view(model.config)),
        },
    )


def _their_tensors(model: Mask2Former) -> dict[str, Tensor]:
    config = model.config
    tensors: dict[str, Tensor] = {}
    for name, tensor in model.state_dict().items():
        theirs = their_names(name, _NAMES[type(config.backbone)])
        parts = tensor.chunk(len(theirs)) if len(theirs) > 1 else (tensor,)
        tensors |= dict(zip(theirs, parts, strict=True))
    weight = torch.ones(len(config.categories) + 1)
    weight[-1] = 0.1
    tensors["criterion.empty_weight"] = weight
    if isinstance(config.backbone, SwinConfig):
        tensors[ENCODER + "swin.layernorm.weight"] = torch.ones(8 * config.backbone.width)
        tensors[ENCODER + "swin.layernorm.bias"] = torch.zeros(8 * config.backbone.width)
    for name in [name for name in tensors if name.endswith("normalization.running_mean")]:
        counter = name.replace("running_mean", "num_batches_tracked")
        tensors.setdefault(counter, torch.tensor(0))
    return tensors


def _their_config(config: Mask2FormerConfig, pixels: PixelDecoderConfig) -> dict[str, Any]:
    decoder = config.decoder
    names = [category.name for category in config.categories]
    return {
        "architectures": ["Mask2FormerForUniversalSegmentation"],
        "model_type": "mask2former",
        "backbone_config": _their_backbone(config.backbone),
        "feature_size": pixels.channels,
        "mask_feature_size": decoder.mask_channels,
        "hidden_dim": decoder.channels,
        "encoder_feedforward_dim": pixels.feedforward,
        "encoder_layers": pixels.layers,
        "decoder_layers": decoder.layers + 1,
        "num_attention_heads": decoder.heads,
        "dropout": decoder.dropout,
        "dim_feedforward": decoder.feedforward,
        "num_queries": decoder.queries,
        "id2label": {str(i): name for i, name in enumerate(names)},
        "label2id": {name: i for i, name in enumerate(names)},
        OURS: to_dict(config),
    }


def _their_backbone(
    config: ResNetConfig | SwinConfig | HFBackboneConfig,
) -> dict[str, Any]:
    assert not isinstance(config, HFBackboneConfig)  # `require_official` has refused it
    out = [f"stage{i}" for i in range(1, 5)]
    if isinstance(config, SwinConfig):
        return {
            "model_type": "swin",
            "embed_dim": config.width,
            "depths": list(config.depths),
            "num_heads": list(config.heads),
            "window_size": config.window,
            "mlp_ratio": config.mlp_ratio,
            "drop_path_rate": config.drop_path,
            "out_features": out,
        }
    return {
        "model_type": "resnet",
        "embedding_size": config.stem_channels,
        "hidden_sizes": [config.channels << i for i in range(4)],
        "depths": list(config.depths),
        "layer_type": config.block,
        "out_features": out,
    }


def _their_view(config: Mask2FormerConfig) -> dict[str, Any]:
    view = config.view
    return {
        "image_processor_type": "Mask2FormerImageProcessor",
        "do_resize": True,
        "size": {"shortest_edge": view.shortest_side, "longest_edge": view.longest_side},
        "size_divisor": view.size_divisor,
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": [value / 255 for value in view.mean],
        "image_std": [value / 255 for value in view.std],
        "ignore_index": 255,
        "do_reduce_labels": False,
    }
