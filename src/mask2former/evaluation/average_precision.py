"""COCO's average precision of instance masks, equal to pycocotools', in little memory."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Self

import numpy as np
from jaxtyping import Bool

from mask2former.evaluation.evaluator import InstanceEvaluator
from mask2former.evaluation.matching import Matches, Overlap, figures_of, match_image
from mask2former.evaluation.overlap import mask_api, mask_iou
from mask2former.evaluation.truth import truth_of
from mask2former.masks import box_of_mask, encode_region
from mask2former.structures import Category, Instances, Sample, class_names

Record = dict[str, Any]  # an annotation or a detection in COCO's format


class AveragePrecision(InstanceEvaluator[Matches]):
    """AP of the `instances` part of results, over the classes that are things; in percent.

    "AP" is the mean over the classes of the truth of "AP/<class>", which averages over the IoU
    thresholds 0.50, 0.55 .. 0.95; "AP50", "AP75" stand at one threshold; "AP_small", "AP_medium",
    "AP_large" for objects of these areas (below 32², up to 96², above). Per image and class
    the `max_detections` best scores count. Crowds are neither to be found nor false alarms.

    An object's area is the number of pixels of its mask, as samples carry no other; COCO's files
    state the area of the polygons. `score_instance_files` goes by the files. Images are matched
    as they come: what is kept of a detection are 28 bytes.
    """

    prefix = ""  # of the figures' names
    overlap: Overlap = staticmethod(mask_iou)

    def __init__(self, categories: Sequence[Category], *, max_detections: int = 100) -> None:
        mask_api()  # an ImportError is due now, not after the first image
        super().__init__(categories)
        self.max_detections = max_detections

    def matched(self, instances: Instances, sample: Sample) -> Matches:
        return self.match(self.truth(sample), self.detections(instances), sample)

    def match(self, truth: list[Record], detections: list[Record], sample: Sample) -> Matches:
        return match_image(
            truth, detections, overlap=self.overlap, max_detections=self.max_detections
        )

    def truth(self, sample: Sample) -> list[Record]:
        """The sample's things as records; category_id is a label."""
        chosen = np.flatnonzero(self._is_thing[sample.labels])
        masks, rles = truth_of(sample).masks, truth_of(sample).rles
        return [
            self.record(masks[i], rles[i])
            | {"category_id": int(sample.labels[i]), "iscrowd": int(sample.is_crowd[i])}
            for i in chosen.tolist()
        ]

    def detections(self, instances: Instances) -> list[Record]:
        chosen = np.flatnonzero(self._is_thing[instances.labels.cpu().numpy()])
        masks = instances.masks.cpu().numpy()
        labels, scores = instances.labels.tolist(), instances.scores.tolist()
        return [
            self.record(masks[i]) | {"category_id": labels[i], "score": scores[i]}
            for i in chosen.tolist()
        ]

    def record(self, mask: Bool[np.ndarray, "H W"], rle: Record | None = None) -> Record:
        """What is known of a mask, with its encoding if that is known already."""
        left, top, right, bottom = box_of_mask(mask)
        part = mask[top:bottom, left:right]
        height, width = mask.shape
        return {
            "segmentation": rle or encode_region(part, left, top, (height, width)),
            "area": int(np.count_nonzero(part)),
        }

    def fresh(self) -> Self:
        return type(self)(self.categories, max_detections=self.max_detections)

    def compute(self) -> dict[str, float]:
        return figures_of(self.in_order(), self.things(), self.prefix)

    def things(self) -> dict[int, str]:
        """From label to name."""
        named = enumerate(zip(class_names(self.categories), self._is_thing, strict=True))
        return {label: name for label, (name, is_thing) in named if is_thing}

    @property
    def _is_thing(self) -> Bool[np.ndarray, "K"]:
        return np.array([category.is_thing for category in self.categories], bool)
