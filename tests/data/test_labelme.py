"""labelme's files: every kind of shape, groups, and its own COCO export as the judge."""

from __future__ import annotations

import base64
import io
import json
import logging
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from mask2former.data.coco import CocoInstances
from mask2former.data.detect import open_dataset
from mask2former.data.labelme import LabelMe
from mask2former.structures import Sample

WIDTH, HEIGHT = 40, 30
SQUARE = [[2, 2], [12, 2], [12, 12], [2, 12]]


def shape(label: str, points: Any, kind: str = "polygon", **more: Any) -> dict[str, Any]:
    return {"label": label, "points": points, "shape_type": kind, "group_id": None, **more}


def png(array: np.ndarray) -> str:
    file = io.BytesIO()
    Image.fromarray(array).save(file, "PNG")
    return base64.b64encode(file.getvalue()).decode()


def write(folder: Path, *shapes: dict[str, Any], name: str = "a", **more: Any) -> Path:
    """One annotated image; `more` are fields of its JSON."""
    folder.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (WIDTH, HEIGHT), (9, 8, 7)).save(folder / f"{name}.png")
    content = {
        "version": "5.4.1",
        "flags": {},
        "shapes": list(shapes),
        "imagePath": f"{name}.png",
        "imageData": None,
        "imageHeight": HEIGHT,
        "imageWidth": WIDTH,
    }
    path = folder / f"{name}.json"
    path.write_text(json.dumps(content | more))
    return path


def masks_of(sample: Sample) -> np.ndarray:
    return sample.masks.render((0, 0, WIDTH, HEIGHT), (HEIGHT, WIDTH))


def test_every_kind_of_shape(tmp_path: Path) -> None:
    patch = np.zeros((6, 8), np.uint8)
    patch[2:, 1:] = 255
    write(
        tmp_path,
        shape("square", SQUARE),
        shape("box", [[25, 20], [15, 5]], "rectangle"),  # corners in any order
        shape("disc", [[30, 15], [35, 15]], "circle"),
        shape("stamp", [[3, 20], [10, 25]], "mask", mask=png(patch)),
    )
    dataset = open_dataset(tmp_path)
    assert isinstance(dataset, LabelMe)
    assert [c.name for c in dataset.categories] == ["box", "disc", "square", "stamp"]
    sample = dataset[0]
    masks = dict(
        zip([dataset.categories[i].name for i in sample.labels], masks_of(sample), strict=True)
    )
    wanted = np.zeros((HEIGHT, WIDTH), bool)
    wanted[2:12, 2:12] = True
    np.testing.assert_array_equal(masks["square"], wanted)
    wanted[:] = False
    wanted[5:20, 15:25] = True
    np.testing.assert_array_equal(masks["box"], wanted)
    wanted[:] = False
    wanted[20:26, 3:11] = patch > 0
    np.testing.assert_array_equal(masks["stamp"], wanted)
    assert masks["disc"].sum() == pytest.approx(np.pi * 25, rel=0.05)
    assert sample.image.shape == (HEIGHT, WIDTH, 3)


def test_groups_are_one_object_and_ignored_shapes_are_void(tmp_path: Path) -> None:
    other = [[20, 2], [30, 2], [30, 12], [20, 12]]
    stamp = shape("cow", [[35, 20], [36, 21]], "mask", mask=png(np.full((2, 2), 255, np.uint8)))
    write(
        tmp_path,
        shape("cow", SQUARE, group_id=7),
        shape("cow", other, group_id=7),
        shape("dog", SQUARE, group_id=7),  # another label: another object
        stamp | {"group_id": 7},
        shape("__ignore__", [[0, 20], [9, 20], [9, 29], [0, 29]]),
    )
    sample = LabelMe(tmp_path)[0]
    assert sample.labels.tolist() == [0, 1]
    assert masks_of(sample).sum((1, 2)).tolist() == [204, 100]
    assert sample.void is not None
    void = sample.void.render((0, 0, WIDTH, HEIGHT), (HEIGHT, WIDTH))
    assert void[0, 20:29, :9].all()
    assert void.sum() == 81


def test_labels_file_says_the_classes_and_their_order(tmp_path: Path) -> None:
    write(tmp_path / "train", shape("cow", SQUARE))
    (tmp_path / "labels.txt").write_text("__ignore__\n_background_\ngoat\ncow\n")
    dataset = open_dataset(tmp_path, "train")
    assert [c.name for c in dataset.categories] == ["goat", "cow"]
    assert dataset[0].labels.tolist() == [1]
    assert dataset.labels_of(0) == {1}
    (tmp_path / "labels.txt").write_text("goat\n")
    with pytest.raises(ValueError, match=r"label 'cow' is not among the 1 of .*labels\.txt"):
        open_dataset(tmp_path, "train")


def test_splits_share_their_classes(tmp_path: Path) -> None:
    write(tmp_path / "train", shape("goat", SQUARE), shape("cow", SQUARE))
    write(tmp_path / "val", shape("goat", SQUARE), shape("tail", [[1, 1], [9, 9]], "line"))
    train, val = open_dataset(tmp_path, "train"), open_dataset(tmp_path, "val")
    assert [c.name for c in val.categories] == ["cow", "goat"]
    assert train.categories == val.categories
    assert val[0].labels.tolist() == [1]


def test_labels_without_the_image(tmp_path: Path) -> None:
    write(tmp_path, shape("cow", SQUARE), shape("__ignore__", SQUARE), shape("goat", SQUARE))
    write(tmp_path, shape("__ignore__", SQUARE), name="b")
    dataset = LabelMe(tmp_path)
    for path in tmp_path.glob("*.png"):
        path.unlink()
    assert [dataset.labels_of(i) for i in range(2)] == [{0, 1}, set()]


