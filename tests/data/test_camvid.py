"""CamVid is recognised, and its masks are those of its files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from map_files import labels, write_image, write_map, zipped
from mask2former.data.camvid import CATEGORIES
from mask2former.data.detect import find_formats, open_dataset

PIXELS = (np.arange(48) // 4).reshape(6, 8).astype(np.uint8)  # 0..11


def write(root: Path, stem: str) -> None:
    for split in ("train", "val", "test"):
        write_image(root / split / f"{stem}.png", (6, 8))
        write_map(root / f"{split}annot" / f"{stem}.png", PIXELS)


def test_recognised_by_its_names(tmp_path: Path) -> None:
    write(tmp_path / "a", "0016E5_07959")
    for place in (tmp_path / "a", zipped(tmp_path / "a")):
        dataset = open_dataset(place, "val")
        assert dataset.categories == CATEGORIES
        np.testing.assert_array_equal(
            labels(dataset[0]), np.where(PIXELS == 11, -1, PIXELS.astype(int))
        )
    write(tmp_path / "b", "frame_1")
    other = open_dataset(tmp_path / "b", "val")
    assert [c.name for c in other.categories] == [f"class {i}" for i in range(12)]


def test_a_class_file_goes_first(tmp_path: Path) -> None:
    write(tmp_path, "0016E5_07959")
    names = [f"name {i}" for i in range(12)]
    (tmp_path / "codes.txt").write_text("\n".join(names))
    assert [f.format.name for f in find_formats(tmp_path)] == ["label-maps"]
    assert [c.name for c in open_dataset(tmp_path, "val").categories] == names


@pytest.mark.data
def test_real_files(shared: Path) -> None:
    counts = {"train": 367, "val": 101, "test": 233}
    for split, count in counts.items():
        dataset = open_dataset(shared / "data" / "camvid", split)
        assert (len(dataset), dataset.categories, dataset.tasks) == (
            count,
            CATEGORIES,
            ("semantic",),
        )
        for index in (0, count - 1):
            sample = dataset[index]
            path = shared / "data" / "camvid" / f"{split}annot" / f"{sample.image_id}.png"
            stored = np.asarray(Image.open(path)).astype(int)
            np.testing.assert_array_equal(labels(sample), np.where(stored == 11, -1, stored))
            # What is said of the classes holds in the pictures: the sky lies above the road.
            rows = [np.nonzero(labels(sample) == label)[0].mean() for label in (0, 3)]
            assert rows[0] < rows[1]
