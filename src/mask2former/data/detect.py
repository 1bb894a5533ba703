"""Which format a folder holds: `open_dataset` finds out and opens it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from mask2former.archive import AnyPath, ZipPath, any_path
from mask2former.data import (
    ade20k,
    bbbc038,
    camvid,
    cityscapes,
    coco,
    coco_panoptic,
    hf_dataset,
    label_maps,
    labelme,
    lvis,
    mapillary,
    yolo,
)
from mask2former.data.dataset import Dataset
from mask2former.data.format import NO_SPLIT, Format
from mask2former.structures import Task

VALIDATION = "val"  # the split that is validated on if none is named

# Where several fit, the first is taken: those with the most telling layout stand first.
FORMATS: tuple[Format, ...] = (
    coco_panoptic.FORMAT,
    coco.FORMAT,
    lvis.FORMAT,
    *hf_dataset.FORMATS,
    yolo.FORMAT,
    labelme.FORMAT,
    *ade20k.FORMATS,
    *cityscapes.FORMATS,
    *mapillary.FORMATS,
    camvid.FORMAT,
    bbbc038.FORMAT,
    label_maps.FORMAT,
)


@dataclass(frozen=True, kw_only=True)
class Found:
    """A format that a folder holds, and its splits."""

    format: Format
    splits: tuple[str, ...]


def open_dataset(
    folder: str | Path | ZipPath,
    split: str | None = None,
    *,
    task: Task | None = None,
    format: str | None = None,
) -> Dataset:
    """Open a data set in whichever of the known formats a folder, or a zip file of one, is.

    `split` may be left out if there is only one, and may be shortened ("val" for "val2017" or
    "valid") if only one begins so. Without a `task`, the richest annotation is taken: panoptic
    before the others. `format` is the name of one of `FORMATS`, where two would fit.

    Raises FileNotFoundError if the folder is missing, ValueError if nothing in it matches.
    """
    root = root_of(folder, format)
    found = find_formats(root, format)
    if not found:
        raise ValueError(nothing_found(root, split))
    name = choose_split(root, split, sorted({name for f in found for name in f.splits}))
    fitting = [f.format for f in found if name in f.splits]
    wanted = task or fitting[0].tasks[0]
    best = best_for(wanted, fitting)
    if best is not None:
        return best.open(root, name, wanted)
    titles = " and ".join(candidate.title for candidate in fitting)
    served = sorted({served for candidate in fitting for served in candidate.tasks})
    raise ValueError(
        f"{root}: holds {titles}, which cannot serve the task {task!r}; open it with"
        f" task={' or '.join(repr(name) for name in served)}, or add the annotation"
    )


def root_of(folder: str | Path | ZipPath, format: str | None = None) -> AnyPath:
    """The folder, or the top of the zip file, that a data set lies in.

    Raises FileNotFoundError if there is nothing, ValueError if it is another file.
    """
    root = any_path(folder)
    if root.is_file():
        raise ValueError(f"{root}: is a file, not a folder or a zip file; name its folder")
    if not root.is_dir():
        raise FileNotFoundError(f"{root}: there is no such folder or zip file; check the path")
    inner = [entry for entry in root.iterdir() if entry.name[0] not in "._" and entry.is_dir()]
    if len(inner) == 1 and not find_formats(root, format) and find_formats(inner[0], format):
        return inner[0]  # an export that was unpacked into a folder of its own
    return root


def best_for(task: Task, formats: Sequence[Format]) -> Format | None:
    """Which of the formats to open for a task: one made for it before one that serves it, too."""
    able = [format for format in formats if task in format.tasks]
    return next((format for format in able if format.tasks[0] == task), able[0] if able else None)


def find_formats(folder: AnyPath, format: str | None = None) -> list[Found]:
    """The formats that a folder holds, best first; only the one that is named, if one is."""
    known = {f.name: f for f in FORMATS}
    if format is not None and format not in known:
        raise ValueError(f"{format!r} is no format; there are: {', '.join(known)}")
    found = [
        Found(format=f, splits=tuple(f.splits(folder)))
        for f in ((known[format],) if format else FORMATS)
    ]
    return [f for f in found if f.splits]


def shared_split(
    folder: str | Path | ZipPath, train: str, val: str, format: str | None = None
) -> str | None:
    """The split of a folder without one called `val` that must serve for it, too.

    It is the only one, or the one called `train`; None if there is one called `val`, or neither, or
    if `val` is not what the usual split is called: who asks for another one means that.
    """
    splits = {name for f in find_formats(root_of(folder, format), format) for name in f.splits}
    if any(name and _begins(name, val) for name in splits):
        return None
    if len(splits) > 1:
        splits = {name for name in splits if _begins(name, train)} if val == VALIDATION else set()
    return splits.pop() if len(splits) == 1 else None


def serves(folder: str | Path | ZipPath, task: Task) -> bool:
    """Whether a folder's annotation can measure a task."""
    return best_for(task, [found.format for found in find_formats(root_of(folder))]) is not None


def find_splits(folder: str | Path | ZipPath) -> tuple[str, ...]:
    """The names of the splits in a folder of any known format, sorted."""
    return tuple(sorted({s for f in find_formats(root_of(folder)) for s in f.splits if s}))


def _begins(name: str, split: str) -> bool:
    """Whether a split may be called so: CVAT names its own Train and Validation."""
    return name.lower().startswith(split.lower())


def choose_split(folder: AnyPath, split: str | None, splits: list[str]) -> str:
    """Which of a folder's `splits` is meant; ValueError if that is not clear."""
    if split is None and len(splits) == 1:
        return splits[0]
    if not split and NO_SPLIT in splits:
        return NO_SPLIT
    if splits == [NO_SPLIT]:
        raise ValueError(f"{folder}: is not divided into splits; leave {split!r} out")
    named = ", ".join(name for name in splits if name)
    if split is None:
        raise ValueError(f"{folder}: has the splits {named}; name the one to open")
    if split in splits:
        return split
    longer = [name for name in splits if _begins(name, split)]
    if len(longer) != 1:
        raise ValueError(f"{folder}: has no split {split!r}, only {named}; name one of these")
    return longer[0]


def nothing_found(folder: AnyPath, split: str | None = None) -> str:
    """The message on a folder that holds no known format."""
    reasons = (
        (format.title, format.nearly(folder)) for format in FORMATS if format.nearly is not None
    )
    nearly = next((f"; almost {title}, but {why}" for title, why in reasons if why), "")
    layouts: dict[str, str] = {}  # the usual one of each format; docs/data.md has them all
    for format in FORMATS:
        layouts.setdefault(format.layout[0], format.title)
    wanted = "\n  ".join(f"{title}: {layout}" for layout, title in layouts.items())
    wanted = wanted.replace("<s>", split or "<split>")
    return f"{folder}: no data set of a known format{nearly}; looked in it for\n  {wanted}"
