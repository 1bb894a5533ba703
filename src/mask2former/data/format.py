"""The contract of a format: how to see that a folder holds it, and how to open it."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from mask2former.archive import AnyPath, relative
from mask2former.data.dataset import Dataset
from mask2former.data.findings import Finding
from mask2former.structures import Task

NO_SPLIT = ""  # the name of the one split of a folder that has none


@dataclass(frozen=True, kw_only=True)
class Format:
    """One layout of files on disk; each reader's module has one, `FORMATS` lists them."""

    name: str  # as in --format label-maps
    title: str  # for people
    layout: tuple[str, ...]  # where its files lie, <s> for the split
    tasks: tuple[Task, ...]  # what it can be opened for; the first is what it is opened for
    splits: Callable[[AnyPath], Iterable[str]]  # those that a folder has of it; none: another one
    open: Callable[[AnyPath, str, Task], Dataset]  # folder, split, task
    # What the doctor can tell of a folder's split, record by record, without decoding an image.
    faults: Callable[[AnyPath, str], Iterable[Finding]] | None = None
    # As `open`, but without the records of which `faults` tells errors, where these stop `open`.
    open_sound: Callable[[AnyPath, str, Task], Dataset] | None = None
    # Why a folder that has its layout almost is none of it, and the cure; None if it is far off.
    nearly: Callable[[AnyPath], str | None] | None = None


def first_existing(folder: AnyPath, patterns: Iterable[str], split: str = "") -> AnyPath | None:
    """The first of `patterns` (with <s> for the split) that exists in a folder."""
    candidates = (folder / pattern.replace("<s>", split) for pattern in patterns)
    return next((path for path in candidates if path.exists()), None)


def names_matching(folder: AnyPath, pattern: str) -> list[str]:
    """What stands for <s> in the paths of a folder that fit `pattern`."""
    before, after = pattern.split("<s>")
    names = (relative(path, folder).as_posix() for path in folder.glob(before + "*" + after))
    return [name[len(before) : len(name) - len(after)] for name in names]


def folder_of(
    file: AnyPath, folder: AnyPath, patterns: tuple[str, ...], split: str, what: str
) -> AnyPath:
    """The folder of the `what` (as in "images") of a file; FileNotFoundError if there is none."""
    found = first_existing(folder, patterns, split)
    if found is None:
        names = [pattern.replace("<s>", split) for pattern in patterns]
        raise FileNotFoundError(
            f"{file}: the folder of its {what} is missing; put it at one of"
            f" {', '.join(names)} in {folder}"
        )
    return found
