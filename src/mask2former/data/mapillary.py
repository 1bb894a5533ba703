"""Mapillary Vistas, its 65 classes of version 1.2 (Neuhold et al., 2017).

As version 1.2 is downloaded, or the folders v1.2 in the download of version 2.0. Splits are named
as the folders: training, validation.
"""

from __future__ import annotations

from functools import partial

from mask2former.archive import AnyPath
from mask2former.data.class_lists import class_list
from mask2former.data.coco_panoptic import CocoPanoptic
from mask2former.data.dataset import Dataset
from mask2former.data.format import Format
from mask2former.data.label_maps import LabelMaps
from mask2former.data.map_classes import named_classes
from mask2former.data.pixel_maps import holds_pairs, pair_files
from mask2former.data.segment_maps import SegmentMaps
from mask2former.data.task_views import open_panoptic
from mask2former.structures import TASKS

_SPLITS = ("training", "validation", "testing")
_JSON = "panoptic/panoptic_2018.json"
_UNLABELLED = 65
_OBJECTS = 256  # instance maps hold label * 256 + object


def semantic(folder: AnyPath, split: str) -> LabelMaps:
    """Masks hold 0..64 as palette indices, and 65 where nothing is labelled."""
    classes = named_classes(
        class_list("mapillary"), ignore=[_UNLABELLED], source="Mapillary Vistas 1.2"
    )
    masks = _annotation(folder, split) / "labels"
    return LabelMaps(pair_files(folder / split / "images", masks), classes)


def panoptic(folder: AnyPath, split: str, *, things_only: bool = False) -> Dataset:
    """Objects and stuff, from the panoptic files or from the instance maps, which say the same.

    The instance maps are taken for `things_only`, and where there are no panoptic files.
    """
    annotation, images = _annotation(folder, split), folder / split / "images"
    categories = class_list("mapillary")
    json, maps = annotation / _JSON, annotation / "instances"
    if json.is_file() and not (things_only and maps.is_dir()):
        return CocoPanoptic(
            json, json.parent, images, things_only=things_only, categories=categories
        )
    return SegmentMaps(pair_files(images, maps), categories, _meaning, things_only=things_only)


def _meaning(number: int) -> tuple[int, bool] | None:
    label = number // _OBJECTS
    if not 0 <= label <= _UNLABELLED:
        raise ValueError(
            f"value {number} stands for label {label}, but Vistas 1.2 has 0..{_UNLABELLED}; restore"
            " the file, or use the folders v1.2 of the download"
        )
    return None if label == _UNLABELLED else (label, False)


# --- the layout it lies in --------------------------------------------------------------------


def _annotation(folder: AnyPath, split: str) -> AnyPath:
    inner = folder / split / "v1.2"
    return inner if inner.is_dir() else folder / split


def _is_vistas(folder: AnyPath, split: str) -> bool:
    """Whether a split is of Vistas, and not just of a layout that has the same names."""
    return (
        (folder / split / "v1.2").is_dir()
        or (folder / split / _JSON).is_file()
        or (folder / split / "instances").is_dir()
    )


def _splits_with(folder: AnyPath, kinds: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(
        split
        for split in _SPLITS
        if _is_vistas(folder, split)
        and any(
            holds_pairs(folder / split / "images", _annotation(folder, split) / kind)
            for kind in kinds
        )
    )


def _panoptic_splits(folder: AnyPath) -> tuple[str, ...]:
    return _splits_with(folder, ("panoptic", "instances"))


def _semantic_splits(folder: AnyPath) -> tuple[str, ...]:
    return _splits_with(folder, ("labels",))


FORMATS = (
    Format(
        name="mapillary",
        title="Mapillary Vistas",
        layout=(f"<s>/[v1.2/]{_JSON} or <s>/[v1.2/]instances/*.png with <s>/images/*.jpg",),
        tasks=TASKS,
        splits=_panoptic_splits,
        open=partial(open_panoptic, panoptic),
    ),
    Format(
        name="mapillary-semantic",
        title="Mapillary Vistas semantic",
        layout=("<s>/[v1.2/]labels/*.png with <s>/images/*.jpg",),
        tasks=("semantic",),
        splits=_semantic_splits,
        open=lambda folder, split, task: semantic(folder, split),
    ),
)
