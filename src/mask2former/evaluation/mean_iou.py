"""Mean IoU and pixel accuracies of semantic segmentation."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Self

import numpy as np
from jaxtyping import Int64

from mask2former.evaluation.evaluator import (
    ImageId,
    check_sample,
    missing_task,
    remember,
    render_full,
    void_of,
)
from mask2former.structures import Category, Sample, Segmentation, class_names

IGNORE = -1


class MeanIoU:
    """The `semantic` part of results against the truth, over all pixels of all images at once.

    "mIoU" is the mean of "IoU/<class>" over the classes that occur in truth or prediction;
    "fwIoU" weights them by their share of the true pixels; "mean_accuracy" is the mean over the
    classes of the truth of how many of their pixels are right, "pixel_accuracy" the share of all
    pixels. Pixels that are void, crowd or in no mask are left out.
    """

    def __init__(self, categories: Sequence[Category]) -> None:
        self.categories = tuple(categories)
        self.images: set[ImageId] = set()
        shape = (len(self.categories), len(self.categories))
        self.confusion: Int64[np.ndarray, "K K"] = np.zeros(shape, np.int64)  # [truth, predicted]

    def update(self, result: Segmentation, sample: Sample) -> None:
        semantic = result.semantic
        if semantic is None:
            raise missing_task(sample, "semantic")
        size = tuple(semantic.labels.shape)
        check_sample(size, sample, len(semantic.categories), self.categories)
        true = semantic_truth(sample)
        scored = true != IGNORE
        predicted = semantic.labels.cpu().numpy()[scored]
        num_classes = len(self.categories)
        if predicted.size and (predicted.min() < 0 or predicted.max() >= num_classes):
            raise ValueError(
                f"{sample.name}: a predicted label is outside 0..{num_classes - 1}; every pixel"
                " needs one of the categories"
            )
        pairs = np.bincount(true[scored] * num_classes + predicted, minlength=num_classes**2)
        remember(self.images, [sample.image_id])
        self.confusion += pairs.reshape(self.confusion.shape)

    def merge(self, other: Self) -> None:
        remember(self.images, other.images)
        self.confusion += other.confusion

    def fresh(self) -> Self:
        return type(self)(self.categories)

    def compute(self) -> dict[str, float]:
        total = int(self.confusion.sum())
        if total == 0:
            return {}
        right = np.diag(self.confusion)
        true, predicted = self.confusion.sum(axis=1), self.confusion.sum(axis=0)
        union = true + predicted - right
        iou = right / np.maximum(union, 1)
        in_truth = true > 0
        figures = {
            "mIoU": 100 * float(iou[union > 0].mean()),
            "fwIoU": 100 * float((iou * true).sum() / total),
            "mean_accuracy": 100 * float((right[in_truth] / true[in_truth]).mean()),
            "pixel_accuracy": 100 * float(right.sum() / total),
        }
        for name, value, pixels in zip(class_names(self.categories), iou, union, strict=True):
            if pixels:
                figures[f"IoU/{name}"] = 100 * float(value)
        return figures


def semantic_truth(sample: Sample) -> Int64[np.ndarray, "H W"]:
    """The label of every pixel, -1 where it is not scored. Of two masks the later lies above."""
    labels = np.full(sample.masks.size, IGNORE, np.int64)
    objects = zip(sample.labels.tolist(), render_full(sample), sample.is_crowd, strict=True)
    for label, mask, is_crowd in objects:
        if not is_crowd:
            labels[mask] = label
    labels[void_of(sample)] = IGNORE
    return labels
