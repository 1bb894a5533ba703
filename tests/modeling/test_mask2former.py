from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import nn

import tiny
from mask2former.loss.criterion import Criterion, LossConfig
from mask2former.modeling.decoder import DecoderConfig
from mask2former.modeling.mask2former import Mask2Former, Mask2FormerConfig
from mask2former.modeling.resnet import RESNET50, RESNET101, ResNetConfig
from mask2former.modeling.swin import SWIN_B, SWIN_L, SWIN_S, SWIN_T, SwinConfig

# What the official code counts in its own configs: all, backbone, pixel decoder, decoder, and how
# many tensors. The norms of its ResNet are constants, so they do not count.
OFFICIAL = {
    "COCO panoptic, R50": (
        (RESNET50, 133, 100),
        (43_983_878, 23_454_912, 6_035_904, 14_493_062, 345),
    ),
    "COCO panoptic, R101": (
        (RESNET101, 133, 100),
        (62_923_782, 42_394_816, 6_035_904, 14_493_062, 396),
    ),
    "COCO panoptic, Swin-T": (
        (SWIN_T, 133, 100),
        (47_435_264, 27_520_698, 5_421_504, 14_493_062, 469),
    ),
    "COCO panoptic, Swin-S": (
        (SWIN_S, 133, 100),
        (68_753_168, 48_838_602, 5_421_504, 14_493_062, 625),
    ),
    "COCO panoptic, Swin-B": (
        (SWIN_B, 133, 100),
        (106_917_822, 86_880_376, 5_544_384, 14_493_062, 625),
    ),
    "COCO panoptic, Swin-L": (
        (SWIN_L, 133, 200),
        (215_535_610, 195_201_204, 5_790_144, 14_544_262, 625),
    ),
    "ADE20K semantic, R50": (
        (RESNET50, 150, 100),
        (43_988_247, 23_454_912, 6_035_904, 14_497_431, 345),
    ),
    "COCO instance, R50": (
        (RESNET50, 80, 100),
        (43_970_257, 23_454_912, 6_035_904, 14_479_441, 345),
    ),
    "YouTube-VIS 2019, R50": (
        (RESNET50, 40, 100),
        (43_959_977, 23_454_912, 6_035_904, 14_469_161, 345),
    ),
}


def count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


@pytest.mark.parametrize("name", OFFICIAL)
def test_full_size_models_have_the_official_number_of_parameters(name: str) -> None:
    (backbone, classes, queries), expected = OFFICIAL[name]
    config = Mask2FormerConfig(
        categories=tiny.categories(classes),
        backbone=backbone,
        decoder=DecoderConfig(queries=queries, temporal_positions=name.startswith("YouTube")),
    )
    with torch.device("meta"):
        model = Mask2Former(config)
    parts = (model, model.backbone, model.pixel_decoder, model.decoder)
    assert (*map(count, parts), len(list(model.parameters()))) == expected


def test_default_config_is_the_papers_r50() -> None:
    config = Mask2FormerConfig(categories=tiny.categories(133))
    assert config.backbone == RESNET50
    assert (config.decoder.layers, config.decoder.queries) == (9, 100)
    assert (config.pixel_decoder.layers, config.pixel_decoder.feedforward) == (6, 1024)


def test_first_weights_give_masks_and_classes_of_moderate_size() -> None:
    """Default initialisation: no term of the first loss is huge."""
    torch.manual_seed(0)
    model = Mask2Former(tiny.CONFIG)
    losses = Criterion(LossConfig(points=64), tiny.categories(5))(
        model(tiny.images()), tiny.targets()
    )
    assert losses.total.item() / 4 < 40


def test_prediction_for_an_image_does_not_depend_on_its_neighbour() -> None:
    model = tiny.model().eval()
    images = tiny.images()
    with torch.no_grad():
        together, alone = model(images), model(images[1:])
    torch.testing.assert_close(together.class_logits[1:], alone.class_logits, rtol=0, atol=1e-4)
    torch.testing.assert_close(together.mask_logits[1:], alone.mask_logits, rtol=0, atol=1e-4)


