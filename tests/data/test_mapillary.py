"""Mapillary Vistas 1.2, as it was downloaded then and as version 2.0 holds it."""

from __future__ import annotations

import json
import pickle
from pathlib import Path

import numpy as np
import pytest

from map_files import NOTHING, VOID, labels, segments, write_image, write_map, zipped
from mask2former.data.class_lists import class_list, things_of
from mask2former.data.coco_panoptic import CocoPanoptic
from mask2former.data.detect import find_splits, open_dataset
from mask2former.data.segment_maps import SegmentMaps

ROAD, SKY, PERSON, CAR, UNLABELLED = 13, 27, 19, 55, 65
VALUES = np.array([[SKY, SKY, SKY, UNLABELLED], [PERSON, CAR, CAR, CAR], [ROAD] * 4], np.uint8)
OBJECTS = np.zeros(VALUES.shape, np.uint16)
OBJECTS[1] = (0, 0, 1, 1)
LABELS = np.where(VALUES == UNLABELLED, VOID, VALUES.astype(int))


def write(root: Path, annotation: str) -> None:
    categories = class_list("mapillary")
    palette = [part for category in categories for part in category.color]
    for split in ("training", "validation"):
        write_image(root / split / "images" / "a1b.jpg", VALUES.shape)
        own = root / split / annotation
        write_map(own / "labels" / "a1b.png", VALUES, palette)
        ids = VALUES.astype(np.uint16) * 256 + OBJECTS
        write_map(own / "instances" / "a1b.png", ids)
        kept = [int(id) for id in np.unique(ids) if id // 256 != UNLABELLED]
        colors = np.zeros((*VALUES.shape, 3), np.uint8)
        for place, id in enumerate(kept):
            colors[ids == id] = (place + 1, 1, 0)
        write_map(own / "panoptic" / "a1b.png", colors)
        found = [
            {"id": place + 1 + 256, "category_id": id // 256 + 1, "iscrowd": 0}
            for place, id in enumerate(kept)
        ]
        content = {
            "images": [{"id": "a1b", "file_name": "a1b.jpg", "height": 3, "width": 4}],
            "annotations": [{"image_id": "a1b", "file_name": "a1b.png", "segments_info": found}],
            "categories": [
                {"id": c.id, "name": c.name.lower(), "isthing": int(c.is_thing)} for c in categories
            ],
        }
        (own / "panoptic" / "panoptic_2018.json").write_text(json.dumps(content))
    (root / "config.json").write_text("{}")


@pytest.fixture(params=["", "v1.2", "zip"])
def place(tmp_path: Path, request: pytest.FixtureRequest) -> Path:
    root = tmp_path / "mapillary"
    write(root, "" if request.param == "zip" else request.param)
    return zipped(root) if request.param == "zip" else root


def test_panoptic(place: Path) -> None:
    assert find_splits(place) == ("training", "validation")
    dataset = open_dataset(place, "val")
    assert isinstance(dataset, CocoPanoptic)
    assert dataset.categories == class_list("mapillary")  # names as released models have them
    sample = dataset[0]
    np.testing.assert_array_equal(labels(sample), LABELS)
    assert sorted(sample.labels.tolist()) == [ROAD, PERSON, SKY, CAR, CAR]
    pickle.loads(pickle.dumps(dataset))[0]


def test_instances(place: Path) -> None:
    dataset = open_dataset(place, "train", task="instance")
    assert isinstance(dataset, SegmentMaps)
    assert (dataset.categories, dataset.tasks) == (things_of("mapillary"), ("instance",))
    sample = dataset[0]
    assert [dataset.categories[label].name for label in sample.labels] == ["Person", "Car", "Car"]
    expected = [[NOTHING] * 3 + [VOID], [0, 1, 2, 2], [NOTHING] * 4]
    assert segments(sample).tolist() == expected


def test_semantic(place: Path) -> None:
    dataset = open_dataset(place, "val", task="semantic")
    assert (dataset.categories, dataset.tasks) == (class_list("mapillary"), ("semantic",))
    np.testing.assert_array_equal(labels(dataset[0]), LABELS)


def test_instance_maps_serve_panoptic(tmp_path: Path) -> None:
    write(tmp_path, "")
    prepared = open_dataset(tmp_path, "val")[0]
    for path in sorted((tmp_path / "validation" / "panoptic").iterdir()):
        path.unlink()
    direct = open_dataset(tmp_path, "val")[0]
    assert direct.labels.tolist() == prepared.labels.tolist()
    np.testing.assert_array_equal(segments(direct), segments(prepared))


def test_other_folders_of_this_layout(tmp_path: Path) -> None:
    write_image(tmp_path / "training" / "images" / "a.jpg", VALUES.shape)
    write_map(tmp_path / "training" / "labels" / "a.png", VALUES)
    assert len(open_dataset(tmp_path).categories) == 5  # those found in the mask


def test_mistakes_are_named(tmp_path: Path) -> None:
    write(tmp_path, "")
    own = tmp_path / "validation"
    write_map(own / "labels" / "a1b.png", np.full(VALUES.shape, 66, np.uint8))
    with pytest.raises(ValueError, match=r"labels/a1b\.png: value 66 is not among the 65 classes"):
        open_dataset(tmp_path, "val", task="semantic")[0]
    write_map(own / "instances" / "a1b.png", np.full(VALUES.shape, 123 * 256, np.uint16))
    with pytest.raises(ValueError, match=r"value 31488 stands for label 123, but Vistas 1\.2 has"):
        open_dataset(tmp_path, "val", task="instance")[0]
