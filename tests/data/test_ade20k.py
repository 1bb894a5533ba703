"""ADE20K in its own folders: the originals, what the official code prepares, all 847 classes."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from map_files import NOTHING, VOID, labels, segments, write_image, write_map, zipped
from mask2former.data.class_lists import class_list, things_of
from mask2former.data.coco import CocoInstances
from mask2former.data.coco_panoptic import CocoPanoptic
from mask2former.data.detect import find_splits, open_dataset
from mask2former.masks import encode_rle

WALL, SKY, BED, PERSON = 1, 3, 8, 13  # as in the masks, where 0 is none
RED_OF = {BED: 1, PERSON: 4}  # their numbers among the 100 things
SEMANTIC = np.array(
    [
        [WALL, WALL, SKY, SKY, 0, BED],
        [WALL, BED, BED, SKY, 0, PERSON],
        [BED, BED, BED, PERSON, PERSON, PERSON],
    ],
    np.uint8,
)
OBJECT = np.array([[0, 0, 0, 3, 0, 0], [0, 1, 1, 0, 0, 2], [1, 1, 1, 4, 4, 2]], np.uint8)
CLASS = np.array([[0, 0, 0, BED, 0, 0], [0, BED, BED, 0, 0, PERSON], [BED] * 3 + [PERSON] * 3])
# What the official preparation makes of it: stuff, objects over it, else void; the bed at (0, 5)
# has no object, and one object hides a pixel of the sky.
PANOPTIC_LABELS = np.where(
    CLASS > 0, CLASS - 1, np.where(np.isin(SEMANTIC, (WALL, SKY)), SEMANTIC.astype(int) - 1, VOID)
)
SEMANTIC_LABELS = np.where(SEMANTIC == 0, VOID, SEMANTIC.astype(int) - 1)


def write(root: Path, *, instances: bool = True) -> None:
    for split, short in (("training", "train"), ("validation", "val")):
        stem = f"ADE_{short}_00000001"
        write_image(root / "images" / split / f"{stem}.jpg", SEMANTIC.shape)
        write_map(root / "annotations" / split / f"{stem}.png", SEMANTIC)
        if instances:
            red = np.zeros_like(OBJECT)
            for value, number in RED_OF.items():
                red[value == CLASS] = number
            colors = np.stack([red, OBJECT, 0 * red], axis=2)
            write_map(root / "annotations_instance" / split / f"{stem}.png", colors)
    (root / "objectInfo150.txt").write_text("")


def prepare(root: Path) -> None:
    """The two JSON files and the PNGs, as the official scripts lay them out."""
    categories = class_list("ade20k")
    for short in ("train", "val"):
        stem = f"ADE_{short}_00000001"
        image: dict[str, Any] = {"id": stem, "file_name": f"{stem}.jpg", "height": 3, "width": 6}
        colors = np.zeros((*SEMANTIC.shape, 3), np.uint8)
        segments_info: list[dict[str, Any]] = []
        annotations: list[dict[str, Any]] = []
        for value in (WALL, SKY, 5):  # 5: a tree of which objects left no pixel
            color = np.array(categories[value - 1].color)
            colors[value == SEMANTIC] = color
            segments_info.append({"id": int(color @ [1, 256, 65536]), "category_id": value - 1})
        for number in (1, 2, 3, 4):
            colors[number == OBJECT] = (number, 1, 1)
            category = int(CLASS[number == OBJECT][0]) - 1
            segments_info.append({"id": number + 256 + 65536, "category_id": category})
            annotations.append(
                {
                    "id": number,
                    "image_id": stem,
                    "category_id": category,
                    "iscrowd": 0,
                    "segmentation": encode_rle(number == OBJECT),
                }
            )
        write_map(root / f"ade20k_panoptic_{short}" / f"{stem}.png", colors)
        listed = [
            {"id": c.id, "name": c.name, "isthing": int(c.is_thing), "color": c.color}
            for c in categories
        ]
        panoptic = {"image_id": stem, "file_name": f"{stem}.png", "segments_info": segments_info}
        content = {"images": [image], "categories": listed, "annotations": [panoptic]}
        (root / f"ade20k_panoptic_{short}.json").write_text(json.dumps(content))
        things = [{"id": c.id, "name": c.name.split(",")[0]} for c in categories if c.is_thing]
        content = {"images": [image], "categories": things, "annotations": annotations}
        (root / f"ade20k_instance_{short}.json").write_text(json.dumps(content))


@pytest.fixture(params=["original", "prepared", "original.zip", "prepared.zip"])
def place(tmp_path: Path, request: pytest.FixtureRequest) -> Path:
    root = tmp_path / "ADEChallengeData2016"
    write(root, instances=request.param.startswith("original"))
    if request.param.startswith("prepared"):
        prepare(root)
    return zipped(root) if request.param.endswith("zip") else root


def test_panoptic(place: Path) -> None:
    assert find_splits(place) == ("training", "validation")
    dataset = open_dataset(place, "val")
    assert dataset.categories == class_list("ade20k")
    sample = dataset[0]
    np.testing.assert_array_equal(labels(sample), PANOPTIC_LABELS)
    things = [dataset.categories[label].is_thing for label in sample.labels]
    assert sum(things) == 4
    index = segments(sample)
    for number in (1, 2, 3, 4):  # each object is one mask
        (own,) = np.unique(index[number == OBJECT])
        np.testing.assert_array_equal(index == own, number == OBJECT)
    assert (sample.image_id, sample.is_crowd.any()) == ("ADE_val_00000001", False)
    pickle.loads(pickle.dumps(dataset))[0]


def test_instances(place: Path) -> None:
    dataset = open_dataset(place, "train", task="instance")
    assert (dataset.categories, dataset.tasks) == (things_of("ade20k"), ("instance",))
    sample = dataset[0]
    masks = sample.masks.render((0, 0, 6, 3), (3, 6))
    found = {
        (dataset.categories[label].id + 1, mask.tobytes())
        for label, mask in zip(sample.labels, masks, strict=True)
    }
    assert found == {
        (int(CLASS[number == OBJECT][0]), (number == OBJECT).tobytes()) for number in (1, 2, 3, 4)
    }


def test_semantic(place: Path) -> None:
    """From its own masks, which label also what no object is known of."""
    dataset = open_dataset(place, "validation", task="semantic")
    assert (dataset.categories, dataset.tasks) == (class_list("ade20k"), ("semantic",))
    np.testing.assert_array_equal(labels(dataset[0]), SEMANTIC_LABELS)


def test_prepared_files_are_taken(tmp_path: Path) -> None:
    write(tmp_path)
    prepare(tmp_path)
    assert isinstance(open_dataset(tmp_path, "val"), CocoPanoptic)
    assert isinstance(open_dataset(tmp_path, "val", task="instance"), CocoInstances)
    things = open_dataset(tmp_path, "val", task="instance", format="ade20k-panoptic")
    assert things.categories == things_of("ade20k")
    assert (labels(things[0]) == NOTHING).sum() == np.isin(PANOPTIC_LABELS, (0, 2)).sum()
    semantic = open_dataset(tmp_path, "val", task="semantic", format="ade20k-panoptic")
    np.testing.assert_array_equal(labels(semantic[0]), PANOPTIC_LABELS)


def test_semantic_masks_as_prepared(tmp_path: Path) -> None:
    write(tmp_path, instances=False)
    shifted = (SEMANTIC - 1).astype(np.uint8)  # 0 becomes 255
    stem = "ADE_val_00000001.png"
    write_map(tmp_path / "annotations_detectron2" / "validation" / stem, shifted)
    (tmp_path / "annotations").rename(tmp_path / "kept_elsewhere")
    assert find_splits(tmp_path) == ("validation",)
    np.testing.assert_array_equal(labels(open_dataset(tmp_path, "val")[0]), SEMANTIC_LABELS)


def test_all_classes(tmp_path: Path) -> None:
    values = np.array([[0, 846, 65535], [11, 11, 0]], np.uint16)
    root = tmp_path / "ADE20K_2021_17_01"
    write_image(root / "images_detectron2" / "training" / "ADE_train_00000001.jpg", (2, 3))
    write_map(root / "annotations_detectron2" / "training" / "ADE_train_00000001.tif", values)
    for place in (root, zipped(root)):
        dataset = open_dataset(place, "train")
        names = [category.name for category in dataset.categories]
        assert (len(names), names[0], names[846]) == (
            847,
            "wall",
            "adding machine, totalizer, totaliser",
        )
        assert dataset.categories[11].id == 1831  # person, in the data set's own index
        expected = np.where(values == 65535, VOID, values.astype(int))
        np.testing.assert_array_equal(labels(dataset[0]), expected)


def test_other_folders_of_this_layout(tmp_path: Path) -> None:
    write_image(tmp_path / "images" / "training" / "a.jpg", (3, 6))
    write_map(tmp_path / "annotations" / "training" / "a.png", SEMANTIC)
    assert len(open_dataset(tmp_path, "train").categories) == 5  # those found in the mask


def test_mistakes_are_named(tmp_path: Path) -> None:
    write(tmp_path)
    semantic = tmp_path / "annotations" / "validation" / "ADE_val_00000001.png"
    objects = tmp_path / "annotations_instance" / "validation" / "ADE_val_00000001.png"
    write_map(semantic, np.full((3, 6), 151, np.uint8))
    with pytest.raises(ValueError, match=r"validation/ADE.*value 151 is not among the 150 classes"):
        open_dataset(tmp_path, "val", task="semantic")[0]
    with pytest.raises(
        ValueError, match=r"value 151 of its mask in annotations is none of 0\.\.150"
    ):
        open_dataset(tmp_path, "val")[0]
    write_map(semantic, np.zeros((3, 5), np.uint8))
    with pytest.raises(ValueError, match=r"annotations/validation has \(3, 5\); restore both"):
        open_dataset(tmp_path, "val")[0]
    write_map(semantic, SEMANTIC)
    write_map(objects, np.full((3, 6, 3), 101, np.uint8))
    with pytest.raises(ValueError, match=r"red must be 1\.\.100, the thing's number, not 101"):
        open_dataset(tmp_path, "val")[0]
    write_map(objects, SEMANTIC)
    with pytest.raises(ValueError, match="must hold colours, red for the class"):
        open_dataset(tmp_path, "val")[0]
