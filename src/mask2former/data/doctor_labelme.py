"""The doctor's look at labelme's files: everything wrong with them, told without their images."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from mask2former.archive import AnyPath
from mask2former.data.coco_json import Problem
from mask2former.data.dataset import require_file
from mask2former.data.findings import MISSING, Finding, finding
from mask2former.data.labelme_json import (
    BACKGROUND,
    IGNORE,
    ImageFiles,
    LabelMeObject,
    Record,
    class_file,
    collect_record,
    json_files,
    labels_in,
    list_images,
    read_class_names,
    read_content,
)

_OUTSIDE = 1.0  # pixels that a point may lie outside


def find_faults(folder: AnyPath, siblings: Sequence[AnyPath] = ()) -> Iterator[Finding]:
    """What is wrong with the files of a folder; `siblings` are those of the other splits."""
    images = ImageFiles()
    records: list[Record] = []
    for path in json_files(folder):
        try:
            content = read_content(path)
        except (ValueError, OSError) as error:
            yield finding(path, "cannot be opened", "error", "", str(error))
            continue
        if content is None:
            continue
        problems: list[Problem] = []
        record = collect_record(path, content, images, problems)
        yield from (finding(path, p.kind, "error", p.record, p.message) for p in problems)
        if record is not None:
            records.append(record)
            yield from _of_record(record)
    yield from _of_classes(folder, siblings, records)
    yield from _without_annotation([folder, *siblings], records)


def _of_record(record: Record) -> Iterator[Finding]:
    path, image = record.path, record.image
    if not image.is_embedded:
        try:
            require_file(image.path, str(path))
        except FileNotFoundError as error:
            yield finding(path, MISSING, "error", "", str(error))
    for name, kind in record.left_out:
        message = f"a {kind} has no area, so it is left out; draw what it covers, or drop it"
        yield finding(path, "mask without a pixel", "warning", name, message)
    first_of: dict[tuple[str, str], LabelMeObject] = {}
    for entry in record.objects:
        yield from _outside(path, entry, image.size)
        first = first_of.setdefault((entry.name, repr(entry.mask)), entry)
        if first is not entry:
            message = f"is drawn as {first.record} is, of the same class; drop one of the two"
            yield finding(path, "object annotated twice", "warning", entry.record, message)


def _outside(path: AnyPath, entry: LabelMeObject, size: tuple[int, int]) -> Iterator[Finding]:
    """Whether polygons leave the image; masks that do are no masks to the reader."""
    if isinstance(entry.mask, Mapping):
        return
    corners = np.concatenate([np.reshape(polygon, (-1, 2)) for polygon in entry.mask])
    low, high, ends = corners.min(axis=0), corners.max(axis=0), np.array(size[::-1])
    image = f"of the image, which is {size[0]} high and {size[1]} wide"
    if (high <= 0).any() or (low >= ends).any():
        message = f"none of it is inside {image}; draw it anew, or drop it"
        yield finding(path, "mask outside the frame", "error", entry.record, message)
        return
    excess = max((-low).max(), (high - ends).max())
    if excess > _OUTSIDE:
        message = (
            f"reaches {excess:.0f} pixels outside {image}; that part is cut off. Was the image"
            " cropped or scaled afterwards?"
        )
        yield finding(path, "mask outside of the image", "warning", entry.record, message)


def _of_classes(
    folder: AnyPath, siblings: Sequence[AnyPath], records: Sequence[Record]
) -> Iterator[Finding]:
    """Labels that the list of classes lacks, and classes whose names are nearly the same."""
    places: dict[str, list[tuple[AnyPath, str]]] = {}  # of each label: files and shapes
    for record in records:
        for entry in record.objects:
            if entry.name not in (IGNORE, BACKGROUND):
                places.setdefault(entry.name, []).append((record.path, entry.record))
    file = class_file(folder)
    if file is None:
        names = set(places).union(*(readable_labels(sibling) for sibling in siblings))
    else:
        try:
            names = set(read_class_names(file))
        except ValueError as error:
            yield finding(file, "cannot be opened", "error", "", str(error))
            return
        message = f"its label is not among the {len(names)} of {file}; add it there, or rename it"
        for name in sorted(places.keys() - names):
            for path, shape in places[name]:
                yield finding(path, "unknown category", "error", shape, message)
    usual: dict[str, str] = {}
    for name in sorted(names, key=lambda name: (-len(places.get(name, ())), name)):
        first = usual.setdefault(name.strip().casefold(), name)
        if first != name:
            path = places[name][0][0] if name in places else file or folder
            message = (
                f"differs from {first!r} by case or spaces alone, but is a class of its own; give"
                " the shapes of both one label"
            )
            yield finding(path, "class names alike", "warning", f"class {name!r}", message)


def readable_labels(folder: AnyPath) -> set[str]:
    """The labels of another split; what cannot be read in it is told when that is looked at."""
    found: set[str] = set()
    for path in json_files(folder):
        try:
            found |= labels_in(read_content(path) or {"shapes": []})
        except (ValueError, OSError):
            continue
    return found


def sound_records(folder: AnyPath) -> Iterator[Record]:
    """The files of a folder that can be read, without the shapes that are wrong."""
    images = ImageFiles()
    for path in json_files(folder):
        try:
            content = read_content(path)
        except (ValueError, OSError):
            continue
        record = None if content is None else collect_record(path, content, images, [])
        if record is not None:
            yield record


def _without_annotation(folders: Sequence[AnyPath], records: Sequence[Record]) -> Iterator[Finding]:
    """Images beside the files of the first folder, or where those have theirs, that have none.

    The splits may share a folder of images: a file of any of `folders` is an annotation.
    """
    annotated = {path.stem for folder in folders for path in json_files(folder)}
    named = {os.path.normpath(str(record.image.path)) for record in records}
    places = {os.path.normpath(str(folders[0])): folders[0]}
    for record in records:
        if not record.image.is_embedded:
            place = record.image.path.parent
            places.setdefault(os.path.normpath(str(place)), place)
    message = "no JSON file annotates this image, so it is left out; annotate it, or drop it"
    for place in places.values():
        for image in list_images(place):
            if image.stem not in annotated and os.path.normpath(str(image)) not in named:
                yield finding(image, "image without annotation", "warning", "", message)
