"""One of labelme's JSON files: where its image lies, and its shapes as objects."""

from __future__ import annotations

import base64
import binascii
import io
import math
import posixpath
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import IO, Any

import numpy as np
from jaxtyping import Bool
from PIL import ExifTags, Image, UnidentifiedImageError

from mask2former.archive import AnyPath, is_file, read_text
from mask2former.data.coco_json import Problem, raise_problems, read_json, whole
from mask2former.data.findings import MISSING
from mask2former.imaging import SUFFIXES
from mask2former.masks import (
    Polygons,
    Rle,
    check_polygons,
    decode_rle,
    encode_region,
    encode_rle,
    rasterize_polygons,
)

IGNORE, BACKGROUND = "__ignore__", "_background_"  # labelme's own names: void, and nothing at all
LABELS = "labels.txt"
NO_AREA = ("point", "points", "line", "linestrip")
FOUR_CORNERS = ("oriented_rectangle", "quadrilateral", "rotation")  # labelme's and X-AnyLabeling's
CORNERS = 64  # of the polygon that stands for a circle

_TURNED = 5  # from this orientation on, a camera's note exchanges height and width


@dataclass(frozen=True, kw_only=True, slots=True)
class LabelMeObject:
    """The shapes of one label and group."""

    record: str  # what messages call the first of them, as in "shape 3 (cow)"
    name: str
    mask: Rle | Polygons


@dataclass(frozen=True, kw_only=True, slots=True)
class LabelMeImage:
    """The image of a JSON file; `size` is (H, W) in pixels."""

    name: str
    path: AnyPath  # where imagePath says if it is nowhere
    is_embedded: bool  # in the JSON, and there is no file
    size: tuple[int, int]


@dataclass(frozen=True, kw_only=True, slots=True)
class Record:
    """A JSON file that is checked."""

    path: AnyPath
    image: LabelMeImage
    objects: tuple[LabelMeObject, ...]
    left_out: tuple[tuple[str, str], ...]  # shapes without area: what messages call each, its kind


def json_files(folder: AnyPath) -> list[AnyPath]:
    return sorted(path for path in folder.glob("*.json") if path.name[0] != ".")


def read_content(path: AnyPath) -> dict[str, Any] | None:
    """What a JSON file holds; None if it is another tool's. ValueError if it is no JSON at all."""
    content = read_json(path)
    is_ours = isinstance(content, dict) and isinstance(content.get("shapes"), list)
    return content if is_ours else None


def contents(folder: AnyPath) -> Iterator[tuple[AnyPath, dict[str, Any]]]:
    """Each of labelme's files in a folder and what it holds."""
    for path in json_files(folder):
        content = read_content(path)
        if content is not None:
            yield path, content


def labels_in(content: dict[str, Any]) -> set[str]:
    """The labels of all shapes that have an area, without a check of anything else."""
    shapes = [shape for shape in content["shapes"] if _has_label(shape)]
    labels = {shape["label"] for shape in shapes if not _kind_without_area(shape)}
    return labels - {IGNORE, BACKGROUND}


def class_file(folder: AnyPath) -> AnyPath | None:
    """The list of classes in a folder, or above it; None if there is none."""
    return next((p for p in (folder / LABELS, folder.parent / LABELS) if p.is_file()), None)


def read_class_names(path: AnyPath) -> list[str]:
    """The names that a labels.txt lists. ValueError if it is no text."""
    lines = [line.strip() for line in read_text(path).splitlines()]
    return [name for name in lines if name and name not in (IGNORE, BACKGROUND)]


class ImageFiles:
    """Finds images that were moved or converted after they were annotated."""

    def __init__(self) -> None:
        self._listed: dict[AnyPath, dict[str, AnyPath]] = {}

    def find(self, path: AnyPath, said: str) -> AnyPath | None:
        """The image of the JSON at `path`, which says it is at `said`; None if it is nowhere.

        If it is not there, one of its name or else of the JSON's counts, beside the JSON or in a
        folder `images` beside that or beside its folder.
        """
        if said and is_file(path.parent / said):
            return path.parent / said
        for folder in (path.parent, path.parent / "images", path.parent.parent / "images"):
            files = self._files(folder)
            found = files.get(posixpath.basename(said)) or files.get(path.stem)
            if found is not None:
                return found
        return None

    def _files(self, folder: AnyPath) -> dict[str, AnyPath]:
        """The images of a folder by name, and by name without suffix."""
        if folder not in self._listed:
            images = list_images(folder)
            stems = {image.stem: image for image in reversed(images)}
            self._listed[folder] = stems | {image.name: image for image in images}
        return self._listed[folder]


def list_images(folder: AnyPath) -> list[AnyPath]:
    """The images right in a folder, sorted by name; none if there is no such folder."""
    paths = folder.iterdir() if folder.is_dir() else ()
    return sorted(p for p in paths if p.suffix.lower() in SUFFIXES and p.name[0] != ".")


def read_record(path: AnyPath, content: dict[str, Any], images: ImageFiles) -> Record:
    """Check what a JSON file holds. ValueError tells of each shape that is wrong, and the cure."""
    problems: list[Problem] = []
    record = collect_record(path, content, images, problems)
    raise_problems(path, problems)
    assert record is not None, "a file is left out only if there is a problem"
    return record


