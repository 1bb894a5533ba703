"""What labelme writes: a JSON beside each image, with polygons, boxes, circles and masks."""

from __future__ import annotations

import base64
import logging
from collections import Counter
from collections.abc import Iterable, Sequence

import numpy as np

from mask2former.archive import AnyPath, any_path
from mask2former.data.coco_json import raise_problems, read_json
from mask2former.data.dataset import generated_color, read_annotated_image
from mask2former.data.doctor_labelme import find_faults, readable_labels, sound_records
from mask2former.data.findings import Finding
from mask2former.data.format import NO_SPLIT, Format
from mask2former.data.labelme_json import (
    BACKGROUND,
    IGNORE,
    ImageFiles,
    Record,
    class_file,
    contents,
    read_class_names,
    read_record,
    union,
)
from mask2former.imaging import read_image
from mask2former.masks import EncodedMasks
from mask2former.structures import Category, Sample, Task

log = logging.getLogger("mask2former")


class LabelMe:
    """The JSON files of a folder, sorted by name; shapes of one label and group are one object.

    Classes are those of `labels.txt` in the folder or above it, in its order, or else the labels
    that occur in it or in `siblings` (the other splits), sorted. What is labelled `__ignore__` is
    void. Points, lines and polygons of fewer than three corners have no area: they are left out,
    and the log says how many.
    """

    categories: tuple[Category, ...]
    tasks: tuple[Task, ...] = ("instance",)

    def __init__(
        self,
        folder: str | AnyPath,
        siblings: Sequence[AnyPath] = (),
        *,
        records: Sequence[Record] | None = None,
    ) -> None:
        """Read and check the JSON files; images are read when they are asked for.

        `records` are the files' if they have been read. Raises ValueError or FileNotFoundError
        naming file, shape and cure.
        """
        self.folder = any_path(folder)
        images = ImageFiles()
        self._records = tuple(
            (read_record(path, content, images) for path, content in contents(self.folder))
            if records is None
            else records
        )
        if not self._records:
            raise ValueError(f"{self.folder}: no JSON file of labelme here; name its folder")
        found = {entry.name for record in self._records for entry in record.objects}
        found -= {IGNORE, BACKGROUND}
        source = class_file(self.folder)
        names = None if source is None else read_class_names(source)
        if names is not None:
            problems = [
                f"label {name!r} is not among the {len(names)} of {source}; add it there, or"
                " rename the shapes"
                for name in sorted(found - set(names))
            ]
            raise_problems(self.folder, problems)
        else:  # splits that were told apart by what occurs in each would not know the same classes
            folders = siblings if records is None else (self.folder, *siblings)
            found = found.union(*(readable_labels(folder) for folder in folders))
        self.categories = tuple(
            Category(id=i, name=name, is_thing=True, color=generated_color(i))
            for i, name in enumerate(names or sorted(found))
        )
        left_out = Counter(kind for record in self._records for _, kind in record.left_out)
        for kind, count in left_out.items():
            log.warning("%s: %d shapes of type %s left out: no area", self.folder, count, kind)

    def __len__(self) -> int:
        return len(self._records)

    def name_of(self, index: int) -> str:
        return self._records[index].image.name  # as samples are named

    def labels_of(self, index: int) -> set[int]:
        names = {entry.name for entry in self._records[index].objects}
        return {i for i, category in enumerate(self.categories) if category.name in names}

    def __getitem__(self, index: int) -> Sample:
        record = self._records[index]
        size = record.image.size
        label_of = {category.name: i for i, category in enumerate(self.categories)}
        kept = [entry for entry in record.objects if entry.name in label_of]
        void = [entry.mask for entry in record.objects if entry.name == IGNORE]
        return Sample(
            image=_read_image(record),
            labels=np.array([label_of[entry.name] for entry in kept], np.int64),
            masks=EncodedMasks(size, [entry.mask for entry in kept]),
            is_crowd=np.zeros(len(kept), bool),
            image_id=record.path.stem,
            name=record.image.name,
            void=EncodedMasks(size, [union(void, size)]) if void else None,
        )


def _read_image(record: Record) -> np.ndarray:
    path, size = record.image.path, record.image.size
    if not record.image.is_embedded:
        return read_annotated_image(path, size, str(record.path))
    data = read_json(record.path)["imageData"]
    try:
        image = read_image(base64.b64decode(str(data)), apply_orientation=False)
    except ValueError as error:
        raise ValueError(
            f"{record.path}: imageData cannot be read ({error}); put the image at {path}"
        ) from None
    if image.shape[:2] != size:
        raise ValueError(
            f"{record.path}: imageHeight, imageWidth are {list(size)}, but imageData holds"
            f" {list(image.shape[:2])}; export it anew"
        )
    return image


# --- the layout it lies in --------------------------------------------------------------------


def _has_labelme(folder: AnyPath) -> bool:
    """Whether one of its JSON files is labelme's; what is broken is told on opening."""
    heads = (
        path.open("rb").read(1 << 16)  # of files with embedded images the rest is long
        for path in folder.glob("*.json")
        if path.name[0] != "." and path.is_file()
    )
    return any(b'"shapes"' in head or b'"imageData"' in head for head in heads)


def _splits(folder: AnyPath) -> tuple[str, ...]:
    below = sorted(s.name for s in folder.iterdir() if s.is_dir() and _has_labelme(s))
    return (NO_SPLIT, *below) if _has_labelme(folder) else tuple(below)


def _siblings(folder: AnyPath, split: str) -> list[AnyPath]:
    """The folders of the other splits, if it is one itself."""
    return [folder / name for name in _splits(folder) if name != split] if split else []


def _open(folder: AnyPath, split: str, task: Task) -> LabelMe:
    return LabelMe(folder / split, _siblings(folder, split))


def _open_sound(folder: AnyPath, split: str, task: Task) -> LabelMe:
    siblings = _siblings(folder, split)
    return LabelMe(folder / split, siblings, records=list(sound_records(folder / split)))


def _faults(folder: AnyPath, split: str) -> Iterable[Finding]:
    return find_faults(folder / split, _siblings(folder, split))


FORMAT = Format(
    name="labelme",
    title="labelme",
    layout=("[<s>/]*.json with the images beside them",),
    tasks=("instance",),
    splits=_splits,
    open=_open,
    faults=_faults,
    open_sound=_open_sound,
)
