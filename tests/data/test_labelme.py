"""labelme's files: every kind of shape, groups, and its own COCO export as the judge."""

from __future__ import annotations

import json
import logging
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import ExifTags, Image

from labelme_files import HEIGHT, SQUARE, WIDTH, png, shape, write
from map_files import zipped
from mask2former.data.coco import CocoInstances
from mask2former.data.detect import open_dataset
from mask2former.data.labelme import LabelMe
from mask2former.structures import Sample


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


def test_an_embedded_image_stands_for_one_that_is_nowhere(tmp_path: Path) -> None:
    embedded = png(np.full((HEIGHT, WIDTH, 3), 50, np.uint8))
    path = write(tmp_path, shape("cow", SQUARE), imageData=embedded, imagePath="..\\gone.png")
    (tmp_path / "a.png").rename(tmp_path / "other.png")
    assert LabelMe(tmp_path)[0].image.max() == 50
    path.write_text(path.read_text().replace(f'"imageHeight": {HEIGHT}', '"imageHeight": 9'))
    with pytest.raises(ValueError, match=r"are \[9, 40\], but imageData holds \[30, 40\]"):
        LabelMe(tmp_path)[0]


@pytest.mark.parametrize(
    ("said", "image", "name"),
    [
        ("sub\\x.png", "sub/x.png", "sub/x.png"),  # where it says, as Windows writes it
        ("C:\\Users\\ann\\Pictures\\x.png", "x.png", "x.png"),
        ("..\\..\\raw\\x.png", "x.png", "x.png"),
        ("/home/ann/x.png", "x.png", "x.png"),
        ("a.jpg", "a.PNG", "a.PNG"),  # converted after it was annotated
        ("x.png", "images/x.png", "x.png"),
        ("x.jpg", "images/a.png", "a.png"),
        ("x.png", "../images/x.png", "x.png"),
        ("x.jpg", "../images/a.png", "a.png"),
        ("", "a.png", "a.png"),
        (None, "../images/a.png", "a.png"),
    ],
)
def test_images_that_were_moved_or_converted(
    tmp_path: Path, said: str | None, image: str, name: str
) -> None:
    folder = tmp_path / "annotations"
    path = write(folder, shape("cow", SQUARE), imagePath=said)
    place = folder / image
    place.parent.mkdir(exist_ok=True)
    (folder / "a.png").rename(place)
    write(folder, shape("cow", SQUARE), name="b")  # another image, not to be taken for it
    for dataset in (open_dataset(tmp_path), open_dataset(zipped(tmp_path))):
        assert isinstance(dataset, LabelMe)
        assert dataset.name_of(0) == dataset[0].name == name
        assert dataset[0].image[0, 0].tolist() == [9, 8, 7]
    place.unlink()
    with pytest.raises((FileNotFoundError, ValueError), match=r"a\.json: ") as raised:
        LabelMe(folder)[0]
    assert ("does not exist" if said else "imagePath must name") in str(raised.value)
    assert path.exists()


def test_an_image_where_imagepath_says_goes_before_all_others(tmp_path: Path) -> None:
    write(tmp_path, shape("cow", SQUARE), imagePath="../raw/x.png")
    (tmp_path.parent / "raw").mkdir()
    for folder in (tmp_path, tmp_path.parent / "raw"):
        color = (1, 1, 1) if folder == tmp_path else (2, 2, 2)
        Image.new("RGB", (WIDTH, HEIGHT), color).save(folder / "x.png")
    assert LabelMe(tmp_path)[0].image.max() == 2
    (tmp_path.parent / "raw" / "x.png").unlink()
    assert LabelMe(tmp_path)[0].image.max() == 1
    (tmp_path / "x.png").unlink()
    assert LabelMe(tmp_path)[0].image.max() == 9


@pytest.mark.parametrize("missing", [(None, None), (HEIGHT, None), ("drop", "drop")])
def test_the_image_says_its_size_where_the_json_does_not(tmp_path: Path, missing: Any) -> None:
    sides = dict(zip(("imageHeight", "imageWidth"), missing, strict=True))
    path = write(tmp_path, shape("cow", SQUARE), **sides)
    if "drop" in missing:
        content = json.loads(path.read_text())
        path.write_text(json.dumps({k: v for k, v in content.items() if k not in sides}))
    sample = LabelMe(tmp_path)[0]
    assert sample.masks.size == (HEIGHT, WIDTH)
    assert masks_of(sample).sum() == 100


def test_the_size_is_that_of_the_picture_as_it_is_seen(tmp_path: Path) -> None:
    write(tmp_path, shape("cow", SQUARE), imagePath="a.jpg", imageHeight=None, imageWidth=None)
    (tmp_path / "a.png").unlink()
    turned = Image.Exif()
    turned[ExifTags.Base.Orientation] = 6
    Image.new("RGB", (HEIGHT, WIDTH)).save(tmp_path / "a.jpg", exif=turned)
    sample = LabelMe(tmp_path)[0]
    assert sample.masks.size == sample.image.shape[:2] == (HEIGHT, WIDTH)


