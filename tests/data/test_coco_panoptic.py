"""The reader of COCO panoptic files, on a tiny data set with mistakes put in."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from mask2former.data.coco_panoptic import CocoPanoptic

IDS = np.zeros((6, 8), np.int64)
IDS[:3] = 5
IDS[3:, :4] = 300
IDS[5, :4] = 70000

SEGMENTS = [
    {"id": 70000, "category_id": 2, "iscrowd": 1},
    {"id": 5, "category_id": 8, "iscrowd": 0},
    {"id": 300, "category_id": 2},
]
CONTENT: dict[str, Any] = {
    "images": [
        {"id": 1, "file_name": "x.jpg", "height": 6, "width": 8},
        {"id": 2, "file_name": "y.jpg", "height": 6, "width": 8},
    ],
    "categories": [
        {"id": 8, "name": "sky", "isthing": 0},
        {"id": 2, "name": "cow", "isthing": 1},
        {"id": 1, "name": "grass", "isthing": 0},
    ],
    "annotations": [{"image_id": 1, "file_name": "x.png", "segments_info": SEGMENTS}],
}


@pytest.fixture
def content() -> dict[str, Any]:
    return copy.deepcopy(CONTENT)


def write_png(path: Path, ids: np.ndarray) -> None:
    channels = np.stack([ids % 256, ids // 256 % 256, ids // 65536], axis=2)
    Image.fromarray(channels.astype(np.uint8)).save(path)


def opened(folder: Path, content: object, **options: bool) -> CocoPanoptic:
    (folder / "val.json").write_text(json.dumps(content))
    Image.new("RGB", (8, 6)).save(folder / "x.jpg")
    write_png(folder / "x.png", IDS)
    return CocoPanoptic(folder / "val.json", folder, folder, **options)


def test_everything_is_read(content: dict[str, Any], tmp_path: Path) -> None:
    dataset = opened(tmp_path, content)
    assert [c.name for c in dataset.categories] == ["grass", "cow", "sky"]
    assert len(dataset) == 1  # the second image has no annotation
    sample = dataset[0]
    assert sample.labels.tolist() == [1, 2, 1]
    assert sample.is_crowd.tolist() == [True, False, False]
    masks = sample.masks.render((0, 0, 8, 6), (6, 8))
    for mask, id in zip(masks, (70000, 5, 300), strict=True):
        np.testing.assert_array_equal(mask, id == IDS)
    assert sample.void is not None
    np.testing.assert_array_equal(sample.void.render((0, 0, 8, 6), (6, 8))[0], IDS == 0)


def test_things_only(content: dict[str, Any], tmp_path: Path) -> None:
    dataset = opened(tmp_path, content, things_only=True)
    sample = dataset[0]
    assert [c.name for c in dataset.categories] == ["cow"]
    assert sample.labels.tolist() == [0, 0]
    assert sample.is_crowd.tolist() == [True, False]
    assert sample.masks.render((0, 0, 8, 6), (6, 8)).sum(axis=(1, 2)).tolist() == [4, 8]


@pytest.mark.parametrize(
    ("segment", "changes", "message"),
    [
        (1, {"category_id": 9}, "segment 5: category_id 9 is not among the 3 categories"),
        (1, {"id": 300}, "segment 300: the id stands twice"),
        (1, {"id": 0}, "segment 0: .*0 is void"),
        (1, {"id": "5"}, "segment '5'"),
    ],
)
def test_wrong_segments(
    content: dict[str, Any],
    tmp_path: Path,
    segment: int,
    changes: dict[str, object],
    message: str,
) -> None:
    content["annotations"][0]["segments_info"][segment].update(changes)
    with pytest.raises(ValueError, match=rf"val\.json: annotation of image 1: {message}"):
        opened(tmp_path, content)


def test_wrong_records(content: dict[str, Any], tmp_path: Path) -> None:
    twice = {**content, "annotations": content["annotations"] * 2}
    with pytest.raises(ValueError, match="image 1: the image is annotated twice"):
        opened(tmp_path, twice)
    with pytest.raises(ValueError, match="'file_name' must name its PNG"):
        opened(tmp_path, {**content, "annotations": [{"image_id": 1, "segments_info": []}]})
    with pytest.raises(ValueError, match="image_id 77 is not among"):
        opened(
            tmp_path, {**content, "annotations": [{**CONTENT["annotations"][0], "image_id": 77}]}
        )
    del content["categories"][0]["isthing"]
    with pytest.raises(ValueError, match="category 8: 'isthing'"):
        opened(tmp_path, content)


def test_instance_file(content: dict[str, Any], tmp_path: Path) -> None:
    content["annotations"] = [{"id": 1, "image_id": 1, "category_id": 2, "segmentation": []}]
    with pytest.raises(ValueError, match="is an instance file"):
        opened(tmp_path, content)


def test_png_and_json_must_agree(content: dict[str, Any], tmp_path: Path) -> None:
    dataset = opened(tmp_path, content)
    write_png(tmp_path / "x.png", np.where(IDS == 5, 6, IDS))
    with pytest.raises(ValueError, match=r"x\.png: the PNG has pixels of id 6"):
        dataset[0]
    write_png(tmp_path / "x.png", np.where(IDS == 300, 0, IDS))
    with pytest.raises(ValueError, match=r"x\.png: segment 300 .*no pixel"):
        dataset[0]


def test_wrong_png(content: dict[str, Any], tmp_path: Path) -> None:
    dataset = opened(tmp_path, content)
    path = tmp_path / "x.png"
    write_png(path, IDS[:, :7])
    with pytest.raises(ValueError, match=r"x\.png has height 6, width 7"):
        dataset[0]
    Image.new("L", (8, 6)).save(path)
    with pytest.raises(ValueError, match=r"x\.png has mode L, not RGB"):
        dataset[0]
    path.write_bytes(b"nothing")
    with pytest.raises(ValueError, match=r"x\.png cannot be read"):
        dataset[0]
    path.unlink()
    with pytest.raises(FileNotFoundError, match=r"val\.json: image 1: its file .*x\.png"):
        dataset[0]