def test_embedded_image_and_path_of_another_system(tmp_path: Path) -> None:
    embedded = png(np.full((HEIGHT, WIDTH, 3), 50, np.uint8))
    write(tmp_path, shape("cow", SQUARE), imageData=embedded, imagePath="gone.png")
    assert LabelMe(tmp_path)[0].image.max() == 50
    (tmp_path / "sub").mkdir()
    (tmp_path / "a.png").rename(tmp_path / "sub" / "a.png")
    write(tmp_path, shape("cow", SQUARE), imagePath="sub\\a.png")
    assert LabelMe(tmp_path)[0].image[0, 0].tolist() == [9, 8, 7]


def test_points_are_left_out_and_counted(tmp_path: Path, caplog: Any) -> None:
    write(tmp_path, shape("cow", SQUARE), shape("cow", [[1, 1]], "point"))
    with caplog.at_level(logging.WARNING, "mask2former"):
        assert len(LabelMe(tmp_path)[0].labels) == 1
    assert "1 shapes of type point left out" in caplog.text


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (shape("cow", [[1, 1], [2, 2]]), r"a\.json: shape 0 \(cow\): polygon 0 holds 4 numbers"),
        (shape("cow", [[1, 1]], "rectangle"), "a rectangle has 2 points, not 1"),
        (shape("cow", SQUARE, "spline"), "shape_type 'spline' is not known"),
        (shape("cow", [[1, "a"]]), "'points' must be a list of"),
        (shape("cow", [[0, 0], [1, 1]], "mask", mask="AAAA"), "'mask' is no PNG in base64"),
        (
            shape("cow", [[39, 0], [50, 1]], "mask", mask=png(np.ones((2, 12), np.uint8))),
            "leaves the image",
        ),
    ],
)
def test_bad_shapes_are_named(tmp_path: Path, bad: dict[str, Any], message: str) -> None:
    write(tmp_path, bad)
    with pytest.raises(ValueError, match=message):
        LabelMe(tmp_path)


def test_bad_files_are_named(tmp_path: Path) -> None:
    path = write(tmp_path, shape("cow", SQUARE), imageHeight="30")
    with pytest.raises(ValueError, match="imageHeight and imageWidth must be"):
        LabelMe(tmp_path)
    write(tmp_path, shape("cow", SQUARE), imageHeight=HEIGHT + 1)
    with pytest.raises(ValueError, match=r"a\.json: height 31.*restore the image"):
        LabelMe(tmp_path)[0]
    path.write_text('{"shapes": [')
    with pytest.raises(ValueError, match="is not valid JSON"):
        open_dataset(tmp_path)
    path.unlink()
    with pytest.raises(ValueError, match="no JSON file of labelme"):
        LabelMe(tmp_path)


def test_in_a_zip_file(tmp_path: Path) -> None:
    write(tmp_path / "export", shape("cow", SQUARE))
    with zipfile.ZipFile(tmp_path / "export.zip", "w") as file:
        for path in (tmp_path / "export").iterdir():
            file.write(path, f"export/{path.name}")
    sample = open_dataset(tmp_path / "export.zip")[0]
    assert masks_of(sample).sum() == 100
    assert sample.image[0, 0].tolist() == [9, 8, 7]


@pytest.mark.data
def test_labelmes_own_export_has_the_same_masks(shared: Path) -> None:
    folder = shared / "data" / "labelme_examples" / "instance_segmentation"
    ours = open_dataset(folder / "data_annotated")
    theirs = CocoInstances(
        folder / "data_dataset_coco" / "annotations.json", folder / "data_dataset_coco"
    )
    exported = {theirs[i].name.rsplit("/")[-1]: theirs[i] for i in range(len(theirs))}
    compared = 0
    for i in range(len(ours)):
        mine = ours[i]
        his = exported[mine.name]
        (height, width), box = mine.masks.size, (0.0, 0.0, *map(float, mine.masks.size[::-1]))
        a = mine.masks.render(box, (height, width))  # type: ignore[arg-type]
        b = his.masks.render(box, (height, width))  # type: ignore[arg-type]
        assert len(a) == len(b)
        for mask, label in zip(a, mine.labels, strict=True):
            name = ours.categories[label].name
            same = [
                m for m, x in zip(b, his.labels, strict=True) if theirs.categories[x].name == name
            ]
            best = max((mask & m).sum() / (mask | m).sum() for m in same)
            assert best > 0.95, (mine.name, name, best)
            compared += 1
    assert compared == 12


def test_the_splits_are_not_hidden_by_a_file_at_the_top(tmp_path: Path) -> None:
    write(tmp_path, shape("cow", SQUARE))
    for split in ("train", "val"):
        write(tmp_path / split, shape("cow", SQUARE))
        (tmp_path / split / "a-list-of-classes.json").write_text('["cow"]')
    assert len(open_dataset(tmp_path, "train")) == 1
    assert open_dataset(tmp_path, "val").categories[0].name == "cow"


def test_bad_records_are_problems_of_the_file(tmp_path: Path) -> None:
    write(tmp_path, shape("cow", SQUARE), {"points": SQUARE}, "nothing")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"(?s)shape 1: has no 'label'.*shape 2: has no 'label'"):
        LabelMe(tmp_path)
    write(tmp_path, shape("cow", SQUARE), imageData="abc", imagePath="gone.png")
    with pytest.raises(ValueError, match=r"a\.json: imageData cannot be read"):
        LabelMe(tmp_path)[0]
