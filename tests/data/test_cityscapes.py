"""Cityscapes in its own folders, and as its own tool converts it where that is installed."""

from __future__ import annotations

import json
import pickle
from pathlib import Path

import numpy as np
import pytest

from map_files import NOTHING, VOID, labels, segments, write_image, write_map, zipped
from mask2former.data.cityscapes import panoptic
from mask2former.data.class_lists import class_list, things_of
from mask2former.data.coco_panoptic import CocoPanoptic
from mask2former.data.detect import find_splits, open_dataset

ROAD, RAIL, BUILDING, PERSON, CAR, CARAVAN = 7, 10, 11, 24, 26, 29
TRAIN_ID = {ROAD: 0, BUILDING: 2, PERSON: 11, CAR: 13}
LABEL_IDS = np.array(
    [
        [3, 3, BUILDING, BUILDING, PERSON, PERSON],
        [0, CARAVAN, BUILDING, CAR, CAR, PERSON],
        [ROAD, ROAD, RAIL, CAR, CAR, 255],  # 255: a licence plate
    ],
    np.uint8,
)
INSTANCE_IDS = LABEL_IDS.astype(np.uint16)
INSTANCE_IDS[1, 1] = CARAVAN * 1000
INSTANCE_IDS[1:, 3] = CAR * 1000
INSTANCE_IDS[1:, 4] = CAR * 1000 + 1
INSTANCE_IDS[0, 4] = PERSON * 1000  # the other two pixels of persons are a group
INSTANCE_IDS[2, 5] = 65535
LABELS = np.full(LABEL_IDS.shape, VOID)
for id, label in TRAIN_ID.items():
    LABELS[id == LABEL_IDS] = label


def write(root: Path, splits: tuple[str, ...] = ("train", "val")) -> None:
    for split in splits:
        for city in ("ulm", "bonn"):
            stem = f"{city}_000000_000019"
            image = root / "leftImg8bit" / split / city / f"{stem}_leftImg8bit.png"
            write_image(image, LABEL_IDS.shape)
            truth = root / "gtFine" / split / city
            write_map(truth / f"{stem}_gtFine_labelIds.png", LABEL_IDS)
            write_map(truth / f"{stem}_gtFine_instanceIds.png", INSTANCE_IDS)
            (truth / f"{stem}_gtFine_polygons.json").write_text("{}")


def remove(root: Path, end: str) -> None:
    for path in root.rglob(f"*{end}"):
        path.unlink()