def test_an_embedded_image_says_its_size_and_the_file_its_name(tmp_path: Path) -> None:
    embedded = png(np.full((HEIGHT, WIDTH, 3), 50, np.uint8))
    nothing = dict.fromkeys(("imagePath", "imageHeight", "imageWidth"))
    write(tmp_path, shape("cow", SQUARE), imageData=embedded, **nothing)
    (tmp_path / "a.png").unlink()
    sample = LabelMe(tmp_path)[0]
    assert sample.name == "a"
    assert sample.masks.size == sample.image.shape[:2] == (HEIGHT, WIDTH)


def test_an_unknown_size_is_an_error(tmp_path: Path) -> None:
    write(tmp_path, shape("cow", SQUARE), imageHeight=None, imageWidth=None)
    (tmp_path / "a.png").write_bytes(b"junk")
    with pytest.raises(ValueError, match=r"imageWidth are missing, and .*a\.png cannot be read"):
        LabelMe(tmp_path)
    (tmp_path / "a.png").unlink()
    with pytest.raises(ValueError, match=r"a\.json: its file .*a\.png does not exist, and imageH"):
        LabelMe(tmp_path)


@pytest.mark.parametrize("kind", ["rectangle", "rotation", "quadrilateral", "oriented_rectangle"])
def test_shapes_that_are_written_with_four_corners(tmp_path: Path, kind: str) -> None:
    corners = [[10, 2], [18, 10], [10, 18], [2, 10]]  # of a square that stands on its corner
    write(tmp_path, shape("cow", corners, kind, direction=0.8), shape("cow", corners))
    turned, polygon = masks_of(LabelMe(tmp_path)[0])
    np.testing.assert_array_equal(turned, polygon)
    assert 100 < turned.sum() < 150
    write(tmp_path, shape("cow", corners[:3], kind))
    with pytest.raises(ValueError, match=r"has [24] points, not 3"):
        LabelMe(tmp_path)


def test_what_has_no_area_is_left_out_and_counted(tmp_path: Path, caplog: Any) -> None:
    write(
        tmp_path / "train",
        shape("cow", SQUARE),
        shape("cow", [[1, 1]], "point"),
        shape("cow", [[1, 1], [9, 9]]),
        shape("cow", []),
    )
    write(tmp_path / "val", shape("goat", [[1, 1], [9, 9]]), shape("cow", SQUARE))
    with caplog.at_level(logging.WARNING, "mask2former"):
        train, val = open_dataset(tmp_path, "train"), open_dataset(tmp_path, "val")
    assert [len(dataset[0].labels) for dataset in (train, val)] == [1, 1]
    assert [c.name for c in train.categories] == [c.name for c in val.categories] == ["cow"]
    assert "train: 1 shapes of type point left out" in caplog.text
    assert "train: 2 shapes of type polygon with fewer than 3 corners left out" in caplog.text
    assert len(caplog.records) == 3


def test_the_list_of_classes_is_text_of_utf8(tmp_path: Path) -> None:
    write(tmp_path, shape("cow", SQUARE), shape("K\u00e4se", SQUARE))
    labels = tmp_path / "labels.txt"
    labels.write_bytes("\ufeffK\u00e4se\r\ncow\r\n".encode())
    assert [c.name for c in LabelMe(tmp_path).categories] == ["K\u00e4se", "cow"]
    labels.write_bytes("cow\nK\u00e4se\n".encode("cp1252"))
    with pytest.raises(ValueError, match=r"labels\.txt: is no text of UTF-8 .*; save it as that"):
        LabelMe(tmp_path)


def test_a_json_file_is_text_of_utf8(tmp_path: Path) -> None:
    path = write(tmp_path, shape("cow", SQUARE))
    text = path.read_text().replace("cow", "K\u00e4se")
    path.write_text(text, encoding="utf-8-sig")
    assert LabelMe(tmp_path).categories[0].name == "K\u00e4se"
    path.write_text(text, encoding="cp1252")
    with pytest.raises(ValueError, match=r"a\.json: is not valid JSON"):
        LabelMe(tmp_path)


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (
            shape("cow", [[1, 1]], "rectangle"),
            r"a\.json: shape 0 \(cow\): a rectangle has 2 points",
        ),
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
    write(tmp_path, shape("cow", SQUARE), imageData="abc")
    (tmp_path / "a.png").unlink()
    with pytest.raises(ValueError, match=r"a\.json: imageData cannot be read"):
        LabelMe(tmp_path)[0]
