"""LVIS in its layout: images of two folders, classes that were looked for and others."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from mask2former.data.dataset import First
from mask2former.data.detect import find_splits, open_dataset
from mask2former.data.holdout import hold_out
from mask2former.data.lvis import Lvis
from mask2former.data.scenes import Scenes
from mask2former.training.evaluate import FederatedDataset

HOST = "http://images.cocodataset.org"
CONTENT: dict[str, Any] = {
    "info": {"version": "v1.0"},
    "categories": [
        {"id": 3, "name": "air_conditioner", "synset": "a.n.01", "frequency": "f"},
        {"id": 1, "name": "aerosol_can", "synset": "b.n.01", "frequency": "c"},
        {"id": 7, "name": "zebra", "synset": "c.n.01", "frequency": "r"},
    ],
    "images": [
        {
            "id": 139,
            "coco_url": f"{HOST}/val2017/000000000139.jpg",
            "height": 5,
            "width": 6,
            "neg_category_ids": [7],
            "not_exhaustive_category_ids": [3],
        },
        {
            "id": 42,
            "coco_url": f"{HOST}/train2017/000000000042.jpg",
            "height": 5,
            "width": 6,
            "neg_category_ids": [1, 3],
            "not_exhaustive_category_ids": [],
        },
    ],
    "annotations": [
        {"id": i, "image_id": 139, "category_id": c, "area": 4, "segmentation": [box]}
        for i, c, box in ((1, 3, [1, 1, 3, 1, 3, 3, 1, 3]), (2, 1, [0, 0, 2, 0, 2, 1, 0, 1]))
    ],
}


def write(root: Path, json_file: str, images: str = ".", content: object = CONTENT) -> None:
    for name in ("val2017/000000000139.jpg", "train2017/000000000042.jpg"):
        path = root / images / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (6, 5)).save(path)
    (root / json_file).parent.mkdir(exist_ok=True)
    (root / json_file).write_text(json.dumps(content))


def opened(folder: Path, split: str = "val") -> Lvis:
    dataset = open_dataset(folder, split)
    assert isinstance(dataset, Lvis)
    return dataset


@pytest.mark.parametrize("images", [".", "images", "coco"])
@pytest.mark.parametrize("file", ["annotations/lvis_v1_val.json", "lvis_v1_val.json"])
def test_images_of_both_folders(tmp_path: Path, images: str, file: str) -> None:
    write(tmp_path, file, images)
    dataset = opened(tmp_path)
    assert [dataset[i].name for i in range(2)] == [
        "val2017/000000000139.jpg",
        "train2017/000000000042.jpg",
    ]
    assert [c.name for c in dataset.categories] == ["aerosol_can", "air_conditioner", "zebra"]
    assert dataset.frequency == ("c", "f", "r")
    assert dataset[0].labels.tolist() == [1, 0]
    assert dataset[0].masks.render((0, 0, 6, 5), (5, 6)).sum((1, 2)).tolist() == [4, 2]
    assert [dataset.labels_of(i) for i in range(2)] == [{0, 1}, set()]


def test_classes_that_were_looked_for(tmp_path: Path) -> None:
    write(tmp_path, "lvis_v1_val.json")
    federated = opened(tmp_path).federated
    assert (federated[139].absent, federated[139].not_exhaustive) == ({2}, {1})
    assert (federated[42].absent, federated[42].not_exhaustive) == ({0, 1}, set())


def test_splits_have_annotations(tmp_path: Path) -> None:
    for split in ("train", "val", "image_info_test_dev"):
        write(tmp_path, f"annotations/lvis_v1_{split}.json")
    assert find_splits(tmp_path) == ("train", "val")


def test_unknown_class_is_told(tmp_path: Path) -> None:
    content = copy.deepcopy(CONTENT)
    content["images"][1]["neg_category_ids"] = [1, 99]
    content["images"][0]["not_exhaustive_category_ids"] = None
    write(tmp_path, "lvis_v1_val.json", content=content)
    with pytest.raises(ValueError, match="image 42: 'neg_category_ids' has 99") as raised:
        opened(tmp_path)
    assert "image 139: 'not_exhaustive_category_ids' must be a list" in str(raised.value)


def test_without_images(tmp_path: Path) -> None:
    (tmp_path / "lvis_v1_val.json").write_text(json.dumps(CONTENT))
    with pytest.raises(FileNotFoundError, match="put the folders train2017 and val2017 into"):
        opened(tmp_path)


def test_a_part_is_still_evaluated_as_lvis_is(tmp_path: Path) -> None:
    write(tmp_path, "lvis_v1_val.json")
    whole = opened(tmp_path)
    for part in (First(whole, 1), *hold_out(whole, 2)):
        assert isinstance(part, FederatedDataset)
        assert part.frequency == whole.frequency
        assert part.federated == whole.federated
    assert not isinstance(First(Scenes(length=2), 1), FederatedDataset)
