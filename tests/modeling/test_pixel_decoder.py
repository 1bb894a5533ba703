from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

import tiny
from mask2former.modeling.pixel_decoder import PixelDecoder, PixelDecoderConfig

CONFIG = tiny.CONFIG.pixel_decoder
CHANNELS = (8, 16, 32, 64)


def decoder(config: PixelDecoderConfig = CONFIG) -> PixelDecoder:
    made = PixelDecoder(config, CHANNELS, 24)
    tiny.fill(made)
    return made


def maps(height: int = 16, width: int = 24) -> list[Tensor]:
    shapes = [
        (2, c, -(-height // s), -(-width // s)) for c, s in zip(CHANNELS, (1, 2, 4, 8), strict=True)
    ]
    return [tiny.wave(torch.Size(s).numel(), i).view(s) for i, s in enumerate(shapes)]


def test_mask_features_at_stride_4_and_scales_coarse_first() -> None:
    mask_features, scales = decoder()(maps())
    assert mask_features.shape == (2, 24, 16, 24)
    assert [tuple(x.shape) for x in scales] == [(2, 32, 2, 3), (2, 32, 4, 6), (2, 32, 8, 12)]


def test_odd_sizes() -> None:
    mask_features, scales = decoder()(maps(13, 21))
    assert mask_features.shape == (2, 24, 13, 21)
    assert [tuple(x.shape[-2:]) for x in scales] == [(2, 3), (4, 6), (7, 11)]


def test_every_parameter_learns() -> None:
    made = decoder(replace(CONFIG, mask_positions=True))
    mask_features, scales = made(maps())
    (mask_features.square().mean() + sum(x.square().mean() for x in scales)).backward()
    tiny.assert_gradients(made)


def test_mask_positions_reach_the_mask_features_alone() -> None:
    plain, placed = decoder(), decoder(replace(CONFIG, mask_positions=True))
    (features, scales), (features_2, scales_2) = plain(maps()), placed(maps())
    assert not torch.allclose(features, features_2)
    assert all(torch.equal(a, b) for a, b in zip(scales, scales_2, strict=True))


def test_absolute_positions_change_the_scales() -> None:
    _, relative = decoder()(maps())
    _, absolute = decoder(replace(CONFIG, position_period=64.0))(maps())
    assert not torch.allclose(relative[2], absolute[2])


def test_dropout_is_at_work_in_training_alone() -> None:
    made = decoder(replace(CONFIG, dropout=0.5))
    torch.manual_seed(0)
    with torch.no_grad():
        assert not torch.equal(made(maps())[0], made(maps())[0])
        made.eval()
        assert torch.equal(made(maps())[0], made(maps())[0])
