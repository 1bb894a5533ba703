"""YOLO's files: which data.yaml is meant, where moved data sets lie, what a line describes."""

from __future__ import annotations

import zipfile
from pathlib import Path

import pytest

from mask2former.archive import any_path
from mask2former.data.coco_json import Problem
from mask2former.data.detect import find_splits, open_dataset
from mask2former.data.yolo_files import DataYaml, count_kinds, find_yaml, read_labels

NAMES = "names: [cow, dog]\n"


def touch(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"")


def data_yaml(folder: Path, text: str, name: str = "data.yaml") -> DataYaml:
    folder.mkdir(exist_ok=True)
    (folder / name).write_text(text)
    return DataYaml(folder / name)


def found(folder: Path, data: DataYaml, split: str = "train") -> list[str]:
    return [str(path.relative_to(folder)) for path in map(Path, map(str, data.images(split)))]


def test_the_usual_name_goes_first_then_any_that_names_splits(tmp_path: Path) -> None:
    for name, text in (
        ("a.yaml", "names: [x]\n"),
        ("b.yaml", "services: [x]\ntrain: x\n"),
        ("c.yaml", "names: ["),
        (".d.yaml", f"{NAMES}train: x\n"),
    ):
        (tmp_path / name).write_text(text)
    (tmp_path / "e.yaml").mkdir()
    assert find_yaml(tmp_path) is None
    assert find_splits(tmp_path) == ()
    touch(tmp_path, "images/train/a.jpg")
    data_yaml(tmp_path, f"{NAMES}train: images/train\n", "shapes-seg.yaml")
    assert find_yaml(tmp_path) == tmp_path / "shapes-seg.yaml"
    assert len(open_dataset(tmp_path, "train")) == 1
    data_yaml(tmp_path, f"{NAMES}train: images/train\n")
    assert find_yaml(tmp_path) == tmp_path / "data.yaml"


@pytest.mark.parametrize(
    "names", ["[cow, dog]", "{0: cow, 1: dog}", "{'1': dog, '0': cow}", "{1: dog, '0': cow}"]
)
def test_numbers_of_classes_may_be_in_quotes(tmp_path: Path, names: str) -> None:
    assert data_yaml(tmp_path, f"names: {names}\n").names == ("cow", "dog")


@pytest.mark.parametrize("names", ["cow", "", "[]", "{'1': cow}", "{0: cow, '0': dog}", "{a: cow}"])
def test_names_without_numbers_are_told(tmp_path: Path, names: str) -> None:
    with pytest.raises(ValueError, match=r"data\.yaml: 'names' must list the classes 0, 1, 2"):
        _ = data_yaml(tmp_path, f"names: {names}\n").names


def test_a_split_that_is_not_there_is_none(tmp_path: Path) -> None:
    """Roboflow names three, be there images or not."""
    text = NAMES + "".join(f"{s}: ../{s}/images\n" for s in ("train", "val", "test"))
    data = data_yaml(tmp_path, text)
    assert data.splits == data.named == ("train", "val", "test")  # where all are missing
    touch(tmp_path, "train/images/a.jpg", "val/images/b.jpg", "images/c.jpg")
    assert data.named == ("train", "val", "test")
    assert data.splits == find_splits(tmp_path) == ("train", "val")
    with zipfile.ZipFile(tmp_path / "it.zip", "w") as file:
        for name in ("data.yaml", "train/images/a.jpg", "val/images/b.jpg"):
            file.write(tmp_path / name, name)
    assert find_splits(any_path(tmp_path / "it.zip")) == ("train", "val")


def test_valid_is_a_split(tmp_path: Path) -> None:
    touch(tmp_path, "valid/images/a.jpg", "train/images/a.jpg")
    data = data_yaml(tmp_path, f"{NAMES}train: train/images\nvalid: valid/images\n")
    assert data.splits == ("train", "valid")


@pytest.mark.parametrize(
    "train",
    [
        "../train/images",
        "train\\images",
        "..\\train\\images",
        "C:\\data\\shapes\\train\\images",
        "/content/shapes/train/images",
        f"/{'x' * 300}/train/images",  # the system says more than that it is not there
    ],
)
def test_folders_of_another_machine(tmp_path: Path, train: str) -> None:
    touch(tmp_path, "train/images/a.jpg", "images/b.jpg", "images/train/c.jpg")
    data = data_yaml(tmp_path, f"path: C:\\data\\shapes\ntrain: {train}\n{NAMES}")
    assert found(tmp_path, data) == ["train/images/a.jpg"]


