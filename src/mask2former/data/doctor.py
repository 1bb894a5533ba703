"""What is wrong with a data set, all of it: each finding with its file, its record and the cure."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import TypeVar

import numpy as np
from rich.console import Console
from rich.progress import track

from mask2former.archive import AnyPath, ZipPath
from mask2former.data.dataset import Dataset, labels_of, record_of, tells_labels
from mask2former.data.detect import best_for, choose_split, find_formats, nothing_found, root_of
from mask2former.data.doctor_coco import FORMATS as COCO_FORMATS
from mask2former.data.doctor_coco import coco_part
from mask2former.data.doctor_images import (
    Look,
    examine,
    look_at,
    missing,
    named_twice,
    same_pictures,
    unnamed_files,
)
from mask2former.data.findings import NO_OBJECT, Finding, ImageRef, Part, SampleRef, in_order
from mask2former.data.format import Format
from mask2former.structures import Masks, Task

Item = TypeVar("Item")
Answer = TypeVar("Answer")


def check(
    folder: str | Path | ZipPath,
    splits: Sequence[str] | None = None,
    *,
    task: Task | None = None,
    format: str | None = None,
    deep: bool = True,
    progress: bool = False,
) -> list[Finding]:
    """Everything that is wrong with a data set, the gravest first.

    All splits are looked at unless some are named; `task` and `format` choose as in
    `open_dataset`. Without `deep` no image is decoded and no mask drawn: the records of COCO's
    formats are checked, and whether their files exist; of others every split is opened, and what
    its text files say of each image is read, where the annotations are text.

    Raises FileNotFoundError if the folder is missing, ValueError if it is no data set.
    """
    root = root_of(folder)
    parts: list[Part] = []
    looks: list[tuple[SampleRef, Look]] = []
    for fmt, split in _chosen(root, splits, task, format):
        if fmt in COCO_FORMATS:
            parts.append(coco_part(fmt, root, split))
        else:
            parts.append(_other_part(fmt, root, split, task, looks, deep=deep))
    findings = [*_classes_of_splits(parts)]
    refs = [ref for part in parts for ref in part.images]
    findings.extend(named_twice(refs))
    if splits is None:
        findings.extend(unnamed_files(refs))
    if deep:
        jobs = [job for part in parts for job in part.jobs]
        for found in _in_threads(lambda job: job(), jobs, "masks", progress):
            findings.extend(found)
        findings.extend(_images(refs, looks, progress))
    else:
        findings.extend(f for ref in refs for f in missing(ref))
    for part in parts:
        if part.samples and len(part.bare) == part.samples:
            message = f"none of the {part.samples} images has an object; annotate them"
            part.add("split without objects", "error", part.split, message)
        findings.extend(part.findings)
        findings.extend(_overlaps(part))
    return in_order(findings)


def _chosen(
    root: AnyPath, splits: Sequence[str] | None, task: Task | None, format: str | None
) -> list[tuple[Format, str]]:
    """Which formats to look at, in which splits."""
    found = find_formats(root, format)
    if not found:
        raise ValueError(nothing_found(root))
    known = sorted({name for f in found for name in f.splits})
    # PASCAL VOC's trainval is its train and val once more.
    whole = [name for name in known if name != "trainval" or not {"train", "val"} <= {*known}]
    names = whole if splits is None else [choose_split(root, split, known) for split in splits]
    names = sorted(dict.fromkeys(names), key=lambda name: (not name.startswith("train"), name))
    chosen: list[tuple[Format, str]] = []
    for name in names:
        fitting = [f.format for f in found if name in f.splits]
        if task is not None:
            fitting = [best_for(task, fitting) or fitting[0]]
        elif format is None:
            # Beside COCO's files a looser layout may seem to fit, too; no one means that.
            both = [f for f in fitting if f in COCO_FORMATS]
            fitting = both or fitting[:1]
        chosen.extend((f, name) for f in fitting)
    return chosen


def _other_part(
    format: Format,
    root: AnyPath,
    split: str,
    task: Task | None,
    looks: list[tuple[SampleRef, Look]],
    *,
    deep: bool,
) -> Part:
    """A format that is known by its reader alone: each sample is read, and what it says kept."""
    place = root / split if split and (root / split).is_dir() else root
    part = Part(file=str(place), format=format.name, split=split)
    served = task if task in format.tasks else format.tasks[0]
    if format.faults is not None:
        part.add_faults(format.faults(root, split))
    try:
        dataset = _opened(format, root, split, served, part)
    except (ValueError, OSError) as error:
        if not part.knows(str(error)):
            part.add_failure(error)
        message = "it cannot be opened before that is mended, so its images are not looked at"
        part.add("not looked at", "note", split, message)
        return part
    part.samples, part.categories = len(dataset), dataset.categories

    if not deep:
        if tells_labels(dataset):
            _read_labels(part, dataset)
        return part

    def read(index: int) -> list[Finding]:
        record = record_of(dataset, index)
        try:
            sample = dataset[index]
        except (ValueError, OSError, KeyError, IndexError) as error:
            return _unreadable(part, record, error)
        ref = SampleRef(file=part.file, record=sample.name, split=split)
        looks.append((ref, look_at(sample.image)))
        if sample.image.shape[:2] != sample.masks.size:
            message = f"masks of size {sample.masks.size}, image {sample.image.shape[:2]}"
            return [_of_sample(part, "image of another size", sample.name, message, error=True)]
        if not len(sample.labels):
            return _without_objects(part, sample.name)
        return _empty_masks(part, sample.name, sample.masks)

    part.jobs = [partial(read, index) for index in range(part.samples)]
    return part


def _opened(format: Format, root: AnyPath, split: str, task: Task, part: Part) -> Dataset:
    """The split, or what of it can be read beside the errors that are known already."""
    if format.open_sound is not None and part.errors():
        return format.open_sound(root, split, task)
    return format.open(root, split, task)


def _read_labels(part: Part, dataset: Dataset) -> None:
    """What can be told of a reader's samples without their images."""
    for index in range(len(dataset)):
        record = record_of(dataset, index)
        try:
            if not labels_of(dataset, index):
                part.findings.extend(_without_objects(part, record))
        except (ValueError, OSError) as error:
            part.findings.extend(_unreadable(part, record, error))


