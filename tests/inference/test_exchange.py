"""Results as other libraries' objects and back again: nothing is lost."""

from __future__ import annotations

from pathlib import Path

import cv2
import datasets
import numpy as np
import pytest
import supervision
import torch

from mask2former.inference.exchange import (
    from_contours,
    from_datasets,
    from_supervision,
    to_contours,
    to_datasets,
    to_supervision,
)
from mask2former.structures import Panoptic, Region, Segmentation
from some_results import CATEGORIES, made_up, same


def test_supervision_takes_instances_and_gives_them_back() -> None:
    instances = made_up().instances
    assert instances is not None
    detections = to_supervision(instances)
    assert detections.data["class_name"].tolist() == ["cat", "cat", "cat"]
    assert detections.area.tolist() == instances.masks.sum(dim=(1, 2)).tolist()
    back = from_supervision(detections, (30, 41), CATEGORIES)
    same(
        Segmentation(size=(30, 41), name="", instances=back),
        Segmentation(size=(30, 41), name="", instances=instances),
    )
    # What was filtered and shuffled by the library comes back in order of score.
    some = from_supervision(detections[[2, 0]], (30, 41), CATEGORIES)
    assert some.scores.tolist() == [0.875, 0.25]


def test_supervision_draws_what_it_was_given() -> None:
    instances = made_up().instances
    assert instances is not None
    black = np.zeros((30, 41, 3), np.uint8)
    drawn = supervision.MaskAnnotator(opacity=1).annotate(black.copy(), to_supervision(instances))
    assert np.array_equal(drawn.any(axis=2), instances.masks.any(dim=0).numpy())


def test_panoptic_segments_as_detections() -> None:
    panoptic = made_up().panoptic
    assert panoptic is not None
    detections = to_supervision(panoptic)
    assert detections.data["segment_id"].tolist() == [1, 2, 70_000]
    assert detections.class_id.tolist() == [2, 0, 1]
    assert detections.area.tolist() == [segment.area for segment in panoptic.segments]
    assert detections.xyxy[2].tolist() == [30, 15, 41, 30]


def test_nothing_found_is_no_detection() -> None:
    empty = Panoptic(ids=torch.zeros(4, 5, dtype=torch.int32), segments=(), categories=CATEGORIES)
    assert len(to_supervision(empty)) == 0
    instances = made_up().instances
    assert instances is not None
    assert len(from_supervision(supervision.Detections.empty(), (30, 41), CATEGORIES)) == 0
    assert len(from_supervision(to_supervision(instances.above(2.0)), (30, 41), CATEGORIES)) == 0


def test_detections_that_hold_no_instances() -> None:
    boxes = np.array([[0.0, 0, 5, 5]])
    with pytest.raises(ValueError, match="boxes but no masks"):
        from_supervision(supervision.Detections(xyxy=boxes), (5, 5), CATEGORIES)
    masks = np.ones((1, 5, 5), bool)
    with pytest.raises(ValueError, match="no class_id"):
        from_supervision(supervision.Detections(xyxy=boxes, mask=masks), (5, 5), CATEGORIES)
    with pytest.raises(ValueError, match="class 3 is none of the 3 categories"):
        from_supervision(
            supervision.Detections(xyxy=boxes, mask=masks, class_id=np.array([3])),
            (5, 5),
            CATEGORIES,
        )


@pytest.mark.parametrize("seed", range(8))
def test_contours_paint_the_mask(seed: int) -> None:
    rng = np.random.default_rng(seed)
    mask = rng.random((12, 9)) < rng.uniform(0.2, 0.9)
    if seed == 0:  # a ring with an island
        mask = np.zeros((12, 9), bool)
        mask[1:11, 1:8], mask[3:9, 3:6], mask[5, 4] = True, False, True
    box = (20, 30, 29, 42)
    region = Region(mask=mask, box=box, score=0.5, label=1, category=CATEGORIES[1])
    canvas = np.zeros((50, 60), np.uint8)
    contours = to_contours(region)
    cv2.drawContours(canvas, contours, -1, 1, cv2.FILLED)
    assert np.array_equal(canvas[30:42, 20:29], mask)
    assert canvas.sum() == mask.sum()
    back = from_contours(contours, CATEGORIES[1], 1, score=0.5)
    assert back is not None
    x0, y0, x1, y1 = back.box
    assert np.array_equal(canvas[y0:y1, x0:x1], back.mask)
    assert back.mask.sum() == mask.sum()
    assert from_contours([], CATEGORIES[0], 0) is None


def test_datasets_there_and_back(tmp_path: Path) -> None:
    results = [
        made_up(0),
        made_up(1, (35, 40)),
        Segmentation(size=(5, 6), name="none.png", semantic=None),
        Segmentation(size=(35, 40), name="x.png", semantic=made_up(2, (35, 40)).semantic),
    ]
    made = to_datasets(results, CATEGORIES)
    assert made.features["objects"].feature["category"].names == ["cat (7)", "cat (9)", "sky"]
    made.save_to_disk(tmp_path / "set")
    loaded = datasets.load_from_disk(tmp_path / "set")
    assert loaded[0]["objects"][0]["bbox"] == [5, 3, 4, 17]
    for found, expected in zip(from_datasets(loaded, CATEGORIES), results, strict=True):
        same(found, expected)
    for wrong in (CATEGORIES[:2], CATEGORIES[::-1]):
        with pytest.raises(ValueError, match=r"made with the categories cat \(7\), cat \(9\), sky"):
            next(from_datasets(loaded, wrong))
    assert len(to_datasets([], CATEGORIES)) == 0
