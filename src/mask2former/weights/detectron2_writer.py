"""Our models as official checkpoints: `model.pth` and the keys of a `config.yaml` that matter."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import yaml

from mask2former.modeling.hf_backbone import HFBackboneConfig
from mask2former.modeling.mask2former import Mask2Former, Mask2FormerConfig
from mask2former.modeling.pixel_decoder import PixelDecoderConfig
from mask2former.modeling.resnet import ResNetConfig
from mask2former.modeling.swin import SwinConfig
from mask2former.serialization import to_dict
from mask2former.weights.detectron2 import EXACT, RESNET_DEPTHS, official_name
from mask2former.weights.files import json_writer, write_files
from mask2former.weights.names import require_official

WEIGHTS, CONFIG = "model.pth", "config.yaml"
ENCODER_WIDTH = 1024  # which the official code takes, whatever its config says


def save_model(model: Mask2Former, folder: Path, *, dtype: torch.dtype | None = None) -> None:
    """Write a folder that the official code loads. ValueError if it has no such model.

    `dtype` is how floating-point weights are stored (default: as they are).
    `mask2former.json` holds, beside it, what a yaml has no key for: the classes.
    """
    config = model.config
    pixels = require_official(config, "detectron2", video=True)
    if pixels.feedforward != ENCODER_WIDTH:
        raise ValueError(
            f"detectron2 cannot hold this model: pixel_decoder.feedforward is"
            f" {pixels.feedforward}, and the official code fixes {ENCODER_WIDTH}"
        )
    tensors = {
        official_name(name): t.detach().to("cpu", dtype if t.is_floating_point() else None)
        for name, t in model.state_dict().items()
    }
    weight = torch.ones(len(config.categories) + 1)
    weight[-1] = 0.1
    tensors["criterion.empty_weight"] = weight
    tree = _their_config(config, pixels)
    write_files(
        folder,
        {
            WEIGHTS: lambda path: torch.save({"model": tensors}, path),
            CONFIG: lambda path: path.write_text(yaml.safe_dump(tree)),
            EXACT: json_writer(to_dict(config)),
        },
    )


def _their_config(config: Mask2FormerConfig, pixels: PixelDecoderConfig) -> dict[str, Any]:
    decoder, view = config.decoder, config.view
    panoptic = any(not category.is_thing for category in config.categories)
    return {
        "MODEL": {
            "META_ARCHITECTURE": (
                "VideoMaskFormer" if decoder.temporal_positions else "MaskFormer"
            ),
            **_their_backbone(config.backbone),
            "PIXEL_MEAN": list(view.mean),
            "PIXEL_STD": list(view.std),
            "SEM_SEG_HEAD": {
                "NAME": "MaskFormerHead",
                "NUM_CLASSES": len(config.categories),
                "CONVS_DIM": pixels.channels,
                "MASK_DIM": decoder.mask_channels,
                "PIXEL_DECODER_NAME": "MSDeformAttnPixelDecoder",
                "TRANSFORMER_ENC_LAYERS": pixels.layers,
            },
            "MASK_FORMER": {
                "TRANSFORMER_DECODER_NAME": (
                    "VideoMultiScaleMaskedTransformerDecoder"
                    if decoder.temporal_positions
                    else "MultiScaleMaskedTransformerDecoder"
                ),
                "NHEADS": decoder.heads,
                "DROPOUT": decoder.dropout,
                "HIDDEN_DIM": decoder.channels,
                "DEC_LAYERS": decoder.layers + 1,
                "DIM_FEEDFORWARD": decoder.feedforward,
                "NUM_OBJECT_QUERIES": decoder.queries,
                "SIZE_DIVISIBILITY": view.size_divisor,
                "TEST": {
                    "SEMANTIC_ON": True,
                    "PANOPTIC_ON": panoptic and not view.resize_semantic_scores,
                    "INSTANCE_ON": not view.resize_semantic_scores,
                    "OBJECT_MASK_THRESHOLD": view.object_threshold,
                    "OVERLAP_THRESHOLD": view.overlap_threshold,
                    "SEM_SEG_POSTPROCESSING_BEFORE_INFERENCE": False,
                },
            },
        },
        "INPUT": {"MIN_SIZE_TEST": view.shortest_side, "MAX_SIZE_TEST": view.longest_side},
        "TEST": {"DETECTIONS_PER_IMAGE": view.max_detections},
    }


def _their_backbone(
    config: ResNetConfig | SwinConfig | HFBackboneConfig,
) -> dict[str, Any]:
    assert not isinstance(config, HFBackboneConfig)  # `require_official` has refused it
    if isinstance(config, SwinConfig):
        return {
            "BACKBONE": {"NAME": "D2SwinTransformer"},
            "SWIN": {
                "EMBED_DIM": config.width,
                "DEPTHS": list(config.depths),
                "NUM_HEADS": list(config.heads),
                "WINDOW_SIZE": config.window,
                "MLP_RATIO": config.mlp_ratio,
                "DROP_PATH_RATE": config.drop_path,
            },
        }
    depths = {depths: depth for depth, depths in RESNET_DEPTHS.items()}
    if config.block != "bottleneck" or config.depths not in depths:
        raise ValueError(
            f"detectron2 cannot hold this ResNet: its stages have {config.depths}"
            f" {config.block} blocks; the official models are ResNet-50 and ResNet-101"
        )
    return {
        "BACKBONE": {"NAME": "build_resnet_backbone"},
        "RESNETS": {
            "DEPTH": depths[config.depths],
            "STEM_TYPE": "basic",
            "STEM_OUT_CHANNELS": config.stem_channels,
            "STRIDE_IN_1X1": False,
            "NUM_GROUPS": 1,
            "WIDTH_PER_GROUP": config.width,
            "RES2_OUT_CHANNELS": config.channels,
            "NORM": "FrozenBN" if config.norm == "frozen_batch_norm" else "BN",
            "OUT_FEATURES": ["res2", "res3", "res4", "res5"],
        },
    }
