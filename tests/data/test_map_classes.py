"""Which class a number or a colour of a mask is."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from mask2former.data.map_classes import MapClasses, code_of, found_classes, named_classes
from mask2former.data.pixel_maps import PixelMap
from mask2former.structures import Category

PATH = Path("masks/a.png")
RED, GREEN, BLUE = (200, 0, 0), (0, 200, 0), (0, 0, 200)
COLORED = MapClasses(
    source="class_dict.csv",
    categories=tuple(
        Category(id=i, name=name, is_thing=False, color=color)
        for i, (name, color) in enumerate((("road", RED), ("car", BLUE)))
    ),
    values=(0, 1),
    ignore=frozenset({2, 255}),
    has_colors=True,
    ignore_colors=frozenset({code_of(GREEN)}),
)


def grey(*values: int, palette: dict[int, tuple[int, int, int]] | None = None) -> PixelMap:
    colors = None
    if palette is not None:
        colors = np.zeros(256, np.int32)
        for index, color in palette.items():
            colors[index] = code_of(color)
    return PixelMap(values=np.array([values], np.uint8), is_color=False, palette=colors)


def colored(*colors: tuple[int, int, int]) -> PixelMap:
    return PixelMap(values=np.array([[code_of(color) for color in colors]]), is_color=True)


def test_values_and_colors() -> None:
    assert COLORED.labels(grey(1, 0, 2, 255), PATH).tolist() == [[1, 0, -1, -1]]
    assert COLORED.labels(colored(BLUE, RED, GREEN), PATH).tolist() == [[1, 0, -1]]
    names = named_classes(["road", "car"], values=[7, 300], ignore=[0])
    wide = PixelMap(values=np.array([[300, 0, 7]], np.uint16), is_color=False)
    assert names.labels(wide, PATH).tolist() == [[1, -1, 0]]
    assert names.labels(colored((7, 7, 7), (0, 0, 0)), PATH).tolist() == [[0, -1]]  # grey as RGB


def test_indices_unless_the_palette_says_otherwise() -> None:
    agreeing = {0: RED, 1: BLUE, 255: (224, 224, 192)}
    assert COLORED.labels(grey(0, 1, 255, palette=agreeing), PATH).tolist() == [[0, 1, -1]]
    foreign = {0: (1, 1, 1), 1: (2, 2, 2)}  # none of the classes' colours
    assert COLORED.labels(grey(0, 1, palette=foreign), PATH).tolist() == [[0, 1]]
    sorted_by_use = {0: BLUE, 1: GREEN, 2: RED}  # as a tool that makes RGB smaller does
    assert COLORED.labels(grey(0, 1, 2, palette=sorted_by_use), PATH).tolist() == [[1, -1, 0]]
    with pytest.raises(ValueError, match=r"a\.png: colour \[9, 9, 9\] is not among the 2 classes"):
        COLORED.labels(grey(0, 1, palette={0: BLUE, 1: (9, 9, 9)}), PATH)


def test_numbers_that_are_no_class_are_named() -> None:
    with pytest.raises(
        ValueError, match=r"masks/a\.png: value 37 is not among the 2 classes of class_dict\.csv"
    ):
        COLORED.labels(grey(0, 37), PATH)
    with pytest.raises(ValueError, match=r'colour \[9, 8, 7\] .*"color": \[9, 8, 7\].*"ignore"'):
        COLORED.labels(colored(RED, (9, 8, 7)), PATH)
    with pytest.raises(ValueError, match=r"a\.png: this mask holds colours, but the program says"):
        named_classes(["road", "car"]).labels(colored(RED), PATH)


def test_classes_that_nothing_names() -> None:
    found = found_classes([grey(0, 7), grey(255, 3)], "here")
    assert (found.values, found.ignore) == ((0, 3, 7), {255, 65535})
    assert [c.name for c in found.categories] == ["class 0", "class 3", "class 7"]
    black_and_white = found_classes([grey(0, 255), grey(0)], "here")
    assert (black_and_white.values, black_and_white.ignore) == ((0, 255), {65535})
    grey_as_rgb = found_classes([colored((1, 1, 1), (4, 4, 4))], "here")
    assert (grey_as_rgb.values, grey_as_rgb.has_colors) == ((1, 4), False)


def test_colors_that_nothing_names() -> None:
    found = found_classes([colored(RED, (0, 0, 0)), colored(BLUE, BLUE), colored((0, 0, 0))], "x")
    assert [c.color for c in found.categories] == [(0, 0, 0), RED, BLUE]
    assert [c.name for c in found.categories] == ["class 0", "class 1", "class 2"]
    assert found.labels(colored(BLUE, (0, 0, 0), RED), PATH).tolist() == [[2, 0, 1]]


def test_too_many_numbers_are_no_classes() -> None:
    photograph = PixelMap(values=np.arange(300).reshape(3, 100) * 7, is_color=True)
    with pytest.raises(ValueError, match="here: the masks hold more than 256 numbers"):
        found_classes([photograph], "here")
