"""Predictions in files, whoever made them, as results of the images they are about.

`open_predictions` tells which of four formats a path holds: COCO results of instances (a JSON
list), COCO panoptic (a JSON object and a folder of PNGs), a folder of label maps, or a folder that
`mask2former predict` or `evaluate --out` wrote.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePath
from typing import Any, Literal, Protocol

import numpy as np
import torch
from jaxtyping import Int

from mask2former.inference.readers import Results, read_png
from mask2former.masks import (
    box_of_mask,
    check_polygons,
    decode_rle,
    ids_of_colors,
    places_of,
    rasterize_polygons,
)
from mask2former.structures import (
    Category,
    Instances,
    Panoptic,
    Segment,
    Segmentation,
    Semantic,
    Task,
)

Size = tuple[int, int]  # (H, W) in pixels
Values = Literal["ids", "labels"]  # what a label map holds: categories' ids, or 0, 1 .. K-1


class Predictions(Protocol):
    """Results by image."""

    tasks: tuple[Task, ...]

    @property
    def instance_records(self) -> Sequence[Mapping[str, Any]]:
        """What instances are read from, as in COCO's results."""

    def result(self, image_id: int | str, name: str, size: Size) -> Segmentation:
        """Of the image of this id, file name and size (H, W).

        Raises FileNotFoundError or ValueError, naming file and record.
        """


def open_predictions(
    path: str | Path, categories: tuple[Category, ...], values: Values = "ids"
) -> Predictions:
    """Predictions for a data set of these categories; ValueError if `path` holds none."""
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"{path}: there is no such file or folder; check the path")
    if path.is_dir() and (path / "images.json").exists():
        return OwnFolder(path, categories)
    if path.is_dir():
        return LabelMaps(path, categories, values)
    try:
        content = json.loads(path.read_bytes())
    except ValueError as error:
        raise ValueError(f"{path}: is no JSON ({error}); name a file or a folder of results") from (
            None
        )
    if isinstance(content, list):
        return CocoResults(path, content, categories)
    if isinstance(content, dict) and isinstance(content.get("annotations"), list):
        return CocoPanopticResults(path, content["annotations"], categories)
    raise ValueError(
        f"{path}: holds neither COCO results (a list) nor COCO panoptic (an object with"
        " 'annotations'); name one of these, or a folder of label maps"
    )


def most_at_once(records: Sequence[Mapping[str, Any]], *, of_a_class: bool) -> int:
    """The most results of an image, or of one class in an image."""
    of_which = Counter((r["image_id"], r["category_id"] if of_a_class else None) for r in records)
    return max(of_which.values(), default=0)


class OwnFolder:
    """A folder of `ResultWriter`; images are found by their file's name."""

    def __init__(self, folder: Path, categories: tuple[Category, ...]) -> None:
        self.results = Results(folder)
        ours, theirs = ([c.name for c in of] for of in (self.results.categories, categories))
        if ours != theirs:
            raise ValueError(
                f"{folder / 'categories.json'}: has the classes {', '.join(ours[:5])} ..., the data"
                f" set {', '.join(theirs[:5])} ...; names and order must be the same"
            )
        self.categories = categories
        self.tasks = self.results.tasks
        self.instance_records = self.results.instance_records
        self.places: dict[str, int] = {}
        for place, record in enumerate(self.results.images):
            name = _base(record["file_name"])
            if name in self.places:
                raise ValueError(
                    f"{folder / 'images.json'}: two images are called {name}; predict those of one"
                    " data set alone"
                )
            self.places[name] = place

    def result(self, image_id: int | str, name: str, size: Size) -> Segmentation:
        place = self.places.get(_base(name))
        if place is None:
            raise ValueError(
                f"{self.results.folder / 'images.json'}: image {name} is missing; predict it, too"
            )
        return self.results[place]


