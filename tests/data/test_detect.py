"""Which data set a folder is; on real ones too."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mask2former.data.bbbc038 import Bbbc038
from mask2former.data.coco import CocoInstances
from mask2former.data.coco_panoptic import CocoPanoptic
from mask2former.data.detect import find_splits, open_dataset


def write_split(root: Path, *, json_file: str, images: str, pngs: str | None = None) -> None:
    """One image with one object, as a panoptic split if `pngs` is given."""
    for folder in ((root / json_file).parent, root / images, root / (pngs or images)):
        folder.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (4, 4)).save(root / images / "a.jpg")
    annotation: dict[str, object] = {"id": 1, "image_id": 1, "category_id": 1, "segmentation": []}
    if pngs:
        Image.new("RGB", (4, 4), (1, 0, 0)).save(root / pngs / "a.png")
        segments = [{"id": 1, "category_id": 1}]
        annotation = {"image_id": 1, "file_name": "a.png", "segments_info": segments}
    content = {
        "images": [{"id": 1, "file_name": "a.jpg", "height": 4, "width": 4}],
        "categories": [{"id": 1, "name": "cow", "isthing": 1}],
        "annotations": [annotation],
    }
    (root / json_file).write_text(json.dumps(content))


def write_nuclei(root: Path) -> None:
    for part in ("images", "masks"):
        (root / "f00" / part).mkdir(parents=True)
        Image.new("L", (4, 4), 255).save(root / "f00" / part / "0.png")


@pytest.mark.parametrize("pngs", ["annotations/panoptic_val2017", "panoptic/val2017"])
@pytest.mark.parametrize("images", ["images/val2017", "val2017", "images"])
def test_panoptic_layouts(tmp_path: Path, pngs: str, images: str) -> None:
    write_split(tmp_path, json_file="annotations/panoptic_val2017.json", images=images, pngs=pngs)
    for split in ("val2017", "val", None):
        dataset = open_dataset(tmp_path, split)
        assert isinstance(dataset, CocoPanoptic)
        assert len(dataset[0].masks) == 1


def test_task_chooses_the_file(tmp_path: Path) -> None:
    write_split(tmp_path, json_file="annotations/instances_train.json", images="images/train")
    assert isinstance(open_dataset(tmp_path, "train"), CocoInstances)
    with pytest.raises(ValueError, match=r"holds COCO instances, .*task='instance'"):
        open_dataset(tmp_path, "train", task="panoptic")
    write_split(
        tmp_path,
        json_file="annotations/panoptic_train.json",
        images="images/train",
        pngs="panoptic/train",
    )
    assert isinstance(open_dataset(tmp_path, "train"), CocoPanoptic)
    assert isinstance(open_dataset(tmp_path, "train", task="instance"), CocoInstances)
    (tmp_path / "annotations" / "instances_train.json").unlink()
    assert isinstance(open_dataset(tmp_path, "train", task="instance"), CocoPanoptic)


def test_splits_in_folders(tmp_path: Path) -> None:
    for split in ("train", "valid"):
        write_split(tmp_path, json_file=f"{split}/_annotations.coco.json", images=split)
    assert find_splits(tmp_path) == ("train", "valid")
    dataset = open_dataset(tmp_path, "val")
    assert isinstance(dataset, CocoInstances)
    assert dataset.path.parent.name == "valid"
    with pytest.raises(ValueError, match="has the splits train, valid"):
        open_dataset(tmp_path)
    with pytest.raises(ValueError, match="no split 'test', only train, valid"):
        open_dataset(tmp_path, "test")
    assert isinstance(open_dataset(tmp_path / "train"), CocoInstances)
    with pytest.raises(ValueError, match="cannot serve the task 'panoptic'"):
        open_dataset(tmp_path / "train", task="panoptic")


def test_an_export_unpacked_into_a_folder_of_its_own(tmp_path: Path) -> None:
    export = tmp_path / "download" / "project 7"
    for split in ("train", "valid"):
        write_split(export, json_file=f"{split}/_annotations.coco.json", images=split)
    (tmp_path / "download" / "__MACOSX").mkdir()
    assert find_splits(tmp_path / "download") == ("train", "valid")
    dataset = open_dataset(tmp_path / "download", "train")
    assert isinstance(dataset, CocoInstances)
    assert dataset.path.parent == export / "train"
    (tmp_path / "download" / "other").mkdir()  # now it is not clear any more what is meant
    with pytest.raises(ValueError, match="no data set of a known format"):
        open_dataset(tmp_path / "download", "train")


def test_nuclei(tmp_path: Path) -> None:
    write_nuclei(tmp_path / "stage1_train")
    for dataset in (open_dataset(tmp_path), open_dataset(tmp_path / "stage1_train")):
        assert isinstance(dataset, Bbbc038)
        assert dataset.background
    instances = open_dataset(tmp_path, "stage1_train", task="instance")
    assert isinstance(instances, Bbbc038)
    assert not instances.background


def test_nothing_fits(tmp_path: Path) -> None:
    with pytest.raises(
        ValueError, match=r"looked in it for\n  COCO panoptic: annotations/panoptic_val\.json"
    ):
        open_dataset(tmp_path, "val")
    (tmp_path / "train" / "images").mkdir(parents=True)  # YOLO's layout
    with pytest.raises(ValueError, match="no data set of a known format"):
        open_dataset(tmp_path)
    with pytest.raises(FileNotFoundError, match="no such folder"):
        open_dataset(tmp_path / "absent")


def test_missing_image_folder(tmp_path: Path) -> None:
    write_split(tmp_path, json_file="annotations/instances_train.json", images="elsewhere")
    with pytest.raises(FileNotFoundError, match=r"folder of its images is missing.*images/train"):
        open_dataset(tmp_path, "train")


# --- real data sets ---------------------------------------------------------------------------


@pytest.mark.data
@pytest.mark.parametrize(
    ("name", "split", "images", "categories"),
    [("nuclei", "val", 48, 2), ("facades", "val", 45, 10), ("coco", "val2017", 100, 133)],
)
def test_real_panoptic_splits(
    shared: Path, name: str, split: str, images: int, categories: int
) -> None:
    dataset = open_dataset(shared / "data" / name, split=split, task="panoptic")
    assert (len(dataset), len(dataset.categories)) == (images, categories)
    for index in range(5):
        sample = dataset[index]
        height, width = sample.masks.size
        masks = sample.masks.render((0, 0, width, height), (height, width))
        assert sample.void is not None
        void = sample.void.render((0, 0, width, height), (height, width))
        assert masks.any(axis=(1, 2)).all()
        np.testing.assert_array_equal(masks.sum(axis=0) + void[0], np.ones((height, width)))


@pytest.mark.data
@pytest.mark.parametrize(
    ("name", "split"), [("nuclei", "val"), ("facades", "train"), ("coco", "train2017")]
)
def test_real_instances_have_their_areas(shared: Path, name: str, split: str) -> None:
    dataset = open_dataset(shared / "data" / name, split=split, task="instance")
    content = json.loads(
        (shared / "data" / name / f"annotations/instances_{split}.json").read_text()
    )
    for index in range(5):
        sample = dataset[index]
        areas = [a["area"] for a in content["annotations"] if a["image_id"] == sample.image_id]
        height, width = sample.masks.size
        masks = sample.masks.render((0, 0, width, height), (height, width))
        np.testing.assert_allclose(masks.sum(axis=(1, 2)), areas, rtol=0.05, atol=12)
