from __future__ import annotations

import base64
import io
import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from mask2former.data.scenes import CATEGORIES, Scenes, ScenesConfig
from mask2former.evaluation.truth import truth_of
from mask2former.masks import box_of_mask
from mask2former.serialization import from_dict, to_dict
from mask2former.structures import Instances, Sample, Segmentation, Semantic
from mask2former.training.examine import (
    LONGEST_SIDE,
    SHOWN,
    Examination,
    Findings,
    show,
    true_panoptic,
)

SCENES = Scenes(length=40, config=ScenesConfig(size=64, min_things=2, max_things=4, max_size=24))


def perfect(sample: Sample) -> Segmentation:
    panoptic = true_panoptic(sample, CATEGORIES)
    labels = torch.tensor([0, *(segment.label for segment in panoptic.segments)])
    size = sample.masks.size
    semantic = Semantic(labels=labels[panoptic.ids.long()], categories=CATEGORIES)
    return Segmentation(size=size, name=sample.name, panoptic=panoptic, semantic=semantic)


def opened(url: str) -> np.ndarray:
    assert url.startswith("data:image/jpeg;base64,")
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(url.partition(",")[2]))))


def examined(scores: list[float], first: int = 0, **settings: Any) -> Examination:
    """An examination of so many scenes, from `first` on, with these scores."""
    examination = Examination(CATEGORIES, **settings)
    for number, score in enumerate(scores, start=first):
        sample = SCENES[number]
        examination.update(sample, perfect(sample), {"PQ": score, "mIoU": 1.0})
    return examination


def test_the_best_and_the_worst_are_kept_whatever_the_order() -> None:
    scores = np.random.default_rng(0).permutation(40).astype(float).tolist()
    findings = examined(scores).findings()
    assert [shown.score for shown in findings.worst] == [0, 1, 2, 3, 4, 5]
    assert [shown.score for shown in findings.best] == [39, 38, 37, 36, 35, 34]
    assert findings.score == "PQ"
    for shown in findings.worst + findings.best:
        assert scores[int(shown.image_id)] == shown.score
    assert findings.histogram == tuple(np.histogram(scores, bins=20, range=(0, 100))[0].tolist())


def test_two_processes_find_what_one_finds() -> None:
    scores = [50.0, 20.0, 80.0, 20.0, 90.0, 100.0, 0.0, 50.0]
    whole = examined(scores, shown=3)
    part = examined(scores[:5], shown=3)
    part.merge(examined(scores[5:], first=5, shown=3))
    assert part.findings() == whole.findings()
    none = Examination(CATEGORIES, shown=3)  # a process without an image
    none.merge(whole)
    assert none.findings() == whole.findings()


def test_an_image_is_shown_once() -> None:
    findings = examined([10.0, 30.0, 20.0]).findings()
    assert [shown.score for shown in findings.worst] == [10, 20, 30]
    assert findings.best == ()


def test_what_is_kept_does_not_grow_with_the_images() -> None:
    examination = examined([float(i) for i in range(40)])
    assert len(examination.worst) == len(examination.best) == SHOWN


def test_counts_are_those_of_the_samples() -> None:
    findings = examined([1.0] * 12).findings()
    labels = [SCENES[i].labels for i in range(12)]
    expected = np.bincount(np.concatenate(labels), minlength=len(CATEGORIES))
    assert findings.objects == tuple(expected.tolist())
    assert findings.images_with == tuple(
        sum(label in some for some in labels) for label in range(len(CATEGORIES))
    )
    assert findings.images == 12
    assert findings.confusion_of == "pixels"
    assert all(truth == predicted for truth, predicted, _ in findings.confusion)
    assert sum(count for *_, count in findings.confusion) == 12 * 64 * 64


def test_findings_come_back_from_a_file() -> None:
    findings = examined([10.0, 30.0, 20.0]).findings()
    assert from_dict(Findings, json.loads(json.dumps(to_dict(findings)))) == findings


def test_an_image_without_figure_counts_but_has_no_score() -> None:
    examination = Examination(CATEGORIES)
    sample = SCENES[0]
    examination.update(sample, perfect(sample), {})
    findings = examination.findings()
    assert findings.images == 1
    assert sum(findings.histogram) == 0
    assert findings.worst == ()


def instance_answer(sample: Sample) -> Segmentation:
    masks = truth_of(sample).masks
    boxes = torch.tensor([box_of_mask(mask) for mask in masks]).float()
    instances = Instances(
        masks=torch.from_numpy(masks),
        scores=torch.linspace(0.9, 0.1, len(masks)),
        labels=torch.from_numpy(sample.labels),
        boxes=boxes,
        categories=CATEGORIES,
    )
    return Segmentation(size=sample.masks.size, name=sample.name, instances=instances)


def test_every_kind_of_answer_is_drawn_beside_its_truth() -> None:
    sample = SCENES[3]
    whole = perfect(sample)
    for result in (whole, replace(whole, panoptic=None)):
        shown = show(sample, result, 1.0, CATEGORIES)
        image, truth, answer = map(opened, shown.pictures)
        assert image.shape == (64, 64, 3)
        assert np.abs(image.astype(int) - sample.image).mean() < 6
        assert (truth == answer).all()  # it is the truth
        assert np.abs(truth.astype(int) - image).mean() > 6
    result = instance_answer(sample)
    shown = show(sample, result, 1.0, CATEGORIES)
    assert shown.true == len(sample.labels)
    assert shown.found == sum(score >= 0.5 for score in result.instances.scores)  # type: ignore[union-attr]
    assert 0 < shown.found < shown.true
    confusion = Examination(CATEGORIES)
    confusion.update(sample, result, {"AP": 70.0})
    findings = confusion.findings()
    assert findings.score == "F1"
    assert findings.worst[0].score == pytest.approx(200 * shown.found / (shown.true + shown.found))
    assert findings.confusion_of == "objects"
    missed = sum(count for _, predicted, count in findings.confusion if predicted == 11)
    assert missed == shown.true - shown.found


@pytest.mark.parametrize("answer", [perfect, instance_answer])
def test_pictures_are_small(answer: Any) -> None:
    sample = Scenes(length=1, config=ScenesConfig(size=640))[0]
    shown = show(sample, answer(sample), 1.0, CATEGORIES)
    for picture in map(opened, shown.pictures):
        assert max(picture.shape) == LONGEST_SIDE
