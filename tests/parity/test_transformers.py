"""The model against Hugging Face's, which other people wrote: the same weights, the same logits.

Since version 5 transformers pads a Swin map to whole windows first and shifts always (it asks its
backbone to `always_partition`), as the official code does; before, its windows shrank and did not
shift where a map was no larger than a window, so other numbers came out at such sizes. Both ignore
the padding mask: pixels that were padded count as image.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from mask2former.data.class_lists import class_list
from mask2former.modeling.decoder import DecoderConfig
from mask2former.modeling.mask2former import Mask2Former, Mask2FormerConfig
from mask2former.modeling.pixel_decoder import PixelDecoderConfig
from mask2former.modeling.resnet import ResNetConfig
from mask2former.modeling.swin import SWIN_B, SWIN_L, SWIN_S, SWIN_T, SwinConfig
from mask2former.weights import load_model, save_model
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
RESNET = replace(
    CONFIG, backbone=ResNetConfig(depths=(1, 2, 1, 1), stem_channels=8, width=8, channels=32)
)
CONFIGS = {"swin": CONFIG, "resnet": RESNET}


def drawn(config: Mask2FormerConfig, seed: int = 0) -> Mask2Former:
    """A model whose queries differ and whose masks are not empty."""
    rng = np.random.default_rng(seed)
    model = Mask2Former(config).eval()
    with torch.no_grad():
        for name, tensor in model.state_dict().items():
            values = torch.from_numpy(rng.normal(size=tuple(tensor.shape))).float()
            if name.endswith("running_var"):
                values = 1 + 0.1 * values.abs()
            elif tensor.ndim == 1 and name.endswith("weight"):
                values = 1 + 0.1 * values
            elif tensor.ndim < 2:
                values = 0.1 * values
            elif "query" not in name and "level" not in name:
                values = values / tensor[0].numel() ** 0.5
            tensor.copy_(values)
    return model


def loaded_by_transformers(folder: Path) -> Any:
    """Their model, and that no tensor of it was missing or left over."""
    theirs, report = transformers.Mask2FormerForUniversalSegmentation.from_pretrained(
        folder, output_loading_info=True
    )
    assert not report["missing_keys"]
    assert not report["unexpected_keys"]
    assert not report["mismatched_keys"]
    return theirs.eval()


@pytest.fixture(scope="module", params=CONFIGS)
def both(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Mask2Former, Any]:
    """Our model, and theirs, which it was written for."""
    model, folder = drawn(CONFIGS[request.param]), tmp_path_factory.mktemp("theirs")
    save_model(model, folder, "transformers")
    return model, loaded_by_transformers(folder)


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
def test_logits_equal_those_of_transformers(
    both: tuple[Mask2Former, Any], sizes: list[tuple[int, int]]
) -> None:
    ours, theirs = both
    images = batch_of(sizes)
    padding = torch.zeros(len(sizes), *images.shape[-2:])
    for row, (height, width) in zip(padding, sizes, strict=True):
        row[:height, :width] = 1
    theirs.config.output_auxiliary_logits = True
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


@pytest.mark.parametrize("bin", [False, True], ids=["safetensors", "bin"])
def test_what_transformers_writes_is_read(
    both: tuple[Mask2Former, Any], tmp_path: Path, bin: bool
) -> None:
    """Without our own entry in the config, as in the folders that others made."""
    ours, theirs = both
    theirs.save_pretrained(tmp_path)
    tree = json.loads((tmp_path / "config.json").read_text())
    del tree["mask2former_config"]
    (tmp_path / "config.json").write_text(json.dumps(tree))
    if bin:
        weights = tmp_path / "model.safetensors"
        torch.save(load_file(weights), tmp_path / "pytorch_model.bin")
        weights.unlink()
    read = load_model(tmp_path)
    assert read.config.backbone == ours.config.backbone
    assert read.config.pixel_decoder == ours.config.pixel_decoder
    assert read.config.decoder == ours.config.decoder
    assert [c.name for c in read.config.categories] == [c.name for c in ours.config.categories]
    for name, tensor in ours.state_dict().items():
        assert torch.equal(read.state_dict()[name], tensor), name


FULL_WIDTH = {
    "R50": (ResNetConfig(), 100),
    "Swin-T": (SWIN_T, 100),
    "Swin-S": (SWIN_S, 100),
    "Swin-B": (SWIN_B, 100),
    "Swin-L": (SWIN_L, 200),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", FULL_WIDTH)
def test_full_width_outputs_equal_those_of_transformers(name: str, tmp_path: Path) -> None:
    backbone, queries = FULL_WIDTH[name]
    config = Mask2FormerConfig(
        categories=class_list("coco"), backbone=backbone, decoder=DecoderConfig(queries=queries)
    )
    ours = drawn(config, seed=3)
    save_model(ours, tmp_path, "transformers")
    theirs = loaded_by_transformers(tmp_path)
    images = batch_of([(100, 150)])
    with torch.no_grad():
        output, expected = ours(images), theirs(pixel_values=images)
    for found, wanted in (
        (output.class_logits, expected.class_queries_logits),
        (output.mask_logits, expected.masks_queries_logits),
    ):
        assert ((found - wanted).norm() / wanted.norm()).item() < 1e-4
