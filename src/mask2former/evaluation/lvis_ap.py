"""LVIS's average precision (Gupta et al., LVIS, CVPR 2019): classes are not known everywhere."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any, Protocol, Self

from mask2former.evaluation.average_precision import AveragePrecision
from mask2former.evaluation.evaluator import ImageId
from mask2former.evaluation.matching import Matches, figures_of, match_image, means, precisions
from mask2former.structures import Category, Sample

FREQUENCIES = ("r", "c", "f")  # rare, common, frequent: how many training images show a class


class Known(Protocol):
    """What is known of an image's classes (labels) beyond its objects."""

    @property
    def absent(self) -> Collection[int]:
        """Of which it has no object, as was verified."""

    @property
    def not_exhaustive(self) -> Collection[int]:
        """Of which it may have more objects than are annotated."""


class LvisAP(AveragePrecision):
    """The figures of `AveragePrecision`, judged as LVIS judges; "APr", "APc", "APf" by frequency.

    Of an image's detections, of all classes together, the `max_detections` best count (LVIS: 300).
    Those of a class that the image neither shows nor is known to lack are left out; those that
    found nothing are not held against a class that is not exhaustively annotated there. LVIS has
    no crowds.
    """

    def __init__(
        self,
        categories: Sequence[Category],
        frequency: Sequence[str],
        known: Mapping[ImageId, Known],
        *,
        max_detections: int = 300,
    ) -> None:
        """`frequency` has one of `FREQUENCIES` for every category, `known` every image's id."""
        super().__init__(categories, max_detections=max_detections)
        self.frequency = tuple(frequency)
        self.known = known

    def fresh(self) -> Self:
        limit = self.max_detections
        return type(self)(self.categories, self.frequency, self.known, max_detections=limit)

    def match(
        self, truth: list[dict[str, Any]], detections: list[dict[str, Any]], sample: Sample
    ) -> Matches:
        best = sorted(detections, key=lambda d: -d["score"])[: self.max_detections]
        known = self.known[sample.image_id]
        judged = {record["category_id"] for record in truth} | set(known.absent)
        return match_image(
            truth,
            [d for d in best if d["category_id"] in judged],
            overlap=self.overlap,
            max_detections=self.max_detections,
            unmatched_ignored=lambda label: label in known.not_exhaustive,
        )

    def compute(self) -> dict[str, float]:
        images, things = self.in_order(), self.things()
        figures = figures_of(images, things, self.prefix)
        labels = sorted(things)
        precision = precisions(images, labels)
        for frequency in FREQUENCIES:
            chosen = [self.frequency[label] == frequency for label in labels]
            figures |= means({f"AP{frequency}": precision[chosen, ..., 0]}, self.prefix)
        return figures
