"""Boundary AP against faster-coco-eval's, and its parts against the paper's definition."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from faster_coco_eval import COCO, COCOeval_faster
from scipy import ndimage
from test_average_precision import CATEGORIES, coco_records, scenes

from mask2former.evaluation.boundary_ap import BoundaryAP
from mask2former.evaluation.overlap import boundary_iou, encode_boundary
from mask2former.masks import decode_rle, encode_rle


def boundary_of(mask: np.ndarray, steps: int) -> np.ndarray:
    """The paper's: pixels of the mask within `steps` of its outside, beyond the image included."""
    distance = ndimage.distance_transform_cdt(np.pad(mask, 1), metric="chessboard")[1:-1, 1:-1]
    result: np.ndarray = mask & (distance <= steps)
    return result


@pytest.mark.parametrize("size", [(150, 170), (20, 16), (31, 200)])
def test_boundary_is_the_papers(size: tuple[int, int]) -> None:
    steps = max(1, round(0.02 * float(np.hypot(*size))))
    rng = np.random.default_rng(0)
    blobs = ndimage.gaussian_filter(rng.normal(size=(6, *size)), (0, 4, 4)) > 0
    for mask in [*blobs, np.ones(size, bool), np.zeros(size, bool)]:
        found = decode_rle(encode_boundary(mask, 0, 0, size))
        assert np.array_equal(found, boundary_of(mask, steps))


def test_a_part_lies_in_its_place() -> None:
    mask = np.zeros((60, 90), bool)
    mask[20:50, 30:70] = True
    mask[20, 30] = False
    part = encode_boundary(mask[18:55, 25:80], 25, 18, (60, 90))
    assert part == encode_boundary(mask, 0, 0, (60, 90))


def test_overlap_is_the_smaller_one() -> None:
    """A large square that is a little smaller: the masks agree, the boundaries do not."""
    big, small = np.zeros((100, 100), bool), np.zeros((100, 100), bool)
    big[10:90, 10:90], small[13:87, 13:87] = True, True
    records: list[dict[str, Any]] = [
        {"segmentation": encode_rle(m), "boundary": encode_boundary(m, 0, 0, m.shape)}
        for m in (big, small)
    ]
    steps = round(0.02 * float(np.hypot(100, 100)))
    one, other = boundary_of(big, steps), boundary_of(small, steps)
    expected = (one & other).sum() / (one | other).sum()
    assert expected < (big & small).sum() / (big | small).sum() == pytest.approx(0.8556, abs=1e-4)
    assert boundary_iou(records[:1], records[1:])[0, 0] == pytest.approx(expected)
    crowd = boundary_iou(records[1:], [records[0] | {"iscrowd": 1}])
    assert crowd[0, 0] == 1  # the masks alone


def test_equals_faster_coco_eval() -> None:
    pairs = scenes(8)
    evaluator = BoundaryAP(CATEGORIES)
    for sample, result in pairs:
        evaluator.update(result, sample)
    truth, results = coco_records(pairs)
    ground = COCO(truth, print_function=lambda *_: None)
    evaluation = COCOeval_faster(
        ground, ground.loadRes(results), "boundary", print_function=lambda *_: None
    )
    evaluation.params.maxDets = [100]
    evaluation.evaluate()
    evaluation.accumulate()
    precision = evaluation.eval["precision"][..., 0]  # IoU, recall, class, area

    def mean(values: np.ndarray) -> float:
        return 100 * float(values[values > -1].mean())

    expected = {
        "boundary_AP": mean(precision[..., 0]),
        "boundary_AP50": mean(precision[0, ..., 0]),
        "boundary_AP75": mean(precision[5, ..., 0]),
        "boundary_AP_small": mean(precision[..., 1]),
        "boundary_AP_medium": mean(precision[..., 2]),
        "boundary_AP_large": mean(precision[..., 3]),
    }
    for index, name in enumerate(("cell", "yeast", "spore")):
        expected[f"boundary_AP/{name}"] = mean(precision[:, :, index, 0])
    assert evaluator.compute() == pytest.approx(expected, abs=1e-6)
    assert 1 < expected["boundary_AP"] < 90
