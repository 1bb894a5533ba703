from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import nn

import tiny
from mask2former.modeling.backbone import STRIDES
from mask2former.modeling.mask2former import build_backbone
from mask2former.modeling.resnet import FrozenBatchNorm, ResNet, ResNetConfig
from mask2former.modeling.swin import (
    DropPath,
    Swin,
    SwinConfig,
    from_windows,
    relative_position_index,
    shift_mask,
    to_windows,
)

BOTTLENECK = ResNetConfig(depths=(1, 2, 1, 1), stem_channels=8, width=4, channels=16)


@pytest.mark.parametrize(
    "config", [BOTTLENECK, tiny.RESNET, tiny.SWIN], ids=["1-3-1", "3-3", "swin"]
)
@pytest.mark.parametrize(("height", "width"), [(64, 96), (32, 160)])
def test_maps_have_strides_4_to_32_and_the_announced_channels(
    config: ResNetConfig | SwinConfig, height: int, width: int
) -> None:
    backbone = build_backbone(config)
    maps = backbone(torch.zeros(2, 3, height, width))
    assert [x.shape[1] for x in maps] == list(backbone.channels)
    assert [tuple(x.shape[-2:]) for x in maps] == [(height // s, width // s) for s in STRIDES]


def test_frozen_norm_is_batch_norm_with_constants() -> None:
    frozen, norm = FrozenBatchNorm(6), nn.BatchNorm2d(6).eval()
    tiny.fill(frozen)
    norm.load_state_dict(frozen.state_dict(), strict=False)
    assert not list(frozen.parameters())
    x = tiny.wave(2 * 6 * 5 * 4, 1.0).view(2, 6, 5, 4)
    torch.testing.assert_close(frozen(x.clone()), norm(x))
    half = x.bfloat16()  # another way of computing the same
    torch.testing.assert_close(frozen(half), norm(half.float()).bfloat16())
    with_gradient = frozen(x.clone().requires_grad_().clone())
    torch.testing.assert_close(with_gradient, norm(x))
    frozen.train()
    torch.testing.assert_close(frozen(x.clone()), norm(x))


def test_new_frozen_norm_changes_nothing() -> None:
    x = tiny.wave(48, 1.0).view(2, 6, 2, 2)
    torch.testing.assert_close(FrozenBatchNorm(6)(x.clone()), x)


def test_stride_is_in_the_3x3_convolution() -> None:
    block = ResNet(BOTTLENECK).stages[1][0]
    assert [conv.conv.stride[0] for conv in block.convs] == [1, 2, 1]
    assert [conv.conv.kernel_size[0] for conv in block.convs] == [1, 3, 1]


# --- Swin ----------------------------------------------------------------------------------------


def test_windows_go_back_to_where_they_came_from() -> None:
    x = torch.arange(2 * 6 * 9 * 2.0).view(2, 6, 9, 2)
    windows = to_windows(x, 3)
    assert windows.shape == (2 * 2 * 3, 9, 2)
    assert torch.equal(windows[1, :3], x[0, 0, 3:6])
    assert torch.equal(from_windows(windows, 3, 6, 9), x)


def test_relative_positions_are_numbered_alike_for_alike_offsets() -> None:
    index = relative_position_index(3)
    assert index.shape == (9, 9)
    assert (index.diagonal() == index[0, 0]).all()
    assert index[0, 1] == index[3, 4] == index[7, 8]  # one to the right
    assert index[0, 3] == index[4, 7]  # one below
    assert index.unique().numel() == 25
    assert index.min() == 0
    assert index.max() == 24


def test_shifted_windows_keep_strangers_apart() -> None:
    """Two windows of 4 a side, shifted by 2: the last one holds both ends of the map."""
    mask = shift_mask(8, 8, 4, torch.device("cpu"))
    assert mask.shape == (4, 16, 16)
    assert not mask[0].any()  # within the map
    last = mask[3].view(4, 4, 4, 4)  # both ends in both axes: four neighbourhoods
    assert not last[0, 0, 1, 1]
    assert last[0, 0, 0, 2]
    assert last[0, 0, 2, 0]
    assert torch.equal(mask, mask.transpose(1, 2))


def test_swin_map_smaller_than_a_window_is_padded_and_shifted_all_the_same() -> None:
    """As the official code does; other libraries leave the shift out."""
    config = replace(tiny.SWIN, depths=(1, 1, 1, 2), window=7)
    model = Swin(config)
    tiny.fill(model)
    images = tiny.images()
    with torch.no_grad():
        shifted = model(images)[3]
        block = model.stages[3].blocks[1]
        assert block.shift == 3
        block.shift = 0
        unshifted = model(images)[3]
    assert shifted.shape[-2:] == (2, 3)
    assert (shifted - unshifted).abs().max() > 1e-4


def test_swin_takes_sizes_that_no_stride_divides() -> None:
    maps = Swin(tiny.SWIN)(torch.zeros(1, 3, 45, 67))
    assert [tuple(x.shape[-2:]) for x in maps] == [(12, 17), (6, 9), (3, 5), (2, 3)]


def test_drop_path_drops_whole_images_and_keeps_the_mean() -> None:
    torch.manual_seed(0)
    drop = DropPath(0.25)
    x = torch.ones(4000, 2, 3)
    out = drop(x)
    kept = out[:, 0, 0] != 0
    assert torch.equal(out, out[:, :1, :1].expand_as(out))
    assert out[kept].unique().item() == pytest.approx(1 / 0.75)
    assert kept.float().mean().item() == pytest.approx(0.75, abs=0.03)
    assert torch.equal(drop.eval()(x), x)
    assert torch.equal(DropPath(0.0)(x), x)


def test_drop_path_rate_grows_from_0_to_its_full_value() -> None:
    config = replace(tiny.SWIN, depths=(1, 2, 1, 1), drop_path=0.4)
    rates = [m.rate for m in Swin(config).modules() if isinstance(m, DropPath)]
    assert rates == pytest.approx([0.0, 0.1, 0.2, 0.3, 0.4])
