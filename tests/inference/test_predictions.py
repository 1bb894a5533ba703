"""Files that others made, read as results; what does not fit names file and record."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from mask2former.inference.predictions import open_predictions
from mask2former.inference.writers import ResultWriter
from mask2former.structures import Segmentation
from some_results import CATEGORIES, made_up, same

SIZE = (30, 41)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """What `evaluate --out` writes of two images, whose ids are the data set's."""
    with ResultWriter(tmp_path / "out", CATEGORIES) as writer:
        for seed in range(2):
            writer.add(made_up(seed), image_id=40 + seed)
    return tmp_path / "out"


def result(path: Path, seed: int, **options: Any) -> Segmentation:
    predictions = open_predictions(path, CATEGORIES, **options)
    return predictions.result(40 + seed, f"elsewhere/{seed}.jpg", SIZE)


def only(part: str, seed: int, name: str) -> Segmentation:
    whole = made_up(seed)
    return Segmentation(size=SIZE, name=name, **{part: getattr(whole, part)})


def test_our_own_folder(folder: Path) -> None:
    predictions = open_predictions(folder, CATEGORIES)
    assert predictions.tasks == ("panoptic", "instance", "semantic")
    for seed in (1, 0):
        same(result(folder, seed), made_up(seed))


def test_coco_results(folder: Path) -> None:
    predictions = open_predictions(folder / "instances.json", CATEGORIES)
    assert predictions.tasks == ("instance",)
    found = result(folder / "instances.json", 1)
    assert found.instances is not None
    assert found.instances.scores.dtype == torch.float64
    scores = found.instances.scores.float()
    instances = replace(found.instances, scores=scores)
    same(replace(found, instances=instances), only("instances", 1, "elsewhere/1.jpg"))
    none = predictions.result(77, "other.jpg", SIZE).instances
    assert none is not None
    assert len(none) == 0


def test_coco_panoptic(folder: Path) -> None:
    same(result(folder / "panoptic.json", 1), only("panoptic", 1, "elsewhere/1.jpg"))
    document = json.loads((folder / "panoptic.json").read_text())
    bare = {"annotations": document["annotations"]}  # as panopticapi takes it
    for annotation in bare["annotations"]:
        for segment in annotation["segments_info"]:
            del segment["score"], segment["area"], segment["bbox"]
    beside = folder.parent / "mine.json"
    beside.write_text(json.dumps(bare))
    (folder / "panoptic").rename(folder.parent / "mine")
    found, expected = result(beside, 0).panoptic, made_up(0).panoptic
    assert found is not None
    assert expected is not None
    assert torch.equal(found.ids, expected.ids)
    assert [(s.id, s.label, s.area) for s in found.segments] == [
        (s.id, s.label, s.area) for s in expected.segments
    ]


@pytest.mark.parametrize("values", ["ids", "labels"])
def test_label_maps(folder: Path, values: str) -> None:
    maps = folder / "semantic"
    if values == "ids":
        for path in maps.glob("*.png"):
            ids = np.array([category.id for category in CATEGORIES], np.uint8)
            Image.fromarray(ids[np.asarray(Image.open(path))]).save(path)
        (maps / "0.png").rename(maps / "0_pred.png")
    for seed in range(2):
        found = result(maps, seed, values=values)
        same(found, only("semantic", seed, f"elsewhere/{seed}.jpg"))


def test_what_is_missing_is_named(folder: Path) -> None:
    for path, error, message in (
        (folder, ValueError, r"images.json: image x/9.jpg is missing"),
        (folder / "panoptic.json", ValueError, r"panoptic.json: no annotation has the image_id 49"),
        (folder / "semantic", FileNotFoundError, r"semantic: no PNG is called 9.png"),
    ):
        with pytest.raises(error, match=message):
            open_predictions(path, CATEGORIES).result(49, "x/9.jpg", SIZE)
    with pytest.raises(FileNotFoundError, match="nowhere: there is no such file"):
        open_predictions(folder / "nowhere", CATEGORIES)
    (folder / "empty").mkdir()
    with pytest.raises(ValueError, match="holds no PNG"):
        open_predictions(folder / "empty", CATEGORIES)


def test_another_models_classes_are_refused(folder: Path) -> None:
    others = (*CATEGORIES[:2], replace(CATEGORIES[2], name="ground"))
    with pytest.raises(ValueError, match=r"has the classes cat, cat, sky .*must be the same"):
        open_predictions(folder, others)


def test_records_that_do_not_fit_are_named(folder: Path) -> None:
    file = folder / "instances.json"
    records = json.loads(file.read_text())
    for change, message in (
        ({"category_id": 91}, "result 1: category_id 91 is none of the data set's"),
        ({"score": None}, "result 1: 'score' is missing"),
        ({"score": "high"}, "result 1: 'score' must not be 'high'"),
        ({"segmentation": 5}, "result 1: 'segmentation' must not be 5"),
        ({"segmentation": [[1, 2, 3]]}, "result 1: segmentation: polygon 0 holds 3 numbers"),
        ({"segmentation": {"size": [30, 40]}}, "result 1: segmentation: a run-length encoding has"),
        ({"segmentation": {"size": [3, 4], "counts": [12]}}, r"result 1: its mask measures \[3, 4"),
        ({"segmentation": {"size": [30, 41], "counts": [5]}}, "result 1: run-length encoding"),
    ):
        changed = [dict(record) for record in records]
        changed[1] |= change
        if change.get("score", 0) is None:
            del changed[1]["score"]
        file.write_text(json.dumps(changed))
        with pytest.raises(ValueError, match=rf"instances.json: {message}"):
            result(file, 0)
    file.write_text('{"images": []}')
    with pytest.raises(ValueError, match="neither COCO results"):
        result(file, 0)
    file.write_text("[")
    with pytest.raises(ValueError, match="is no JSON"):
        result(file, 0)
    with pytest.raises(ValueError, match=r"0.png: value . is none of the 3 categories' ids"):
        result(folder / "semantic", 0)
