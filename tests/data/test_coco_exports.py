"""COCO files as Roboflow, CVAT and Label Studio export them, in their layouts."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from mask2former.data.coco import CocoInstances
from mask2former.data.detect import find_formats, find_splits, open_dataset

SQUARE = [2.0, 1.0, 6.0, 1.0, 6.0, 4.0, 2.0, 4.0]
COLUMN = {"counts": [0, 10, 110], "size": [10, 12]}  # the first one


def write(root: Path, file: str, images: str, name: str, content: dict[str, Any]) -> None:
    """A file about one image of 12 x 10, which lies in `images` and is called `name` in it."""
    (root / file).parent.mkdir(parents=True, exist_ok=True)
    (root / images).mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (12, 10), (9, 8, 7)).save(
        root / images / name.replace("\\", "/").split("/")[-1]
    )
    image = {"id": 0, "license": 1, "file_name": name, "height": 10, "width": 12}
    (root / file).write_text(json.dumps({"images": [image], **content}))


def opened(folder: Path, split: str | None = None) -> CocoInstances:
    dataset = open_dataset(folder, split)
    assert isinstance(dataset, CocoInstances)
    assert dataset[0].image.shape == (10, 12, 3)
    return dataset


def roboflow(root: Path, **annotation: Any) -> None:
    content = {
        "info": {"year": "2024", "description": "Exported from roboflow.com"},
        "categories": [
            {"id": 0, "name": "Workers", "supercategory": "none"},
            {"id": 1, "name": "head", "supercategory": "Workers"},
            {"id": 2, "name": "helmet", "supercategory": "Workers"},
        ],
        "annotations": [
            {
                "id": 0,
                "image_id": 0,
                "category_id": 2,
                "bbox": [2, 1, 4, 3],
                "area": 12,
                "segmentation": [SQUARE],
                "iscrowd": 0,
                **annotation,
            }
        ],
    }
    for split in ("train", "valid", "test"):
        name = "0001_jpg.rf.a1b2.jpg"
        write(root, f"{split}/_annotations.coco.json", split, name, content)
    (root / "README.roboflow.txt").write_text("Workers - v1")


def test_roboflow_has_no_class_for_its_root(tmp_path: Path) -> None:
    roboflow(tmp_path)
    assert find_splits(tmp_path) == ("test", "train", "valid")
    for dataset in (opened(tmp_path, "val"), opened(tmp_path / "train")):
        assert [(c.id, c.name) for c in dataset.categories] == [(1, "head"), (2, "helmet")]
        assert dataset[0].labels.tolist() == [1]
        assert dataset.labels_of(0) == {1}
        assert dataset[0].masks.render((0, 0, 12, 10), (10, 12)).sum() == 12


def test_roboflow_in_a_zip_file(tmp_path: Path) -> None:
    roboflow(tmp_path / "export")
    packed = tmp_path / "Workers.v1i.coco-segmentation.zip"
    with zipfile.ZipFile(packed, "w") as file:
        for path in sorted((tmp_path / "export").rglob("*.*")):
            file.write(path, path.relative_to(tmp_path / "export"))
    assert [c.name for c in opened(packed, "train").categories] == ["head", "helmet"]


def test_a_root_that_is_annotated_is_a_class(tmp_path: Path) -> None:
    roboflow(tmp_path, category_id=0)
    assert [c.name for c in opened(tmp_path, "train").categories] == ["Workers", "head", "helmet"]


@pytest.mark.parametrize("annotated", [False, True])
def test_the_background_of_labelmes_converter_is_a_class_only_if_annotated(
    tmp_path: Path, annotated: bool
) -> None:
    names = ["_background_", "goat", "cow"]
    content = {
        "categories": [
            {"id": i, "name": name, "supercategory": None} for i, name in enumerate(names)
        ],
        "annotations": [
            {
                "id": 1,
                "image_id": 0,
                "category_id": 0 if annotated else 1,
                "segmentation": [SQUARE],
                "iscrowd": 0,
                "area": 12,
            }
        ],
    }
    write(tmp_path, "annotations.json", ".", "a.jpg", content)
    assert [c.name for c in opened(tmp_path).categories] == (names if annotated else names[1:])


def test_unused_classes_of_coco_stay(tmp_path: Path) -> None:
    content = {
        "categories": [
            {"id": 1, "name": "person", "supercategory": "person"},
            {"id": 2, "name": "bicycle", "supercategory": "vehicle"},
        ],
        "annotations": [],
    }
    write(tmp_path, "train/_annotations.coco.json", "train", "a.jpg", content)
    assert len(opened(tmp_path).categories) == 2


def cvat(**annotation: Any) -> dict[str, Any]:
    plain = {"image_id": 0, "category_id": 1, "attributes": {"occluded": False}}
    return {
        "licenses": [{"name": "", "id": 0, "url": ""}],
        "categories": [{"id": 1, "name": "cat", "supercategory": ""}],
        "annotations": [
            {"id": 1, **plain, "segmentation": [SQUARE], "iscrowd": 0, "area": 12},
            {"id": 2, **plain, "segmentation": COLUMN, "iscrowd": 1, "area": 10, **annotation},
        ],
    }


@pytest.mark.parametrize("images", ["images/default", "images"])
def test_cvat_task(tmp_path: Path, images: str) -> None:
    write(tmp_path, "annotations/instances_default.json", images, "frame_0.PNG", cvat())
    dataset = opened(tmp_path)
    assert find_splits(tmp_path) == ("default",)
    assert dataset[0].is_crowd.tolist() == [False, False]
    assert dataset[0].masks.render((0, 0, 12, 10), (10, 12)).sum((1, 2)).tolist() == [12, 10]


def test_cvat_project_names_its_splits(tmp_path: Path) -> None:
    for split in ("Train", "Validation"):
        file = f"annotations/instances_{split}.json"
        write(tmp_path, file, f"images/{split}", "a.png", cvat())
    assert opened(tmp_path, "train").path.name == "instances_Train.json"
    assert opened(tmp_path, "val").path.name == "instances_Validation.json"


def test_crowds_of_coco_stay(tmp_path: Path) -> None:
    content = cvat(attributes={"color": "red"})
    write(tmp_path, "annotations/instances_val2017.json", "val2017", "a.png", content)
    assert opened(tmp_path)[0].is_crowd.tolist() == [False, True]


@pytest.mark.parametrize(
    "name",
    ["images/90fb-a.jpg", "images\\90fb-a.jpg", "images\\1/90fb-a.jpg", "..\\media\\4\\90fb-a.jpg"],
)
def test_label_studio(tmp_path: Path, name: str) -> None:
    content = {
        "categories": [{"id": 0, "name": "Airplane"}, {"id": 1, "name": "Car"}],
        "annotations": [
            {
                "id": 0,
                "image_id": 0,
                "category_id": 1,
                "segmentation": [SQUARE],
                "bbox": [2, 1, 4, 3],
                "ignore": 0,
                "iscrowd": 0,
                "area": 12,
            }
        ],
        "info": {"contributor": "Label Studio"},
    }
    write(tmp_path, "result.json", "images", name, content)
    dataset = opened(tmp_path)
    assert [c.name for c in dataset.categories] == ["Airplane", "Car"]
    sample = dataset[0]
    assert sample.name == "images/90fb-a.jpg"
    assert sample.labels.tolist() == [1]


def test_result_json_without_images_is_something_else(tmp_path: Path) -> None:
    (tmp_path / "result.json").write_text("{}")
    assert find_formats(tmp_path) == []


# --- files of other names, which are told by what they hold ---------------------------------------


PLAIN: dict[str, Any] = {
    "categories": [{"id": 1, "name": "cat"}],
    "annotations": [{"id": 1, "image_id": 0, "category_id": 1, "segmentation": [SQUARE]}],
}


@pytest.mark.parametrize("images", ["images/train", "train", "images", "."])
def test_a_file_named_after_its_split(tmp_path: Path, images: str) -> None:
    write(tmp_path, "annotations/train.json", images, "a.png", PLAIN)
    write(tmp_path, "annotations/val.json", images.replace("train", "val"), "a.png", PLAIN)
    assert find_splits(tmp_path) == ("train", "val")
    assert opened(tmp_path, "train").path.name == "train.json"


@pytest.mark.parametrize("file", ["labels.json", "instances_default.json", "annotations.json"])
@pytest.mark.parametrize("images", [".", "data", "images", "images/sub"])
def test_a_file_beside_its_images(tmp_path: Path, file: str, images: str) -> None:
    name = "sub\\a.png" if images.endswith("sub") else "a.png"
    write(tmp_path, file, images, name, cvat())
    (tmp_path / "other.json").write_text('{"images": [], "annotations": {}}')
    dataset = opened(tmp_path)
    assert dataset[0].name == f"{images}/a.png".removeprefix("./")
    assert not dataset[0].is_crowd.any()


def test_the_first_image_that_is_there_tells_the_folder(tmp_path: Path) -> None:
    write(tmp_path, "labels.json", "data", "a.png", PLAIN)
    content = json.loads((tmp_path / "labels.json").read_text())
    content["images"].insert(0, {"id": 5, "file_name": "b.png", "height": 10, "width": 12})
    (tmp_path / "labels.json").write_text(json.dumps(content))
    with pytest.raises(FileNotFoundError, match=r"data.b\.png does not exist"):
        open_dataset(tmp_path)


@pytest.mark.parametrize("images", ["images/default", "images", "."])
def test_cvat_without_a_folder_of_images(tmp_path: Path, images: str) -> None:
    write(tmp_path, "annotations/instances_default.json", images, "frame_0.PNG", cvat())
    assert len(opened(tmp_path)) == 1


def test_images_that_are_nowhere(tmp_path: Path) -> None:
    write(tmp_path, "annotations/instances_default.json", "elsewhere", "a.png", cvat())
    with pytest.raises(FileNotFoundError, match="the folder of its images is missing"):
        open_dataset(tmp_path)


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("a.json", {"categories": [], "annotations": {}}),
        ("a.json", {"categories": []}),
        ("annotations/a.json", {**PLAIN, "annotations": [{"segments_info": []}]}),
        ("annotations/lvis_v1_train.json", PLAIN),
        ("ade20k_instance_train.json", PLAIN),
        (".a.json", PLAIN),
        ("elsewhere/a.json", PLAIN),
    ],
)
def test_files_of_something_else(tmp_path: Path, file: str, content: dict[str, Any]) -> None:
    write(tmp_path, file, ".", "a.png", content)
    assert "coco" not in {found.format.name for found in find_formats(tmp_path)}


def test_one_file_must_be_meant(tmp_path: Path) -> None:
    for name in ("a", "b"):
        write(tmp_path, f"{name}.json", ".", "a.png", PLAIN)
    assert find_formats(tmp_path) == []
    (tmp_path / "b.json").unlink()
    assert opened(tmp_path).path.name == "a.json"


def test_usual_names_end_the_search(tmp_path: Path) -> None:
    write(tmp_path, "annotations/instances_train.json", "images", "a.png", PLAIN)
    write(tmp_path, "annotations/extra.json", "images", "a.png", PLAIN)
    write(tmp_path, "labels.json", "images", "a.png", PLAIN)
    assert [found.splits for found in find_formats(tmp_path)] == [("train",)]


@pytest.mark.parametrize("file", ["annotations/instances_<s>.json", "<s>/_annotations.coco.json"])
def test_images_to_be_tested_on_are_no_split(tmp_path: Path, file: str) -> None:
    write(tmp_path, file.replace("<s>", "train"), "images", "a.png", PLAIN)
    lists = {"categories": PLAIN["categories"]}
    write(tmp_path, file.replace("<s>", "test2017"), "images", "a.png", lists)
    assert find_splits(tmp_path) == ("train",)
    write(tmp_path, file.replace("<s>", "Test"), "images", "a.png", PLAIN)
    (tmp_path / file.replace("<s>", "test_cut")).parent.mkdir(exist_ok=True)
    (tmp_path / file.replace("<s>", "test_cut")).write_text('{"images": [')
    write(tmp_path, file.replace("<s>", "val"), "images", "a.png", lists)
    assert find_splits(tmp_path) == ("Test", "test_cut", "train", "val")
    with pytest.raises(ValueError, match="'annotations' must be a list"):
        open_dataset(tmp_path, "val")
