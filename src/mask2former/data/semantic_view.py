"""Any annotation as a semantic one: all objects of a class are one mask."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from jaxtyping import Bool, Int64

from mask2former.data.dataset import Dataset, labels_of
from mask2former.masks import Box
from mask2former.structures import Category, Masks, Sample, Task


class SemanticView:
    """A panoptic data set, its segments of one class united; crowds count as their class.

    So the official code derives COCO's and ADE20K's semantic annotation from the panoptic one.
    """

    tasks: tuple[Task, ...] = ("semantic",)

    def __init__(self, dataset: Dataset) -> None:
        self.dataset = dataset

    @property
    def categories(self) -> tuple[Category, ...]:
        return self.dataset.categories

    def __len__(self) -> int:
        return len(self.dataset)

    def labels_of(self, index: int) -> set[int]:
        return labels_of(self.dataset, index)

    def __getitem__(self, index: int) -> Sample:
        sample = self.dataset[index]
        labels, member = np.unique(sample.labels, return_inverse=True)
        return replace(
            sample,
            labels=labels,
            masks=_United(sample.masks, member, len(labels)),
            is_crowd=np.zeros(len(labels), bool),
        )


class _United:
    """Masks of which some are one: mask i is the union of those whose `member` is i."""

    def __init__(self, masks: Masks, member: Int64[np.ndarray, "N"], count: int) -> None:
        self._masks, self._member, self._count = masks, member, count

    def __len__(self) -> int:
        return self._count

    @property
    def size(self) -> tuple[int, int]:
        return self._masks.size

    def render(self, box: Box, size: tuple[int, int]) -> Bool[np.ndarray, "K h w"]:
        """See `Masks.render` in structures.py."""
        out = np.zeros((self._count, *size), bool)
        for member, mask in zip(self._member, self._masks.render(box, size), strict=True):
            out[member] |= mask  # 30 times as fast as `np.logical_or.at`
        return out
