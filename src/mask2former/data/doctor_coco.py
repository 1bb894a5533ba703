"""The doctor's look at COCO's instance and panoptic files: everything wrong, not the first."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from functools import partial
from typing import Any

import numpy as np
from scipy import ndimage

from mask2former.archive import AnyPath
from mask2former.data import coco, coco_panoptic
from mask2former.data.coco import CocoObject, collect_objects
from mask2former.data.coco_exports import placed
from mask2former.data.coco_json import (
    CocoJson,
    ImageRecord,
    Mend,
    Problem,
    collect_coco_json,
)
from mask2former.data.coco_panoptic import (
    PanopticRecord,
    PngModeError,
    collect_records,
    painted_ids,
    read_png,
)
from mask2former.data.dataset import SizeMismatchError, require_file
from mask2former.data.doctor_masks import OUTSIDE, box_problem, examine_masks, outside
from mask2former.data.findings import MISSING, NO_OBJECT, Finding, ImageRef, Part, Severity
from mask2former.data.format import Format
from mask2former.structures import Category

FORMATS = (coco.FORMAT, coco_panoptic.FORMAT)
_NAMED = 12  # classes that one message names


def coco_part(format: Format, folder: AnyPath, split: str) -> Part:
    """What is wrong with the records of a split, and what is left to look at."""
    part = Part(file=str(folder), format=format.name, split=split)
    panoptic = format is coco_panoptic.FORMAT
    try:
        mend: Mend | None = None
        if panoptic:
            file, pngs, images = coco_panoptic.files_of(folder, split)
        else:
            file, images, mend = coco.files_of(folder, split)
        part.file = str(file)
        problems: list[Problem] = []
        content = collect_coco_json(file, "panoptic" if panoptic else "instance", problems, mend)
    except (ValueError, OSError) as error:
        part.add_failure(error)
        return part
    part.categories = content.categories
    part.images = [
        ImageRef(
            path=images / image.file_name,
            size=image.size,
            file=part.file,
            record=f"image {image.id}",
            split=split,
        )
        for image in (content.images if panoptic else placed(content.images, images)).values()
    ]
    if panoptic:
        used = _panoptic(part, content, pngs, problems)
    else:
        used = _instances(part, content, problems)
    part.add_problems(problems)
    _classes(part, content.categories, used)
    return part


def _instances(part: Part, content: CocoJson, problems: list[Problem]) -> Counter[int]:
    """The objects of every image; how many there are of each label."""
    objects: dict[int | str, list[tuple[dict[str, Any], CocoObject]]] = {}
    used: Counter[int] = Counter()
    crowds = 0
    lacks: list[Problem] = []
    for annotation, found in collect_objects(content, problems, lacks):
        if found.is_box:
            continue
        image = content.images[annotation["image_id"]]
        objects.setdefault(image.id, []).append((annotation, found))
        used[found.label] += 1
        crowds += found.is_crowd
        for problem in outside(found, image.size):
            severity: Severity = "error" if problem.kind == OUTSIDE else "warning"
            part.add(problem.kind, severity, problem.record, problem.message)
    part.findings += _findings(part, "warning" if objects else "error", lacks)
    part.samples = len(content.images)
    annotated = {annotation["image_id"] for annotation in content.annotations}
    for image in content.images.values():
        if image.id not in annotated:  # else it is told what is wrong with its annotations
            part.bare.append(f"image {image.id}")
            part.add("image without objects", "warning", part.bare[-1], NO_OBJECT)
        elif image.id in objects:
            part.jobs.append(partial(_look_at_masks, part, image, objects[image.id]))
    _crowds(part, crowds, used.total())
    return used


def _look_at_masks(
    part: Part, image: ImageRecord, objects: Sequence[tuple[dict[str, Any], CocoObject]]
) -> list[Finding]:
    errors, warnings, overlap = examine_masks(image, objects)
    part.overlaps.append(overlap)
    return [*_findings(part, "error", errors), *_findings(part, "warning", warnings)]


def _panoptic(
    part: Part, content: CocoJson, pngs: AnyPath, problems: list[Problem]
) -> Counter[int]:
    """The segments of every image; how many there are of each label."""
    used: Counter[int] = Counter()
    crowds = 0
    for annotation, record in collect_records(content, problems):
        used.update(record.labels)
        crowds += sum(record.is_crowd)
        name = f"image {record.image.id}"
        if not annotation["segments_info"]:
            message = "has no segment, so nothing is learnt from it; annotate it or drop it"
            part.add("image without objects", "warning", name, message)
        try:
            require_file(pngs / record.png, name)
        except FileNotFoundError as error:
            part.add(MISSING, "error", name, str(error).removeprefix(f"{name}: "))
            continue
        part.jobs.append(partial(_look_at_png, part, pngs, annotation, record))
    annotated = {annotation["image_id"] for annotation in content.annotations}
    for image in content.images.values():
        if image.id not in annotated:
            message = "has no annotation, so it is left out; annotate it or drop it from 'images'"
            part.add("image without annotation", "warning", f"image {image.id}", message)
    _crowds(part, crowds, used.total())
    return used


def _look_at_png(
    part: Part, pngs: AnyPath, annotation: dict[str, Any], record: PanopticRecord
) -> list[Finding]:
    name, path = f"image {record.image.id}", pngs / record.png

    def finding(kind: str, severity: Severity, message: str) -> Finding:
        message = message.removeprefix(f"{name}: ")
        return Finding(kind=kind, severity=severity, file=part.file, record=name, message=message)

    try:
        id_map = read_png(path, record.image.size, name)
    except PngModeError as error:
        return [finding("PNG of another mode", "error", str(error))]
    except SizeMismatchError as error:
        return [finding("PNG of another size", "error", str(error))]
    except (ValueError, OSError) as error:
        return [finding("unreadable PNG", "error", str(error))]
    painted = painted_ids(id_map)
    explained = {segment.get("id") for segment in annotation["segments_info"]}
    findings = [
        finding(
            "PNG id without segment",
            "error",
            f"{path} has pixels of id {id}, which no segment in 'segments_info' has; add the"
            " segment, or paint the pixels 0 (void)",
        )
        for id in sorted(painted - explained)
    ]
    findings += [
        finding(
            "segment without pixels",
            "error",
            f"segment {id} has no pixel in {path}; drop the segment or restore the PNG",
        )
        for id in sorted(set(record.ids) - painted)
    ]
    values = sorted(painted)
    places = np.searchsorted(values, id_map) * (id_map != 0) + (id_map != 0)  # 0 is void
    counts = np.bincount(places.ravel(), minlength=len(values) + 1)[1:]
    boxes = ndimage.find_objects(places)
    index = {value: place for place, value in enumerate(values)}
    for segment in annotation["segments_info"]:
        place = index.get(segment["id"]) if isinstance(segment.get("id"), int) else None
        if place is None:
            continue
        area, segment_name = segment.get("area"), f"segment {segment['id']}"
        if area is not None and area != counts[place]:
            message = (
                f"{segment_name}: 'area' is {area}, but it has {counts[place]} pixels in {path};"
                " correct it, or drop the field"
            )
            findings.append(finding("area unlike the mask", "warning", message))
        if segment.get("bbox") is not None:
            rows, columns = boxes[place]
            true = (columns.start, rows.start, columns.stop, rows.stop)
            for problem in box_problem(segment_name, segment["bbox"], true):
                findings.append(finding(problem.kind, "warning", str(problem)))
    return findings


def _classes(part: Part, categories: Sequence[Category], used: Counter[int]) -> None:
    groups: dict[str, list[Category]] = {}
    for category in categories:
        groups.setdefault(category.name.strip().casefold(), []).append(category)
    for group in groups.values():
        for category in group if len(group) > 1 else ():
            others = [other for other in group if other is not category]
            nearest = min(others, key=lambda other: other.name != category.name)
            kind = "class name twice" if nearest.name == category.name else "class names alike"
            message = (
                f"has the name {category.name!r}, as category {nearest.id} has {nearest.name!r};"
                " merge them, or name one otherwise"
            )
            part.add(kind, "warning", f"category {category.id}", message)
    unused = [c.name for label, c in enumerate(categories) if not used[label]]
    if unused:
        named = ", ".join(unused[:_NAMED]) + (", ..." if len(unused) > _NAMED else "")
        message = f"{len(unused)} of {len(categories)} classes have no object: {named}"
        part.add("class without objects", "note", "", message)


def _crowds(part: Part, crowds: int, objects: int) -> None:
    if crowds:
        message = f"{crowds} of {objects} objects are crowds, which are no targets of a training"
        part.add("crowds", "note", "", message)


def _findings(part: Part, severity: Severity, problems: Iterable[Problem]) -> list[Finding]:
    return [
        Finding(
            kind=problem.kind,
            severity=severity,
            file=part.file,
            record=problem.record,
            message=problem.message,
        )
        for problem in problems
    ]
