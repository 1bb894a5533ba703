"""The model against Hugging Face's, which other people wrote: the same weights, the same logits.

Since version 5 transformers pads a Swin map to whole windows first and shifts always (it asks its
backbone to `always_partition`), as the official code does; before, its windows shrank and did not
shift where a map was no larger than a window, so other numbers came out at such sizes. Both ignore
the padding mask: pixels that were padded count as image.
"""

from __future__ import annotations

import re
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from mask2former.modeling.decoder import DecoderConfig
from mask2former.modeling.mask2former import Mask2Former, Mask2FormerConfig
from mask2former.modeling.pixel_decoder import PixelDecoderConfig
from mask2former.modeling.swin import SwinConfig
from tiny import categories

transformers = pytest.importorskip("transformers", minversion="5.0")

CONFIG = Mask2FormerConfig(
    categories=categories(5),
    backbone=SwinConfig(width=12, depths=(2, 2, 2, 2), heads=(1, 2, 4, 4), window=4, drop_path=0.0),
    pixel_decoder=PixelDecoderConfig(channels=32, layers=2, heads=4, feedforward=48),
    decoder=DecoderConfig(
        channels=32, mask_channels=32, layers=4, heads=4, feedforward=64, queries=10
    ),
)
# Ours -> theirs. {q} stands for the three parts of a joint projection, which they keep apart.
NAMES = (
    (r"backbone\.patch_embed\.(.*)", r"ENC.swin.embeddings.patch_embeddings.projection.\1"),
    (r"backbone\.patch_norm\.(.*)", r"ENC.swin.embeddings.norm.\1"),
    (
        r"backbone\.stages\.(\d)\.blocks\.(\d)\.attention\.qkv\.(.*)",
        r"ENC.swin.encoder.layers.\1.blocks.\2.attention.{q}_proj.\3",
    ),
    (
        r"backbone\.stages\.(\d)\.blocks\.(\d)\.attention\.proj\.(.*)",
        r"ENC.swin.encoder.layers.\1.blocks.\2.attention.o_proj.\3",
    ),
    (
        r"backbone\.stages\.(\d)\.blocks\.(\d)\.attention\.(relative.*)",
        r"ENC.swin.encoder.layers.\1.blocks.\2.attention.relative_position_bias.\3",
    ),
    (
        r"backbone\.stages\.(\d)\.blocks\.(\d)\.norm1\.(.*)",
        r"ENC.swin.encoder.layers.\1.blocks.\2.layernorm_before.\3",
    ),
    (
        r"backbone\.stages\.(\d)\.blocks\.(\d)\.norm2\.(.*)",
        r"ENC.swin.encoder.layers.\1.blocks.\2.layernorm_after.\3",
    ),
    (
        r"backbone\.stages\.(\d)\.blocks\.(\d)\.mlp\.0\.(.*)",
        r"ENC.swin.encoder.layers.\1.blocks.\2.mlp.fc1.\3",
    ),
    (
        r"backbone\.stages\.(\d)\.blocks\.(\d)\.mlp\.2\.(.*)",
        r"ENC.swin.encoder.layers.\1.blocks.\2.mlp.fc2.\3",
    ),
    (r"backbone\.stages\.(\d)\.norm\.(.*)", r"ENC.hidden_states_norms.stage{1+1}.\2"),
    (r"backbone\.merges\.(\d)\.(.*)", r"ENC.swin.encoder.layers.\1.downsample.\2"),
    (r"pixel_decoder\.projections\.(.*)", r"PIX.input_projections.\1"),
    (r"pixel_decoder\.level_embedding", r"PIX.level_embed"),
    (
        r"pixel_decoder\.layers\.(\d)\.attention\.offsets\.(.*)",
        r"PIX.encoder.layers.\1.self_attn.sampling_offsets.\2",
    ),
    (
        r"pixel_decoder\.layers\.(\d)\.attention\.weights\.(.*)",
        r"PIX.encoder.layers.\1.self_attn.attention_weights.\2",
    ),
    (
        r"pixel_decoder\.layers\.(\d)\.attention\.(value|output)\.(.*)",
        r"PIX.encoder.layers.\1.self_attn.\2_proj.\3",
    ),
    (
        r"pixel_decoder\.layers\.(\d)\.norm1\.(.*)",
        r"PIX.encoder.layers.\1.self_attn_layer_norm.\2",
    ),
    (r"pixel_decoder\.layers\.(\d)\.norm2\.(.*)", r"PIX.encoder.layers.\1.final_layer_norm.\2"),
    (r"pixel_decoder\.layers\.(\d)\.linear(\d)\.(.*)", r"PIX.encoder.layers.\1.fc\2.\3"),
    (r"pixel_decoder\.lateral\.(.*)", r"PIX.adapter_1.0.\1"),
    (r"pixel_decoder\.lateral_norm\.(.*)", r"PIX.adapter_1.1.\1"),
    (r"pixel_decoder\.output\.(.*)", r"PIX.layer_1.0.\1"),
    (r"pixel_decoder\.output_norm\.(.*)", r"PIX.layer_1.1.\1"),
    (r"pixel_decoder\.mask_features\.(.*)", r"PIX.mask_projection.\1"),
    (r"decoder\.query_features", r"DEC.queries_features.weight"),
    (r"decoder\.query_positions", r"DEC.queries_embedder.weight"),
    (r"decoder\.level_embedding", r"DEC.level_embed.weight"),
    (
        r"decoder\.layers\.(\d)\.cross_attention\.norm\.(.*)",
        r"DEC.decoder.layers.\1.cross_attn_layer_norm.\2",
    ),
    (r"decoder\.layers\.(\d)\.cross_attention\.(.*)", r"DEC.decoder.layers.\1.cross_attn.\2"),
    (
        r"decoder\.layers\.(\d)\.self_attention\.in_proj_(.*)",
        r"DEC.decoder.layers.\1.self_attn.{q}_proj.\2",
    ),
    (
        r"decoder\.layers\.(\d)\.self_attention\.out_proj\.(.*)",
        r"DEC.decoder.layers.\1.self_attn.out_proj.\2",
    ),
    (
        r"decoder\.layers\.(\d)\.self_attention\.norm\.(.*)",
        r"DEC.decoder.layers.\1.self_attn_layer_norm.\2",
    ),
    (
        r"decoder\.layers\.(\d)\.feedforward\.norm\.(.*)",
        r"DEC.decoder.layers.\1.final_layer_norm.\2",
    ),
    (
        r"decoder\.layers\.(\d)\.feedforward\.linear(\d)\.(.*)",
        r"DEC.decoder.layers.\1.fc\2.\3",
    ),
    (r"decoder\.head\.norm\.(.*)", r"DEC.decoder.layernorm.\1"),
    (r"decoder\.head\.class_logits\.(.*)", r"class_predictor.\1"),
    (
        r"decoder\.head\.mask_embedding\.(\d)\.(.*)",
        r"DEC.decoder.mask_predictor.mask_embedder.{1/2}.0.\2",
    ),
)
PREFIXES = {
    "ENC": "model.pixel_level_module.encoder",
    "PIX": "model.pixel_level_module.decoder",
    "DEC": "model.transformer_module",
}
# The criterion's class weights, and a norm of Swin's that no map passes through.
NOT_OURS = {
    "criterion.empty_weight",
    "model.pixel_level_module.encoder.swin.layernorm.weight",
    "model.pixel_level_module.encoder.swin.layernorm.bias",
}


