"""The doctor's look at labelme's files: each fault is told once, and none is invented."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from labelme_files import HEIGHT, SQUARE, WIDTH, png, shape, write
from mask2former.data.findings import Finding
from mask2former.data.labelme import FORMAT


def faults(folder: Path, split: str = "") -> list[Finding]:
    assert FORMAT.faults is not None
    return list(FORMAT.faults(folder, split))


def told(folder: Path, split: str = "") -> set[tuple[str, str, str, str]]:
    """Severity, kind, name of the file and record of each."""
    found = faults(folder, split)
    kept = {(f.severity, f.kind, Path(f.file).name, f.record) for f in found}
    assert len(kept) == len(found), "a fault is told twice"
    return kept


def test_nothing_is_wrong_with_sound_files(tmp_path: Path) -> None:
    corner = [[0, 0], [5, 0], [5, 5]]
    write(tmp_path / "train", shape("cow", SQUARE), shape("goat", SQUARE), shape("cow", corner))
    embedded = png(np.zeros((HEIGHT, WIDTH, 3), np.uint8))
    patch = shape("cow", [[0, 0], [1, 1]], "mask", mask=png(np.full((2, 2), 255, np.uint8)))
    write(tmp_path / "train", patch, shape("__ignore__", SQUARE), name="b", imageData=embedded)
    (tmp_path / "train" / "b.png").unlink()
    (tmp_path / "train" / "notes.json").write_text("[]")
    write(tmp_path / "val", shape("cow", SQUARE))
    assert faults(tmp_path, "train") == faults(tmp_path, "val") == []


def test_every_broken_file_and_shape_is_told(tmp_path: Path) -> None:
    write(tmp_path, shape("cow", [[1, "a"]]), shape("cow", SQUARE, "spline"), name="a")
    write(tmp_path, {"points": SQUARE}, shape("cow", [[1, 1], [2, 2]]), name="b")
    write(tmp_path, shape("cow", [[1, 1]], "point"), shape("cow", SQUARE), name="c")
    write(tmp_path, shape("cow", SQUARE), name="d").write_text('{"shapes": [')
    write(tmp_path, shape("cow", SQUARE), name="e").write_bytes(b'{"shapes": "\xe4"}')
    write(tmp_path, shape("cow", SQUARE), name="f", imageWidth="40")
    write(tmp_path, shape("cow", SQUARE), name="g")
    (tmp_path / "g.png").unlink()
    write(tmp_path, shape("cow", SQUARE), name="h", imagePath=None)
    (tmp_path / "h.png").unlink()
    write(tmp_path, shape("cow", SQUARE), name="i", imageHeight=None)
    (tmp_path / "i.png").unlink()
    assert told(tmp_path) == {
        ("error", "malformed mask", "a.json", "shape 0 (cow)"),
        ("error", "malformed mask", "a.json", "shape 1 (cow)"),
        ("error", "unknown category", "b.json", "shape 0"),
        ("warning", "mask without a pixel", "b.json", "shape 1 (cow)"),
        ("warning", "mask without a pixel", "c.json", "shape 0 (cow)"),
        ("error", "cannot be opened", "d.json", ""),
        ("error", "cannot be opened", "e.json", ""),
        ("error", "malformed image record", "f.json", ""),
        ("error", "missing file", "g.json", ""),
        ("error", "missing file", "h.json", ""),
        ("error", "missing file", "i.json", ""),
    }
    assert not any(f.message.startswith(f.file) for f in faults(tmp_path))


def test_shapes_outside_of_the_image(tmp_path: Path) -> None:
    beyond = [[WIDTH, 2], [WIDTH + 9, 2], [WIDTH + 9, 9]]
    write(
        tmp_path,
        shape("cow", beyond),
        shape("cow", [[-9, -9], [-1, -1]], "rectangle"),
        shape("cow", [[30, 2], [WIDTH + 300, 2], [30, 20]]),
        shape("cow", [[5, 5], [WIDTH + 0.5, 5], [5, HEIGHT]]),  # tools round
        shape("goat", beyond, group_id=1),
        shape("goat", SQUARE, group_id=1),
    )
    assert told(tmp_path) == {
        ("error", "mask outside the frame", "a.json", "shape 0 (cow)"),
        ("error", "mask outside the frame", "a.json", "shape 1 (cow)"),
        ("warning", "mask outside of the image", "a.json", "shape 2 (cow)"),
        ("warning", "mask outside of the image", "a.json", "shape 4 (goat)"),
    }


def test_objects_that_stand_twice(tmp_path: Path) -> None:
    patch = shape("cow", [[3, 3], [4, 4]], "mask", mask=png(np.full((2, 2), 255, np.uint8)))
    write(tmp_path, shape("cow", SQUARE), shape("goat", SQUARE), shape("cow", SQUARE), patch, patch)
    write(tmp_path, shape("cow", SQUARE), name="b")
    assert told(tmp_path) == {
        ("warning", "object annotated twice", "a.json", "shape 2 (cow)"),
        ("warning", "object annotated twice", "a.json", "shape 4 (cow)"),
    }


def test_labels_that_the_list_of_classes_lacks(tmp_path: Path) -> None:
    write(tmp_path, shape("cow", SQUARE), shape("goat", SQUARE), shape("_background_", SQUARE))
    write(tmp_path, shape("goat", SQUARE), name="b")
    (tmp_path / "labels.txt").write_text("__ignore__\ncow\n")
    assert told(tmp_path) == {
        ("error", "unknown category", "a.json", "shape 1 (goat)"),
        ("error", "unknown category", "b.json", "shape 0 (goat)"),
    }
    (tmp_path / "labels.txt").write_bytes(b"K\xe4se\n")
    assert told(tmp_path) == {("error", "cannot be opened", "labels.txt", "")}


def test_class_names_that_are_nearly_the_same(tmp_path: Path) -> None:
    write(tmp_path / "train", shape("cow", SQUARE), shape("Cow ", SQUARE), name="a")
    write(tmp_path / "train", shape("cow", SQUARE), name="b")
    write(tmp_path / "val", shape("goat", SQUARE), shape("GOAT", SQUARE[:3]), name="a")
    write(tmp_path / "test", shape("goat", SQUARE), name="broken").write_text('{"shapes": [')
    assert told(tmp_path, "train") == {
        ("warning", "class names alike", "a.json", "class 'Cow '"),
        ("warning", "class names alike", "train", "class 'goat'"),  # both are in another split
    }


@pytest.mark.parametrize("suffix", ["png", "JPG"])
def test_images_without_annotation(tmp_path: Path, suffix: str) -> None:
    write(tmp_path, shape("cow", SQUARE), imagePath="photo.png")
    (tmp_path / "a.png").rename(tmp_path / "photo.png")
    write(tmp_path, shape("cow", SQUARE), name="b").write_text('{"shapes": [')
    image = tmp_path / f"c.{suffix}"
    Image.new("RGB", (WIDTH, HEIGHT)).save(image)
    assert told(tmp_path) == {
        ("error", "cannot be opened", "b.json", ""),
        ("warning", "image without annotation", image.name, ""),
    }


def test_splits_may_share_a_folder_of_images(tmp_path: Path) -> None:
    images = tmp_path / "images"
    images.mkdir()
    for split, name in (("train", "a"), ("val", "b")):
        write(tmp_path / split, shape("cow", SQUARE), name=name, imagePath=f"../images/{name}.png")
        (tmp_path / split / f"{name}.png").rename(images / f"{name}.png")
    assert faults(tmp_path, "train") == faults(tmp_path, "val") == []
    Image.new("RGB", (WIDTH, HEIGHT)).save(images / "c.png")
    assert told(tmp_path, "val") == {("warning", "image without annotation", "c.png", "")}
