"""Maps in which every object has its own number."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from map_files import NOTHING, VOID, segments, write_image, write_map
from mask2former.data.pixel_maps import Pair
from mask2former.data.segment_maps import SegmentMaps
from mask2former.structures import Category

CATEGORIES = (
    Category(id=1, name="road", is_thing=False, color=(1, 0, 0)),
    Category(id=2, name="car", is_thing=True, color=(2, 0, 0)),
)


def meaning(number: int) -> tuple[int, bool] | None:
    """Tens are classes: 1x road, 2x cars, 29 a crowd of them; 0 is void."""
    if number >= 30:
        raise ValueError(f"{number} is beyond")
    return None if number == 0 else (number // 10 - 1, number == 29)


@pytest.fixture
def pair(tmp_path: Path) -> Pair:
    write_image(tmp_path / "a.jpg", (2, 3))
    write_map(tmp_path / "a.png", np.array([[21, 10, 0], [10, 22, 29]], np.uint8))
    return Pair(id="a", image=tmp_path / "a.jpg", mask=tmp_path / "a.png")


def test_objects_and_stuff(pair: Pair) -> None:
    dataset = SegmentMaps([pair], CATEGORIES, meaning)
    sample = dataset[0]
    assert dataset.tasks == ("panoptic", "instance", "semantic")
    assert sample.labels.tolist() == [0, 1, 1, 1]
    assert sample.is_crowd.tolist() == [False, False, False, True]
    assert segments(sample).tolist() == [[1, 0, VOID], [0, 2, 3]]


def test_things_only(pair: Pair) -> None:
    dataset = SegmentMaps([pair], CATEGORIES, meaning, things_only=True)
    sample = dataset[0]
    assert (dataset.categories, dataset.tasks) == (CATEGORIES[1:], ("instance",))
    assert sample.labels.tolist() == [0, 0, 0]
    assert segments(sample).tolist() == [[0, NOTHING, VOID], [NOTHING, 1, 2]]


def test_an_unknown_number_is_named(pair: Pair) -> None:
    assert isinstance(pair.mask, Path)
    write_map(pair.mask, np.full((2, 3), 31, np.uint8))
    with pytest.raises(ValueError, match=r"a\.png: 31 is beyond"):
        SegmentMaps([pair], CATEGORIES, meaning)[0]