def their_name(ours: str) -> str:
    for pattern, replacement in NAMES:
        match = re.fullmatch(pattern, ours)
        if match is None:
            continue
        first = match[1] if match.re.groups else "0"
        if first.isdigit():
            replacement = replacement.replace("{1+1}", str(int(first) + 1))
            replacement = replacement.replace("{1/2}", str(int(first) // 2))
        name = match.expand(replacement)
        return PREFIXES.get(name[:3], name[:3]) + name[3:]
    raise KeyError(ours)


def their_weights(model: Mask2Former) -> dict[str, Tensor]:
    weights = {}
    for ours, tensor in model.state_dict().items():
        name = their_name(ours)
        if "{q}" in name:
            for letter, part in zip("qkv", tensor.chunk(3), strict=True):
                weights[name.replace("{q}", letter)] = part
        else:
            weights[name] = tensor
    return weights


@cache
def both() -> tuple[Mask2Former, Any]:
    """Our model with weights drawn so that queries differ and masks are not empty, and theirs."""
    rng = np.random.default_rng(0)
    model = Mask2Former(CONFIG).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            values = torch.from_numpy(rng.normal(size=tuple(parameter.shape))).float()
            if parameter.ndim == 1 and name.endswith("weight"):
                values = 1 + 0.1 * values
            elif parameter.ndim < 2:
                values = 0.1 * values
            elif "query" not in name and "level" not in name:
                values = values / parameter[0].numel() ** 0.5
            parameter.copy_(values)
    swin, pixel, decoder = CONFIG.backbone, CONFIG.pixel_decoder, CONFIG.decoder
    assert isinstance(swin, SwinConfig)
    config = transformers.Mask2FormerConfig(
        backbone_config=transformers.SwinConfig(
            embed_dim=swin.width,
            depths=list(swin.depths),
            num_heads=list(swin.heads),
            window_size=swin.window,
            drop_path_rate=0.0,
            out_features=[f"stage{i}" for i in (1, 2, 3, 4)],
        ),
        feature_size=pixel.channels,
        mask_feature_size=decoder.mask_channels,
        hidden_dim=decoder.channels,
        encoder_feedforward_dim=pixel.feedforward,
        dim_feedforward=decoder.feedforward,
        encoder_layers=pixel.layers,
        decoder_layers=decoder.layers + 1,  # they count predictions
        num_attention_heads=decoder.heads,
        num_queries=decoder.queries,
        num_labels=len(CONFIG.categories),
        output_auxiliary_logits=True,
    )
    theirs = transformers.Mask2FormerForUniversalSegmentation(config).eval()
    missing, unexpected = theirs.load_state_dict(their_weights(model), strict=False)
    assert set(missing) <= NOT_OURS
    assert not unexpected
    return model, theirs


def batch_of(sizes: list[tuple[int, int]]) -> Tensor:
    """Random images of these sizes (H, W), padded at bottom and right to multiples of 32."""
    rng = np.random.default_rng(sizes[0][0])
    height, width = (max(side) for side in zip(*sizes, strict=True))
    canvas = torch.zeros(len(sizes), 3, height + -height % 32, width + -width % 32)
    for row, (h, w) in zip(canvas, sizes, strict=True):
        row[:, :h, :w] = torch.from_numpy(rng.normal(size=(3, h, w)))
    return canvas


@pytest.mark.parametrize(
    "sizes",
    [
        pytest.param([(50, 70)], id="maps smaller than a window"),
        pytest.param([(33, 190)], id="maps of odd sides"),
        pytest.param([(150, 130)], id="maps of several windows"),
        pytest.param([(50, 70), (90, 41)], id="two images of different size"),
    ],
)
def test_logits_equal_those_of_transformers(sizes: list[tuple[int, int]]) -> None:
    ours, theirs = both()
    images = batch_of(sizes)
    padding = torch.zeros(len(sizes), *images.shape[-2:])
    for row, (height, width) in zip(padding, sizes, strict=True):
        row[:height, :width] = 1
    with torch.no_grad():
        output = ours(images)
        expected = theirs(pixel_values=images, pixel_mask=padding)
    pairs = [
        (p["class_queries_logits"], p["masks_queries_logits"]) for p in expected.auxiliary_logits
    ]
    pairs.append((expected.class_queries_logits, expected.masks_queries_logits))
    assert len(pairs) == len(output.predictions) == CONFIG.decoder.layers + 1
    for prediction, (class_logits, mask_logits) in zip(output.predictions, pairs, strict=True):
        torch.testing.assert_close(prediction.class_logits, class_logits, rtol=0, atol=1e-4)
        torch.testing.assert_close(prediction.mask_logits, mask_logits, rtol=0, atol=1e-4)
    assert output.class_logits.std() > 0.1
    assert (output.mask_logits > 0).float().mean() > 0.1


def test_every_tensor_of_theirs_is_mapped() -> None:
    ours, theirs = both()
    assert their_weights(ours).keys() == set(theirs.state_dict()) - NOT_OURS
