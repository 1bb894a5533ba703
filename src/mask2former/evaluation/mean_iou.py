"""Mean IoU and pixel accuracies of semantic segmentation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Self

import numpy as np
from jaxtyping import Int64

from mask2former.evaluation.evaluator import (
    ImageId,
    check_sample,
    missing_task,
    remember,
)
from mask2former.evaluation.truth import NOBODY, truth_of
from mask2former.structures import Category, Sample, Segmentation, class_names

IGNORE = -1


class MeanIoU:
    """The `semantic` part of results against the truth, over all pixels of all images at once.

    "mIoU" is the mean of "IoU/<class>" over the classes that occur in truth or prediction;
    "fwIoU" weights them by their share of the true pixels; "mean_accuracy" is the mean over the
    classes of the truth of how many of their pixels are right, "pixel_accuracy" the share of all
    pixels. Pixels that are void or in no mask are left out; a crowd's are of its class, as in the
    semantic annotation of COCO and of Cityscapes.

    `groups` names the group of each class by the class's name, as Cityscapes' "vehicle" of its car,
    bus and so on: "mIoU_categories" is the mean of "IoU_category/<group>", for which classes of one
    group are the same.
    """

    def __init__(
        self, categories: Sequence[Category], groups: Mapping[str, str] | None = None
    ) -> None:
        self.categories = tuple(categories)
        self.groups = dict(groups or {})
        self.images: set[ImageId] = set()
        shape = (len(self.categories), len(self.categories))
        self.confusion: Int64[np.ndarray, "K K"] = np.zeros(shape, np.int64)  # [truth, predicted]

    def update(self, result: Segmentation, sample: Sample) -> None:
        semantic = result.semantic
        if semantic is None:
            raise missing_task(sample, "semantic")
        size = tuple(semantic.labels.shape)
        check_sample(size, sample, len(semantic.categories), self.categories)
        predicted = semantic.labels.cpu().numpy()
        num_classes = len(self.categories)
        if predicted.size and (predicted.min() < 0 or predicted.max() >= num_classes):
            raise ValueError(
                f"{sample.name}: a predicted label is outside 0..{num_classes - 1}; every pixel"
                " needs one of the categories"
            )
        confusion = pixel_confusion(result, sample, num_classes)
        remember(self.images, [sample.image_id])
        self.confusion += confusion

    def merge(self, other: Self) -> None:
        remember(self.images, other.images)
        self.confusion += other.confusion

    def fresh(self) -> Self:
        return type(self)(self.categories, self.groups)

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
        return figures | self._of_groups()

    def _of_groups(self) -> dict[str, float]:
        figures: dict[str, float] = {}
        of_class = np.array([self.groups.get(category.name, "") for category in self.categories])
        for group in dict.fromkeys(self.groups.values()):
            inside = of_class == group
            right = int(self.confusion[inside][:, inside].sum())
            touched = int(self.confusion[inside].sum() + self.confusion[:, inside].sum()) - right
            if touched:
                figures[f"IoU_category/{group}"] = 100 * right / touched
        if figures:
            figures["mIoU_categories"] = sum(figures.values()) / len(figures)
        return figures


def pixel_confusion(
    result: Segmentation, sample: Sample, num_classes: int
) -> Int64[np.ndarray, "K K"]:
    """How many pixels of a class (row) were given which class (column), void aside."""
    assert result.semantic is not None
    # One row more, in which the pixels that are not scored are counted.
    pairs = (semantic_truth(sample) + 1) * num_classes
    pairs += result.semantic.labels.cpu().numpy()
    counts = np.bincount(pairs.ravel(), minlength=(num_classes + 1) * num_classes)
    return counts.reshape(num_classes + 1, num_classes)[1:]


def semantic_truth(sample: Sample) -> Int64[np.ndarray, "H W"]:
    """The label of every pixel, -1 where it is not scored.

    Objects lie above crowds, and of two objects the later one.
    """
    truth = truth_of(sample)
    label_of = np.append(sample.labels, IGNORE)
    assert NOBODY == -1  # what lies at the end
    labels: Int64[np.ndarray, "H W"] = label_of.astype(np.int64)[truth.owners]
    if truth.void is not None:
        labels[truth.void] = IGNORE
    return labels
