"""Test-time augmentation: the mean over views, written out, and what it must be symmetric in."""

from __future__ import annotations

from types import SimpleNamespace
from typing import cast

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import tiny
from mask2former.modeling.mask2former import Mask2Former
from mask2former.segmenter import Augmentation, Segmenter
from mask2former.structures import View

ALONE = Augmentation(scales=(1.0,), flip=False)


class Painter(nn.Module):
    """Answers as a model does: each query is sure of a class, its mask follows the colours."""

    config = tiny.CONFIG

    def __init__(self) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(3, 5, 7, stride=4, padding=3)  # not symmetric
        tiny.fill(self)

    def forward(self, images: Tensor) -> SimpleNamespace:
        class_logits = F.pad(8 * torch.eye(5), (0, 1)).expand(len(images), 5, 6)
        return SimpleNamespace(class_logits=class_logits, mask_logits=self.convolution(images))


def segmenter() -> Segmenter:
    return Segmenter(cast(Mask2Former, Painter()))


def picture() -> np.ndarray:
    rng = np.random.default_rng(0)
    return rng.integers(0, 255, (8, 12, 3), np.uint8).repeat(8, axis=0).repeat(8, axis=1)


def test_one_view_is_the_plain_result() -> None:
    image = picture()
    plain = segmenter()(image, "semantic").semantic
    augmented = segmenter().augmented(image, ALONE).semantic
    assert plain is not None
    assert augmented is not None
    assert torch.equal(plain.labels, augmented.labels)
    assert len(plain.labels.unique()) > 1


def test_a_mirrored_image_gives_the_mirrored_result() -> None:
    """Also with two scales, as the canvas has no padding at either: 64 x 96, 128 x 192."""
    views = Augmentation(scales=(1.0, 2.0))
    image = picture()
    result = segmenter().augmented(image, views, name="a").semantic
    other = segmenter().augmented(image[:, ::-1], views).semantic
    assert result is not None
    assert other is not None
    assert (result.labels == other.labels.flip(-1)).float().mean() > 0.999
    alone = segmenter().augmented(image, ALONE).semantic
    assert alone is not None
    assert not torch.equal(alone.labels, result.labels)


def test_is_the_mean_of_the_scores() -> None:
    """By torch's functions alone: 64 x 96 needs no resizing, 128 x 192 is twice as large."""
    found, image = segmenter(), picture()
    total = torch.zeros(5, 64, 96)
    for size in (64, 128):
        view = View(shortest_side=size, longest_side=2 * size)
        pixels = found.prepare(image, view=view)[None]
        assert pixels.shape[-2:] == (size, size // 2 * 3)
        for x in (pixels, pixels.flip(-1)):
            with torch.inference_mode():
                output = found.model(x)
            masks = F.interpolate(output.mask_logits, scale_factor=4, mode="bilinear")
            masks = F.interpolate(masks, size=(64, 96), mode="bilinear").sigmoid()
            of_class = output.class_logits.softmax(-1)[0, :, :-1]
            scores = torch.einsum("qk,qhw->khw", of_class, masks[0])
            total += scores if x is pixels else scores.flip(-1)
    result = found.augmented(image, Augmentation(scales=(1.0, 2.0))).semantic
    assert result is not None
    assert (result.labels == total.argmax(0)).float().mean() > 0.999


def test_views_and_what_is_none() -> None:
    """The official sizes for ADE20K: 256 .. 896, and 3584 at most."""
    views = Augmentation().views(View(shortest_side=512, longest_side=2048))
    assert [view.shortest_side for view in views] == [256, 384, 512, 640, 768, 896]
    assert {view.longest_side for view in views} == {3584}
    with pytest.raises(ValueError, match="one or more numbers above 0"):
        segmenter().augmented(picture(), Augmentation(scales=()))
