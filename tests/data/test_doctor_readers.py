"""What the doctor finds in formats that it knows by their readers alone: all of it, each once."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import labelme_files
import sick_data
from mask2former.data.doctor import check


def write_pair(folder: Path, stem: str, seed: int) -> None:
    rng = np.random.default_rng(seed)
    (folder / "images").mkdir(parents=True, exist_ok=True)
    (folder / "masks").mkdir(exist_ok=True)
    pixels = rng.integers(0, 256, (32, 48, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(folder / "images" / f"{stem}.png")
    Image.fromarray(rng.integers(0, 2, (32, 48), dtype=np.uint8)).save(
        folder / "masks" / f"{stem}.png"
    )


@pytest.fixture
def maps(tmp_path: Path) -> Path:
    for number, split in enumerate(("train", "val")):
        for index in range(4):
            write_pair(tmp_path / split, f"{split}{index}", 10 * number + index)
    (tmp_path / "classes.txt").write_text("ground\nplant\n")
    return tmp_path


def found(folder: Path, *, deep: bool = True) -> set[tuple[str, str, str]]:
    """Kinds, severities, and what names the record."""
    findings = check(folder, deep=deep)
    return {(f.kind, f.severity, f.record or Path(f.file).name) for f in findings}


def test_sound_label_maps_have_no_fault(maps: Path) -> None:
    assert check(maps) == check(maps, deep=False) == []


def test_one_fault_of_label_maps_does_not_hide_the_others(maps: Path) -> None:
    (maps / "train" / "masks" / "train0.png").unlink()
    (maps / "train" / "images" / "train1.png").write_text("no image")
    Image.new("RGB", (48, 32)).save(
        maps / "train" / "images" / "train2.jpg"
    )  # a second of its stem
    shutil.copy(maps / "val" / "masks" / "val0.png", maps / "val" / "masks" / "orphan.png")
    Image.new("L", (9, 9)).save(maps / "val" / "masks" / "val1.png")
    Image.new("L", (48, 32), 77).save(maps / "val" / "masks" / "val2.png")
    by_files = {
        ("image without mask", "error", "train0.png"),
        ("mask without image", "warning", "orphan.png"),
        ("two of one stem", "error", "train2.png"),
    }
    assert found(maps, deep=False) == by_files
    assert found(maps) == by_files | {
        ("unreadable sample", "error", "train1.png"),
        ("unreadable sample", "error", "val1.png"),
        ("unreadable sample", "error", "val2.png"),
    }
    messages = [finding.message for finding in check(maps)]
    assert any("value 77 is not among the 2 classes" in message for message in messages)
    assert any("height 9, width 9" in message for message in messages)


def test_lists_that_name_what_is_not_there(tmp_path: Path) -> None:
    write_pair(tmp_path, "a", 0)
    (tmp_path / "images").rename(tmp_path / "JPEGImages")
    (tmp_path / "masks").rename(tmp_path / "SegmentationClass")
    lists = tmp_path / "ImageSets" / "Segmentation"
    lists.mkdir(parents=True)
    (tmp_path / "classes.txt").write_text("ground\nplant\n")
    (lists / "train.txt").write_text("a\n")
    assert check(tmp_path) == []
    (lists / "train.txt").write_text("a\nb\nc\n")
    assert found(tmp_path) == {("missing file", "error", "JPEGImages")}
    assert len(check(tmp_path)) == 2  # one for each


def write_labelled(folder: Path, stem: str) -> None:
    labelme_files.write(folder, labelme_files.shape("box", labelme_files.SQUARE), name=stem)
    size = labelme_files.WIDTH, labelme_files.HEIGHT
    picture = sick_data.picture(np.random.default_rng(int(stem))).resize(size)
    picture.save(folder / f"{stem}.png")


def test_one_fault_of_labelme_does_not_hide_the_others(tmp_path: Path) -> None:
    for index in range(4):
        write_labelled(tmp_path, f"{index}")
    assert check(tmp_path) == check(tmp_path, deep=False) == []
    (tmp_path / "0.json").write_text('{"shapes": [')
    (tmp_path / "1.png").unlink()
    (tmp_path / "2.png").write_text("no image")
    record = json.loads((tmp_path / "3.json").read_text())
    record["shapes"].append({"label": "box", "shape_type": "polygon", "points": "none"})
    (tmp_path / "3.json").write_text(json.dumps(record))
    told = {
        ("cannot be opened", "error", "0.json"),
        ("missing file", "error", "1.json"),
        ("malformed mask", "error", "shape 1 (box)"),
    }
    assert found(tmp_path, deep=False) == told
    assert found(tmp_path) == told | {("unreadable sample", "error", "2.png")}


def test_what_cannot_be_opened_at_all_is_not_looked_at(tmp_path: Path) -> None:
    write_labelled(tmp_path, "0")
    (tmp_path / "0.json").write_text('{"shapes": [')
    assert {kind for kind, _, _ in found(tmp_path)} == {"cannot be opened", "not looked at"}


def test_a_reader_that_stumbles_upon_something_else_is_heard(maps: Path) -> None:
    """Without a list of classes the masks are read for them, and one is broken."""
    (maps / "classes.txt").unlink()
    (maps / "train" / "masks" / "train0.png").unlink()
    (maps / "train" / "masks" / "train1.png").write_text("no image")
    told = found(maps)
    assert ("image without mask", "error", "train0.png") in told
    assert ("cannot be opened", "error", "train1.png") in told


def test_classes_are_those_of_faulty_files_too(tmp_path: Path) -> None:
    """Else they would seem to differ between the splits."""
    for split in ("train", "val"):
        write_labelled(tmp_path / split, "1" if split == "train" else "2")
    record = json.loads((tmp_path / "train" / "1.json").read_text())
    record["shapes"].append({"label": "ant", "shape_type": "circle", "points": [[1, 1]]})
    (tmp_path / "train" / "1.json").write_text(json.dumps(record))
    assert found(tmp_path) == {("malformed mask", "error", "shape 1 (ant)")}


def test_a_faulty_line_of_yolo_does_not_hide_its_image(tmp_path: Path) -> None:
    (tmp_path / "data.yaml").write_text("names: [bolt]\ntrain: images/train\nval: images/val\n")
    for split in ("train", "val"):  # the same picture in both
        for folder in ("images", "labels"):
            (tmp_path / folder / split).mkdir(parents=True)
        picture = sick_data.picture(np.random.default_rng(1))
        picture.save(tmp_path / "images" / split / f"{split}.png")
        label = tmp_path / "labels" / split / f"{split}.txt"
        label.write_text("0 0.1 0.1 0.9 0.1 0.9 0.9\n")
    leak = ("picture in two splits", "error", "val.png")
    assert found(tmp_path) == {leak}
    with (tmp_path / "labels" / "val" / "val.txt").open("a") as file:
        file.write("9 0.1 0.1 0.9 0.1 0.9 0.9\n")
    assert found(tmp_path) == {leak, ("unknown category", "error", "line 2")}
