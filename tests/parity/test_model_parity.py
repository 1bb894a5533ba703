"""Every stage of the model against the recorded runs of the official code.

Tolerances are those of the recordings' README: what float32 allows an independent implementation.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from recordings import REFERENCE, check, needs_recordings, official_model, prepared, recorded
from torch import Tensor

from mask2former.modeling.decoder import attention_mask, shrink_frames
from mask2former.modeling.mask2former import Mask2Former
from mask2former.segmenter import Segmenter
from mask2former.structures import Output

pytestmark = needs_recordings
CASES = [
    ("r50_tiny", "eval_A"),
    ("r50_tiny", "eval_B"),
    ("swin_tiny_nano", "eval_A"),
    ("swin_tiny_nano", "eval_B"),
    ("video_r50_tiny", "eval_clip"),
]
every_case = pytest.mark.parametrize(("folder", "name"), CASES)


@dataclass
class Stages:
    """What passes through a model in one run."""

    maps: list[Tensor] = field(default_factory=list)
    mask_features: Tensor = field(default_factory=lambda: torch.empty(0))
    scales: list[Tensor] = field(default_factory=list)
    queries: list[Tensor] = field(default_factory=list)
    allowed: list[Tensor] = field(default_factory=list)


@contextmanager
def watched(model: Mask2Former) -> Iterator[Stages]:
    """Notes what the parts of `model` take and return."""
    stages = Stages()

    def on_backbone(module: object, arguments: object, maps: list[Tensor]) -> None:
        stages.maps = maps

    def on_pixel_decoder(module: object, arguments: object, out: Any) -> None:
        stages.mask_features, stages.scales = out

    def on_head(module: object, arguments: tuple[Any, ...]) -> None:
        stages.queries.append(arguments[0])

    def on_layer(module: object, arguments: tuple[Any, ...]) -> None:
        stages.allowed.append(arguments[4])

    hooks = [
        model.backbone.register_forward_hook(on_backbone),
        model.pixel_decoder.register_forward_hook(on_pixel_decoder),
        model.decoder.head.register_forward_pre_hook(on_head),
        *(layer.register_forward_pre_hook(on_layer) for layer in model.decoder.layers),
    ]
    try:
        yield stages
    finally:
        for hook in hooks:
            hook.remove()


@cache
def run(folder: str, name: str) -> tuple[Output, Stages]:
    """The model on the recorded input: the frames of a clip are that many rows of it."""
    model, recording = official_model(folder).eval(), recorded(folder, name)
    images = recording["input"]
    with torch.no_grad(), watched(model) as stages:
        output = model(images[None] if folder.startswith("video") else images)
    return output, stages


@every_case
def test_input_is_normalised_and_padded_alike(folder: str, name: str) -> None:
    model, recording = official_model(folder), recorded(folder, name)
    sizes = [frames[0].shape[-2:] for frames in recording.frames]
    canvas = Segmenter(model).canvas(sizes)
    images = prepared(recording, model, canvas)
    check(images.view(recording["input"].shape), recording["input"], 1e-6, "input")


@every_case
def test_backbone(folder: str, name: str) -> None:
    for i, x in enumerate(run(folder, name)[1].maps):
        check(x, recorded(folder, name)[f"backbone.res{i + 2}"], 1e-5, f"res{i + 2}")


@every_case
def test_pixel_decoder(folder: str, name: str) -> None:
    stages, recording = run(folder, name)[1], recorded(folder, name)
    check(stages.mask_features, recording["pixel_decoder.mask_features"], 1e-5, "mask features")
    for i, x in enumerate(stages.scales):
        check(x, recording[f"pixel_decoder.multi_scale.{i}"], 3e-5, f"scale {i}")


@every_case
def test_queries_after_every_layer(folder: str, name: str) -> None:
    stages, recording = run(folder, name)[1], recorded(folder, name)
    assert len(stages.queries) == 10
    for i, x in enumerate(stages.queries):
        check(x.transpose(0, 1), recording[f"decoder.query.{i}"], 2e-5, f"queries {i}")


@every_case
def test_every_prediction(folder: str, name: str) -> None:
    output, recording = run(folder, name)[0], recorded(folder, name)
    assert len(output.predictions) == 10
    for i, prediction in enumerate(output.predictions):
        key = f"aux_outputs.{i}." if i < 9 else ""
        check(prediction.class_logits, recording[key + "pred_logits"], 2e-5, f"class logits {i}")
        check(prediction.mask_logits, recording[key + "pred_masks"], 2e-5, f"mask logits {i}")


def blocked_bits(allowed: Tensor) -> np.ndarray:
    return np.packbits(~allowed.numpy(), axis=-1)


@every_case
def test_attention_masks_are_equal_to_the_bit(folder: str, name: str) -> None:
    (_, stages), recording = run(folder, name), recorded(folder, name)
    assert len(stages.allowed) == 9
    for i, allowed in enumerate(stages.allowed):
        assert allowed.shape[-1] == recording.facts["attention_masks"][i]["keys"]
        expected = recording[f"attn_mask.{i}.packed"].numpy()
        np.testing.assert_array_equal(blocked_bits(allowed), expected, err_msg=f"layer {i}")


@every_case
def test_rows_without_foreground_are_opened(folder: str, name: str) -> None:
    """The recorded predictions give the recorded masks, and exactly the recorded rows are reset."""
    (output, stages), recording = run(folder, name), recorded(folder, name)
    resets = 0
    for i, prediction in enumerate(output.auxiliary):
        size = stages.scales[i % 3].shape[-2:]
        features = shrink_frames(prediction.mask_features, size)
        allowed = attention_mask(prediction.mask_embeddings, features)
        assert torch.equal(allowed, stages.allowed[i])
        logits = prediction.mask_embeddings @ features.flatten(2)
        empty = (logits < 0).all(-1)
        assert torch.equal(empty, recording[f"attn_mask.{i}.all_masked_rows"].bool())
        assert allowed[empty].all()
        resets += int(empty.sum())
    facts = recording.facts["attention_masks"]
    assert resets == sum(layer["rows_reset_per_head"] for layer in facts)


def test_pth_file_holds_the_same_model_as_the_pkl() -> None:
    pkl = official_model("video_r50_tiny").state_dict()
    pth = Mask2Former.from_pretrained(REFERENCE / "video_r50_tiny" / "model_final.pth").state_dict()
    assert pkl.keys() == pth.keys()
    for name, tensor in pkl.items():
        assert torch.equal(tensor, pth[name]), name