@pytest.mark.parametrize("backbone", [tiny.RESNET, tiny.SWIN], ids=["resnet", "swin"])
def test_model_in_bf16(backbone: ResNetConfig | SwinConfig) -> None:
    config = replace(tiny.CONFIG, backbone=backbone)
    model = tiny.model(config, selected_share=3 / 96).eval()
    with torch.no_grad():
        exact = model(tiny.images()).predictions[0]
        half = model.to(torch.bfloat16)(tiny.images().bfloat16())
    assert half.class_logits.dtype == half.mask_logits.dtype == torch.bfloat16
    assert half.mask_logits.isfinite().all()
    # Later predictions may look elsewhere, where a mask logit rounds to the other side of zero.
    learnt = slice(0, 6)
    torch.testing.assert_close(
        half.predictions[0].class_logits[:, learnt].float(),
        exact.class_logits[:, learnt],
        rtol=0.1,
        atol=0.1,
    )


def test_training_in_bf16() -> None:
    model = tiny.model().to(torch.bfloat16)
    losses = Criterion(LossConfig(points=64), tiny.categories(5))(
        model(tiny.images().bfloat16()), tiny.targets()
    )
    assert losses.total.dtype == torch.float32
    losses.total.backward()
    tiny.assert_gradients(model)


@pytest.mark.parametrize("backbone", [tiny.RESNET, tiny.SWIN], ids=["resnet", "swin"])
def test_training_under_autocast_keeps_the_pixel_decoder_in_fp32(
    backbone: ResNetConfig | SwinConfig,
) -> None:
    model = tiny.model(replace(tiny.CONFIG, backbone=backbone), selected_share=3 / 96)
    kinds: list[torch.dtype] = []
    model.pixel_decoder.output.register_forward_hook(lambda m, x, out: kinds.append(out.dtype))
    model.pixel_decoder.layers[0].linear1.register_forward_hook(
        lambda m, x, out: kinds.append(out.dtype)
    )
    model.decoder.layers[0].feedforward.linear1.register_forward_hook(
        lambda m, x, out: kinds.append(out.dtype)
    )
    with torch.autocast("cpu", dtype=torch.bfloat16):
        output = model(tiny.images())
    assert kinds == [torch.float32, torch.float32, torch.bfloat16]
    assert output.predictions[-1].mask_features.dtype == torch.float32
    losses = Criterion(LossConfig(points=64), tiny.categories(5))(output, tiny.targets())
    assert losses.total.dtype == torch.float32
    losses.total.backward()
    tiny.assert_gradients(model)


@pytest.mark.parametrize(
    ("pixels", "decoder", "said"),
    [
        ({"position_period": 64.0}, {}, "position_period"),
        ({}, {"position_period": 32.0}, "position_period"),
        ({}, {"selected_share": 1.5}, "selected_share is 1.5"),
        ({"mask_positions": True}, {"anchored_masks": True}, "anchored_masks"),
        ({}, {"anchored_masks": True, "selected_share": 0.1}, "mask_positions"),
        (
            {"mask_positions": True},
            {"anchored_masks": True, "selected_share": 0.1, "mask_channels": 16},
            "mask_channels",
        ),
    ],
)
def test_parts_that_do_not_fit_together(
    pixels: dict[str, Any], decoder: dict[str, Any], said: str
) -> None:
    with pytest.raises(ValueError, match=said):
        replace(
            tiny.CONFIG,
            pixel_decoder=replace(tiny.CONFIG.pixel_decoder, **pixels),
            decoder=replace(tiny.CONFIG.decoder, **decoder),
        )


def test_absolute_positions_begin_anywhere_in_training() -> None:
    """In steps of 32 pixels, so that cells of all strides stay whole; at test time at 0."""
    model = tiny.model(position_period=64.0)
    torch.manual_seed(0)
    origins = {model.canvas_origin() for _ in range(50)}
    assert len(origins) > 30
    assert all(y % 32 == x % 32 == 0 and 0 <= y < 1024 and 0 <= x < 1024 for y, x in origins)
    assert model.eval().canvas_origin() == (0, 0)
    assert tiny.model().train().canvas_origin() == (0, 0)