def collect_record(
    path: AnyPath, content: dict[str, Any], images: ImageFiles, problems: list[Problem]
) -> Record | None:
    """As `read_record`, but shapes at fault are left out, and `problems` told of them.

    None, and `problems` told, if it is not known which image it is, or how large.
    """

    def fault(kind: str, record: str, message: str) -> None:
        problems.append(Problem(kind=kind, record=record, message=message))

    try:
        image = _image(path, content, images)
    except FileNotFoundError as error:
        fault(MISSING, "", str(error))
        return None
    except ValueError as error:
        fault("malformed image record", "", str(error))
        return None
    objects: dict[object, tuple[str, str, list[Rle | Polygons]]] = {}
    left_out: list[tuple[str, str]] = []
    for index, shape in enumerate(content["shapes"]):
        if not _has_label(shape):
            fault("unknown category", f"shape {index}", "has no 'label'; name it, or drop it")
            continue
        name, group = shape["label"], shape.get("group_id")
        record = f"shape {index} ({name})"
        if kind := _kind_without_area(shape):
            left_out.append((record, kind))
            continue
        try:
            mask = _mask_of(shape, image.size)
        except ValueError as error:
            fault("malformed mask", record, str(error))
            continue
        key = index if group is None else (name, str(group))
        objects.setdefault(key, (record, name, []))[2].append(mask)
    return Record(
        path=path,
        image=image,
        objects=tuple(
            LabelMeObject(record=record, name=name, mask=union(parts, image.size))
            for record, name, parts in objects.values()
        ),
        left_out=tuple(left_out),
    )


# --- its image --------------------------------------------------------------------------------


def _image(path: AnyPath, content: dict[str, Any], images: ImageFiles) -> LabelMeImage:
    """FileNotFoundError if nothing tells the image, or its size; ValueError if that is nonsense."""
    said = content.get("imagePath") or ""
    if not isinstance(said, str):
        raise ValueError(f"imagePath must name the image, not be {said!r}")
    said = posixpath.normpath(said.replace("\\", "/")) if said else ""
    found = images.find(path, said)
    data = content.get("imageData") if found is None else None
    if found is None and not said and not data:
        raise FileNotFoundError("imagePath must name the image, as none has the name of this file")
    place = found or path.parent / said
    is_moved = found is not None and found != path.parent / said
    return LabelMeImage(
        name=place.name if is_moved else said or path.stem,
        path=place,
        is_embedded=bool(data),
        size=_size(content, place, data),
    )


def _size(content: dict[str, Any], image: AnyPath, data: object) -> tuple[int, int]:
    """(H, W) as the JSON says, or else the image: its `data` in base64 if any, or its file."""
    height, width = (whole(content.get(side)) for side in ("imageHeight", "imageWidth"))
    if any(s is not None and not (isinstance(s, int) and s > 0) for s in (height, width)):
        raise ValueError("imageHeight and imageWidth must be whole numbers of pixels")
    if height is not None and width is not None:
        return height, width
    if not data and not image.is_file():
        raise FileNotFoundError(
            f"its file {image} does not exist, and imageHeight and imageWidth are missing; correct"
            " imagePath, or restore the file"
        )
    try:
        source: IO[bytes] = io.BytesIO(base64.b64decode(str(data))) if data else image.open("rb")
        with source, Image.open(source) as header:
            # A note in an embedded image does not count; a PNG would be decoded to look for one.
            may_be_turned = not data and header.format != "PNG"
            note = header.getexif().get(ExifTags.Base.Orientation, 1) if may_be_turned else 1
            width, height = header.size
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise ValueError(
            f"imageHeight and imageWidth are missing, and {'imageData' if data else image} cannot"
            f" be read ({error}); add them, or restore the image"
        ) from None
    return (width, height) if note >= _TURNED else (height, width)


# --- its shapes -------------------------------------------------------------------------------


def _has_label(shape: object) -> bool:
    return isinstance(shape, dict) and isinstance(shape.get("label"), str)


def _kind_without_area(shape: dict[str, Any]) -> str:
    """What to call a shape that covers nothing, however it is drawn; empty if it may cover some."""
    kind = shape.get("shape_type") or "polygon"
    points: Any = shape.get("points")
    if kind in NO_AREA:
        return str(kind)
    few = kind == "polygon" and _are_points(points) and len(points) < 3
    return "polygon with fewer than 3 corners" if few else ""


def _mask_of(shape: dict[str, Any], size: tuple[int, int]) -> Rle | Polygons:
    """A shape as polygons or a run-length encoding; ValueError says what is wrong with it."""
    kind = shape.get("shape_type") or "polygon"
    points: Any = shape.get("points")
    if not _are_points(points):
        raise ValueError("'points' must be a list of [x, y], in pixels")
    if kind == "rectangle" and len(points) == 4:  # X-AnyLabeling writes all its corners
        kind = "polygon"
    if kind in ("rectangle", "circle", "mask") and len(points) != 2:
        raise ValueError(f"a {kind} has 2 points, not {len(points)}")
    if kind in FOUR_CORNERS and len(points) != 4:
        raise ValueError(f"a shape of type {kind} has 4 points, not {len(points)}")
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
    elif kind != "polygon" and kind not in FOUR_CORNERS:
        raise ValueError(f"shape_type {kind!r} is not known; draw it as a polygon")
    polygons = [[float(value) for point in points for value in point]]
    check_polygons(polygons)
    return polygons


def _are_points(points: Any) -> bool:
    return isinstance(points, list) and all(
        isinstance(point, list)
        and len(point) == 2
        and all(isinstance(value, int | float) and math.isfinite(value) for value in point)
        for point in points
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


def union(parts: Sequence[Rle | Polygons], size: tuple[int, int]) -> Rle | Polygons:
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
