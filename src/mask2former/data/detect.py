"""Which format a folder holds: `open_dataset` finds out and opens it."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Literal

from mask2former.data.bbbc038 import Bbbc038, is_bbbc038
from mask2former.data.coco import CocoInstances
from mask2former.data.coco_panoptic import CocoPanoptic
from mask2former.data.dataset import Dataset

Task = Literal["panoptic", "instance"]

# <s> is the split; the first that exists is taken.
_PANOPTIC_JSON = ("annotations/panoptic_<s>.json",)
_PANOPTIC_PNGS = ("annotations/panoptic_<s>", "panoptic/<s>", "panoptic_<s>")
_INSTANCE_JSON = ("annotations/instances_<s>.json", "<s>/_annotations.coco.json")
_IMAGES = ("images/<s>", "<s>", "images")
_WITHOUT_SPLIT = ("_annotations.coco.json", "annotations.json")  # images are named from the folder


def open_dataset(
    folder: str | Path, split: str | None = None, *, task: Task | None = None
) -> Dataset:
    """Open a data set in whichever of the known formats a folder is.

    `split` may be left out if there is only one, and may be shortened ("val" for "val2017" or
    "valid") if only one begins so. Without a `task`, panoptic annotations go before instances. For
    the task "instance" a panoptic file will do, with its things.

    Raises FileNotFoundError if the folder is missing, ValueError if nothing in it matches.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder}: there is no such folder; check the path")
    splits = find_splits(folder)
    if split is None and not splits:
        return _open_without_split(folder, task)
    name = _choose(folder, split, splits)
    panoptic, instances = _first(folder, _PANOPTIC_JSON, name), _first(folder, _INSTANCE_JSON, name)
    if panoptic and (task == "panoptic" or task is None or not instances):
        return CocoPanoptic(
            panoptic,
            _folder_for(panoptic, folder, _PANOPTIC_PNGS, name),
            _folder_for(panoptic, folder, _IMAGES, name),
            things_only=task == "instance",
        )
    if instances and task != "panoptic":
        in_split = instances.parent == folder / name
        images = instances.parent if in_split else _folder_for(instances, folder, _IMAGES, name)
        return CocoInstances(instances, images)
    if instances:
        raise _only_instances(instances, f"{folder / _PANOPTIC_JSON[0]}".replace("<s>", name))
    return Bbbc038(folder / name, background=task != "instance")


def find_splits(folder: Path) -> tuple[str, ...]:
    """The names of the splits in a folder of any known format, sorted."""
    splits: set[str] = set()
    for pattern in (*_PANOPTIC_JSON, *_INSTANCE_JSON):
        before, after = pattern.split("<s>")
        for path in folder.glob(before + "*" + after):
            name = path.relative_to(folder).as_posix()
            splits.add(name[len(before) : len(name) - len(after)])
    if not splits:  # looking into every folder takes time where there are many images
        splits.update(sub.name for sub in folder.iterdir() if sub.is_dir() and is_bbbc038(sub))
    return tuple(sorted(splits))


def _open_without_split(folder: Path, task: Task | None) -> Dataset:
    file = _first(folder, _WITHOUT_SPLIT, "")
    if file and task == "panoptic":
        raise _only_instances(file, str(folder / _PANOPTIC_JSON[0]))
    if file:
        return CocoInstances(file, folder)
    if is_bbbc038(folder):
        return Bbbc038(folder, background=task != "instance")
    raise ValueError(_nothing_found(folder))


def _choose(folder: Path, split: str | None, splits: tuple[str, ...]) -> str:
    if not splits:
        raise ValueError(_nothing_found(folder, split))
    if split is None and len(splits) == 1:
        return splits[0]
    if split is None:
        raise ValueError(f"{folder}: has the splits {', '.join(splits)}; name the one to open")
    if split in splits:
        return split
    longer = [name for name in splits if name.startswith(split)]
    if len(longer) != 1:
        raise ValueError(
            f"{folder}: has no split {split!r}, only {', '.join(splits)}; name one of these"
        )
    return longer[0]


def _first(folder: Path, patterns: Iterable[str], split: str) -> Path | None:
    candidates = (folder / pattern.replace("<s>", split) for pattern in patterns)
    return next((path for path in candidates if path.exists()), None)


def _folder_for(file: Path, folder: Path, patterns: tuple[str, ...], split: str) -> Path:
    found = _first(folder, patterns, split)
    if found is None:
        names = [pattern.replace("<s>", split) for pattern in patterns]
        what = "images" if patterns is _IMAGES else "PNGs"
        raise FileNotFoundError(
            f"{file}: the folder of its {what} is missing; put it at one of"
            f" {', '.join(names)} in {folder}"
        )
    return found


def _only_instances(file: Path, wanted: str) -> ValueError:
    return ValueError(
        f"{file}: holds instances only, there is no {wanted}; panoptic training needs one,"
        ' or open it with task="instance"'
    )


def _nothing_found(folder: Path, split: str | None = None) -> str:
    patterns = (*_PANOPTIC_JSON, *_INSTANCE_JSON, *_WITHOUT_SPLIT)
    bbbc038 = "[<s>/]<image>/images/*.png with <image>/masks/*.png"
    wanted = "\n  ".join((*patterns, bbbc038)).replace("<s>", split or "<split>")
    return f"{folder}: no data set of a known format; looked in it for\n  {wanted}"