@pytest.mark.parametrize("list_file", ["train.txt", "/home/someone/yolo/train.txt"])
@pytest.mark.parametrize(
    "line",
    [
        "images/train/a.jpg",
        "./images/train/a.jpg",
        "data/images/train/a.jpg",  # CVAT's
        "/home/someone/yolo/images/train/a.jpg",
        "C:\\yolo\\images\\train\\a.jpg",
        "images\\train\\a.jpg",
    ],
)
def test_lists_of_another_machine(tmp_path: Path, line: str, list_file: str) -> None:
    touch(tmp_path, "images/train/a.jpg")
    (tmp_path / "train.txt").write_text(f"\ufeff{line}\r\n\n", encoding="utf-8")
    data = data_yaml(tmp_path, f"train: {list_file}\n{NAMES}")
    assert found(tmp_path, data) == ["images/train/a.jpg"]


def test_one_of_several_folders_is_missing(tmp_path: Path) -> None:
    touch(tmp_path, "images/train/a.jpg")
    data = data_yaml(tmp_path, f"train: [images/train, images/more]\n{NAMES}")
    assert data.splits == ("train",)
    with pytest.raises(FileNotFoundError, match="'train' is 'images/more', which does not exist"):
        data.images("train")


def test_lists_in_folders_of_their_own(tmp_path: Path) -> None:
    """Their lines are looked for beside the list, then beside data.yaml."""
    touch(tmp_path, "lists/images/a.jpg", "images/b.jpg")
    (tmp_path / "lists" / "train.txt").write_text("images/a.jpg\nimages/b.jpg\nimages/c.jpg\n")
    data = data_yaml(tmp_path, f"train: lists/train.txt\n{NAMES}")
    # what is nowhere is called as the list says
    assert found(tmp_path, data) == ["images/b.jpg", "lists/images/a.jpg", "lists/images/c.jpg"]


def test_a_list_that_is_no_text_is_told(tmp_path: Path) -> None:
    (tmp_path / "train.txt").write_bytes(b"caf\xe9.jpg")
    data = data_yaml(tmp_path, f"train: train.txt\n{NAMES}")
    with pytest.raises(ValueError, match=r"train\.txt: is no text of UTF-8 .*; save it as that"):
        data.images("train")


def test_lines_of_each_kind(tmp_path: Path) -> None:
    data = data_yaml(tmp_path, NAMES)
    file, problems = tmp_path / "a.txt", list[Problem]()
    lines = [
        "1 0.1 0.2 0.3 0.2 0.3 0.4",
        "",
        "1.0\t0.5 0.5 0.25 0.5",
        "0 0.5 0.5",
        "0",
        "0 1 2",
        "7 0 0 1 0 1 1",
        "0 -0.4 0 1.4 0 1.4 1",
        "0 -0.6 0 1 0 1 1",
    ]
    file.write_text("\r\n".join(lines))
    outlines = read_labels(file, data, problems)
    assert [(o.line, o.label, o.kind) for o in outlines] == [
        (1, 1, "polygon"),
        (3, 1, "box"),
        (4, 0, "no area"),
        (5, 0, "no area"),
        (8, 0, "polygon"),
    ]
    assert outlines[0].corners.tolist() == [[0.1, 0.2], [0.3, 0.2], [0.3, 0.4]]
    assert outlines[1].corners.tolist() == [
        [0.375, 0.25],
        [0.625, 0.25],
        [0.625, 0.75],
        [0.375, 0.75],
    ]
    assert outlines[4].corners.min() == -0.4  # as it stands: the frame cuts it
    assert [(problem.record, problem.kind) for problem in problems] == [
        ("line 6", "malformed mask"),
        ("line 7", "unknown category"),
        ("line 9", "malformed mask"),
    ]
    assert read_labels(tmp_path / "none.txt", data, problems) == []


def test_kinds_are_counted_as_they_are_read(tmp_path: Path) -> None:
    data = data_yaml(tmp_path, NAMES)
    files = [tmp_path / "a.txt", tmp_path / "b.txt", tmp_path / "none.txt"]
    files[0].write_bytes(b"\xef\xbb\xbf0 0 0 1 0 1 1\r\n\r\n0 0.5 0.5 0.2 0.2\r0\n")
    files[1].write_text("0 0.5 0.5\n0 0 0 1 0 1 1 0 1\n0 0 0 1 0 1 1\n")
    read = [outline.kind for file in files for outline in read_labels(file, data, [])]
    counts = count_kinds(files)
    assert counts == {"polygon": 3, "box": 1, "no area": 2}
    assert counts == {kind: read.count(kind) for kind in set(read)}
