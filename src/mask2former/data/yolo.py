"""YOLO's segmentation format: a text file an image, a line of normalised corners an object."""

from __future__ import annotations

import logging
from collections import Counter

import numpy as np

from mask2former.archive import AnyPath, any_path
from mask2former.data.coco_json import Problem, raise_problems
from mask2former.data.dataset import generated_color
from mask2former.data.doctor_yolo import faults
from mask2former.data.format import Format
from mask2former.data.yolo_files import (
    DataYaml,
    Outline,
    count_kinds,
    find_yaml,
    has_polygon,
    label_file,
    read_labels,
)
from mask2former.imaging import read_image
from mask2former.masks import EncodedMasks
from mask2former.structures import Category, Sample, Task

LOOKED_AT = 1000  # images whose lines are counted; a large data set is not read twice

log = logging.getLogger("mask2former")


class Yolo:
    """One split of a data.yaml, its images sorted by name; an image without labels has no object.

    Corners are shares of the image's sides. Labels lie where YOLO looks for them: the last folder
    `images` in the path is `labels` instead. A box among polygons is a crowd region, as its mask is
    not known; fewer than 3 corners are left out. Of both the log tells how many there are.
    """

    categories: tuple[Category, ...]
    tasks: tuple[Task, ...] = ("instance",)

    def __init__(self, data_yaml: str | AnyPath, split: str, *, strict: bool = True) -> None:
        """List the images. ValueError or FileNotFoundError name the file, the key and the cure.

        Lines at fault are errors when they are read, or left out if it is not `strict`.
        """
        self.path = any_path(data_yaml)
        self._data, self._strict = DataYaml(self.path), strict
        self.categories = tuple(
            Category(id=i, name=name, is_thing=True, color=generated_color(i))
            for i, name in enumerate(self._data.names)
        )
        self._images = self._data.images(split)
        if not self._images:
            raise ValueError(f"{self.path}: '{split}' names no image; correct the path")
        self._stems = Counter(path.stem for path in self._images)
        self._tell_kinds(split)

    def __len__(self) -> int:
        return len(self._images)

    def name_of(self, index: int) -> str:
        return self._images[index].name

    def labels_of(self, index: int) -> set[int]:
        return {outline.label for outline in self._outlines(index)}

    def __getitem__(self, index: int) -> Sample:
        path = self._images[index]
        image = read_image(path)
        height, width = image.shape[:2]
        outlines = self._outlines(index)
        polygons = [(outline.corners * (width, height)).ravel() for outline in outlines]
        return Sample(
            image=image,
            labels=np.array([outline.label for outline in outlines], np.int64),
            masks=EncodedMasks((height, width), [[polygon] for polygon in polygons]),
            is_crowd=np.array([outline.kind == "box" for outline in outlines], bool),
            image_id=path.stem if self._stems[path.stem] == 1 else str(path),
            name=path.name,
        )

    def _outlines(self, index: int) -> list[Outline]:
        path = label_file(self._images[index])
        problems: list[Problem] = []
        outlines = read_labels(path, self._data, problems)
        if self._strict:
            raise_problems(path, problems)
        return [outline for outline in outlines if outline.kind != "no area"]

    def _tell_kinds(self, split: str) -> None:
        files = [label_file(image) for image in self._images]
        kinds = count_kinds(files[:LOOKED_AT])
        boxes, bare = kinds["box"], kinds["no area"]
        if boxes and not has_polygon(files):
            raise ValueError(
                f"{self.path}: '{split}' has {boxes} boxes and no polygon, which cannot train"
                " masks; export polygons (YOLO segmentation)"
            )
        part = f"'{split}'" if len(files) <= LOOKED_AT else f"first {LOOKED_AT} of '{split}'"
        if boxes:
            log.warning("%s: %s: %d boxes taken as crowds: no mask", self.path, part, boxes)
        if bare:
            log.warning("%s: %s: %d lines left out: no area", self.path, part, bare)


# --- the layout it lies in --------------------------------------------------------------------


def _splits(folder: AnyPath) -> tuple[str, ...]:
    path = find_yaml(folder)
    return () if path is None else DataYaml(path).splits


def _open(folder: AnyPath, split: str, task: Task) -> Yolo:
    return Yolo(_yaml_of(folder), split)


def _open_sound(folder: AnyPath, split: str, task: Task) -> Yolo:
    return Yolo(_yaml_of(folder), split, strict=False)


def _yaml_of(folder: AnyPath) -> AnyPath:
    path = find_yaml(folder)
    assert path is not None, "a folder without a data.yaml has no split to open"
    return path


FORMAT = Format(
    name="yolo",
    title="YOLO segmentation",
    layout=("data.yaml with images/<s>/* and labels/<s>/*.txt",),
    tasks=("instance",),
    splits=_splits,
    open=_open,
    faults=faults,
    open_sound=_open_sound,
)
