"""The feature pyramid: shapes, learning, and the same sums computed plainly."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import tiny
from mask2former.modeling.fpn import FPN, FPNConfig
from mask2former.modeling.mask2former import Mask2Former
from mask2former.serialization import from_dict, to_dict
from mask2former.weights import load_model
from mask2former.weights.native import save_model

CHANNELS = (8, 16, 32, 64)


def decoder() -> FPN:
    made = FPN(FPNConfig(channels=32), CHANNELS, 24)
    tiny.fill(made)
    return made


def maps() -> list[Tensor]:
    sizes = ((13, 21), (7, 11), (4, 6), (2, 3))
    return [
        tiny.wave(2 * c * h * w, c).view(2, c, h, w)
        for c, (h, w) in zip(CHANNELS, sizes, strict=True)
    ]


def test_shapes_are_those_of_the_pixel_decoder() -> None:
    mask_features, scales = decoder()(maps())
    assert mask_features.shape == (2, 24, 13, 21)
    assert [tuple(x.shape) for x in scales] == [(2, 32, 2, 3), (2, 32, 4, 6), (2, 32, 7, 11)]


def test_the_coarsest_map_reaches_the_finest() -> None:
    made, inputs = decoder(), maps()
    changed = [*inputs[:3], inputs[3] + 1]
    assert not torch.allclose(made(inputs)[0], made(changed)[0])
    # and the second scale is what the definition says
    coarse = F.relu(made.outputs[0](inputs[3]))
    up = coarse.repeat_interleave(2, 2).repeat_interleave(2, 3)
    expected = F.relu(made.outputs[1](made.laterals[0](inputs[2]) + up))
    torch.testing.assert_close(made(inputs)[1][1], expected)


def test_a_model_with_it_learns_and_is_saved(tmp_path: Path) -> None:
    config = replace(tiny.CONFIG, pixel_decoder=FPNConfig(channels=32))
    assert from_dict(type(config), to_dict(config)) == config
    model = Mask2Former(config)
    output = model(tiny.images())
    (output.mask_logits.square().mean() + output.class_logits.square().mean()).backward()
    tiny.assert_gradients(model.pixel_decoder)
    save_model(model.eval(), tmp_path / "model")
    loaded = load_model(tmp_path / "model")
    torch.testing.assert_close(
        loaded.eval()(tiny.images()).mask_logits, model(tiny.images()).mask_logits
    )


def test_anchors_want_positions() -> None:
    wanted = replace(tiny.CONFIG.decoder, anchored_masks=True, selected_share=0.1)
    with pytest.raises(ValueError, match="an FPN knows not"):
        replace(tiny.CONFIG, pixel_decoder=FPNConfig(channels=32), decoder=wanted)
