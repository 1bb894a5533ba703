from __future__ import annotations

from dataclasses import replace
from statistics import harmonic_mean

import numpy as np
import pytest
import torch
from jaxtyping import Bool
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from scipy.sparse import coo_array

from mask2former.data.scenes import Scenes
from mask2former.evaluation.confusion import (
    f1,
    object_confusion,
    pair_objects,
)
from mask2former.evaluation.mean_iou import pixel_confusion, semantic_truth
from mask2former.evaluation.truth import truth_of
from mask2former.masks import box_of_mask, encode_rle
from mask2former.structures import Category, Instances, Sample, Segmentation, Semantic

THINGS = tuple(
    Category(id=i + 1, name=f"thing {i}", is_thing=True, color=(9, 9, 9)) for i in range(11)
)
SCENES = Scenes(length=8, seed=5)


def disturbed(sample: Sample, rng: np.random.Generator) -> Instances:
    """The true objects moved, some left out, renamed or told twice, in any order of scores."""
    masks, labels = [], []
    for mask, label in zip(truth_of(sample).masks, sample.labels.tolist(), strict=True):
        for _ in range(int(rng.choice([0, 1, 1, 1, 2]))):
            masks.append(np.roll(mask, rng.integers(-5, 6, 2), axis=(0, 1)))
            labels.append(int(rng.integers(0, 11)) if rng.random() < 0.3 else label)
    scores = rng.permutation(len(masks)) / (2 * len(masks)) + 0.5
    return instances(np.stack(masks), labels, scores.tolist())


def instances(
    masks: Bool[np.ndarray, "N H W"], labels: list[int], scores: list[float]
) -> Instances:
    return Instances(
        masks=torch.from_numpy(masks),
        scores=torch.tensor(scores),
        labels=torch.tensor(labels),
        boxes=torch.tensor([box_of_mask(mask) for mask in masks]).float(),
        categories=THINGS,
    )


def matched_by_pycocotools(sample: Sample, found: Instances) -> int:
    """How many true objects are matched, class by class, at an IoU of one half."""
    truth = COCO()
    truth.dataset = {
        "images": [{"id": 1, "height": 256, "width": 256}],
        "categories": [{"id": i + 1} for i in range(11)],
        "annotations": [
            {
                "id": number,
                "image_id": 1,
                "category_id": label + 1,
                "segmentation": encode_rle(mask),
                "area": int(mask.sum()),
                "iscrowd": 0,
            }
            for number, (label, mask) in enumerate(
                zip(sample.labels.tolist(), truth_of(sample).masks, strict=True), start=1
            )
        ],
    }
    truth.createIndex()
    answers = [
        {"image_id": 1, "category_id": label + 1, "segmentation": encode_rle(mask), "score": score}
        for label, mask, score in zip(
            found.labels.tolist(), found.masks.numpy(), found.scores.tolist(), strict=True
        )
    ]
    evaluation = COCOeval(truth, truth.loadRes(answers), "segm")
    evaluation.params.iouThrs = np.array([0.5])
    evaluation.params.areaRng, evaluation.params.areaRngLbl = [[0, 1e10]], ["all"]
    evaluation.evaluate()
    return sum(int((one["gtMatches"] > 0).sum()) for one in evaluation.evalImgs if one)


def test_objects_are_paired_as_pycocotools_pairs_them() -> None:
    rng = np.random.default_rng(0)
    confused = 0
    for sample in (SCENES[i] for i in range(len(SCENES))):
        found = disturbed(sample, rng)
        result = Segmentation(size=sample.masks.size, name="", instances=found)
        confusion = object_confusion(result, sample, 11)
        right = int(np.trace(confusion))
        assert right == matched_by_pycocotools(sample, found)
        assert confusion[:11].sum() == len(sample.labels)  # each true one once
        assert confusion[:, :11].sum() == len(found)
        confused += int(confusion[:11, :11].sum()) - right
        precision, recall = right / len(found), right / len(sample.labels)
        assert f1(confusion) == pytest.approx(100 * harmonic_mean([precision, recall]))
    assert confused > 5


def test_pairs_of_one_class_go_first() -> None:
    square = np.zeros((20, 20), bool)
    square[5:15, 5:15] = True
    larger = np.zeros((20, 20), bool)
    larger[5:15, 4:15] = True
    true = [(0, square)]
    # The exact one is of another class.
    assert pair_objects(true, [(1, square), (0, larger)]) == [(0, 1), (None, 0)]
    assert pair_objects(true, [(1, square)]) == [(0, 0)]
    assert pair_objects(true, []) == [(0, None)]
    assert pair_objects(true, [(0, np.roll(square, 5, axis=1))]) == [(0, None), (None, 0)]


def test_what_lies_in_a_crowd_is_not_invented() -> None:
    sample = SCENES[0]
    masks = truth_of(sample).masks
    sample = replace(sample, is_crowd=np.arange(len(masks)) == 0)
    result = Segmentation(
        size=sample.masks.size,
        name="",
        instances=instances(masks[:1], [int(sample.labels[0])], [0.9]),
    )
    confusion = object_confusion(result, sample, 11)
    assert confusion[-1].sum() == 0
    assert confusion[:11, -1].sum() == len(masks) - 1


def test_pixels_are_counted_as_scipy_counts_them() -> None:
    rng = np.random.default_rng(1)
    sample = SCENES[1]
    labels = rng.integers(0, 11, sample.masks.size)
    semantic = Semantic(labels=torch.from_numpy(labels), categories=THINGS)
    result = Segmentation(size=sample.masks.size, name="", semantic=semantic)
    true = semantic_truth(sample)
    scored = true >= 0
    pairs = (np.ones(int(scored.sum()), int), (true[scored], labels[scored]))
    expected = coo_array(pairs, shape=(11, 11)).toarray()
    np.testing.assert_array_equal(pixel_confusion(result, sample, 11), expected)


def test_nothing_in_answer_to_nothing_has_no_figure() -> None:
    sample = SCENES[0]
    height, width = sample.masks.size
    empty = replace(sample, is_crowd=np.ones(len(sample.labels), bool))
    none = instances(np.zeros((0, height, width), bool), [], [])
    none = replace(none, boxes=torch.zeros(0, 4), labels=torch.zeros(0, dtype=torch.int64))
    result = Segmentation(size=sample.masks.size, name="", instances=none)
    assert f1(object_confusion(result, empty, 11)) is None
    assert f1(object_confusion(result, sample, 11)) == 0
