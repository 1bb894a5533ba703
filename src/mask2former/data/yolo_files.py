"""The files of YOLO's segmentation format: data.yaml, lists of images, lines of labels."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import PurePosixPath
from typing import Any, Literal

import numpy as np
import yaml
from jaxtyping import Float

from mask2former.archive import AnyPath, is_there, read_text
from mask2former.data.coco_json import Problem
from mask2former.imaging import SUFFIXES

_USUAL = ("data.yaml", "data.yml", "dataset.yaml")
_SPLITS = ("train", "val", "valid", "validation", "test")

Kind = Literal["polygon", "box", "no area"]
_KINDS: dict[int, Kind] = {0: "no area", 2: "no area", 4: "box"}  # by the numbers after the class
# Shares that a corner may lie outside: an object may leave the frame, which cuts it, but pixels
# and percentages that were taken for shares go further.
_OUTSIDE = 0.5


@dataclass(frozen=True, kw_only=True, slots=True)
class Outline:
    """A line of a label file; `corners` (x, y) are shares of the image's sides."""

    line: int
    label: int
    kind: Kind
    corners: Float[np.ndarray, "P 2"]


class DataYaml:
    """The names of the classes, and of what each split is made."""

    def __init__(self, path: AnyPath) -> None:
        """ValueError if it is no YAML, or no data set's."""
        self.path = path
        try:
            content = yaml.safe_load(read_text(path))
        except yaml.YAMLError as error:
            raise ValueError(f"{path}: not valid YAML: {error}; correct it") from None
        if not isinstance(content, dict) or "names" not in content:
            raise ValueError(f"{path}: has no 'names'; list the classes there, by number")
        self.content: dict[str, Any] = content

    @cached_property
    def names(self) -> tuple[str, ...]:
        """The names of the classes 0, 1, 2, ...; ValueError if they are not numbered so."""
        names = self.content["names"]
        if isinstance(names, list):
            names = dict(enumerate(names))
        by_number = {_number(k): n for k, n in names.items()} if isinstance(names, dict) else {}
        if not names or set(by_number) != set(range(len(names))):
            raise ValueError(
                f"{self.path}: 'names' must list the classes 0, 1, 2, ... without a gap"
            )
        return tuple(str(by_number[number]) for number in range(len(names)))

    @property
    def named(self) -> tuple[str, ...]:
        """The splits that have an entry, be there anything or not."""
        return tuple(split for split in _SPLITS if self.content.get(split))

    @property
    def splits(self) -> tuple[str, ...]:
        """Those that are there: Roboflow names all three, though an export may lack some."""
        there = [s for s in self.named if any(self._place(e, s) for e in self.entries(s))]
        return tuple(there) or self.named  # without any, the error on opening one says why

    def entries(self, split: str) -> list[str]:
        """The folders and lists that a split is made of, as they stand in the file."""
        entries = self.content[split]
        return [str(entry) for entry in (entries if isinstance(entries, list) else [entries])]

    def images(self, split: str) -> list[AnyPath]:
        """The images of a split, sorted; those that a list names, be they there or not.

        Raises FileNotFoundError if an entry does not exist, ValueError if a list is no text.
        """
        found: list[AnyPath] = []
        for entry in self.entries(split):
            place = self._place(entry, split)
            if place is None:
                raise FileNotFoundError(f"{self.path}: {missing_split(split, entry)}")
            if place.is_file():
                found += self._listed(place)
            else:
                found += [path for path in place.rglob("*") if is_image(path)]
        return sorted(found)

    def _listed(self, file: AnyPath) -> list[AnyPath]:
        folders = dict.fromkeys((file.parent, self.path.parent))
        lines = [line.strip() for line in read_text(file).splitlines() if line.strip()]
        return [_find(line, folders) or file.parent / _slashed(line) for line in lines]

    def _place(self, entry: str, split: str) -> AnyPath | None:
        """Where an entry lies. Exports move about: what it says is tried, then the usual places."""
        root = self.path.parent
        folders = (root / _slashed(str(self.content.get("path") or ".")), root)
        # Of a folder two parts are kept: "images" alone is that of every split.
        found = _find(entry, folders, least=1 if entry.endswith(".txt") else 2)
        if found is not None or len(self.entries(split)) > 1:  # all of which would be the same
            return found
        usual = (root / "images" / split, root / split / "images")
        return next((place for place in usual if place.is_dir()), None)