class LabelMaps:
    """A folder of PNGs, each with the stem of its image, alone or followed by more after "_"."""

    tasks: tuple[Task, ...] = ("semantic",)
    instance_records = ()

    def __init__(self, folder: Path, categories: tuple[Category, ...], values: Values) -> None:
        self.folder, self.categories = folder, categories
        self.known = [c.id if values == "ids" else label for label, c in enumerate(categories)]
        self.values = values
        self.paths = sorted(folder.rglob("*.png"))
        self.by_stem = {path.stem: path for path in self.paths}
        if not self.paths:
            raise ValueError(f"{folder}: holds no PNG; name a folder of label maps, or a file")

    def result(self, image_id: int | str, name: str, size: Size) -> Segmentation:
        path = self._path(PurePath(name).stem)
        labels = places_of(read_png(path, size), self.known, missing=-1)
        if labels.min() < 0:
            value = int(read_png(path, size)[labels < 0][0])
            raise ValueError(
                f"{path}: value {value} is none of the {len(self.known)} categories'"
                f" {self.values}; write one of these in every pixel"
            )
        semantic = Semantic(labels=torch.from_numpy(labels).long(), categories=self.categories)
        return Segmentation(size=size, name=name, semantic=semantic)

    def _path(self, stem: str) -> Path:
        # Cityscapes' images end in _leftImg8bit, its results as one likes.
        for known in (stem, stem.removesuffix("_leftImg8bit")):
            if known in self.by_stem:
                return self.by_stem[known]
            longer = [path for path in self.paths if path.stem.startswith(known + "_")]
            if len(longer) == 1:
                return longer[0]
        raise FileNotFoundError(
            f"{self.folder}: no PNG is called {stem}.png; write one for every image"
        )


class CocoResults:
    """COCO's list of detections; an image without one has none."""

    tasks: tuple[Task, ...] = ("instance",)

    def __init__(self, path: Path, records: list[Any], categories: tuple[Category, ...]) -> None:
        self.path, self.categories = path, categories
        self.label_of = {category.id: label for label, category in enumerate(categories)}
        self.of_image: dict[int | str, list[tuple[str, dict[str, Any]]]] = {}
        for index, record in enumerate(records):
            name = f"{path}: result {index}"
            _check(record, ("image_id", "category_id", "segmentation", "score"), name)
            _label(record, self.label_of, name)
            self.of_image.setdefault(record["image_id"], []).append((name, record))
        self.instance_records = records
        self._asked: set[int | str] = set()

    def check_all_asked(self) -> None:
        """ValueError if a record is of an image that `result` was never asked for."""
        for image_id in self.of_image.keys() - self._asked:
            name, _ = self.of_image[image_id][0]
            raise ValueError(
                f"{name}: image_id {image_id!r} is none of the data set's; score it against the"
                " split that it was predicted for"
            )

    def result(self, image_id: int | str, name: str, size: Size) -> Segmentation:
        self._asked.add(image_id)
        records = sorted(self.of_image.get(image_id, ()), key=lambda pair: -pair[1]["score"])
        masks = np.zeros((len(records), *size), bool)
        for place, (record_name, record) in enumerate(records):
            masks[place] = _mask(record["segmentation"], size, record_name)
        boxes = np.array([box_of_mask(mask) for mask in masks], np.float32).reshape(-1, 4)
        instances = Instances(
            masks=torch.from_numpy(masks),
            scores=torch.tensor([float(r["score"]) for _, r in records], dtype=torch.float64),
            labels=torch.tensor([self.label_of[r["category_id"]] for _, r in records]).long(),
            boxes=torch.from_numpy(boxes),
            categories=self.categories,
        )
        return Segmentation(size=size, name=name, instances=instances)


