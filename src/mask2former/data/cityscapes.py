"""Cityscapes, fine annotation (Cordts et al., 2016), as it is downloaded and unpacked.

19 of its labels are measured, 8 of these are things; the others are void.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

from mask2former.archive import AnyPath
from mask2former.data.class_lists import class_list
from mask2former.data.coco_panoptic import CocoPanoptic
from mask2former.data.dataset import Dataset
from mask2former.data.format import Format
from mask2former.data.label_maps import LabelMaps
from mask2former.data.map_classes import named_classes
from mask2former.data.pixel_maps import Pair
from mask2former.data.segment_maps import SegmentMaps
from mask2former.data.task_views import open_panoptic
from mask2former.structures import TASKS

_IMAGE_END = "_leftImg8bit.png"
_LABEL_IDS, _TRAIN_IDS = "_gtFine_labelIds.png", "_gtFine_labelTrainIds.png"
_INSTANCE_IDS = "_gtFine_instanceIds.png"
_PREPARED = "cityscapes_panoptic_{}.json"

_LAST_ID = 33  # of a label; -1, a licence plate, is stored as the largest number
_PLATES = (255, 65535)
_OBJECTS_FROM = 1000  # label id * 1000 + object; below it the label id of stuff or of a group


def semantic(folder: AnyPath, split: str) -> LabelMaps:
    """The 19 classes, from the labels' ids, or from train ids where only these are there."""
    categories, end = class_list("cityscapes"), _end_of(folder, split, (_LABEL_IDS, _TRAIN_IDS))
    if end == _TRAIN_IDS:
        classes = named_classes(categories, ignore=[255], source="Cityscapes' train ids")
    else:
        ids = [category.id for category in categories]
        ignore = {*range(_LAST_ID + 1), *_PLATES} - set(ids)
        classes = named_classes(categories, values=ids, ignore=ignore, source="Cityscapes")
    return LabelMaps(_pairs(folder, split, end or _LABEL_IDS), classes)


def panoptic(folder: AnyPath, split: str, *, things_only: bool = False) -> Dataset:
    """Objects and stuff; a group of objects that nobody told apart is a crowd.

    Read from `*_instanceIds.png`; where these are missing, from what was prepared of them.
    """
    categories = class_list("cityscapes")
    json = folder / "gtFine" / _PREPARED.format(split)
    if _end_of(folder, split, (_INSTANCE_IDS,)) is None and json.is_file():
        return CocoPanoptic(
            json,
            json.with_suffix(""),
            folder / "leftImg8bit" / split,
            things_only=things_only,
            categories=categories,
            file_name=_image_of,
        )
    pairs = _pairs(folder, split, _INSTANCE_IDS)
    return SegmentMaps(pairs, categories, _meaning, things_only=things_only)


def _meaning(number: int) -> tuple[int, bool] | None:
    is_object = number >= _OBJECTS_FROM
    id = number // _OBJECTS_FROM if is_object else number
    if number in _PLATES or number == -1:
        return None
    if not 0 <= id <= _LAST_ID:
        raise ValueError(
            f"value {number} stands for label {id}, but Cityscapes has 0..{_LAST_ID}; restore it"
        )
    for label, category in enumerate(class_list("cityscapes")):
        if category.id == id:
            return label, category.is_thing and not is_object
    return None


def _image_of(image_id: str) -> str:
    """Where the image of an id lies in its split; prepared files name one that does not exist."""
    return f"{image_id.split('_')[0]}/{image_id}{_IMAGE_END}"


# --- the layout it lies in --------------------------------------------------------------------


def _images(folder: AnyPath, split: str) -> Iterator[AnyPath]:
    cities: list[AnyPath] = sorted((folder / "leftImg8bit" / split).iterdir())
    for city in cities:
        if city.is_dir():
            yield from sorted(p for p in city.iterdir() if p.name.endswith(_IMAGE_END))


def _mask_of(folder: AnyPath, split: str, image: AnyPath, end: str) -> AnyPath:
    name = image.name.removesuffix(_IMAGE_END) + end
    return folder / "gtFine" / split / image.parent.name / name


def _pairs(folder: AnyPath, split: str, end: str) -> list[Pair]:
    pairs = [
        Pair(
            id=image.name.removesuffix(_IMAGE_END),
            image=image,
            mask=_mask_of(folder, split, image, end),
        )
        for image in _images(folder, split)
    ]
    lacking = [pair.mask for pair in pairs if not pair.mask.is_file()]
    if lacking:
        raise FileNotFoundError(
            f"{lacking[0]}: this and {len(lacking) - 1} more of the {len(pairs)} masks of the split"
            " are missing; unpack gtFine completely, or move the images away"
        )
    return pairs


def _end_of(folder: AnyPath, split: str, ends: tuple[str, ...]) -> str | None:
    """The first of the `ends` of which the first image of a split has a mask."""
    first = next(_images(folder, split), None)
    if first is None:
        return None
    return next((end for end in ends if _mask_of(folder, split, first, end).is_file()), None)


def _splits_of(folder: AnyPath, ends: tuple[str, ...]) -> list[str]:
    images = folder / "leftImg8bit"
    if not images.is_dir():
        return []
    return [s.name for s in images.iterdir() if s.is_dir() and _end_of(folder, s.name, ends)]


def _semantic_splits(folder: AnyPath) -> tuple[str, ...]:
    return tuple(sorted(_splits_of(folder, (_LABEL_IDS, _TRAIN_IDS))))


def _panoptic_splits(folder: AnyPath) -> tuple[str, ...]:
    prepared = [
        split
        for split in ("train", "val", "test")
        if (folder / "gtFine" / _PREPARED.format(split)).is_file()
        and (folder / "leftImg8bit" / split).is_dir()
    ]
    return tuple(sorted({*prepared, *_splits_of(folder, (_INSTANCE_IDS,))}))


_BESIDE = "with leftImg8bit/<s>/<city>/*_leftImg8bit.png"

FORMATS = (
    Format(
        name="cityscapes",
        title="Cityscapes",
        layout=(f"gtFine/<s>/<city>/*{_INSTANCE_IDS} {_BESIDE}",),
        tasks=TASKS,
        splits=_panoptic_splits,
        open=partial(open_panoptic, panoptic),
    ),
    Format(
        name="cityscapes-semantic",
        title="Cityscapes semantic",
        layout=(f"gtFine/<s>/<city>/*{_LABEL_IDS} {_BESIDE}",),
        tasks=("semantic",),
        splits=_semantic_splits,
        open=lambda folder, split, task: semantic(folder, split),
    ),
)
