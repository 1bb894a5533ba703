"""The reader of the public nuclei layout."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mask2former.data.bbbc038 import Bbbc038

MASKS = np.zeros((2, 6, 8), bool)
MASKS[0, 1:3, 1:5] = True
MASKS[1, 2:5, 4:8] = True  # shares a pixel with the first


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for part in ("images", "masks"):
        (tmp_path / "f00" / part).mkdir(parents=True)
    Image.new("RGBA", (8, 6), (9, 8, 7, 0)).save(tmp_path / "f00" / "images" / "f00.png")
    for index, mask in enumerate(MASKS):
        Image.fromarray(mask.astype(np.uint8) * 255).save(
            tmp_path / "f00" / "masks" / f"{index}.png"
        )
    return tmp_path


def test_nuclei(folder: Path) -> None:
    dataset = Bbbc038(folder)
    sample = dataset[0]
    assert [c.name for c in dataset.categories] == ["nucleus"]
    assert (len(dataset), sample.image_id) == (1, "f00")
    np.testing.assert_array_equal(sample.image[0, 0], [9, 8, 7])
    assert sample.labels.tolist() == [0, 0]
    np.testing.assert_array_equal(sample.masks.render((0, 0, 8, 6), (6, 8)), MASKS)


def test_background(folder: Path) -> None:
    dataset = Bbbc038(folder, background=True)
    sample = dataset[0]
    assert [c.is_thing for c in dataset.categories] == [True, False]
    assert sample.labels.tolist() == [0, 0, 1]
    rendered = sample.masks.render((0, 0, 8, 6), (6, 8))
    np.testing.assert_array_equal(rendered[2], ~MASKS.any(axis=0))


def test_mistakes_are_named(folder: Path) -> None:
    dataset = Bbbc038(folder)
    mask = folder / "f00" / "masks" / "1.png"
    Image.new("L", (8, 5)).save(mask)
    with pytest.raises(ValueError, match=r"1\.png: .*height 5, width 8"):
        dataset[0]
    mask.write_bytes(b"nothing")
    with pytest.raises(ValueError, match=r"1\.png: .*cannot be read"):
        dataset[0]
    Image.new("L", (8, 6)).save(folder / "f00" / "images" / "more.png")
    with pytest.raises(ValueError, match="holds 2 images"):
        dataset[0]
    (folder / "f01" / "images").mkdir(parents=True)
    with pytest.raises(ValueError, match="f01: has images but no folder 'masks'"):
        Bbbc038(folder)
    with pytest.raises(ValueError, match="no nuclei here"):
        Bbbc038(folder / "f00")
