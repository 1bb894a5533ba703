"""ADE20K: the 150 classes of the scene parsing challenge, and the 847 of the full data set.

The challenge's semantic and instance annotation is read as it is downloaded, and so are the files
that the official code prepares from them. Splits are named as the folders: training, validation.
"""

from __future__ import annotations

from functools import partial

import numpy as np
from jaxtyping import Int32

from mask2former.archive import AnyPath
from mask2former.data.class_lists import class_list, things_of
from mask2former.data.coco import CocoInstances
from mask2former.data.coco_panoptic import CocoPanoptic
from mask2former.data.dataset import Dataset
from mask2former.data.format import Format
from mask2former.data.label_maps import LabelMaps
from mask2former.data.map_classes import named_classes
from mask2former.data.pixel_maps import Pair, holds_pairs, pair_files, read_map
from mask2former.data.segment_maps import SegmentMaps
from mask2former.data.task_views import open_panoptic
from mask2former.structures import TASKS

_SHORT = {"training": "train", "validation": "val"}  # as prepared files call the splits
_PANOPTIC, _INSTANCE = "ade20k_panoptic_{}.json", "ade20k_instance_{}.json"
_INSTANCES = "annotations_instance"  # red: which of the 100 things, green: which of the objects

_OBJECTS_FROM = 1 << 16  # those of `_combined` below it are semantic


def semantic(folder: AnyPath, split: str) -> LabelMaps:
    """The 150 classes: masks hold 1..150, and 0 where there is none."""
    masks, values, ignore = folder / "annotations" / split, range(1, 151), 0
    if not masks.is_dir():  # as prepared: one less, so that 255 is none
        masks, values, ignore = folder / "annotations_detectron2" / split, range(150), 255
    classes = named_classes(class_list("ade20k"), values=values, ignore=[ignore], source="ADE20K")
    return LabelMaps(pair_files(folder / "images" / split, masks), classes)


def full(folder: AnyPath, split: str) -> LabelMaps:
    """The 847 classes: 16-bit masks hold 0..846, and 65535 where there is none."""
    classes = named_classes(class_list("ade20k_full"), ignore=[65535], source="the full ADE20K")
    images, masks = folder / "images_detectron2" / split, folder / "annotations_detectron2" / split
    return LabelMaps(pair_files(images, masks), classes)


def panoptic(folder: AnyPath, split: str, *, things_only: bool = False) -> Dataset:
    """150 classes, of which 100 are things; from the prepared files, or else from the original.

    Either way stuff is painted first and objects over it; a thing without an object is void. Stuff
    that objects hide wholly is no segment of the original, but an empty one of prepared files,
    which counts as missed in PQ; published figures are of these.
    """
    images, json = folder / "images" / split, folder / _PANOPTIC.format(_SHORT[split])
    if json.is_file():
        return CocoPanoptic(
            json,
            json.with_suffix(""),
            images,
            things_only=things_only,
            categories=class_list("ade20k"),
            allow_empty=True,  # stuff may have vanished behind objects
        )
    return SegmentMaps(
        pair_files(images, folder / _INSTANCES / split),
        class_list("ade20k"),
        _meaning,
        read=_combined,
        things_only=things_only,
    )


def instances(folder: AnyPath, split: str) -> Dataset:
    """The 100 things."""
    json = folder / _INSTANCE.format(_SHORT[split])
    if json.is_file():
        return CocoInstances(json, folder / "images" / split, categories=things_of("ade20k"))
    return panoptic(folder, split, things_only=True)


