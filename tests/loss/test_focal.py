"""MaskFormer's mask term, in loss and matching, beside the one in transformers."""

from __future__ import annotations

import pytest
import torch

import tiny
from mask2former.loss.criterion import mask_losses
from mask2former.loss.matcher import focal_cost

LOGITS = 4 * tiny.wave(5 * 40, 1.0).view(5, 40)
TRUTH = (tiny.wave(3 * 40, 2.0).view(3, 40) > 0).float()


def test_loss_is_that_of_maskformer() -> None:
    peer = pytest.importorskip("transformers.models.maskformer.modeling_maskformer")
    ours, dice = mask_losses(LOGITS[:3], TRUTH, None, "focal")
    torch.testing.assert_close(ours / 3, peer.sigmoid_focal_loss(LOGITS[:3], TRUTH, 3))
    plain, same_dice = mask_losses(LOGITS[:3], TRUTH, None)
    assert ours < plain
    assert torch.equal(dice, same_dice)


def test_cost_of_every_pair_is_that_of_maskformer() -> None:
    peer = pytest.importorskip("transformers.models.maskformer.modeling_maskformer")
    torch.testing.assert_close(
        focal_cost(LOGITS, TRUTH), peer.pair_wise_sigmoid_focal_loss(LOGITS, TRUTH)
    )


def test_invalid_points_do_not_count() -> None:
    valid = torch.arange(40).expand(3, 40) < 30
    ours, _ = mask_losses(LOGITS[:3], TRUTH, valid, "focal")
    cut, _ = mask_losses(LOGITS[:3, :30], TRUTH[:, :30], None, "focal")
    torch.testing.assert_close(ours, cut)
