"""Which class a number in a mask stands for."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Int, Int32

from mask2former.archive import AnyPath
from mask2former.data.dataset import generated_color
from mask2former.data.pixel_maps import PixelMap, recode, used_values
from mask2former.structures import Category

Color = tuple[int, int, int]

VOID = -1  # of a pixel that is ignored, in a map of labels
IGNORED = (255, 65535)  # unless they are listed as classes


@dataclass(frozen=True, kw_only=True)
class MapClasses:
    """The classes of a data set's masks: label i is where a mask has the number `values[i]`.

    Where a mask holds colours, it is where it has the colour of `categories[i]`, if the source
    says which (`has_colors`).
    """

    source: str  # the file that says so, or who; for messages
    categories: tuple[Category, ...]
    values: tuple[int, ...]
    ignore: frozenset[int]  # values
    has_colors: bool = False
    ignore_colors: frozenset[int] = frozenset()  # red + 256 green + 65536 blue

    def labels(self, pixels: PixelMap, path: AnyPath) -> Int32[np.ndarray, "H W"]:
        """The label of every pixel of a mask; `VOID` where it is ignored.

        Raises ValueError naming the mask's file, the number that is no class, and the cure.
        """
        values = pixels.values
        by_value = dict.fromkeys(self.ignore, VOID) | _numbered(self.values)
        if not pixels.is_color:
            by_color = self._by_palette(pixels, by_value, path)
            return _relabel(values, by_value, self, path) if by_color is None else by_color
        if self.has_colors:
            return _relabel(values, self._by_color(), self, path, are_colors=True)
        return _relabel(_grey_of(values, self.source, path), by_value, self, path)

    def _by_color(self) -> dict[int, int]:
        listed = _numbered(code_of(category.color) for category in self.categories)
        return dict.fromkeys(self.ignore_colors, VOID) | listed

    def _by_palette(
        self, pixels: PixelMap, by_value: dict[int, int], path: AnyPath
    ) -> Int32[np.ndarray, "H W"] | None:
        """The labels by the palette's colours; None if the indices themselves are the classes.

        They are unless the colours contradict them, as where a tool made a palette of its own.
        """
        if not self.has_colors or pixels.palette is None:
            return None
        by_color = self._by_color()
        colors = {index: int(pixels.palette[index]) for index in used_values(pixels.values)}
        meant = {index: by_value.get(index) for index in colors}
        if all(
            by_color.get(color, meant[index]) == meant[index] for index, color in colors.items()
        ):
            return None
        return _relabel(pixels.palette[pixels.values], by_color, self, path, are_colors=True)


def _relabel(
    values: Int[np.ndarray, "H W"],
    label_of: dict[int, int],
    classes: MapClasses,
    path: AnyPath,
    *,
    are_colors: bool = False,
) -> Int32[np.ndarray, "H W"]:
    used = used_values(values)
    for value in used:
        if value not in label_of:
            if classes.values == (0,) and not are_colors:
                raise ValueError(
                    f"{path}: value {value}, but {classes.source} names one class alone,"
                    f" {classes.categories[0].name!r}, which is where masks are 0; name the"
                    " background, too, before it, or list all classes in a classes.json, where"
                    f' {{"id": {value}, "name": "void", "ignore": true}} leaves it out'
                )
            key, shown = ("color", list(color_of(value))) if are_colors else ("id", value)
            raise ValueError(
                f"{path}: {'colour' if are_colors else 'value'} {shown} is not among the"
                f" {len(classes.categories)} classes of {classes.source}; add it there, or list all"
                f' classes in a classes.json, where {{"{key}": {shown}, "name": "void", "ignore":'
                " true} leaves it out"
            )
    return recode(values, {value: label_of[value] for value in used})


def named_classes(
    entries: Sequence[str | Category],
    *,
    values: Sequence[int] | None = None,
    ignore: Iterable[int] = IGNORED,
    source: str = "the program",
) -> MapClasses:
    """Classes that are known without a file, by their names (then they are stuff) or in full.

    `values` are their numbers in the masks, 0, 1, 2 ... if left out.
    """
    categories = tuple(
        Category(id=i, name=entry, is_thing=False, color=generated_color(i))
        if isinstance(entry, str)
        else entry
        for i, entry in enumerate(entries)
    )
    return MapClasses(
        source=source,
        categories=categories,
        values=tuple(range(len(categories)) if values is None else values),
        ignore=frozenset(ignore),
    )


def found_classes(maps: Iterable[PixelMap], source: str) -> MapClasses:
    """One class for every number that masks hold; 255 is ignored, if there is more than that and 0.

    Raises ValueError if there are too many to be classes.
    """
    values: set[int] = set()
    colors: set[int] = set()
    for pixels in maps:
        used = used_values(pixels.values)
        grey = pixels.is_color and all(_is_grey(value) for value in used)
        (colors if pixels.is_color and not grey else values).update(
            {value & 255 for value in used} if grey else used
        )
        if len(values) > 256 or len(colors) > 256:
            raise ValueError(
                f"{source}: the masks hold more than 256 numbers, so these are hardly classes; say"
                " in classes.json which are (and store no mask as JPEG)"
            )
    if colors:
        colors |= {value * 0x010101 for value in values}
        chosen = [
            Category(id=code, name=f"class {i}", is_thing=False, color=color_of(code))
            for i, code in enumerate(sorted(colors))
        ]
        numbers = list(range(len(chosen)))
    else:
        is_binary = values <= {0, 255}
        numbers = sorted(values if is_binary else values - set(IGNORED))
        chosen = [
            Category(id=value, name=f"class {value}", is_thing=False, color=generated_color(i))
            for i, value in enumerate(numbers)
        ]
    return MapClasses(
        source=source,
        categories=tuple(chosen),
        values=tuple(numbers),
        ignore=frozenset(IGNORED) - set(numbers),
        has_colors=bool(colors),
    )


def code_of(color: Color) -> int:
    """A colour as one number: red + 256 green + 65536 blue."""
    red, green, blue = color
    return red | green << 8 | blue << 16


def color_of(code: int) -> Color:
    return code & 255, code >> 8 & 255, code >> 16


def _is_grey(code: int) -> bool:
    return code == (code & 255) * 0x010101


def _numbered(numbers: Iterable[int]) -> dict[int, int]:
    return {number: label for label, number in enumerate(numbers)}


def _grey_of(values: Int[np.ndarray, "H W"], source: str, path: AnyPath) -> Int[np.ndarray, "H W"]:
    if not all(_is_grey(code) for code in used_values(values)):
        raise ValueError(
            f"{path}: this mask holds colours, but {source} says none; give each class its colour"
            " in classes.json or class_dict.csv (name,r,g,b), or store the masks as grey values"
        )
    return values & 255
