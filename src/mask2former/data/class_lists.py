"""The classes of the benchmarks that released models were trained on, by name.

Each list is a file `classes/<name>.json`: the data set's own id, name, whether it is a thing, and
its customary colour, in the order of the released models' outputs.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import cache
from pathlib import Path

from mask2former.data.dataset import generated_color
from mask2former.structures import Category

FOLDER = Path(__file__).with_name("classes")
LISTS = (
    *("ade20k", "ade20k_full", "cityscapes", "coco", "mapillary"),
    *("youtube_vis_2019", "youtube_vis_2021"),
)
_NAMES_ALONE = ("ade20k_full",)  # which of its classes are things nobody says; colours are made up


@cache
def class_list(name: str) -> tuple[Category, ...]:
    """All classes of a benchmark: one of `LISTS`."""
    if name not in LISTS:
        raise ValueError(f"'{name}' is no list of classes; there are: {', '.join(LISTS)}")
    rows = json.loads((FOLDER / f"{name}.json").read_text())
    return tuple(
        Category(id=id, name=label, is_thing=is_thing, color=tuple(color))
        for id, label, is_thing, color in rows
    )


def things_of(name: str) -> tuple[Category, ...]:
    """The classes that instance models of a benchmark tell apart."""
    return tuple(category for category in class_list(name) if category.is_thing)


def categories_named(names: Sequence[str]) -> tuple[Category, ...]:
    """Categories for a model that only says what its classes are called.

    If most of them are a benchmark's, that list says which are things, and their ids and colours;
    a class that it does not know counts as a thing and has an id beyond the list's. Where a name
    stands twice no list is asked, so that ids stay unique.
    """
    wanted = set(names)
    asked = [name for name in LISTS if name not in _NAMES_ALONE]
    lists = [{category.name: category for category in class_list(name)} for name in asked]
    known = max(lists, key=lambda named: len(wanted & named.keys()))
    if 2 * len(wanted & known.keys()) < len(wanted) or len(wanted) < len(names):
        known = {}
    free = max((category.id for category in known.values()), default=-1) + 1
    return tuple(
        known.get(name, Category(id=free + i, name=name, is_thing=True, color=generated_color(i)))
        for i, name in enumerate(names)
    )