def _unreadable(part: Part, record: str, error: Exception) -> list[Finding]:
    """What the reader says of a sample, unless it is known already."""
    if part.knows(str(error), record):
        return []
    return [_of_sample(part, "unreadable sample", record, str(error), error=True)]


def _without_objects(part: Part, record: str) -> list[Finding]:
    if part.is_faulty(record):  # its objects may be those that cannot be read
        return []
    part.bare.append(record)
    return [_of_sample(part, "image without objects", record, NO_OBJECT)]


def _empty_masks(part: Part, record: str, drawn: Masks) -> list[Finding]:
    height, width = drawn.size
    masks = drawn.render((0, 0, width, height), drawn.size)
    counts = masks.sum(axis=0, dtype=np.uint16)
    part.overlaps.append((int((counts > 1).sum()), int((counts > 0).sum())))
    return [
        _of_sample(part, "mask without a pixel", record, f"object {index} has no pixel; drop it")
        for index in np.flatnonzero(~masks.any(axis=(1, 2)))
    ]


def _of_sample(part: Part, kind: str, record: str, message: str, *, error: bool = False) -> Finding:
    return Finding(
        kind=kind,
        severity="error" if error else "warning",
        file=part.file,
        record=record,
        message=message.removeprefix(f"{part.file}: "),
    )


def _images(
    refs: Sequence[ImageRef], looks: list[tuple[SampleRef, Look]], progress: bool
) -> list[Finding]:
    """Every image is read once, though several records may name it."""
    findings: list[Finding] = []
    once = list({(ref.path, ref.size): ref for ref in reversed(refs)}.values())[::-1]
    look_of: dict[AnyPath, Look] = {}
    for ref, (found, look) in zip(
        once, _in_threads(examine, once, "images", progress), strict=True
    ):
        findings.extend(found)
        if look is not None:
            look_of[ref.path] = look
    named = {(ref.split, ref.path): ref for ref in reversed(refs)}
    known: list[tuple[SampleRef, Look]] = [
        (ref, look_of[ref.path]) for ref in named.values() if ref.path in look_of
    ]
    all_looks = sorted(
        [*known, *looks],
        key=lambda seen: (not seen[0].split.startswith("train"), seen[0].split, seen[0].place),
    )
    return [*findings, *same_pictures(all_looks)]


def _overlaps(part: Part) -> list[Finding]:
    double = sum(pixels for pixels, _ in part.overlaps)
    covered = sum(pixels for _, pixels in part.overlaps)
    if not double:
        return []
    message = f"{100 * double / covered:.2g} % of the annotated pixels are in two masks or more"
    return [Finding(kind="overlaps", severity="note", file=part.file, record="", message=message)]


def _classes_of_splits(parts: Sequence[Part]) -> list[Finding]:
    """Labels must mean the same in every split of a format."""
    findings: list[Finding] = []
    first_of: dict[str, Part] = {}
    for part in parts:
        if not part.categories:
            continue  # it could not be opened, which is told
        first = first_of.setdefault(part.format, part)
        theirs = {c.id: (c.name, c.is_thing) for c in first.categories}
        own = {c.id: (c.name, c.is_thing) for c in part.categories}
        for id in sorted(theirs.keys() | own.keys()):
            if theirs.get(id) == own.get(id):
                continue
            there, here = _class(theirs.get(id)), _class(own.get(id))
            message = (
                f"is {here} here, but {there} in {first.file}; list the same categories in every"
                " split, used or not"
            )
            findings.append(
                Finding(
                    kind="classes differ between splits",
                    severity="error",
                    file=part.file,
                    record=f"category {id}",
                    message=message,
                )
            )
    return findings


def _class(entry: tuple[str, bool] | None) -> str:
    if entry is None:
        return "missing"
    return f"{entry[0]!r} ({'thing' if entry[1] else 'stuff'})"


def _in_threads(
    work: Callable[[Item], Answer], items: Sequence[Item], what: str, progress: bool
) -> Iterable[Answer]:
    """The answers in the order of the items; decoding and drawing mostly run side by side."""
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        yield from track(
            pool.map(work, items),
            f"checking {what}",
            total=len(items),
            disable=not progress,
            transient=True,
            console=Console(stderr=True),
        )
