"""mIoU against loops over classes and pixels."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
import torch

from mask2former.evaluation.mean_iou import IGNORE, MeanIoU, semantic_truth
from mask2former.masks import EncodedMasks, IdMapMasks, encode_rle
from mask2former.structures import Category, Sample, Segmentation, Semantic

NAMES = ("road", "car", "sky", "boat", "boat")  # two categories of one name
CATEGORIES = tuple(
    Category(id=10 + i, name=name, is_thing=i == 1, color=(i, 0, 0)) for i, name in enumerate(NAMES)
)
SIZE = (9, 11)
VOID_ID, CROWD_ID = 7, 4


def make_pair(seed: int) -> tuple[Sample, Segmentation, np.ndarray]:
    """A sample, a prediction and the labels to score (-1: not scored).

    Segments 1..3 are classes 0, 1, 0; 4 is a crowd of class 1; 5 is in no list; 7 is void.
    Class 2 occurs in predictions only, classes 3 and 4 never.
    """
    rng = np.random.default_rng(seed)
    ids = rng.choice([1, 2, 3, CROWD_ID, 5, VOID_ID], SIZE)
    sample = Sample(
        image=np.zeros((*SIZE, 3), np.uint8),
        labels=np.array([0, 1, 0, 1]),
        masks=IdMapMasks(ids, [1, 2, 3, CROWD_ID]),
        is_crowd=np.array([False, False, False, True]),
        image_id=seed,
        name=f"image {seed}",
        void=IdMapMasks(ids, [VOID_ID]),
    )
    truth = np.select([(ids == 1) | (ids == 3), (ids == 2) | (ids == CROWD_ID)], [0, 1], -1)
    predicted = np.where(rng.random(SIZE) < 0.6, np.maximum(truth, 0), rng.integers(0, 3, SIZE))
    return sample, make_result(predicted), truth


def make_result(labels: np.ndarray) -> Segmentation:
    semantic = Semantic(labels=torch.from_numpy(labels), categories=CATEGORIES)
    return Segmentation(size=SIZE, name="result", semantic=semantic)


def naive(pairs: list[tuple[Sample, Segmentation, np.ndarray]]) -> dict[str, float]:
    both: list[tuple[int, int]] = []
    for _, result, truth in pairs:
        assert result.semantic is not None
        predicted = result.semantic.labels.tolist()
        for row in range(SIZE[0]):
            for column in range(SIZE[1]):
                if truth[row, column] >= 0:
                    both.append((int(truth[row, column]), predicted[row][column]))
    ious, accuracies, weighted, figures = [], [], 0.0, {}
    for label in range(3):
        hit = sum(t == label and p == label for t, p in both)
        true = sum(t == label for t, _ in both)
        union = sum(t == label or p == label for t, p in both)
        ious.append(100 * hit / union)
        weighted += ious[-1] * true / len(both)
        if true:
            accuracies.append(100 * hit / true)
        figures[f"IoU/{NAMES[label]}"] = ious[-1]
    figures["mIoU"] = sum(ious) / len(ious)
    figures["fwIoU"] = weighted
    figures["mean_accuracy"] = sum(accuracies) / len(accuracies)
    figures["pixel_accuracy"] = 100 * sum(t == p for t, p in both) / len(both)
    return figures


def test_equals_loops() -> None:
    pairs = [make_pair(seed) for seed in range(4)]
    evaluator = MeanIoU(CATEGORIES)
    for sample, result, _ in pairs:
        evaluator.update(result, sample)
    expected = naive(pairs)
    assert expected["IoU/sky"] == 0  # predicted, never true: it counts in the mean
    assert evaluator.compute() == pytest.approx(expected, rel=1e-12)


def test_two_halves_merge_to_the_whole() -> None:
    whole, *halves = (MeanIoU(CATEGORIES) for _ in range(3))
    for seed in range(5):
        sample, result, _ = make_pair(seed)
        whole.update(result, sample)
        halves[seed % 2].update(result, sample)
    halves[0].merge(pickle.loads(pickle.dumps(halves[1])))
    assert halves[0].compute() == whole.compute()


def test_categories_of_one_name_keep_apart() -> None:
    sample, _, truth = make_pair(0)
    evaluator = MeanIoU(CATEGORIES)
    labels = np.where(truth == 0, 3, 4)
    evaluator.update(make_result(labels), sample)
    assert {"IoU/boat (13)", "IoU/boat (14)"} <= evaluator.compute().keys()


def test_truth_of_overlapping_masks() -> None:
    masks = np.zeros((3, 2, 4), bool)
    masks[0, :, :3] = masks[1, :, 1:] = masks[2, 0] = True
    sample = Sample(
        image=np.zeros((2, 4, 3), np.uint8),
        labels=np.array([2, 0, 1]),
        masks=EncodedMasks((2, 4), [encode_rle(mask) for mask in masks]),
        is_crowd=np.array([False, False, True]),
        image_id=1,
        name="overlap",
    )
    assert semantic_truth(sample).tolist() == [[2, 0, 0, 0], [2, 0, 0, 0]]
    void = EncodedMasks((2, 4), [encode_rle(masks[2])])
    sample = Sample(**{**vars(sample), "void": void})
    assert semantic_truth(sample).tolist() == [[IGNORE] * 4, [2, 0, 0, 0]]


def test_nothing_seen_gives_no_figures() -> None:
    assert MeanIoU(CATEGORIES).compute() == {}


def test_errors_name_the_image() -> None:
    sample, result, truth = make_pair(3)
    evaluator = MeanIoU(CATEGORIES)
    with pytest.raises(ValueError, match="image 3: the result has no semantic part"):
        evaluator.update(Segmentation(size=SIZE, name="x"), sample)
    with pytest.raises(ValueError, match="image 3: the result has 4 x 9 pixels"):
        evaluator.update(make_result(truth[:, :4]), sample)
    with pytest.raises(ValueError, match=r"image 3: a predicted label is outside 0\.\.4"):
        evaluator.update(make_result(np.full(SIZE, 5)), sample)
    wrong = Sample(**{**vars(sample), "labels": np.array([0, 5, 0, 1])})
    with pytest.raises(ValueError, match=r"image 3: a label of the truth is outside 0\.\.4"):
        evaluator.update(result, wrong)
    evaluator.update(result, sample)
    with pytest.raises(ValueError, match="image 3 was scored twice"):
        evaluator.update(result, sample)