def _combined(pair: Pair) -> Int32[np.ndarray, "H W"]:
    """Semantic values, and over them `_OBJECTS_FROM` + red + 256 green of the objects."""
    objects = read_map(pair.mask)
    if not objects.is_color:
        raise ValueError(
            f"{pair.mask}: must hold colours, red for the class, green for the object; restore it"
        )
    split, folder = pair.mask.parent.name, pair.mask.parent.parent.parent
    below = read_map(folder / "annotations" / split / pair.mask.name)
    if below.size != objects.size:
        raise ValueError(
            f"{pair.mask}: has (height, width) {objects.size}, but the mask of this name in"
            f" annotations/{split} has {below.size}; restore both"
        )
    code = objects.values & 0xFFFF
    return np.where(code >> 8 > 0, _OBJECTS_FROM + code, below.values.astype(np.int32))


def _meaning(number: int) -> tuple[int, bool] | None:
    classes = class_list("ade20k")
    if number >= _OBJECTS_FROM:
        things = [label for label, category in enumerate(classes) if category.is_thing]
        thing = number - _OBJECTS_FROM & 255
        if not 1 <= thing <= len(things):
            raise ValueError(f"red must be 1..{len(things)}, the thing's number, not {thing}")
        return things[thing - 1], False
    if number > len(classes):
        raise ValueError(f"value {number} of its mask in annotations is none of 0..{len(classes)}")
    label = number - 1
    return None if number == 0 or classes[label].is_thing else (label, False)


# --- the layouts they lie in ------------------------------------------------------------------


def _is_ade(images: AnyPath) -> bool:
    """Whether images have the names of ADE20K's, which other folders of this layout have not."""
    if not images.is_dir():
        return False
    names = (path.name for path in images.iterdir() if not path.name.startswith("."))
    return next(names, "").startswith("ADE_")


def _semantic_splits(folder: AnyPath) -> tuple[str, ...]:
    return tuple(
        split
        for split in _SHORT
        if _is_ade(folder / "images" / split)
        and any(
            holds_pairs(folder / "images" / split, folder / masks / split)
            for masks in ("annotations", "annotations_detectron2")
        )
    )


def _full_splits(folder: AnyPath) -> tuple[str, ...]:
    images, masks = folder / "images_detectron2", folder / "annotations_detectron2"
    return tuple(split for split in _SHORT if holds_pairs(images / split, masks / split))


def _splits_with(folder: AnyPath, json: str) -> tuple[str, ...]:
    return tuple(
        split
        for split, short in _SHORT.items()
        if (folder / json.format(short)).is_file()
        or (_is_ade(folder / "images" / split) and (folder / _INSTANCES / split).is_dir())
    )


def _panoptic_splits(folder: AnyPath) -> tuple[str, ...]:
    return _splits_with(folder, _PANOPTIC)


def _instance_splits(folder: AnyPath) -> tuple[str, ...]:
    return _splits_with(folder, _INSTANCE)


_ORIGINAL = "annotations_instance/<s>/*.png with annotations/<s>/*.png and images/<s>/ADE_*.jpg"

FORMATS = (
    Format(
        name="ade20k-panoptic",
        title="ADE20K panoptic",
        layout=("ade20k_panoptic_train.json, ade20k_panoptic_val.json", _ORIGINAL),
        tasks=TASKS,
        splits=_panoptic_splits,
        open=partial(open_panoptic, panoptic),
    ),
    Format(
        name="ade20k-instance",
        title="ADE20K instances",
        layout=("ade20k_instance_train.json, ade20k_instance_val.json", _ORIGINAL),
        tasks=("instance",),
        splits=_instance_splits,
        open=lambda folder, split, task: instances(folder, split),
    ),
    Format(
        name="ade20k-semantic",
        title="ADE20K semantic",
        layout=("annotations/<s>/*.png with images/<s>/ADE_*.jpg",),
        tasks=("semantic",),
        splits=_semantic_splits,
        open=lambda folder, split, task: semantic(folder, split),
    ),
    Format(
        name="ade20k-full",
        title="ADE20K with all 847 classes",
        layout=("annotations_detectron2/<s>/*.tif with images_detectron2/<s>/*.jpg",),
        tasks=("semantic",),
        splits=_full_splits,
        open=lambda folder, split, task: full(folder, split),
    ),
)