class CocoPanopticResults:
    """COCO's panoptic JSON; its PNGs lie in the folder of its name, in panoptic/ or beside it."""

    tasks: tuple[Task, ...] = ("panoptic",)
    instance_records = ()

    def __init__(
        self, path: Path, annotations: list[Any], categories: tuple[Category, ...]
    ) -> None:
        self.path, self.categories = path, categories
        self.label_of = {category.id: label for label, category in enumerate(categories)}
        self.of_image: dict[int | str, dict[str, Any]] = {}
        for index, annotation in enumerate(annotations):
            name = f"{path}: annotation {index}"
            _check(annotation, ("image_id", "file_name", "segments_info"), name)
            if annotation["image_id"] in self.of_image:
                raise ValueError(
                    f"{name}: image_id {annotation['image_id']!r} stands twice; drop one of them"
                )
            self.of_image[annotation["image_id"]] = annotation
        folders = (path.with_suffix(""), path.parent / "panoptic", path.parent)
        first = annotations[0]["file_name"] if annotations else ""
        self.folder = next((f for f in folders if (f / first).is_file()), folders[0])

    def result(self, image_id: int | str, name: str, size: Size) -> Segmentation:
        annotation = self.of_image.get(image_id)
        if annotation is None:
            raise ValueError(
                f"{self.path}: no annotation has the image_id {image_id!r} of {name}; add one, with"
                " an empty segments_info if nothing was found"
            )
        ids = ids_of_colors(read_png(self.folder / annotation["file_name"], size, channels=3))
        areas = dict(zip(*(a.tolist() for a in np.unique(ids, return_counts=True)), strict=True))
        segments = []
        for index, record in enumerate(annotation["segments_info"]):
            record_name = f"{self.path}: image {image_id}, segment {index}"
            _check(record, ("id", "category_id"), record_name)
            label = _label(record, self.label_of, record_name)
            segments.append(
                Segment(
                    id=record["id"],
                    label=label,
                    category=self.categories[label],
                    score=float(record.get("score", 1.0)),
                    area=areas.get(record["id"], 0),
                )
            )
        panoptic = Panoptic(
            ids=torch.from_numpy(ids), segments=tuple(segments), categories=self.categories
        )
        return Segmentation(size=size, name=name, panoptic=panoptic)


def _base(name: str) -> str:
    return name.replace("\\", "/").rsplit("/", 1)[-1]


_KINDS: dict[str, tuple[type, ...]] = {
    "id": (int,),
    "image_id": (int, str),
    "category_id": (int,),
    "score": (int, float),
    "segmentation": (list, dict),
    "segments_info": (list,),
    "file_name": (str,),
}


def _check(record: Any, fields: Sequence[str], name: str) -> None:
    missing = [field for field in fields if not isinstance(record, dict) or field not in record]
    if missing:
        raise ValueError(f"{name}: '{missing[0]}' is missing; add it")
    for field in fields:
        if not isinstance(record[field], _KINDS[field]):
            raise ValueError(f"{name}: '{field}' must not be {record[field]!r}; correct it")
    segmentation = record["segmentation"] if "segmentation" in fields else []
    try:
        if isinstance(segmentation, list):
            check_polygons(segmentation)
        elif not {"size", "counts"} <= segmentation.keys():
            raise ValueError("a run-length encoding has 'size' and 'counts'")
    except ValueError as error:
        raise ValueError(f"{name}: segmentation: {error}") from None


def _label(record: Mapping[str, Any], label_of: Mapping[int, int], name: str) -> int:
    if record["category_id"] not in label_of:
        raise ValueError(
            f"{name}: category_id {record['category_id']!r} is none of the data set's; use the ids"
            " of its annotation"
        )
    return label_of[record["category_id"]]


def _mask(segmentation: Any, size: Size, name: str) -> Int[np.ndarray, "H W"]:
    try:
        if isinstance(segmentation, list):
            return rasterize_polygons(segmentation, (0, 0, size[1], size[0]), size)
        mask = decode_rle(segmentation)
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from None
    if mask.shape != size:
        raise ValueError(
            f"{name}: its mask measures {list(mask.shape)}, its image {list(size)}; encode masks at"
            " the image's size"
        )
    return mask
