"""Cityscapes' average precision of instances, as cityscapesScripts defines it.

It differs from COCO's: of several detections that overlap a true object by more than the threshold
the best is right and the others are wrong; precision is not interpolated but integrated over the
recalls that occur; what lies mostly in void, in a group or in an object that is too small counts
neither way.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import numpy as np
from jaxtyping import Bool, Float, Int32, UInt16

from mask2former.evaluation.evaluator import InstanceEvaluator
from mask2former.evaluation.truth import NOBODY, truth_of
from mask2former.masks import box_of_mask
from mask2former.structures import Instances, Sample, class_names

THRESHOLDS = np.arange(0.5, 1.0, 0.05)  # of IoU, as there
LEAST_AREA = 100  # pixels of a true object
_BITS = (1 << np.arange(len(THRESHOLDS))).astype(np.uint16)


@dataclass(frozen=True, kw_only=True)
class ImageMatches:
    """What is kept of an image; thresholds are bits."""

    labels: Int32[np.ndarray, "D"]
    scores: Float[np.ndarray, "D"]
    right: UInt16[np.ndarray, "D"]
    wrong: UInt16[np.ndarray, "D"]  # a detection may be neither
    objects: Int32[np.ndarray, "K"]  # true ones that were to be found


class CityscapesAP(InstanceEvaluator[ImageMatches]):
    """ "cityscapes_AP" and "cityscapes_AP50" of the `instances` part of results, in percent.

    Means over the classes of the truth of "cityscapes_AP/<class>". Crowds are the data set's
    groups. True masks do not overlap; where they do, the one that lies on top has the pixel.
    """

    def fresh(self) -> Self:
        return type(self)(self.categories)

    def compute(self) -> dict[str, float]:
        images = self.in_order()
        if not images:
            return {}
        labels = np.concatenate([m.labels for m in images])
        scores = np.concatenate([m.scores for m in images])
        right = np.concatenate([m.right for m in images])
        wrong = np.concatenate([m.wrong for m in images])
        objects = np.sum([m.objects for m in images], axis=0)
        of_class: dict[str, Float[np.ndarray, "T"]] = {}
        names = class_names(self.categories)
        for label in np.flatnonzero(objects).tolist():
            chosen = labels == label
            of_class[names[label]] = np.array(
                [
                    _area_under_curve(
                        scores[chosen],
                        right[chosen] & bit != 0,
                        wrong[chosen] & bit != 0,
                        int(objects[label]),
                    )
                    for bit in _BITS
                ]
            )
        if not of_class:
            return {}
        figures = {
            "cityscapes_AP": 100 * float(np.mean(list(of_class.values()))),
            "cityscapes_AP50": 100 * float(np.mean([values[0] for values in of_class.values()])),
        }
        for name, values in of_class.items():
            figures[f"cityscapes_AP/{name}"] = 100 * float(values.mean())
        return figures

    def matched(self, instances: Instances, sample: Sample) -> ImageMatches:
        truth, count = truth_of(sample), len(sample.labels)
        is_thing = np.array([category.is_thing for category in self.categories], bool)
        owners = truth.owners + 1  # 0 is no object
        assert NOBODY == -1
        if truth.void is not None:
            owners[truth.void] = count + 1
        areas = np.bincount(owners.ravel(), minlength=count + 2)[1 : count + 1]
        sought = ~sample.is_crowd & (areas >= LEAST_AREA) & is_thing[sample.labels]
        # A pixel of a group that is small, too, counts twice: so it does in cityscapesScripts.
        excuses = sample.is_crowd.astype(np.int64) + (areas < LEAST_AREA)

        labels = instances.labels.cpu().numpy()
        masks = instances.masks.cpu().numpy()
        scores = instances.scores.cpu().numpy().astype(np.float64)
        kept: list[int] = []
        partners: list[int] = []  # the object that a detection may match, or -1
        ious: list[float] = []
        excused: list[float] = []  # the share of a detection that counts neither way
        for index in np.flatnonzero(is_thing[labels]).tolist():
            left, top, right, bottom = box_of_mask(masks[index])
            part = slice(top, bottom), slice(left, right)
            pixels = np.bincount(owners[part][masks[index][part]], minlength=count + 2)
            area = int(pixels.sum())
            if not area:
                continue
            shared = np.where(sample.labels == labels[index], pixels[1 : count + 1], 0)
            overlap = shared / np.maximum(areas + area - shared, 1)
            best = int(overlap.argmax()) if count else -1  # beyond one half there is one alone
            kept.append(index)
            partners.append(best)
            ious.append(float(overlap[best]) if count else 0.0)
            excused.append((int(pixels[count + 1]) + int(shared @ excuses)) / area)
        matched = np.array(ious)[:, None] > THRESHOLDS  # [D, T]
        rightly = np.zeros_like(matched)
        for object in np.flatnonzero(sought).tolist():
            rivals = np.flatnonzero(np.array(partners) == object)
            rivals = rivals[np.argsort(-scores[kept][rivals], kind="stable")]
            candidates = matched[rivals]
            first = candidates & (np.cumsum(candidates, axis=0) == 1)
            rightly[rivals] |= first
        of_sought = np.array([best >= 0 and sought[best] for best in partners], bool)
        late = matched & ~rightly & of_sought[:, None]
        alarms = ~matched & (np.array(excused)[:, None] <= THRESHOLDS)
        return ImageMatches(
            labels=labels[kept].astype(np.int32),
            scores=scores[kept],
            right=_bits(rightly),
            wrong=_bits(late | alarms),
            objects=np.bincount(sample.labels[sought], minlength=len(self.categories)).astype(
                np.int32
            ),
        )


def _bits(values: Bool[np.ndarray, "D T"]) -> UInt16[np.ndarray, "D"]:
    bits: UInt16[np.ndarray, "D"] = (values * _BITS).sum(axis=1).astype(np.uint16)
    return bits


def _area_under_curve(
    scores: Float[np.ndarray, "D"],
    right: Bool[np.ndarray, "D"],
    wrong: Bool[np.ndarray, "D"],
    objects: int,
) -> float:
    """Precision at each score that occurs, weighted by half the recall between its neighbours."""
    counted = right | wrong
    order = np.argsort(-scores[counted], kind="stable")
    falling = scores[counted][order]
    if not len(falling):
        return 0.0
    last = np.append(np.flatnonzero(np.diff(falling)), len(falling) - 1)  # of each score
    hits = np.cumsum(right[counted][order])[last]
    precision = np.append(1.0, hits / (last + 1))  # from recall 0 on
    recall = np.append(0.0, hits / objects)
    beyond = np.concatenate([[0.0], recall, recall[-1:]])
    return float(precision @ (beyond[2:] - beyond[:-2])) / 2
