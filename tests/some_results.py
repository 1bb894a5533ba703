"""Results of no model, for tests of what is written, read and handed on."""

from __future__ import annotations

import numpy as np
import torch

from mask2former.masks import box_of_mask
from mask2former.structures import (
    Category,
    Instances,
    Panoptic,
    Segment,
    Segmentation,
    Semantic,
)

CATEGORIES = (
    Category(id=7, name="cat", is_thing=True, color=(1, 2, 3)),
    Category(id=9, name="cat", is_thing=True, color=(4, 5, 6)),
    Category(id=11, name="sky", is_thing=False, color=(7, 8, 9)),
)


def made_up(seed: int = 0, size: tuple[int, int] = (30, 41)) -> Segmentation:
    rng = np.random.default_rng(seed)
    masks = np.zeros((3, *size), bool)
    masks[0, 3:20, 5:9], masks[1, 10:25, 7:30] = True, rng.random((15, 23)) < 0.5
    masks[2, :2, 3:9] = True
    ids = np.zeros(size, np.int32)
    ids[:12], ids[15:, :20], ids[15:, 30:] = 1, 2, 70_000
    segments = [(1, 2, 0.75), (2, 0, 0.5), (70_000, 1, 0.875)]
    return Segmentation(
        size=size,
        name=f"folder/{seed}.jpg",
        instances=Instances(
            masks=torch.from_numpy(masks),
            scores=torch.tensor([0.875, 0.5, 0.25]),
            labels=torch.tensor([1, 0, 1]),
            boxes=torch.tensor([box_of_mask(mask) for mask in masks]).float(),
            categories=CATEGORIES,
        ),
        panoptic=Panoptic(
            ids=torch.from_numpy(ids),
            segments=tuple(
                Segment(
                    id=id,
                    label=label,
                    category=CATEGORIES[label],
                    score=score,
                    area=int((ids == id).sum()),
                )
                for id, label, score in segments
            ),
            categories=CATEGORIES,
        ),
        semantic=Semantic(labels=torch.from_numpy(rng.integers(0, 3, size)), categories=CATEGORIES),
    )


def same(a: Segmentation, b: Segmentation) -> None:
    """Field by field, tensors by value and type."""
    assert (a.size, a.name) == (b.size, b.name)
    for task in ("instances", "panoptic", "semantic"):
        one, other = getattr(a, task), getattr(b, task)
        assert (one is None) == (other is None), task
        for key, value in vars(one).items() if one is not None else ():
            found = getattr(other, key)
            if isinstance(value, torch.Tensor):
                assert found.dtype == value.dtype, (task, key)
                assert torch.equal(found, value), (task, key)
            else:
                assert found == value, (task, key)
