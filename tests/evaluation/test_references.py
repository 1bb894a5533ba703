"""Cityscapes' and LVIS's figures against what their own evaluators say of the same files."""

from __future__ import annotations

import json
import pickle
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from record import CITY_IMAGES, CITY_SIZE, LVIS_LIMIT, RECORDED, VOID, city, lvis_records
from test_average_precision import CATEGORIES as CELLS
from test_average_precision import SIZE

from mask2former.data.class_groups import groups_of, is_cityscapes
from mask2former.data.class_lists import class_list, things_of
from mask2former.evaluation.cityscapes_ap import CityscapesAP
from mask2former.evaluation.evaluator import Evaluator
from mask2former.evaluation.lvis_ap import Known, LvisAP
from mask2former.evaluation.mean_iou import MeanIoU
from mask2former.masks import EncodedMasks, IdMapMasks, decode_rle
from mask2former.structures import Category, Instances, Sample, Segmentation, Semantic

CITY = class_list("cityscapes")
LABEL_OF = {category.id: label for label, category in enumerate(CITY)}
EXPECTED: dict[str, dict[str, float]] = json.loads(RECORDED.read_text())


def instances_of(
    found: list[tuple[int, float, np.ndarray]], size: tuple[int, int], of: tuple[Category, ...]
) -> Instances:
    masks = np.array([mask for _, _, mask in found]).reshape(-1, *size)
    return Instances(
        masks=torch.from_numpy(masks),
        scores=torch.tensor([score for _, score, _ in found], dtype=torch.float64),
        labels=torch.tensor([label for label, _, _ in found], dtype=torch.int64),
        boxes=torch.zeros(len(found), 4),
        categories=of,
    )


def city_pair(seed: int) -> tuple[Segmentation, Sample]:
    """The drawn city as a reader would give it: groups are crowds, what is not scored is void."""
    truth, predicted, found = city(seed)
    things = {category.id for category in CITY if category.is_thing}
    ids = [int(id) for id in np.unique(truth) if id not in VOID]
    kind = [id if id < 1000 else id // 1000 for id in ids]
    sample = Sample(
        image=np.zeros((*CITY_SIZE, 3), np.uint8),
        labels=np.array([LABEL_OF[k] for k in kind]),
        masks=IdMapMasks(truth, ids),
        is_crowd=np.array([id < 1000 and k in things for id, k in zip(ids, kind, strict=True)]),
        image_id=seed,
        name=f"city {seed}",
        void=IdMapMasks(np.isin(truth, VOID).astype(np.uint8), [1]),
    )
    labels = np.vectorize(LABEL_OF.get)(predicted)
    result = Segmentation(
        size=CITY_SIZE,
        name=sample.name,
        instances=instances_of([(LABEL_OF[k], s, m) for k, s, m in found], CITY_SIZE, CITY),
        semantic=Semantic(labels=torch.from_numpy(labels), categories=CITY),
    )
    return result, sample


def measured(evaluator: Evaluator, pairs: list[tuple[Segmentation, Sample]]) -> dict[str, float]:
    """By two evaluators that are merged."""
    other = evaluator.fresh()
    for index, (result, sample) in enumerate(pairs):
        (evaluator, other)[index % 2].update(result, sample)
    other.merge(pickle.loads(pickle.dumps(evaluator)))
    return other.compute()


def test_cityscapes_ap() -> None:
    pairs = [city_pair(seed) for seed in range(CITY_IMAGES)]
    assert any(sample.is_crowd.any() for _, sample in pairs)
    expected = {k: v for k, v in EXPECTED["cityscapes"].items() if k.startswith("cityscapes")}
    assert measured(CityscapesAP(CITY), pairs) == pytest.approx(expected, abs=1e-6)
    assert CityscapesAP(CITY).compute() == {}


def test_cityscapes_iou_of_classes_and_groups() -> None:
    pairs = [city_pair(seed) for seed in range(CITY_IMAGES)]
    figures = measured(MeanIoU(CITY, groups_of(CITY)), pairs)
    expected = {k: v for k, v in EXPECTED["cityscapes"].items() if "AP" not in k}
    assert len(expected) == 2 + 19 + 7
    assert {key: figures[key] for key in expected} == pytest.approx(expected, abs=1e-6)


@dataclass
class Federated:
    absent: list[int]
    not_exhaustive: list[int]


def test_lvis_ap() -> None:
    truth, results = lvis_records()
    label_of = {category.id: label for label, category in enumerate(CELLS)}
    of_class = {label_of[c["id"]]: c["frequency"] for c in truth["categories"]}
    frequency = [of_class.get(label, "") for label in range(len(CELLS))]
    known: dict[int | str, Known] = {
        i["id"]: Federated(
            absent=[label_of[id] for id in i["neg_category_ids"]],
            not_exhaustive=[label_of[id] for id in i["not_exhaustive_category_ids"]],
        )
        for i in truth["images"]
    }
    pairs = []
    for image in truth["images"]:
        annotations = [a for a in truth["annotations"] if a["image_id"] == image["id"]]
        sample = Sample(
            image=np.zeros((*SIZE, 3), np.uint8),
            labels=np.array([label_of[a["category_id"]] for a in annotations], np.int64),
            masks=EncodedMasks(SIZE, [a["segmentation"] for a in annotations]),
            is_crowd=np.zeros(len(annotations), bool),
            image_id=image["id"],
            name=str(image["id"]),
        )
        found = [
            (label_of[r["category_id"]], r["score"], decode_rle(r["segmentation"]))
            for r in results
            if r["image_id"] == image["id"]
        ]
        instances = instances_of(found, SIZE, CELLS)
        pairs.append((Segmentation(size=SIZE, name="", instances=instances), sample))
    figures = measured(LvisAP(CELLS, frequency, known, max_detections=LVIS_LIMIT), pairs)
    expected = EXPECTED["lvis"]
    assert {key: figures[key] for key in expected} == pytest.approx(expected, abs=1e-6)


def test_cityscapes_is_told_by_its_classes() -> None:
    assert is_cityscapes(CITY)
    assert is_cityscapes(things_of("cityscapes"))
    assert groups_of(things_of("cityscapes")) == {}
    assert set(groups_of(CITY)) == {category.name for category in CITY}
    assert not is_cityscapes(class_list("coco"))
    assert groups_of(class_list("coco")) == {}
