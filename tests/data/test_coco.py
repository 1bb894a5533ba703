"""The reader of COCO instance files, on a tiny data set with every kind of mask and mistake."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from mask2former.data.coco import CocoInstances
from mask2former.data.coco_json import read_coco_json
from mask2former.masks import encode_rle

SQUARE = [2.0, 1.0, 6.0, 1.0, 6.0, 4.0, 2.0, 4.0]
BOTTOM = np.repeat([False, True], [6, 4])[:, None].repeat(12, 1)  # of an image 10 x 12

CONTENT: dict[str, Any] = {
    "images": [
        {"id": 7, "file_name": "a.png", "height": 10, "width": 12},
        {"id": 3, "file_name": "b.png", "height": 5, "width": 6},
    ],
    "categories": [
        {"id": 90, "name": "cat"},
        {"id": 4, "name": "wall", "isthing": 0, "color": [1, 2, 3]},
    ],
    "annotations": [
        {"id": 1, "image_id": 7, "category_id": 90, "segmentation": [SQUARE], "iscrowd": 0},
        {"id": 2, "image_id": 7, "category_id": 4, "segmentation": encode_rle(BOTTOM)},
        {
            "id": 5,
            "image_id": 7,
            "category_id": 90,
            "segmentation": {"size": [10, 12], "counts": [0, 10, 110]},
            "iscrowd": 1,
        },
        {
            "id": 6,
            "image_id": 7,
            "category_id": 90,
            "segmentation": [[-9, -9, 40, -9, 40, 1, -9, 1]],
        },
        {
            "id": 8,
            "image_id": 7,
            "category_id": 90,
            "segmentation": [],
            "bbox": [8, 5, 2.5, 4],
            "iscrowd": 0,
        },
    ],
}


def test_sizes_may_be_written_as_fractions(tmp_path: Path, content: dict[str, Any]) -> None:
    content["images"][0] |= {"height": 10.0, "width": 12.0}
    (tmp_path / "a.json").write_text(json.dumps(content))
    assert read_coco_json(tmp_path / "a.json", "instance").images[7].size == (10, 12)
    content["images"][0]["height"] = 10.5
    (tmp_path / "a.json").write_text(json.dumps(content))
    with pytest.raises(ValueError, match="image 7: 'height' and 'width' must be its size"):
        read_coco_json(tmp_path / "a.json", "instance")


def test_colors_may_be_written_as_on_the_web(tmp_path: Path, content: dict[str, Any]) -> None:
    content["categories"][0]["color"] = "#c80010"
    (tmp_path / "a.json").write_text(json.dumps(content))
    wall, cat = read_coco_json(tmp_path / "a.json", "instance").categories
    assert (wall.color, cat.color) == ((1, 2, 3), (200, 0, 16))


@pytest.fixture
def content() -> dict[str, Any]:
    return copy.deepcopy(CONTENT)


def opened(folder: Path, content: object) -> CocoInstances:
    for name, size in (("a.png", (12, 10)), ("b.png", (6, 5))):
        Image.new("RGB", size, (9, 8, 7)).save(folder / name)
    path = folder / "train.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return CocoInstances(path, folder)


def test_everything_is_read(content: dict[str, Any], tmp_path: Path) -> None:
    dataset = opened(tmp_path, content)
    assert [(c.id, c.name, c.is_thing) for c in dataset.categories] == [
        (4, "wall", False),
        (90, "cat", True),
    ]
    assert dataset.categories[0].color == (1, 2, 3)
    assert dataset.categories[1].color == opened(tmp_path, content).categories[1].color
    sample, empty = dataset[0], dataset[1]
    assert len(dataset) == 2
    assert (sample.image.shape, sample.image_id, sample.name) == ((10, 12, 3), 7, "a.png")
    assert sample.labels.tolist() == [1, 0, 1, 1, 1]
    assert sample.is_crowd.tolist() == [False, False, True, False, True]
    masks = sample.masks.render((0, 0, 12, 10), (10, 12))
    assert masks.sum(axis=(1, 2)).tolist() == [12, 48, 10, 12, 8]
    assert masks[0, 1:4, 2:6].all()
    np.testing.assert_array_equal(masks[1], BOTTOM)
    assert masks[2, :, 0].all()
    assert masks[3, 0].all()
    assert masks[4, 5:9, 8:10].all()
    assert len(empty.masks) == len(empty.labels) == 0
    assert empty.masks.render((0, 0, 6, 5), (5, 6)).shape == (0, 5, 6)


def change(content: dict[str, Any], where: str, value: object) -> dict[str, Any]:
    *path, last = (int(key) if key.isdigit() else key for key in where.split("."))
    target: Any = content
    for key in path:
        target = target[key]
    target[last] = value
    return content


@pytest.mark.parametrize(
    ("where", "value", "message"),
    [
        ("annotations.1.category_id", 91, "annotation 2: category_id 91 is not among the 2"),
        ("annotations.1.category_id", [4], "annotation 2: category_id"),
        ("annotations.1.image_id", 99, "annotation 2: image_id 99 is not among the 2 images"),
        ("annotations.1.id", 1, "annotation 1: the id stands twice"),
        ("annotations.0.segmentation", [SQUARE, [1, 2, 3]], "annotation 1: .*polygon 1 holds 3"),
        ("annotations.0.segmentation", [[1, 2, 3, float("nan")]], "annotation 1: .*not finite"),
        ("annotations.0.segmentation", [SQUARE[:7]], "annotation 1: .*polygon 0 holds 7"),
        ("annotations.0.segmentation", [["x"] * 6], "annotation 1: .*no list of numbers"),
        ("annotations.0.segmentation", 5, "annotation 1: .*must be a list of polygons .* not 5"),
        (
            "annotations.1.segmentation.size",
            [10, 11],
            r"annotation 2: .*\[10, 12\], not \[10, 11\]",
        ),
        ("images.1.id", 7, "image 7: the id stands twice"),
        ("images.1.height", None, "image 3: 'height' and 'width'"),
        ("images.1.file_name", "", "image 3: 'file_name'"),
        ("categories.1.id", 90, "category 90: the id stands twice"),
        ("categories.1.color", [1, 2, 300], "category 4: 'color'"),
        ("categories.1.name", None, "category 4: 'name'"),
        ("categories", [], "'categories' is empty"),
        ("images", {}, ".*'images' must be a list"),
        ("annotations.0.segments_info", [], "is a panoptic file"),
    ],
)
def test_mistakes_are_named_at_opening(
    content: dict[str, Any], tmp_path: Path, where: str, value: object, message: str
) -> None:
    with pytest.raises(ValueError, match=rf"train\.json: {message}"):
        opened(tmp_path, change(content, where, value))


@pytest.mark.parametrize("segmentation", ["absent", None, [], [[]], [[1, 2, 3, 4], []]])
@pytest.mark.parametrize("box", [None, [2, 1, 4, 0], [2, 1, float("nan"), 3], "none", [2, 1, 4, 3]])
def test_a_box_stands_for_a_mask_that_has_no_area(
    content: dict[str, Any],
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    segmentation: object,
    box: object,
) -> None:
    content["annotations"] = content["annotations"][:2]
    annotation = change(content, "annotations.0.bbox", box)["annotations"][0]
    annotation["segmentation"] = segmentation
    if segmentation == "absent":
        del annotation["segmentation"]
    dataset = opened(tmp_path, content)
    sample = dataset[0]
    if box == [2, 1, 4, 3]:
        assert sample.is_crowd.tolist() == [True, False]
        mask = sample.masks.render((0, 0, 12, 10), (10, 12))[0]
        assert mask[1:4, 2:6].all()
        assert mask.sum() == 12
        said = "1 annotations have a box and no mask: taken as crowds"
    else:
        assert sample.is_crowd.tolist() == [False]
        assert dataset.labels_of(0) == {0}
        said = "1 annotations without a mask or a box left out: no area"
    assert caplog.messages == [f"{tmp_path / 'train.json'}: {said}"]


def test_polygons_without_area_are_left_out(
    content: dict[str, Any], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for annotation in content["annotations"][::3]:
        annotation["segmentation"] = [[1, 2], SQUARE, [1, 2, 3, 4]]
    del content["annotations"][4]
    sample = opened(tmp_path, content)[0]
    assert sample.is_crowd.tolist() == [False, False, True, False]
    assert sample.masks.render((0, 0, 12, 10), (10, 12)).sum(axis=(1, 2)).tolist() == [
        *(12, 48, 10, 12),
    ]
    assert [message.split("json: ")[1] for message in caplog.messages] == [
        "polygons of fewer than 3 corners left out of 2 annotations: no area"
    ]


def test_many_mistakes_are_counted(content: dict[str, Any], tmp_path: Path) -> None:
    content["annotations"] = [{**CONTENT["annotations"][0], "id": i} for i in range(9)]
    for annotation in content["annotations"]:
        annotation["category_id"] = 1
    with pytest.raises(ValueError, match=r"annotation 4: [\s\S]*and 4 more problems"):
        opened(tmp_path, content)


@pytest.mark.parametrize(
    ("text", "message"),
    [("{'a': 1}", "not valid JSON"), ("[]", "must be an object"), ('{"images": []}', "at the top")],
)
def test_no_coco_file(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ValueError, match=rf"train\.json: .*{message}"):
        opened(tmp_path, text)


def test_mistakes_that_show_on_reading(content: dict[str, Any], tmp_path: Path) -> None:
    content["annotations"][1]["segmentation"]["counts"] += "1"
    dataset = opened(tmp_path, content)
    with pytest.raises(ValueError, match=r"train\.json: annotation 2: .*add up to"):
        dataset[0]
    Image.new("RGB", (7, 5)).save(tmp_path / "b.png")
    with pytest.raises(ValueError, match=r"image 3: height 5, width 6, but .*b\.png has .*width 7"):
        dataset[1]
    (tmp_path / "b.png").unlink()
    with pytest.raises(FileNotFoundError, match=r"train\.json: image 3: its file .*b\.png"):
        dataset[1]


def test_missing_files(content: dict[str, Any], tmp_path: Path) -> None:
    path = opened(tmp_path, content).path
    with pytest.raises(FileNotFoundError, match=r"image 7: its file .*elsewhere"):
        CocoInstances(path, tmp_path / "elsewhere")
    with pytest.raises(FileNotFoundError, match=r"absent\.json"):
        CocoInstances(tmp_path / "absent.json", tmp_path)


def test_photograph_annotated_before_it_was_turned(content: dict[str, Any], tmp_path: Path) -> None:
    dataset = opened(tmp_path, content)
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (6, 5)).save(tmp_path / "b.png", exif=exif)
    assert dataset[1].image.shape == (5, 6, 3)


@pytest.mark.parametrize(
    ("named", "lies"),
    [
        ("sub\\b.png", "sub/b.png"),
        ("images/b.png", "b.png"),
        (".\\images\\sub\\b.png", "sub/b.png"),
        ("data/images/b.png", "b.png"),
        ("images/b.png", "images/b.png"),
    ],
)
def test_images_are_found_by_names_of_other_machines(
    content: dict[str, Any], tmp_path: Path, named: str, lies: str
) -> None:
    folder = tmp_path / "data" / "images"
    for name, size in (("a.png", (12, 10)), (lies, (6, 5))):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", size).save(folder / name)
    path = tmp_path / "train.json"
    path.write_text(json.dumps(change(content, "images.1.file_name", named)))
    sample = CocoInstances(path, folder)[1]
    assert sample.image.shape == (5, 6, 3)
    assert sample.name == lies


def test_an_image_of_another_folder_is_not_taken(content: dict[str, Any], tmp_path: Path) -> None:
    dataset = opened(tmp_path, change(content, "images.1.file_name", "elsewhere\\b.png"))
    with pytest.raises(FileNotFoundError, match=r"image 3: its file .*elsewhere\\b\.png"):
        dataset[1]
