"""What labelme writes: a JSON beside each image, with polygons, boxes, circles and masks."""

from __future__ import annotations

import base64
import binascii
import io
import logging
import math
import posixpath
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool
from PIL import Image, UnidentifiedImageError

from mask2former.archive import AnyPath, any_path
from mask2former.data.coco_json import raise_problems, read_json
from mask2former.data.dataset import generated_color, read_annotated_image
from mask2former.data.format import NO_SPLIT, Format
from mask2former.imaging import read_image
from mask2former.masks import (
    EncodedMasks,
    Polygons,
    Rle,
    check_polygons,
    decode_rle,
    encode_region,
    encode_rle,
    rasterize_polygons,
)
from mask2former.structures import Category, Sample, Task

IGNORE, BACKGROUND = "__ignore__", "_background_"  # labelme's own names: void, and nothing at all
LABELS = "labels.txt"
NO_AREA = ("point", "points", "line", "linestrip")
CORNERS = 64  # of the polygon that stands for a circle

log = logging.getLogger("mask2former")


@dataclass(frozen=True, kw_only=True, slots=True)
class _Record:
    path: AnyPath  # the JSON
    image: str  # as imagePath says
    size: tuple[int, int]
    names: tuple[str, ...]
    masks: tuple[Rle | Polygons, ...]


class LabelMe:
    """The JSON files of a folder, sorted by name; shapes of one label and group are one object.

    Classes are those of `labels.txt` in the folder or above it, in its order, or else the labels
    that occur in it or in `siblings` (the other splits), sorted. What is labelled `__ignore__` is
    void. Points and lines have no area: they are left out, and the log says how many.
    """

    categories: tuple[Category, ...]
    tasks: tuple[Task, ...] = ("instance",)

    def __init__(self, folder: str | AnyPath, siblings: Sequence[AnyPath] = ()) -> None:
        """Read and check the JSON files; images are read when they are asked for.

        Raises ValueError or FileNotFoundError naming file, shape and cure.
        """
        self.folder = any_path(folder)
        self._left_out: Counter[str] = Counter()
        self._records = tuple(self._read(path, content) for path, content in _files(self.folder))
        if not self._records:
            raise ValueError(f"{self.folder}: no JSON file of labelme here; name its folder")
        found = {name for record in self._records for name in record.names} - {IGNORE, BACKGROUND}
        names, source = _class_names(self.folder)
        if names is not None:
            problems = [
                f"label {name!r} is not among the {len(names)} of {source}; add it there, or"
                " rename the shapes"
                for name in sorted(found - set(names))
            ]
            raise_problems(self.folder, problems)
        else:  # splits that were told apart by what occurs in each would not know the same classes
            found |= {name for sibling in siblings for name in _labels_in(sibling)}
        self.categories = tuple(
            Category(id=i, name=name, is_thing=True, color=generated_color(i))
            for i, name in enumerate(names or sorted(found))
        )
        for kind, count in self._left_out.items():
            log.warning("%s: %d shapes of type %s left out: no area", self.folder, count, kind)

    def __len__(self) -> int:
        return len(self._records)

    def name_of(self, index: int) -> str:
        return self._records[index].image  # as samples are named

    def labels_of(self, index: int) -> set[int]:
        names = self._records[index].names
        return {i for i, category in enumerate(self.categories) if category.name in names}

    def __getitem__(self, index: int) -> Sample:
        record = self._records[index]
        label_of = {category.name: i for i, category in enumerate(self.categories)}
        kept = [i for i, name in enumerate(record.names) if name in label_of]
        void = [record.masks[i] for i, name in enumerate(record.names) if name == IGNORE]
        return Sample(
            image=self._image(record),
            labels=np.array([label_of[record.names[i]] for i in kept], np.int64),
            masks=EncodedMasks(record.size, [record.masks[i] for i in kept]),
            is_crowd=np.zeros(len(kept), bool),
            image_id=record.path.stem,
            name=record.image,
            void=EncodedMasks(record.size, [_union(void, record.size)]) if void else None,
        )

    def _image(self, record: _Record) -> np.ndarray:
        path = record.path.parent / posixpath.normpath(record.image.replace("\\", "/"))
        embedded = None if path.exists() else read_json(record.path).get("imageData")
        if not embedded:
            return read_annotated_image(path, record.size, str(record.path))
        try:
            image = read_image(base64.b64decode(embedded), apply_orientation=False)
        except ValueError as error:
            raise ValueError(
                f"{record.path}: imageData cannot be read ({error}); put the image at {path}"
            ) from None
        if image.shape[:2] != record.size:
            raise ValueError(
                f"{record.path}: imageHeight, imageWidth are {list(record.size)}, but imageData"
                f" holds {list(image.shape[:2])}; export it anew"
            )
        return image

    def _read(self, path: AnyPath, content: dict[str, Any]) -> _Record:
        size: tuple[Any, Any] = content.get("imageHeight"), content.get("imageWidth")
        if not all(isinstance(side, int) and side > 0 for side in size):
            raise ValueError(f"{path}: imageHeight and imageWidth must be whole numbers of pixels")
        if not isinstance(content.get("imagePath"), str):
            raise ValueError(f"{path}: imagePath must name the image")
        problems: list[str] = []
        objects: dict[object, tuple[str, list[Rle | Polygons]]] = {}
        for index, shape in enumerate(content["shapes"]):
            if not isinstance(shape, dict) or not isinstance(shape.get("label"), str):
                problems.append(f"shape {index}: has no 'label'; name it, or drop it")
                continue
            kind = shape.get("shape_type") or "polygon"
            if kind in NO_AREA:
                self._left_out[kind] += 1
                continue
            try:
                mask = _mask_of(shape, kind, size)
            except ValueError as error:
                problems.append(f"shape {index} ({shape.get('label')}): {error}")
                continue
            group, name = shape.get("group_id"), shape["label"]
            key = index if group is None else (name, str(group))
            objects.setdefault(key, (name, []))[1].append(mask)
        raise_problems(path, problems)
        return _Record(
            path=path,
            image=content["imagePath"],
            size=size,
            names=tuple(name for name, _ in objects.values()),
            masks=tuple(_union(parts, size) for _, parts in objects.values()),
        )


