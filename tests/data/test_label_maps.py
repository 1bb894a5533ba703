"""Label maps in all layouts, as folders and in zip files; on CamVid too."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from map_files import labels, write_image, write_map, zipped
from mask2former.data.detect import find_splits, open_dataset
from mask2former.data.label_maps import LabelMaps
from mask2former.data.map_classes import named_classes
from mask2former.data.pixel_maps import pair_files

PIXELS = np.zeros((6, 8), np.uint8)
PIXELS[:2] = 1
PIXELS[4:, :3] = 2
PIXELS[5, 7] = 255
LABELS = np.where(PIXELS == 255, -1, PIXELS.astype(int))
COLORS = np.array([(200, 0, 0), (0, 200, 0), (0, 0, 200)], np.uint8)
CLASSES = "road\ncar\nsky\n"

# Where an image and its mask lie; and by what split name they are found.
LAYOUTS = {
    "segnet": ("train/a.jpg", "trainannot/a.png", "train"),
    "_labels": ("val/a.jpg", "val_labels/a.png", "val"),
    "_masks": ("val/a.jpg", "val_masks/a_mask.png", "val"),
    "images annotations": ("images/val/a.jpg", "annotations/val/a.png", "val"),
    "images masks": ("images/val/a.png", "masks/val/a.png", "val"),
    "images labels": ("images/val/a.jpg", "labels/val/a_L.png", "val"),
    "split images": ("test/images/a.jpg", "test/masks/a.png", "test"),
    "split labels": ("test/images/a.tif", "test/labels/a.tif", "test"),
    "split annotations": ("test/images/a.jpg", "test/annotations/a.png", "test"),
    "split image": ("test/image/a.jpg", "test/mask/a.png", "test"),
    "mmsegmentation": ("img_dir/val/a.jpg", "ann_dir/val/a.png", "val"),
    "no split": ("images/a.jpg", "masks/a.png", None),
    "no split, image": ("image/a.jpg", "label/a.png", None),
    "no split, imgs": ("imgs/a.jpg", "masks/a_mask.png", None),
    "no split, labels": ("images/a.jpg", "labels/a_P.png", None),
    "no split, annotations": ("images/a.jpg", "annotations/a.png", None),
    "voc": ("JPEGImages/a.jpg", "SegmentationClass/a.png", "val"),
    "roboflow": ("valid/a.jpg", "valid/a_mask.png", "valid"),
}


def write(root: Path, layout: str) -> str | None:
    image, mask, split = LAYOUTS[layout]
    for other in ("a", "b"):
        write_image((root / image).with_stem(other), (6, 8))
        write_map((root / mask).with_stem(Path(mask).stem.replace("a", other, 1)), PIXELS)
    (root / "README.txt").write_text("a data set")
    if layout == "voc":
        (root / "ImageSets" / "Segmentation").mkdir(parents=True)
        (root / "ImageSets" / "Segmentation" / "val.txt").write_text("a\nb\n")
        write_image(root / "JPEGImages" / "not_annotated.jpg", (6, 8))
    if layout == "roboflow":
        (root / "valid" / "_classes.csv").write_text("Pixel Value, Class\n0,road\n1,car\n2,sky\n")
    else:
        (root / "classes.txt").write_text(CLASSES)
    return split


@pytest.mark.parametrize("as_zip", [False, True], ids=["folder", "zip"])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_layouts(tmp_path: Path, layout: str, as_zip: bool) -> None:
    root = tmp_path / "set"
    split = write(root, layout)
    place = zipped(root) if as_zip else root
    assert find_splits(place) == ((split,) if split else ())
    dataset = open_dataset(place, split)
    assert isinstance(dataset, LabelMaps)
    assert (len(dataset), dataset.tasks) == (2, ("semantic",))
    assert [c.name for c in dataset.categories] == ["road", "car", "sky"]
    assert not any(c.is_thing for c in dataset.categories)
    sample = dataset[0]
    np.testing.assert_array_equal(labels(sample), LABELS)
    assert (sample.labels.tolist(), sample.is_crowd.any()) == ([0, 1, 2], False)
    assert (sample.image_id, sample.name, sample.image.shape) == (
        "a",
        f"a{Path(sample.name).suffix}",
        (6, 8, 3),
    )
    copy = pickle.loads(pickle.dumps(dataset))  # as it goes to loader processes
    np.testing.assert_array_equal(labels(copy[0]), LABELS)


@pytest.mark.parametrize("kind", ["grey", "palette", "own palette", "rgb", "16 bits"])
def test_kinds_of_masks(tmp_path: Path, kind: str) -> None:
    write_image(tmp_path / "images" / "a.jpg", (6, 8))
    mask = tmp_path / "masks" / "a.png"
    (tmp_path / "class_dict.csv").write_text(
        "name,r,g,b\nroad,200,0,0\ncar,0,200,0\nsky,0,0,200\nvoid,9,9,9\n"
    )
    padded = np.zeros((256, 3), np.uint8)
    padded[:3], padded[3], padded[255] = COLORS, 9, 9
    shuffled = np.array([2, 0, 3, 1])  # index i of the tool is class shuffled[i]
    if kind == "palette":
        write_map(mask, PIXELS, padded.ravel().tolist())
    elif kind == "own palette":
        of_class = np.argsort(shuffled)
        indices = of_class[np.where(PIXELS == 255, 3, PIXELS)].astype(np.uint8)
        write_map(mask, indices, padded[shuffled].ravel().tolist())
    elif kind == "rgb":
        write_map(mask, padded[PIXELS])
    else:
        values = PIXELS if kind == "grey" else np.where(PIXELS == 255, 65535, PIXELS)
        write_map(mask, values.astype(np.uint8 if kind == "grey" else np.uint16))
    dataset = open_dataset(tmp_path)
    assert [c.color for c in dataset.categories] == [tuple(c) for c in COLORS.tolist()]
    np.testing.assert_array_equal(labels(dataset[0]), LABELS)


def test_cvat_exports_colors(tmp_path: Path) -> None:
    """Segmentation mask 1.1: colours, and the classes in labelmap.txt, background among them."""
    write_image(tmp_path / "JPEGImages" / "a.jpg", (6, 8))
    write_map(
        tmp_path / "SegmentationClass" / "a.png",
        np.append(COLORS[:2] * 0, COLORS, 0)[[0, 2, 4] + [0] * 253][PIXELS],
    )
    (tmp_path / "ImageSets" / "Segmentation").mkdir(parents=True)
    (tmp_path / "ImageSets" / "Segmentation" / "default.txt").write_text("a\n")
    (tmp_path / "labelmap.txt").write_text(
        "# label:color_rgb:parts:actions\nbackground:0,0,0::\ncar:200,0,0::\nsky:0,0,200::\n"
    )
    dataset = open_dataset(tmp_path)
    assert [c.name for c in dataset.categories] == ["background", "car", "sky"]
    np.testing.assert_array_equal(labels(dataset[0]), np.where(PIXELS == 255, 0, PIXELS))


def test_classes_from_the_masks_of_all_splits(tmp_path: Path) -> None:
    for split, value in (("train", 5), ("val", 2)):
        write_image(tmp_path / split / "images" / "a.jpg", (6, 8))
        write_map(
            tmp_path / split / "masks" / "a.png",
            np.where(PIXELS == 1, value, PIXELS).astype(np.uint8),
        )
    train, val = open_dataset(tmp_path, "train"), open_dataset(tmp_path, "val")
    assert train.categories == val.categories
    assert [c.name for c in train.categories] == ["class 0", "class 2", "class 5"]
    assert train[0].labels.tolist() == [0, 1, 2]
    assert val[0].labels.tolist() == [0, 1]
    np.testing.assert_array_equal(labels(val[0]) == -1, PIXELS == 255)


@pytest.mark.parametrize("named", [True, False])
def test_black_and_white(tmp_path: Path, named: bool) -> None:
    """With two classes 255 is the second, where no mask has a 1."""
    for stem, white in (("a", 255), ("b", 0)):
        write_image(tmp_path / "images" / f"{stem}.jpg", (6, 8))
        write_map(
            tmp_path / "masks" / f"{stem}.png", (PIXELS == 1).astype(np.uint8) * np.uint8(white)
        )
    if named:
        (tmp_path / "classes.txt").write_text("background\nroad\n")
    dataset = open_dataset(tmp_path)
    assert len(dataset.categories) == 2
    np.testing.assert_array_equal(labels(dataset[0]), PIXELS == 1)
    assert dataset[1].labels.tolist() == [0]
    write_map(tmp_path / "masks" / "b.png", (PIXELS == 1).astype(np.uint8))
    if named:  # now 255 is what it always is
        np.testing.assert_array_equal(labels(open_dataset(tmp_path)[0]) == -1, PIXELS == 1)


def test_what_no_class_has(tmp_path: Path) -> None:
    root = tmp_path / "set"
    write(root, "split images")
    mask = root / "test" / "masks" / "a.png"
    dataset = open_dataset(root)
    write_map(mask, np.where(PIXELS == 1, 3, PIXELS).astype(np.uint8))
    np.testing.assert_array_equal(labels(dataset[0]) == -1, np.isin(PIXELS, (1, 255)))
    write_map(mask, np.where(PIXELS == 1, 37, PIXELS).astype(np.uint8))
    with pytest.raises(
        ValueError,
        match=r"masks/a\.png: value 37 is not among the 3 classes of .*classes\.txt; add it there",
    ):
        dataset[0]
    (root / "classes.json").write_text(
        '{"classes": [{"id": 0, "name": "road"}, {"id": 2, "name": "sky"}], "ignore": [37, 255]}'
    )
    sample = open_dataset(root)[0]
    np.testing.assert_array_equal(labels(sample) == -1, np.isin(PIXELS, (1, 255)))
    assert sample.labels.tolist() == [0, 1]


def test_mistakes_are_named(tmp_path: Path) -> None:
    root = tmp_path / "set"
    write(root, "segnet")
    dataset = open_dataset(root, "train")
    write_image(root / "train" / "a.jpg", (6, 9))
    with pytest.raises(ValueError, match=r"trainannot/a\.png: height 6, width 8, but .*width 9"):
        dataset[0]
    (root / "trainannot" / "a.png").write_bytes(b"")
    with pytest.raises(ValueError, match=r"a\.png: this mask cannot be read"):
        dataset[0]
    write_image(root / "train" / "c.jpg", (6, 8))
    with pytest.raises(FileNotFoundError, match=r"trainannot: 1 of the 3 images .*\(c\.jpg\)"):
        open_dataset(root, "train")
    with pytest.raises(ValueError, match="cannot serve the task 'panoptic'"):
        open_dataset(root, "train", task="panoptic")


def test_a_turned_photograph_is_read_as_it_was_annotated(tmp_path: Path) -> None:
    write_map(tmp_path / "masks" / "a.png", PIXELS)
    (tmp_path / "images").mkdir()
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by a quarter
    Image.new("RGB", (8, 6)).save(tmp_path / "images" / "a.jpg", exif=exif)
    assert open_dataset(tmp_path)[0].image.shape == (6, 8, 3)


def test_a_split_opened_by_itself(tmp_path: Path) -> None:
    for layout in ("split images", "roboflow"):
        split = write(tmp_path / layout, layout)
        assert isinstance(open_dataset(tmp_path / layout), LabelMaps)  # it has only one
        dataset = open_dataset(tmp_path / layout / str(split))
        np.testing.assert_array_equal(labels(dataset[1]) == -1, PIXELS == 255)


def test_without_a_layout(tmp_path: Path) -> None:
    write_image(tmp_path / "photos" / "a.jpg", (6, 8))
    write_map(tmp_path / "truth" / "a.png", PIXELS)
    pairs = pair_files(tmp_path / "photos", tmp_path / "truth")
    dataset = LabelMaps(pairs, named_classes(["road", "car", "sky"]))
    np.testing.assert_array_equal(labels(dataset[0]), LABELS)


def test_folders_of_other_formats_are_none(tmp_path: Path) -> None:
    write_image(tmp_path / "images" / "train" / "a.jpg", (6, 8))
    (tmp_path / "labels" / "train").mkdir(parents=True)
    (tmp_path / "labels" / "train" / "a.txt").write_text("0 0.1 0.1 0.2 0.2 0.1 0.2\n")  # YOLO
    write_image(tmp_path / "train" / "b.jpg", (6, 8))
    write_map(tmp_path / "train_masks" / "another.png", PIXELS)
    with pytest.raises(ValueError, match="no data set of a known format"):
        open_dataset(tmp_path)


@pytest.mark.parametrize(
    ("mask", "reason"),
    [
        ("masks/a.jpg", r"masks/a\.jpg is no file that keeps numbers of classes: .* as PNG"),
        ("masks/mask_a.png", r"no mask in .*\(mask_a\.png, a\.jpg\): name each mask as its image"),
    ],
)
@pytest.mark.parametrize("split", ["", "train/"])
@pytest.mark.parametrize("as_zip", [False, True])
def test_what_is_almost_a_layout(
    tmp_path: Path, mask: str, reason: str, split: str, as_zip: bool
) -> None:
    folder = tmp_path / "mine"
    write_image(folder / split / "images" / "a.jpg", (8, 8))
    write_map(folder / split / mask, np.ones((8, 8), np.uint8))
    with pytest.raises(ValueError, match=f"almost label maps, but .*{reason}"):
        open_dataset(zipped(folder) if as_zip else folder)


@pytest.mark.data
def test_maps_of_coco_hold_ids(shared: Path) -> None:
    """A class list by name: the values are the ids of its classes."""
    from mask2former.data.class_lists import class_list

    root = shared / "data" / "coco"
    categories = class_list("coco")
    classes = named_classes(categories, values=[c.id for c in categories], ignore=[0])
    dataset = LabelMaps(
        pair_files(root / "images" / "val2017", root / "semantic" / "val2017"), classes
    )
    assert len(dataset) == 100
    panoptic = open_dataset(root, "val2017", task="semantic")
    for index in range(3):
        np.testing.assert_array_equal(labels(dataset[index]), labels(panoptic[index]))