def prepare(root: Path) -> None:
    """As the data set's own createPanopticImgs writes them."""
    images, annotations = [], []
    for city in ("bonn", "ulm"):
        stem = f"{city}_000000_000019"
        kept = {
            ROAD: (ROAD, 0),
            BUILDING: (BUILDING, 0),
            PERSON: (PERSON, 1),
            PERSON * 1000: (PERSON, 0),
            CAR * 1000: (CAR, 0),
            CAR * 1000 + 1: (CAR, 0),
        }
        ids = np.where(np.isin(INSTANCE_IDS, list(kept)), INSTANCE_IDS, 0)
        colors = np.stack([ids % 256, ids // 256, 0 * ids], axis=2).astype(np.uint8)
        name = f"{stem}_gtFine_panoptic.png"
        write_map(root / "gtFine" / "cityscapes_panoptic_val" / name, colors)
        file_name = f"{stem}_gtFine_leftImg8bit.png"  # which does not exist
        images.append({"id": stem, "file_name": file_name, "height": 3, "width": 6})
        found = [{"id": i, "category_id": c, "iscrowd": crowd} for i, (c, crowd) in kept.items()]
        annotations.append({"image_id": stem, "file_name": name, "segments_info": found})
    categories = [
        {"id": c.id, "name": c.name, "isthing": int(c.is_thing), "color": c.color}
        for c in class_list("cityscapes")
    ]
    content = {"images": images, "annotations": annotations, "categories": categories}
    (root / "gtFine" / "cityscapes_panoptic_val.json").write_text(json.dumps(content))


@pytest.fixture(params=["folder", "zip", "prepared alone", "prepared alone, zip"])
def place(tmp_path: Path, request: pytest.FixtureRequest) -> Path:
    root = tmp_path / "cityscapes"
    write(root)
    if request.param.startswith("prepared"):
        prepare(root)
        remove(root, "instanceIds.png")
    return zipped(root) if request.param.endswith("zip") else root


def test_panoptic(place: Path) -> None:
    assert find_splits(place) == ("train", "val")
    dataset = open_dataset(place, "val", task="panoptic")
    assert dataset.categories == class_list("cityscapes")
    assert [dataset[i].image_id for i in range(2)] == ["bonn_000000_000019", "ulm_000000_000019"]
    sample = dataset[1]
    np.testing.assert_array_equal(labels(sample), LABELS)
    index = segments(sample)
    crowds = sample.is_crowd[index] & (index != VOID)
    np.testing.assert_array_equal(crowds, INSTANCE_IDS == PERSON)
    cars = [index[1:, 3], index[1:, 4]]
    assert [len(np.unique(car)) for car in cars] == [1, 1]
    assert cars[0][0] != cars[1][0]
    assert len(sample.labels) == 6
    pickle.loads(pickle.dumps(dataset))[0]


def test_instances(place: Path) -> None:
    dataset = open_dataset(place, "val", task="instance")
    assert (dataset.categories, dataset.tasks) == (things_of("cityscapes"), ("instance",))
    sample = dataset[0]
    names = sorted(dataset.categories[label].name for label in sample.labels)
    assert names == ["car", "car", "person", "person"]
    assert sample.is_crowd.sum() == 1
    np.testing.assert_array_equal(labels(sample) == NOTHING, np.isin(LABELS, (0, 2)))


def test_semantic(place: Path) -> None:
    dataset = open_dataset(place, "val", task="semantic")
    assert (dataset.categories, dataset.tasks) == (class_list("cityscapes"), ("semantic",))
    np.testing.assert_array_equal(labels(dataset[0]), LABELS)


def test_train_ids_alone(tmp_path: Path) -> None:
    write(tmp_path)
    remove(tmp_path, "Ids.png")
    train_ids = np.where(LABELS == VOID, 255, LABELS).astype(np.uint8)
    for split in ("train", "val"):
        for city in ("ulm", "bonn"):
            name = f"{city}_000000_000019_gtFine_labelTrainIds.png"
            write_map(tmp_path / "gtFine" / split / city / name, train_ids)
    dataset = open_dataset(tmp_path, "train")
    assert (dataset.categories, dataset.tasks) == (class_list("cityscapes"), ("semantic",))
    np.testing.assert_array_equal(labels(dataset[0]), LABELS)


def test_instance_ids_alone_serve_semantic(tmp_path: Path) -> None:
    write(tmp_path)
    remove(tmp_path, "labelIds.png")
    np.testing.assert_array_equal(labels(open_dataset(tmp_path, "val", task="semantic")[0]), LABELS)


def test_equals_the_tool_of_the_data_set(tmp_path: Path) -> None:
    """createPanopticImgs of cityscapesscripts, if that is installed."""
    name = "cityscapesscripts.preparation.createPanopticImgs"
    tool = pytest.importorskip(name, reason="cityscapesscripts is not installed")
    write(tmp_path, ("val",))
    for path in tmp_path.rglob("*instanceIds.png"):  # of a licence plate it knows no id
        write_map(path, np.where(INSTANCE_IDS == 65535, 0, INSTANCE_IDS).astype(np.uint16))
    direct = panoptic(tmp_path, "val")
    expected = [direct[i] for i in range(2)]
    tool.convert2panoptic(str(tmp_path / "gtFine"), setNames=["val"])
    remove(tmp_path, "instanceIds.png")
    prepared = panoptic(tmp_path, "val")
    assert isinstance(prepared, CocoPanoptic)
    for index, sample in enumerate(expected):
        other = prepared[index]
        assert (other.labels.tolist(), other.image_id) == (sample.labels.tolist(), sample.image_id)
        assert other.is_crowd.tolist() == sample.is_crowd.tolist()
        np.testing.assert_array_equal(segments(other), segments(sample))


def test_mistakes_are_named(tmp_path: Path) -> None:
    write(tmp_path)
    truth = tmp_path / "gtFine" / "val" / "bonn" / "bonn_000000_000019_gtFine"
    write_map(truth.with_name(truth.name + "_labelIds.png"), np.full((3, 6), 34, np.uint8))
    with pytest.raises(ValueError, match=r"labelIds\.png: value 34 is not among the 19 classes"):
        open_dataset(tmp_path, "val", task="semantic")[0]
    ids = np.full((3, 6), 34007, np.uint16)
    write_map(truth.with_name(truth.name + "_instanceIds.png"), ids)
    with pytest.raises(ValueError, match=r"instanceIds\.png: value 34007 stands for label 34"):
        open_dataset(tmp_path, "val")[0]
    (tmp_path / "gtFine" / "val" / "ulm" / "ulm_000000_000019_gtFine_instanceIds.png").unlink()
    with pytest.raises(FileNotFoundError, match=r"ulm.*instanceIds\.png: .*unpack gtFine"):
        open_dataset(tmp_path, "val")
