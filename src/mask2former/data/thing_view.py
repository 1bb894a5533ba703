"""Any annotation as an instance one: the things alone."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from jaxtyping import Bool, Int64

from mask2former.data.dataset import Dataset, labels_of
from mask2former.masks import Box
from mask2former.structures import Category, Masks, Sample, Task


class ThingView:
    """A panoptic data set without its stuff: neither the classes nor their segments."""

    tasks: tuple[Task, ...] = ("instance",)

    def __init__(self, dataset: Dataset) -> None:
        self.dataset = dataset
        is_thing = np.array([category.is_thing for category in dataset.categories])
        self._new_label = np.where(is_thing, np.cumsum(is_thing) - 1, -1)

    @property
    def categories(self) -> tuple[Category, ...]:
        return tuple(category for category in self.dataset.categories if category.is_thing)

    def __len__(self) -> int:
        return len(self.dataset)

    def labels_of(self, index: int) -> set[int]:
        labels = labels_of(self.dataset, index)
        return {int(self._new_label[label]) for label in labels if self._new_label[label] >= 0}

    def __getitem__(self, index: int) -> Sample:
        sample = self.dataset[index]
        labels = self._new_label[sample.labels]
        kept = np.flatnonzero(labels >= 0)
        return replace(
            sample,
            labels=labels[kept],
            masks=_Some(sample.masks, kept),
            is_crowd=sample.is_crowd[kept],
        )


class _Some:
    """The masks whose indices are `kept`."""

    def __init__(self, masks: Masks, kept: Int64[np.ndarray, "M"]) -> None:
        self._masks, self._kept = masks, kept

    def __len__(self) -> int:
        return len(self._kept)

    @property
    def size(self) -> tuple[int, int]:
        return self._masks.size

    def render(self, box: Box, size: tuple[int, int]) -> Bool[np.ndarray, "M h w"]:
        """See `Masks.render` in structures.py."""
        masks: Bool[np.ndarray, "M h w"] = self._masks.render(box, size)[self._kept]
        return masks
