"""Label maps: beside every image a mask of the same stem whose pixels are numbers of classes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import chain

import numpy as np
from rich.progress import track

from mask2former.archive import AnyPath, read_text
from mask2former.data.class_files import CLASS_FILES, read_classes
from mask2former.data.dataset import read_annotated_image
from mask2former.data.findings import MISSING, Finding, finding
from mask2former.data.format import NO_SPLIT, Format, names_matching
from mask2former.data.map_classes import VOID, MapClasses, found_classes
from mask2former.data.pixel_maps import (
    LACKING,
    Matched,
    Pair,
    holds_pairs,
    match_files,
    pair_files,
    read_map,
    used_values,
    why_no_pairs,
)
from mask2former.masks import IdMapMasks
from mask2former.structures import Category, Sample, Task


class LabelMaps:
    """Images with their label maps; every class that occurs in an image is one mask of it.

    A sample's `void` is where the mask has a number to ignore. Colours in the masks are those of
    the categories if `classes` has colours.
    """

    tasks: tuple[Task, ...] = ("semantic",)

    def __init__(self, pairs: Sequence[Pair], classes: MapClasses) -> None:
        """Nothing is read before it is asked for. See `pair_files`, `read_classes`."""
        self.pairs, self.classes = tuple(pairs), classes

    @property
    def categories(self) -> tuple[Category, ...]:
        return self.classes.categories

    def __len__(self) -> int:
        return len(self.pairs)

    def name_of(self, index: int) -> str:
        return self.pairs[index].image.name

    def __getitem__(self, index: int) -> Sample:
        pair = self.pairs[index]
        pixels = read_map(pair.mask)
        labels = self.classes.labels(pixels, pair.mask)
        present = [label for label in used_values(labels) if label != VOID]
        return Sample(
            image=read_annotated_image(pair.image, pixels.size, str(pair.mask)),
            labels=np.array(present, np.int64),
            masks=IdMapMasks(labels, present),
            is_crowd=np.zeros(len(present), bool),
            image_id=pair.id,
            name=pair.image.name,
            void=IdMapMasks(labels, [VOID]),
        )


# --- the layouts they lie in ------------------------------------------------------------------

_SPLIT_LAYOUTS = (  # images, masks
    *(
        ("<s>", f"<s>{ending}")
        for ending in ("annot", "_labels", "_masks", "_mask", "_annotations")
    ),
    *(("images/<s>", f"{name}/<s>") for name in ("annotations", "masks", "labels")),
    *(("<s>/images", f"<s>/{name}") for name in ("masks", "labels", "annotations")),
    *(("<s>/image", f"<s>/{name}") for name in ("mask", "label")),
    ("img_dir/<s>", "ann_dir/<s>"),  # mmsegmentation
)
_BESIDE_CLASSES = "_classes.csv"  # Roboflow: masks x_mask.png beside their images
_WHOLE_LAYOUTS = (
    *(("images", name) for name in ("masks", "labels", "annotations")),
    *(("image", name) for name in ("mask", "label")),
    ("imgs", "masks"),
)
_VOC_IMAGES, _VOC_MASKS, _VOC_LIST = (
    *("JPEGImages", "SegmentationClass"),
    "ImageSets/Segmentation/<s>.txt",
)

Place = tuple[AnyPath, AnyPath, AnyPath | None]  # of a split: images, masks, list of stems


def _candidates(
    folder: AnyPath, layouts: Sequence[tuple[str, str]]
) -> Iterator[tuple[str, AnyPath, AnyPath]]:
    """Splits and folders that layouts could mean: name, images, masks."""
    for images, masks in layouts:
        for name in names_matching(folder, masks) if "<s>" in masks else [NO_SPLIT]:
            yield name, folder / images.replace("<s>", name), folder / masks.replace("<s>", name)


def _places(folder: AnyPath) -> dict[str, Place]:
    """Where each split of a folder lies."""
    found: dict[str, Place] = {}
    if (folder / _VOC_IMAGES).is_dir() and (folder / _VOC_MASKS).is_dir():
        for name in names_matching(folder, _VOC_LIST):
            found[name] = (
                folder / _VOC_IMAGES,
                folder / _VOC_MASKS,
                folder / _VOC_LIST.replace("<s>", name),
            )
    names = names_matching(folder, f"<s>/{_BESIDE_CLASSES}")
    beside = ((name, folder / name, folder / name) for name in names)
    for name, images, masks in chain(_candidates(folder, _SPLIT_LAYOUTS), beside):
        if name and name not in found and holds_pairs(images, masks):
            found[name] = (images, masks, None)
    if not found:
        for name, images, masks in _candidates(folder, _WHOLE_LAYOUTS):
            if holds_pairs(images, masks):
                return {name: (images, masks, None)}
        if (folder / _BESIDE_CLASSES).is_file() and holds_pairs(folder, folder):
            return {NO_SPLIT: (folder, folder, None)}
    return found


def _nearly(folder: AnyPath) -> str | None:
    """What is wrong with the masks of a folder that has images and masks, but no pairs of them."""
    candidates = _candidates(folder, (*_WHOLE_LAYOUTS, *_SPLIT_LAYOUTS))
    reasons = (why_no_pairs(images, masks) for _, images, masks in candidates)
    return next((reason for reason in reasons if reason is not None), None)


def _stems(place: Place) -> list[str] | None:
    """The images that the list of a split names; None if it has none."""
    file = place[2]
    if file is None:
        return None
    lines = (line.strip() for line in read_text(file).splitlines())
    return [line for line in lines if line]


def _splits(folder: AnyPath) -> tuple[str, ...]:
    return tuple(sorted(_places(folder)))


def _open(folder: AnyPath, split: str, task: Task) -> LabelMaps:
    places = _places(folder)
    place = places[split]
    return _open_pairs(folder, places, split, pair_files(*place[:2], _stems(place)))


def _open_sound(folder: AnyPath, split: str, task: Task) -> LabelMaps:
    places = _places(folder)
    return _open_pairs(folder, places, split, _matched(places[split]).pairs)


def _matched(place: Place) -> Matched:
    return match_files(*place[:2], _stems(place))


def _open_pairs(
    folder: AnyPath, places: dict[str, Place], split: str, pairs: Sequence[Pair]
) -> LabelMaps:
    images, masks, _ = places[split]
    homes = (folder, masks, images, images.parent)
    file = next(
        (home / name for home in homes for name in CLASS_FILES if (home / name).is_file()), None
    )
    # Of all splits, so that each has the same classes. What another split lacks, that one tells.
    every = [pair for place in places.values() for pair in _matched(place).pairs]
    if file is None:
        maps = (read_map(pair.mask) for pair in _shown(every))
        return LabelMaps(pairs, found_classes(maps, str(folder)))
    return LabelMaps(pairs, _as_black_and_white(read_classes(file), every))


def _faults(folder: AnyPath, split: str) -> Iterator[Finding]:
    """Images and masks that have no partner, or two."""
    place = _places(folder)[split]
    found = _matched(place)
    for error in found.faults:
        file, _, message = str(error).partition(": ")
        kind = MISSING if isinstance(error, FileNotFoundError) else "two of one stem"
        yield Finding(kind=kind, severity="error", file=file, record="", message=message)
    for image in found.without_mask:
        message = f"has no mask in {place[1]}; {LACKING}"
        yield finding(image, "image without mask", "error", "", message)
    for mask in found.without_image:
        message = (
            f"has no image of its stem in {place[0]}; restore the image, or move the mask away"
        )
        yield finding(mask, "mask without image", "warning", "", message)


def _shown(pairs: Sequence[Pair]) -> Iterator[Pair]:
    yield from track(pairs, "looking for the classes in the masks", transient=True)


def _as_black_and_white(classes: MapClasses, pairs: Sequence[Pair]) -> MapClasses:
    """Of two classes the second may be painted 255, which else is ignored: if none has a 1."""
    if classes.values != (0, 1) or 255 not in classes.ignore:
        return classes
    used: set[int] = set()
    for pair in _shown(pairs):
        pixels = read_map(pair.mask)
        used |= set(used_values(pixels.values & 255 if pixels.is_color else pixels.values))
        if not used <= {0, 255}:
            return classes
    return replace(classes, values=(0, 255), ignore=classes.ignore - {255})


FORMAT = Format(
    name="label-maps",
    title="label maps",
    layout=(
        "<s>/*.jpg with <s>annot/*.png, or <s>_labels, <s>_masks",
        "images/<s>/*.jpg with masks/<s>/*.png, or annotations/<s>, labels/<s>",
        "img_dir/<s>/*.jpg with ann_dir/<s>/*.png",
        "[<s>/]images/*.jpg with [<s>/]masks/*.png, or labels, annotations; image with mask, label",
        "JPEGImages/*.jpg with SegmentationClass/*.png and ImageSets/Segmentation/<s>.txt",
        "[<s>/]*.jpg with [<s>/]*_mask.png and [<s>/]_classes.csv",
    ),
    tasks=("semantic",),
    splits=_splits,
    open=_open,
    faults=_faults,
    open_sound=_open_sound,
    nearly=_nearly,
)
