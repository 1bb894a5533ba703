"""YOLO's folders: polygons to pixels, the places exports use, what is wrong with a line."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mask2former.data.detect import find_splits, open_dataset
from mask2former.data.yolo import Yolo

WIDTH, HEIGHT = 40, 20
LINE = "1 0.25 0.1 0.75 0.1 0.75 0.6 0.25 0.6"  # x 10 .. 30, y 2 .. 12


def write(folder: Path, split: str, lines: str | None, name: str = "a") -> None:
    """images/<split>/<name>.jpg, with a text file unless there are no `lines`."""
    for part in ("images", "labels"):
        (folder / part / split).mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (WIDTH, HEIGHT)).save(folder / "images" / split / f"{name}.jpg")
    if lines is not None:
        (folder / "labels" / split / f"{name}.txt").write_text(lines)


def write_yaml(folder: Path, train: str = "images/train", names: str = "[cow, 'dog']") -> Path:
    path = folder / "data.yaml"
    path.write_text(f"train: {train}\nval: images/val\nnames: {names}\n")
    return path


def test_polygons_become_masks(tmp_path: Path) -> None:
    write(tmp_path, "train", f"{LINE}\n\n0 0 0 0.1 0 0.1 0.1 0 0.1\n")
    write(tmp_path, "train", None, "b")
    write(tmp_path, "val", LINE)
    write_yaml(tmp_path)
    assert find_splits(tmp_path) == ("train", "val")
    dataset = open_dataset(tmp_path, "train")
    assert isinstance(dataset, Yolo)
    assert [c.name for c in dataset.categories] == ["cow", "dog"]
    sample = dataset[0]
    assert sample.labels.tolist() == [1, 0]
    masks = sample.masks.render((0, 0, WIDTH, HEIGHT), (HEIGHT, WIDTH))
    wanted = np.zeros((HEIGHT, WIDTH), bool)
    wanted[2:12, 10:30] = True
    np.testing.assert_array_equal(masks[0], wanted)
    assert masks[1].sum() == 8
    assert len(dataset[1].labels) == 0  # an image without a file of labels has no object


def test_labels_without_the_image(tmp_path: Path) -> None:
    write(tmp_path, "train", f"{LINE}\n{LINE}\n0 0 0 0.1 0 0.1 0.1 0 0.1\n")
    write(tmp_path, "train", None, "b")
    dataset = Yolo(write_yaml(tmp_path), "train")
    for path in (tmp_path / "images" / "train").iterdir():
        path.write_bytes(b"")
    assert [dataset.labels_of(i) for i in range(2)] == [{0, 1}, set()]


def test_images_of_one_name_in_two_folders_have_ids_of_their_own(tmp_path: Path) -> None:
    for split in ("train", "more"):
        write(tmp_path, split, LINE)
    write(tmp_path, "more", LINE, "b")
    dataset = Yolo(write_yaml(tmp_path, "[images/train, images/more]"), "train")
    ids = [dataset[i].image_id for i in range(3)]
    assert len(set(ids)) == 3
    assert "b" in ids


@pytest.mark.parametrize(
    "train", ["../train/images", "./images/train", "[images/train]", "list.txt", "nowhere/images"]
)
def test_places_that_exports_use(tmp_path: Path, train: str) -> None:
    write(tmp_path, "train", LINE)
    if train.startswith("../"):  # Roboflow's
        (tmp_path / "train").mkdir()
        for part in ("images", "labels"):
            (tmp_path / part / "train").rename(tmp_path / "train" / part)
    if train == "list.txt":
        (tmp_path / train).write_text("./images/train/a.jpg\n")
    dataset = Yolo(write_yaml(tmp_path, train, "{0: cow, 1: dog}"), "train")
    assert len(dataset) == 1
    assert dataset[0].labels.tolist() == [1]
    assert dataset.labels_of(0) == {1}


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("2 0 0 1 0 1 1", r"a\.txt: line 1: class 2 is not among the 2 'names' of .*data\.yaml"),
        ("0.5 0 0 1 0 1 1", r"class 0\.5 is not among the 2 'names'"),
        ("0 0 0 1 0 1", "5 numbers are no polygon"),
        ("0 0 0 30 0 30 20", r"corners must lie within 0\.\.1"),
        ("0 0 0 1 0 nan 1", r"corners must lie within 0\.\.1"),
        ("cow 0 0 1 0 1 1", "is no class and numbers"),
    ],
)
def test_bad_lines_are_named(tmp_path: Path, line: str, message: str) -> None:
    write(tmp_path, "train", line)
    dataset = Yolo(write_yaml(tmp_path), "train")
    with pytest.raises(ValueError, match=message):
        dataset[0]


def test_bad_yaml_is_named(tmp_path: Path) -> None:
    write(tmp_path, "train", LINE)
    with pytest.raises(ValueError, match="'names' must list the classes 0, 1, 2"):
        Yolo(write_yaml(tmp_path, names="{1: cow}"), "train")
    with pytest.raises(FileNotFoundError, match="'val' is 'images/val', which does not exist"):
        Yolo(write_yaml(tmp_path), "val")
    (tmp_path / "images" / "val").mkdir()
    with pytest.raises(ValueError, match="'val' names no image"):
        Yolo(write_yaml(tmp_path), "val")
    (tmp_path / "data.yaml").write_text("train: images\n")
    with pytest.raises(ValueError, match="has no 'names'"):
        Yolo(tmp_path / "data.yaml", "train")


def test_images_in_subfolders_and_hidden_files(tmp_path: Path) -> None:
    write(tmp_path, "train", LINE)
    write(tmp_path, "train/camera 1", LINE, "b")
    (tmp_path / "images" / "train" / "._a.jpg").write_bytes(b"not an image")
    dataset = Yolo(write_yaml(tmp_path), "train")
    assert len(dataset) == 2
    assert [dataset[i].labels.tolist() for i in range(2)] == [[1], [1]]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"names: [", "not valid YAML"),
        (b"names: [caf\xe9]\ntrain: images", "is no text of UTF-8 .*; save it as that"),
    ],
)
def test_a_broken_yaml_is_named_by_detection(tmp_path: Path, text: bytes, message: str) -> None:
    write(tmp_path, "train", LINE)
    (tmp_path / "data.yaml").write_bytes(text)
    with pytest.raises(ValueError, match=rf"data\.yaml: {message}"):
        open_dataset(tmp_path, "train")


def test_boxes_among_polygons_are_crowds(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write(tmp_path, "train", f"{LINE}\n0 0.5 0.5 0.5 0.2\n")
    write(tmp_path, "train", "1 0.2 0.2 0.1 0.1", "b")
    with caplog.at_level("WARNING", "mask2former"):
        dataset = Yolo(write_yaml(tmp_path), "train")
    assert [record.getMessage() for record in caplog.records] == [
        f"{tmp_path / 'data.yaml'}: 'train': 2 boxes taken as crowds: no mask"
    ]
    sample = dataset[0]
    assert sample.labels.tolist() == [1, 0]
    assert sample.is_crowd.tolist() == [False, True]
    wanted = np.zeros((HEIGHT, WIDTH), bool)
    wanted[8:12, 10:30] = True
    masks = sample.masks.render((0, 0, WIDTH, HEIGHT), (HEIGHT, WIDTH))
    np.testing.assert_array_equal(masks[1], wanted)
    assert dataset.labels_of(1) == {1}


def test_boxes_alone_are_refused(tmp_path: Path) -> None:
    write(tmp_path, "train", "0 0.5 0.5 0.2 0.2\n1 0.2 0.2 0.1 0.1")
    write(tmp_path, "train", None, "b")
    with pytest.raises(ValueError, match=r"'train' has 2 boxes and no polygon.* export polygons"):
        Yolo(write_yaml(tmp_path), "train")


def test_what_has_no_area_is_left_out(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write(tmp_path, "train", f"0\n{LINE}\n0 0.5 0.5\n")
    with caplog.at_level("WARNING", "mask2former"):
        dataset = Yolo(write_yaml(tmp_path), "train")
    assert [record.getMessage() for record in caplog.records] == [
        f"{tmp_path / 'data.yaml'}: 'train': 2 lines left out: no area"
    ]
    assert dataset[0].labels.tolist() == [1]
    assert dataset.labels_of(0) == {1}


def test_the_frame_cuts_what_leaves_it(tmp_path: Path) -> None:
    write(tmp_path, "train", "1 -0.25 0.5 0.25 0 0.25 1")
    dataset = Yolo(write_yaml(tmp_path), "train")
    mask = dataset[0].masks.render((0, 0, WIDTH, HEIGHT), (HEIGHT, WIDTH))[0]
    # At the left border the triangle is half as high as at its right side.
    assert mask[:, 0].sum() == HEIGHT // 2
    assert mask[:, 9].sum() == HEIGHT
    assert not mask[:, 10:].any()


def test_label_files_with_a_mark_and_of_another_encoding(tmp_path: Path) -> None:
    write(tmp_path, "train", None)
    file = tmp_path / "labels" / "train" / "a.txt"
    file.write_bytes(f"\ufeff{LINE}\r\n0.0 0 0 0.1 0 0.1 0.1\r\n".encode())
    dataset = Yolo(write_yaml(tmp_path), "train")
    assert dataset[0].labels.tolist() == [1, 0]
    file.write_bytes(LINE.encode("utf-16"))
    with pytest.raises(ValueError, match=r"a\.txt: is no text of UTF-8 .*; save it as that"):
        dataset[0]


def test_a_clean_data_set_is_opened_in_silence(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write(tmp_path, "train", LINE)
    with caplog.at_level("WARNING", "mask2former"):
        Yolo(write_yaml(tmp_path), "train")
    assert not caplog.records
