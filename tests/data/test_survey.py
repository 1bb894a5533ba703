from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest

from mask2former.data.survey import survey
from mask2former.masks import IdMapMasks
from mask2former.structures import Category, Sample, Task

CATEGORIES = (
    Category(id=1, name="thing", is_thing=True, color=(0, 0, 0)),
    Category(id=2, name="stuff", is_thing=False, color=(0, 0, 0)),
)


@dataclass
class Squares:
    """Image i has `things` squares and a band of stuff; `sides` are those of all squares."""

    sizes: list[tuple[int, int]]
    sides: list[list[int]]
    crowd: bool = False
    categories: tuple[Category, ...] = CATEGORIES
    tasks: tuple[Task, ...] = ("panoptic",)
    seen: int = 0

    def __len__(self) -> int:
        return len(self.sizes)

    def __getitem__(self, index: int) -> Sample:
        self.seen += 1
        height, width = self.sizes[index]
        ids = np.zeros((height, width), np.int32)
        ids[-10:] = 1
        x = 0
        for i, side in enumerate(self.sides[index]):
            ids[:side, x : x + side] = 2 + i
            x += side + 2
        count = 1 + len(self.sides[index])
        crowds = np.zeros(count, bool)
        crowds[-1] = self.crowd
        return Sample(
            image=np.zeros((height, width, 3), np.uint8),
            labels=np.array([1] + [0] * (count - 1)),
            masks=IdMapMasks(ids, list(range(1, count + 1))),
            is_crowd=crowds,
            image_id=index,
            name=f"image {index}",
        )


def test_figures_of_known_squares() -> None:
    data = Squares(sizes=[(100, 200), (120, 90), (140, 140)], sides=[[10, 20], [30], [40, 8, 16]])
    seen = survey(data)
    assert (seen.images, seen.looked_at, seen.things) == (3, 3, 6)
    assert seen.shortest_side == 100  # of 100, 90, 140
    assert seen.aspect == pytest.approx(np.percentile([2, 4 / 3, 1], 90))
    assert seen.most_objects == 4
    assert seen.median_size == pytest.approx(18)  # of 8, 10, 16, 20, 30, 40
    assert seen.small_size == pytest.approx(9)


def test_large_images_are_measured_small() -> None:
    seen = survey(Squares(sizes=[(1500, 2000)], sides=[[400]]))
    assert seen.median_size == pytest.approx(400, rel=0.02)


def test_a_thing_too_small_to_be_seen_has_a_size() -> None:
    seen = survey(Squares(sizes=[(2048, 2048)], sides=[[1]]))
    assert seen.median_size == pytest.approx(4)  # a cell of the map it is measured on


def test_few_images_are_looked_at_and_from_everywhere() -> None:
    sizes = [(50, 50)] * 500 + [(90, 90)] * 500
    data = Squares(sizes=sizes, sides=[[5]] * 1000)
    seen = survey(data, most=10)
    assert (seen.images, seen.looked_at, data.seen) == (1000, 10, 10)
    assert seen.shortest_side == 70  # half of them are of either half


def test_crowds_are_no_things_and_there_may_be_none() -> None:
    seen = survey(Squares(sizes=[(60, 60)], sides=[[12]], crowd=True))
    assert (seen.things, seen.median_size, seen.small_size, seen.most_objects) == (0, None, None, 1)


def test_an_empty_data_set_is_an_error() -> None:
    with pytest.raises(ValueError, match="holds no image"):
        survey(Squares(sizes=[], sides=[]))
