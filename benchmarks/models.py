"""The models that are measured, the same in this package and in transformers."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from mask2former.data.class_lists import class_list
from mask2former.data.scenes import Scenes, ScenesConfig
from mask2former.modeling.decoder import DecoderConfig
from mask2former.modeling.mask2former import Mask2Former, Mask2FormerConfig
from mask2former.modeling.pixel_decoder import PixelDecoderConfig
from mask2former.modeling.resnet import RESNET50
from mask2former.modeling.swin import SWIN_L, SWIN_T
from mask2former.presets.compact import compact_model
from mask2former.segmenter import Segmenter
from mask2former.structures import Category, View
from mask2former.weights import save_model

BACKBONES = {"r50": RESNET50, "swin_t": SWIN_T, "swin_l": SWIN_L}


def small_config(
    categories: tuple[Category, ...], view: View, *, queries: int
) -> Mask2FormerConfig:
    """The paper's architecture in a size that learns on a CPU, with the embedded backbone."""
    width = 64
    return Mask2FormerConfig(
        categories=categories,
        backbone=compact_model(categories, view, queries=1, selected_share=0.0).backbone,
        pixel_decoder=PixelDecoderConfig(channels=width, layers=2, heads=4, feedforward=128),
        decoder=DecoderConfig(
            channels=width,
            mask_channels=width,
            layers=6,
            heads=4,
            feedforward=128,
            queries=queries,
        ),
        view=view,
    )


def write_image(path: Path, size: tuple[int, int]) -> None:
    """A drawn scene as a JPEG of `size` (H, W)."""
    scene = Scenes(length=1, seed=3, config=ScenesConfig(size=512))[0].image
    Image.fromarray(scene).resize(size[::-1], Image.Resampling.BICUBIC).save(path, quality=95)


def write_models(folder: Path, backbone: str, size: tuple[int, int], *, kept: float) -> None:
    """`folder/ours` and `folder/peer`: one random model in both formats, and `folder/image.jpg`.

    Random weights are sure of nothing, so nothing would be left to post-process. The class head is
    scaled until a `kept` share of the queries is sure of a class for that image.
    """
    torch.manual_seed(0)
    write_image(folder / "image.jpg", size)
    view = View(shortest_side=min(size), longest_side=max(size))
    config = Mask2FormerConfig(
        categories=class_list("coco"), backbone=BACKBONES[backbone], view=view
    )
    if backbone == "swin_l":
        config = replace(config, decoder=replace(config.decoder, queries=200))
    model = Mask2Former(config).eval()
    head = model.decoder.head.class_logits
    with torch.no_grad():
        head.weight.mul_(60)
        image = Segmenter(model).prepare(np.asarray(Image.open(folder / "image.jpg")))
        logits = model(image.unsqueeze(0)).class_logits[0]
        margin = logits[:, :-1].max(-1).values - logits[:, -1]
        head.bias[-1] += margin.quantile(1 - kept) if kept < 1 else margin.min() - 10
    save_model(model, folder / "ours", "mask2former")
    save_model(model, folder / "peer", "transformers")
