from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from PIL import Image

from mask2former.inference.writers import ResultWriter
from mask2former.masks import decode_rle
from mask2former.structures import (
    Category,
    Instances,
    Panoptic,
    Segment,
    Segmentation,
    Semantic,
)

CELL = Category(id=17, name="Zelle ä", is_thing=True, color=(220, 40, 40))
GROUND = Category(id=92, name="ground", is_thing=False, color=(40, 40, 220))
CATEGORIES = (CELL, GROUND)
IMAGE = np.full((30, 40, 3), 128, np.uint8)


def made_up(name: str = "a/1.jpg", last_id: int = 70_000) -> Segmentation:
    ids = torch.zeros(30, 40, dtype=torch.int32)
    ids[5:15, 3:23] = 1
    ids[20:, :] = last_id
    masks = torch.stack([ids == 1])
    return Segmentation(
        size=(30, 40),
        name=name,
        panoptic=Panoptic(
            ids=ids,
            segments=(
                Segment(id=1, label=0, category=CELL, score=0.9, area=200),
                Segment(id=last_id, label=1, category=GROUND, score=0.8, area=400),
            ),
            categories=CATEGORIES,
        ),
        instances=Instances(
            masks=masks,
            scores=torch.tensor([0.75]),
            labels=torch.tensor([0]),
            boxes=torch.tensor([[3.0, 5.0, 23.0, 15.0]]),
            categories=CATEGORIES,
        ),
        semantic=Semantic(labels=(ids == last_id).long(), categories=CATEGORIES),
    )


def read(path: Path) -> Any:
    return json.loads(path.read_text())


def test_everything_can_be_read_back(tmp_path: Path) -> None:
    segmentation = made_up()
    with ResultWriter(tmp_path / "out" / "deep", CATEGORIES) as writer:
        assert writer.add(segmentation, IMAGE, image_id=139) == "1"
    folder = tmp_path / "out" / "deep"
    assert segmentation.panoptic is not None
    assert segmentation.instances is not None
    assert segmentation.semantic is not None

    colors = np.asarray(Image.open(folder / "panoptic" / "1.png")).astype(int)
    ids = colors[..., 0] + 256 * colors[..., 1] + 65536 * colors[..., 2]
    assert (ids == segmentation.panoptic.ids.numpy()).all()
    document = read(folder / "panoptic.json")
    assert document["images"][0]["id"] == 139
    assert document["images"][0]["file_name"] == "a/1.jpg"
    (annotation,) = document["annotations"]
    assert annotation["image_id"] == 139
    assert annotation["file_name"] == "1.png"
    first, second = annotation["segments_info"]
    assert first == {
        "id": 1,
        "category_id": 17,
        "area": 200,
        "bbox": [3, 5, 20, 10],
        "iscrowd": 0,
        "score": 0.9,
    }
    assert (second["id"], second["category_id"], second["bbox"]) == (70_000, 92, [0, 20, 40, 10])
    assert [c["id"] for c in document["categories"]] == [17, 92]

    (result,) = read(folder / "instances.json")
    assert result["image_id"] == 139
    assert result["category_id"] == 17
    assert result["score"] == 0.75
    assert result["bbox"] == [3, 5, 20, 10]
    assert (decode_rle(result["segmentation"]) == segmentation.instances.masks[0].numpy()).all()

    labels = np.asarray(Image.open(folder / "semantic" / "1.png"))
    assert labels.dtype == np.uint8
    assert (labels == segmentation.semantic.labels.numpy()).all()
    assert read(folder / "categories.json")[0] == {
        "label": 0,
        "id": 17,
        "name": "Zelle ä",
        "isthing": 1,
        "color": [220, 40, 40],
    }
    overlay = np.asarray(Image.open(folder / "overlays" / "1.jpg"))
    assert overlay.shape == IMAGE.shape
    assert overlay[10, 10, 0] > overlay[10, 10, 2] + 40, "red over a thing: channels in order"


def test_coco_tools_read_the_instances(tmp_path: Path) -> None:
    coco = pytest.importorskip("pycocotools.coco")
    with ResultWriter(tmp_path, CATEGORIES) as writer:
        writer.add(made_up())
    truth = coco.COCO()
    truth.dataset = {
        "images": read(tmp_path / "images.json"),
        "annotations": [],
        "categories": read(tmp_path / "categories.json"),
    }
    truth.createIndex()
    loaded = truth.loadRes(str(tmp_path / "instances.json"))
    assert truth.annToMask(loaded.anns[1]).sum() == 200


def test_names_with_one_stem_do_not_overwrite_each_other(tmp_path: Path) -> None:
    with ResultWriter(tmp_path, CATEGORIES) as writer:
        names = ["a/1.jpg", "b/1.png", "1_2.jpg", "c\\1.JPG", "X.jpg", "x.jpg", ""]
        stems = [writer.add(made_up(name)) for name in names]
    assert stems == ["1", "1_2", "1_2_2", "1_3", "X", "x_2", "image"]
    assert len(list((tmp_path / "panoptic").iterdir())) == len(names)
    images = read(tmp_path / "images.json")
    assert [image["file_name"] for image in images] == names
    assert [image["id"] for image in images] == [1, 2, 3, 4, 5, 6, 7]


def test_only_what_there_is_is_written(tmp_path: Path) -> None:
    semantic = made_up().semantic
    with ResultWriter(tmp_path, CATEGORIES) as writer:
        writer.add(Segmentation(size=(30, 40), name="1.jpg", semantic=semantic))
    written = sorted(path.name for path in tmp_path.iterdir())
    assert written == ["categories.json", "images.json", "semantic"]


def test_an_error_leaves_valid_files_of_what_was_done(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop() -> None:
        with ResultWriter(tmp_path, CATEGORIES) as writer:
            writer.add(made_up("1.jpg"))
            monkeypatch.setattr("os.replace", fail_on("semantic"))
            writer.add(made_up("2.jpg"))

    replace = os.replace

    def fail_on(part: str) -> Any:
        def replace_or_fail(source: Path, target: Path) -> None:
            if part in str(target):
                raise OSError("disk full")
            replace(source, target)

        return replace_or_fail

    with pytest.raises(OSError, match="disk full"):
        stop()
    assert [image["file_name"] for image in read(tmp_path / "images.json")] == ["1.jpg"]
    assert len(read(tmp_path / "panoptic.json")["annotations"]) == 1
    assert len(read(tmp_path / "instances.json")) == 1
    assert sorted(path.name for path in (tmp_path / "semantic").iterdir()) == ["1.png"]


def test_many_categories_get_sixteen_bits(tmp_path: Path) -> None:
    categories = tuple(
        Category(id=i, name=str(i), is_thing=False, color=(0, 0, 0)) for i in range(300)
    )
    labels = torch.arange(300).view(15, 20)
    with ResultWriter(tmp_path, categories) as writer:
        semantic = Semantic(labels=labels, categories=categories)
        writer.add(Segmentation(size=(15, 20), name="1.jpg", semantic=semantic))
    stored = np.asarray(cv2.imread(str(tmp_path / "semantic" / "1.png"), cv2.IMREAD_UNCHANGED))
    assert stored.dtype == np.uint16
    assert (stored == labels.numpy()).all()
