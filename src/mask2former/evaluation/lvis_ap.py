"""LVIS's average precision (Gupta et al., LVIS, CVPR 2019): classes are not known everywhere."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Self

from mask2former.evaluation.average_precision import AveragePrecision, in_order
from mask2former.evaluation.evaluator import ImageId
from mask2former.evaluation.matching import Matches, figures_of, match_image, means, precisions
from mask2former.structures import Category, Sample

Frequency = Literal["r", "c", "f"]  # rare, common, frequent: how many training images show a class


@dataclass(frozen=True, kw_only=True)
class Federation:
    """What a federated data set says beside its masks; classes are labels.

    Of an image only the classes that it shows and its `negatives` are judged.
    """

    frequencies: Mapping[int, Frequency]  # by label
    negatives: Mapping[ImageId, Collection[int]]  # that an image surely lacks
    # of which an image may show more than is annotated
    not_exhaustive: Mapping[ImageId, Collection[int]] = field(default_factory=dict)


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
        federation: Federation,
        *,
        max_detections: int = 300,
    ) -> None:
        super().__init__(categories, max_detections=max_detections)
        self.federation = federation

    def fresh(self) -> Self:
        return type(self)(self.categories, self.federation, max_detections=self.max_detections)

    def match(
        self, truth: list[dict[str, Any]], detections: list[dict[str, Any]], sample: Sample
    ) -> Matches:
        best = sorted(detections, key=lambda d: -d["score"])[: self.max_detections]
        judged = {record["category_id"] for record in truth}
        judged.update(self.federation.negatives.get(sample.image_id, ()))
        open_ended = self.federation.not_exhaustive.get(sample.image_id, ())
        return match_image(
            truth,
            [d for d in best if d["category_id"] in judged],
            overlap=self.overlap,
            max_detections=self.max_detections,
            unmatched_ignored=lambda label: label in open_ended,
        )

    def compute(self) -> dict[str, float]:
        images, things = in_order(self.matches), self.things()
        figures = figures_of(images, things, self.prefix)
        labels = sorted(things)
        precision = precisions(images, labels)
        for frequency in ("r", "c", "f"):
            chosen = [self.federation.frequencies.get(label) == frequency for label in labels]
            figures |= means({f"AP{frequency}": precision[chosen, ..., 0]}, self.prefix)
        return figures