def find_yaml(folder: AnyPath) -> AnyPath | None:
    """The data.yaml of a folder, or whichever names classes and splits; None if there is none."""
    usual = [folder / name for name in _USUAL]
    found = next((path for path in usual if path.is_file()), None)
    if found is not None or not folder.is_dir():
        return found
    others = sorted(path for end in ("yaml", "yml") for path in folder.glob(f"*.{end}"))
    return next((path for path in others if path.name[0] != "." and _names_splits(path)), None)


def missing_split(split: str, entry: str) -> str:
    """The message on an entry that does not exist."""
    return f"'{split}' is {entry!r}, which does not exist; correct it, relative to the file"


def is_image(path: AnyPath) -> bool:
    return path.suffix.lower() in SUFFIXES and not path.name.startswith(".")


def label_file(image: AnyPath) -> AnyPath:
    """The text file with an image's objects."""
    folder, name, up = image.parent, f"{image.stem}.txt", []
    while folder.name and folder.name != "images" and folder.parent != folder:
        up.append(folder.name)
        folder = folder.parent
    if folder.name != "images":
        return image.parent / name
    return (folder.parent / "labels").joinpath(*up[::-1]) / name


def read_labels(path: AnyPath, data: DataYaml, problems: list[Problem]) -> list[Outline]:
    """What a label file describes, nothing if it is missing; `problems` is told of lines at fault.

    Raises ValueError if it is no text.
    """
    outlines: list[Outline] = []
    lines = read_text(path).splitlines() if path.is_file() else []
    for number, line in enumerate(lines, start=1):
        words = line.split()
        if not words:
            continue
        try:
            outlines.append(_outline(number, words, data))
        except _LineError as error:
            kind, record = error.kind, f"line {number}"
            problems.append(Problem(kind=kind, record=record, message=str(error)))
    return outlines


def has_polygon(files: Iterable[AnyPath]) -> bool:
    """Whether one of the label files describes a polygon; mostly the first one does."""
    return any(count_kinds([file])["polygon"] for file in files)


def count_kinds(files: Iterable[AnyPath]) -> Counter[Kind]:
    """How many lines of each kind label files have; quick, as no number is looked at."""
    counts: Counter[Kind] = Counter()
    for path in files:
        for line in path.read_bytes().splitlines() if path.is_file() else ():
            words = len(line.split(None, 6))  # those of a polygon are not all split
            if words:
                counts[_KINDS.get(words - 1, "polygon")] += 1
    return counts


class _LineError(ValueError):
    def __init__(self, message: str, kind: str = "malformed mask") -> None:
        super().__init__(message)
        self.kind = kind


def _outline(number: int, words: Sequence[str], data: DataYaml) -> Outline:
    try:
        label, *numbers = map(float, words)  # some tools write class 0 as 0.0
    except ValueError:
        raise _LineError(f"{' '.join(words)[:40]!r} is no class and numbers") from None
    if not (label.is_integer() and 0 <= label < len(data.names)):
        raise _LineError(
            f"class {words[0]} is not among the {len(data.names)} 'names' of {data.path};"
            " add it there, or drop the line",
            "unknown category",
        )
    if len(numbers) % 2:
        raise _LineError(f"{len(numbers)} numbers are no polygon x y x y ..., of 3 corners")
    corners = np.array(numbers).reshape(-1, 2)
    if not (abs(corners - 0.5) <= 0.5 + _OUTSIDE).all():  # nor is what is not finite
        raise _LineError("corners must lie within 0..1, as shares of the image's sides")
    kind = _KINDS.get(len(numbers), "polygon")
    if kind == "box":
        center, sides = corners
        corners = center + sides * [(-0.5, -0.5), (0.5, -0.5), (0.5, 0.5), (-0.5, 0.5)]
    return Outline(line=number, label=int(label), kind=kind, corners=corners)


def _find(entry: str, folders: Collection[AnyPath], least: int = 1) -> AnyPath | None:
    """What an entry names in one of the folders.

    All of it is tried, then ever fewer of its last parts, down to `least`: the first ones may be of
    another machine.
    """
    parts = PurePosixPath(_slashed(entry)).parts
    for start in range(max(1, len(parts) - least + 1)):
        for folder in folders:
            path = folder / str(PurePosixPath(*parts[start:]))
            if is_there(path):
                return path
    return None


def _slashed(entry: str) -> str:
    return entry.replace("\\", "/")


def _number(key: object) -> object:
    """A number of a class, be it in quotes."""
    return int(key) if isinstance(key, str) and key.isdecimal() else key


def _names_splits(path: AnyPath) -> bool:
    try:
        return bool({"train", "val"} & {*DataYaml(path).named})
    except (ValueError, OSError):  # it is of something else
        return False
