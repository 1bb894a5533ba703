"""COCO's matching of detections with true objects, image by image, and precision from it.

What is kept of a detection is its score and, for each range of areas, at which thresholds of IoU
it found an object and at which it counts neither way: a few bytes, where pycocotools keeps every
mask until the end. The figures are the same.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int32, UInt16

Record = dict[str, Any]  # an annotation or a detection in COCO's format, its mask an encoding

AREAS: dict[str, tuple[float, float]] = {  # pixels of area, COCO's
    "all": (0, 1e5**2),
    "small": (0, 32**2),
    "medium": (32**2, 96**2),
    "large": (96**2, 1e5**2),
}
THRESHOLDS = np.linspace(0.5, 0.95, 10)  # of IoU
RECALLS = np.linspace(0, 1, 101)
_RANGES = np.array(list(AREAS.values()))  # [A, 2]
_BITS = (1 << np.arange(len(THRESHOLDS))).astype(np.uint16)

# IoU of detections and true objects of one class and image; of a crowd, the share that lies in it.
Overlap = Callable[[Sequence[Record], Sequence[Record]], Float[np.ndarray, "D N"]]


@dataclass(frozen=True, kw_only=True)
class Matches:
    """One image: its detections, class by class and by falling score; thresholds are bits."""

    category_ids: Int32[np.ndarray, "D"]
    scores: Float[np.ndarray, "D"]
    found: UInt16[np.ndarray, "D A"]  # at which thresholds it found an object
    ignored: UInt16[np.ndarray, "D A"]  # at which it is neither right nor wrong
    classes: Int32[np.ndarray, "C"]  # that have objects or crowds here
    objects: Int32[np.ndarray, "C A"]  # of each, that were to be found


def match_image(
    truth: Sequence[Record],
    detections: Sequence[Record],
    *,
    overlap: Overlap,
    max_detections: int,
    unmatched_ignored: Callable[[int], bool] = lambda _: False,
) -> Matches:
    """Match one image's records class by class.

    Records of both kinds have `category_id`, `area` (pixels) and a mask for `overlap`; true ones
    have `iscrowd`, detections a `score`. Of each class the `max_detections` best count. Detections
    that found nothing are ignored if their area is outside of the range, or if
    `unmatched_ignored` says so for their class.
    """
    of_truth, of_detections = by_class(truth), by_class(detections)
    kept: list[Record] = []
    found, ignored = ([np.zeros((0, len(AREAS)), np.uint16)] for _ in range(2))
    for category_id, candidates in sorted(of_detections.items()):
        order = np.argsort([-record["score"] for record in candidates], kind="stable")
        best = [candidates[i] for i in order[:max_detections].tolist()]
        objects = of_truth.get(category_id, [])
        ious = overlap(best, objects) if objects else np.zeros((len(best), 0))
        hit, excused = _match(objects, best, ious, unmatched_ignored(category_id))
        kept += best
        found.append((hit * _BITS).sum(axis=-1).astype(np.uint16))
        ignored.append((excused * _BITS).sum(axis=-1).astype(np.uint16))
    counts = [(~_ignored(objects)).sum(axis=1) for _, objects in sorted(of_truth.items())]
    return Matches(
        category_ids=np.array([record["category_id"] for record in kept], np.int32),
        scores=np.array([record["score"] for record in kept], np.float64),
        found=np.concatenate(found),
        ignored=np.concatenate(ignored),
        classes=np.array(sorted(of_truth), np.int32),
        objects=np.array(counts, np.int32).reshape(-1, len(AREAS)),
    )


def by_class(records: Sequence[Record]) -> dict[int, list[Record]]:
    grouped: dict[int, list[Record]] = {}
    for record in records:
        grouped.setdefault(record["category_id"], []).append(record)
    return grouped


def _match(
    objects: Sequence[Record],
    found: Sequence[Record],
    ious: Float[np.ndarray, "D N"],
    unmatched_ignored: bool,
) -> tuple[Bool[np.ndarray, "D A T"], Bool[np.ndarray, "D A T"]]:
    """Whether each detection found an object, and whether it is ignored.

    Each detection, best first, takes the free object that it overlaps most, as in pycocotools.
    """
    crowd = np.array([record.get("iscrowd", 0) for record in objects], bool)
    ignore = _ignored(objects)
    shape = (len(found), len(AREAS), len(THRESHOLDS))
    hit, excused = np.zeros(shape, bool), np.zeros(shape, bool)
    taken = np.zeros((len(AREAS), len(THRESHOLDS), len(objects)), bool)
    least = np.minimum(THRESHOLDS, 1 - 1e-10)
    for place in np.flatnonzero((ious >= least[0]).any(axis=1)).tolist():
        near = np.flatnonzero(ious[place] >= least[0])[::-1]  # of equals the last one is taken
        iou = ious[place, near]
        free = (~taken[..., near] | crowd[near]) & (iou >= least[:, None])
        regular = free & ~ignore[:, None, near]
        allowed = np.where(regular.any(axis=-1, keepdims=True), regular, free)
        best = np.where(allowed, iou, -1.0).argmax(axis=-1)  # [A, T]
        matched = allowed.any(axis=-1)
        partner = near[best]
        hit[place] = matched
        excused[place] = matched & np.take_along_axis(ignore, partner, axis=1)
        area, threshold = np.nonzero(matched)
        taken[area, threshold, partner[area, threshold]] = True
    forgiven = _outside(found).T | unmatched_ignored  # [D, A]
    excused |= ~hit & forgiven[..., None]
    return hit, excused


def _ignored(objects: Sequence[Record]) -> Bool[np.ndarray, "A N"]:
    """Which objects need not be found: crowds, and those of another size."""
    crowd = np.array([record.get("iscrowd", 0) for record in objects], bool)
    ignored: Bool[np.ndarray, "A N"] = crowd | _outside(objects)
    return ignored


def _outside(records: Sequence[Record]) -> Bool[np.ndarray, "A N"]:
    areas = np.array([record["area"] for record in records], np.float64)
    outside: Bool[np.ndarray, "A N"] = (areas < _RANGES[:, :1]) | (areas > _RANGES[:, 1:])
    return outside


# --- precision ----------------------------------------------------------------------------------


def precisions(
    images: Sequence[Matches], category_ids: Sequence[int]
) -> Float[np.ndarray, "K IoU recall area"]:
    """Interpolated precision of each class; -1 where it has no object in a range of areas.

    Of equal scores those of the earlier image come first.
    """
    shape = (len(category_ids), len(THRESHOLDS), len(RECALLS), len(AREAS))
    precision = np.full(shape, -1.0)
    if not images:
        return precision
    of_detection = np.concatenate([m.category_ids for m in images])
    scores = np.concatenate([m.scores for m in images])
    found = np.concatenate([m.found for m in images])
    ignored = np.concatenate([m.ignored for m in images])
    of_count = np.concatenate([m.classes for m in images])
    objects = np.concatenate([m.objects for m in images])
    by_score = np.argsort(-scores, kind="stable")
    for index, category_id in enumerate(category_ids):
        chosen = by_score[of_detection[by_score] == category_id]
        counts = objects[of_count == category_id].sum(axis=0)
        for area in np.flatnonzero(counts).tolist():
            for threshold, bit in enumerate(_BITS):
                counted = (ignored[chosen, area] & bit) == 0
                hit = (found[chosen, area] & bit) != 0
                precision[index, threshold, :, area] = _interpolated(
                    hit & counted, ~hit & counted, int(counts[area])
                )
    return precision


def _interpolated(
    right: Bool[np.ndarray, "D"], wrong: Bool[np.ndarray, "D"], objects: int
) -> Float[np.ndarray, "recall"]:
    """The best precision at each recall or any higher one; 0 at recalls that are not reached."""
    hits, alarms = np.cumsum(right), np.cumsum(wrong)
    share = hits / (hits + alarms + np.spacing(1))
    envelope = np.append(np.maximum.accumulate(share[::-1])[::-1], 0.0)
    at: Float[np.ndarray, "recall"] = envelope[np.searchsorted(hits / objects, RECALLS, "left")]
    return at


def figures_of(
    images: Sequence[Matches], classes: Mapping[int, str], prefix: str = ""
) -> dict[str, float]:
    """AP and its kin in percent; `classes` maps a category_id to its name.

    A figure that stands on no object is left out. `prefix` is put before every name.
    """
    precision = precisions(images, sorted(classes))
    half, three_quarters = 0, 5  # of the thresholds
    chosen: dict[str, Float[np.ndarray, "..."]] = {
        "AP": precision[..., 0],
        "AP50": precision[:, half, :, 0],
        "AP75": precision[:, three_quarters, :, 0],
    }
    for index, area in enumerate(AREAS):
        if area != "all":
            chosen[f"AP_{area}"] = precision[..., index]
    for of_class, category_id in zip(precision, sorted(classes), strict=True):
        chosen[f"AP/{classes[category_id]}"] = of_class[..., 0]
    return means(chosen, prefix)


def means(chosen: Mapping[str, Float[np.ndarray, "..."]], prefix: str = "") -> dict[str, float]:
    """The mean of each in percent, without the -1 of what has no object."""
    figures: dict[str, float] = {}
    for key, values in chosen.items():
        valid = values[values > -1]
        if valid.size:
            figures[prefix + key] = 100 * float(valid.mean())
    return figures
