"""Benchmarks' groups of classes, for which figures are published beside those of the classes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from mask2former.structures import Category

CITYSCAPES: Mapping[str, tuple[str, ...]] = {
    "flat": ("road", "sidewalk"),
    "construction": ("building", "wall", "fence"),
    "object": ("pole", "traffic light", "traffic sign"),
    "nature": ("vegetation", "terrain"),
    "sky": ("sky",),
    "human": ("person", "rider"),
    "vehicle": ("car", "truck", "bus", "train", "motorcycle", "bicycle"),
}
CITYSCAPES_THINGS = (*CITYSCAPES["human"], *CITYSCAPES["vehicle"])


def is_cityscapes(categories: Sequence[Category]) -> bool:
    """Whether these are the 19 classes of Cityscapes, or its 8 things alone."""
    names = [category.name for category in categories]
    everything = sorted(name for group in CITYSCAPES.values() for name in group)
    return sorted(names) in (everything, sorted(CITYSCAPES_THINGS))


def groups_of(categories: Sequence[Category]) -> dict[str, str]:
    """The group of each class, by their names; empty if the benchmark of these has none."""
    if not is_cityscapes(categories) or len(categories) == len(CITYSCAPES_THINGS):
        return {}
    return {name: group for group, names in CITYSCAPES.items() for name in names}
