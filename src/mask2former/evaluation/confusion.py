"""What was taken for what in one image: objects, with those missed and invented.

Of pixels see `mean_iou.pixel_confusion`.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Int64

from mask2former.evaluation.truth import truth_of
from mask2former.masks import box_of_mask
from mask2former.structures import Sample, Segmentation

LEAST_SCORE = 0.5  # an instance below it is not counted among those that were found

Mask = Bool[np.ndarray, "H W"]
Pair = tuple[int | None, int | None]  # indices of a true and of a found object


def object_confusion(
    result: Segmentation, sample: Sample, num_classes: int
) -> Int64[np.ndarray, "K1 K1"]:
    """How many objects of a class (row) were found as which class (column).

    A true and a found object whose IoU exceeds one half are a pair; those of one class go first.
    The last column counts objects that were missed, the last row those that were invented. A found
    object that lies in a crowd by more than a half is not counted.
    """
    masks = truth_of(sample).masks
    counted = np.flatnonzero(~sample.is_crowd)
    true = [(int(sample.labels[i]), masks[i]) for i in counted if masks[i].any()]
    crowds = masks[sample.is_crowd].any(axis=0)
    found = [
        (label, mask)
        for label, mask in _found_objects(result)
        if 2 * int((mask & crowds).sum()) <= int(mask.sum())
    ]
    confusion = np.zeros((num_classes + 1, num_classes + 1), np.int64)
    for one, other in pair_objects(true, found):
        row = num_classes if one is None else true[one][0]
        column = num_classes if other is None else found[other][0]
        confusion[row, column] += 1
    return confusion


def f1(confusion: Int64[np.ndarray, "K1 K1"]) -> float | None:
    """Twice the objects found as what they are over the number of true and found ones, in percent.

    None where there is neither.
    """
    missed, invented = int(confusion[:, -1].sum()), int(confusion[-1].sum())
    ends = 2 * int(confusion.sum()) - missed - invented  # a pair has two ends
    return 100 * 2 * int(np.trace(confusion)) / ends if ends else None


def pair_objects(true: Sequence[tuple[int, Mask]], found: Sequence[tuple[int, Mask]]) -> list[Pair]:
    """Pairs of overlapping objects, then those without partner; each object comes once."""
    true_boxes = [_box(mask) for _, mask in true]
    found_boxes = [_box(mask) for _, mask in found]
    candidates: list[tuple[bool, float, int, int]] = []
    for i, (label, mask) in enumerate(true):
        area = int(mask.sum())
        for j, (other_label, other) in enumerate(found):
            box = _intersection(true_boxes[i], found_boxes[j])
            if box is None:
                continue
            common = int((mask[box] & other[box]).sum())
            union = area + int(other[found_boxes[j]].sum()) - common
            if 2 * common > union:
                candidates.append((label == other_label, common / union, i, j))
    pairs: list[Pair] = []
    left, right = set(range(len(true))), set(range(len(found)))
    for _, _, i, j in sorted(candidates, reverse=True):
        if i in left and j in right:
            pairs.append((i, j))
            left.remove(i)
            right.remove(j)
    return pairs + [(i, None) for i in sorted(left)] + [(None, j) for j in sorted(right)]


def _found_objects(result: Segmentation) -> list[tuple[int, Mask]]:
    if result.instances is not None:
        kept = result.instances.above(LEAST_SCORE)
        pairs = zip(kept.labels.tolist(), kept.masks.cpu().numpy(), strict=True)
        return [(label, mask) for label, mask in pairs if mask.any()]
    assert result.panoptic is not None
    ids = result.panoptic.ids.cpu().numpy()
    return [(segment.label, ids == segment.id) for segment in result.panoptic.segments]


def _box(mask: Mask) -> tuple[slice, slice]:
    left, top, right, bottom = box_of_mask(mask)
    return slice(top, bottom), slice(left, right)


def _intersection(
    one: tuple[slice, slice], other: tuple[slice, slice]
) -> tuple[slice, slice] | None:
    rows = slice(max(one[0].start, other[0].start), min(one[0].stop, other[0].stop))
    columns = slice(max(one[1].start, other[1].start), min(one[1].stop, other[1].stop))
    return (rows, columns) if rows.start < rows.stop and columns.start < columns.stop else None