def _files(folder: AnyPath) -> Iterator[tuple[AnyPath, dict[str, Any]]]:
    """Each of labelme's files in a folder and its content. ValueError if one is no JSON at all."""
    for path in sorted(path for path in folder.glob("*.json") if path.name[0] != "."):
        content = read_json(path)
        if isinstance(content, dict) and isinstance(content.get("shapes"), list):
            yield path, content


def _labels_in(folder: AnyPath) -> set[str]:
    """The labels of all shapes that have an area, without a check of anything else."""
    found: set[str] = set()
    for _, content in _files(folder):
        shapes = content["shapes"]
        found |= {str(s.get("label")) for s in shapes if s.get("shape_type") not in NO_AREA}
    return found - {IGNORE, BACKGROUND}


def _class_names(folder: AnyPath) -> tuple[list[str] | None, AnyPath]:
    """The names that labels.txt lists, in the folder or above it, and that file."""
    for path in (folder / LABELS, folder.parent / LABELS):
        if path.is_file():
            lines = [line.strip() for line in path.read_text().splitlines()]
            return [name for name in lines if name and name not in (IGNORE, BACKGROUND)], path
    return None, folder / LABELS


def _mask_of(shape: dict[str, Any], kind: str, size: tuple[int, int]) -> Rle | Polygons:
    """A shape as polygons or a run-length encoding; ValueError says what is wrong with it."""
    points = shape.get("points")
    if not isinstance(points, list) or not all(_is_point(point) for point in points):
        raise ValueError("'points' must be a list of [x, y], in pixels")
    if kind in ("rectangle", "circle", "mask") and len(points) != 2:
        raise ValueError(f"a {kind} has 2 points, not {len(points)}")
    if kind == "mask":
        return _decoded(shape.get("mask"), points, size)
    if kind == "rectangle":
        (x0, y0), (x1, y1) = points
        points = [(x0, y0), (x1, y0), (x1, y1), (x0, y1)]
    elif kind == "circle":
        (x, y), rim = points
        radius = math.dist((x, y), rim)
        angles = [2 * math.pi * i / CORNERS for i in range(CORNERS)]
        points = [(x + radius * math.cos(a), y + radius * math.sin(a)) for a in angles]
    elif kind != "polygon":
        raise ValueError(f"shape_type {kind!r} is not known; draw it as a polygon")
    polygons = [[float(value) for point in points for value in point]]
    check_polygons(polygons)
    return polygons


def _is_point(point: object) -> bool:
    return (
        isinstance(point, list)
        and len(point) == 2
        and all(isinstance(value, int | float) and math.isfinite(value) for value in point)
    )


def _decoded(
    data: object, points: Sequence[Sequence[float]], size: tuple[int, int]
) -> dict[str, object]:
    """A mask: a PNG in base64 that fills the box of `points`, both corners included."""
    try:
        with Image.open(io.BytesIO(base64.b64decode(str(data)))) as image:
            mask: Bool[np.ndarray, "h w"] = np.asarray(image.convert("L")) != 0
    except (UnidentifiedImageError, OSError, binascii.Error) as error:
        raise ValueError(f"'mask' is no PNG in base64: {error}") from None
    left, top = (round(value) for value in points[0])
    height, width = mask.shape
    if left < 0 or top < 0 or left + width > size[1] or top + height > size[0]:
        raise ValueError(f"'mask' of {width} x {height} pixels at {left}, {top} leaves the image")
    return encode_region(mask, left, top, size)


def _union(parts: Sequence[Rle | Polygons], size: tuple[int, int]) -> Rle | Polygons:
    """One mask of all parts; polygons stay polygons."""
    if len(parts) == 1:
        return parts[0]
    polygons = [part for part in parts if not isinstance(part, Mapping)]
    if len(polygons) == len(parts):
        return [polygon for part in polygons for polygon in part]
    whole = np.zeros(size, bool)
    for part in parts:
        if isinstance(part, Mapping):
            whole |= decode_rle(part)
        else:
            whole |= rasterize_polygons(part, (0, 0, size[1], size[0]), size)
    return encode_rle(whole)


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


def _open(folder: AnyPath, split: str, task: Task) -> LabelMe:
    if not split:
        return LabelMe(folder)
    others = [folder / name for name in _splits(folder) if name != split]
    return LabelMe(folder / split, others)


FORMAT = Format(
    name="labelme",
    title="labelme",
    layout=("[<s>/]*.json with the images beside them",),
    tasks=("instance",),
    splits=_splits,
    open=_open,
)
