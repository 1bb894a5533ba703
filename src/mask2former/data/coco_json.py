"""What COCO's instance and panoptic files have in common: the JSON, its categories, its images."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

from mask2former.archive import AnyPath
from mask2former.data.dataset import generated_color, web_color
from mask2former.structures import Category

Kind = Literal["instance", "panoptic"]
Content = dict[str, list[dict[str, Any]]]  # the lists of a file, whose entries are not checked yet
Mend = Callable[[Content], None]  # turns what a tool writes otherwise into COCO's, in place

_SHOWN_PROBLEMS = 5
_HEAD = 1 << 16  # bytes in which the first of a file's lists begins
_LISTS = [re.compile(rb'"%s"\s*:\s*\[' % key) for key in (b"images", b"annotations", b"categories")]


@dataclass(frozen=True, kw_only=True)
class Problem:
    """Something wrong with a record; `kind` is what the doctor counts it under."""

    kind: str
    record: str  # as in "annotation 12"; empty if it is the file's own
    message: str

    def __str__(self) -> str:
        return f"{self.record}: {self.message}" if self.record else self.message


@dataclass(frozen=True, kw_only=True)
class ImageRecord:
    """One entry of 'images'; `size` is (H, W) in pixels."""

    id: int | str
    file_name: str
    size: tuple[int, int]


@dataclass(frozen=True, kw_only=True)
class CocoJson:
    """A checked file; `annotations` are as they stand in it, each of a known image."""

    path: AnyPath
    categories: tuple[Category, ...]  # by ascending id
    images: dict[int | str, ImageRecord]
    annotations: list[dict[str, Any]]

    @property
    def label_of(self) -> dict[int, int]:
        """From a category's id to its label."""
        return {category.id: label for label, category in enumerate(self.categories)}


def read_coco_json(path: AnyPath, kind: Kind, mend: Mend | None = None) -> CocoJson:
    """Read, mend and check all that instance and panoptic files share.

    Raises FileNotFoundError if there is no such file, ValueError if it is malformed.
    """
    problems: list[Problem] = []
    content = collect_coco_json(path, kind, problems, mend)
    raise_problems(path, problems)
    return content


def collect_coco_json(
    path: AnyPath, kind: Kind, problems: list[Problem], mend: Mend | None = None
) -> CocoJson:
    """As `read_coco_json`, but records at fault are left out, and `problems` told of them.

    Raises FileNotFoundError or ValueError only if there is no such file or it is not COCO's.
    """
    content = _load(path)
    if mend is not None:
        mend(content)
    _check_kind(path, content["annotations"], kind)
    categories = _categories(content["categories"], kind, problems)
    images = _images(content["images"], problems)
    annotations = []
    for index, annotation in enumerate(content["annotations"]):
        image_id = annotation.get("image_id")
        if isinstance(image_id, int | str) and image_id in images:
            annotations.append(annotation)
            continue
        message = (
            f"image_id {image_id!r} is not among the {len(images)} images; add it to 'images' or"
            " drop the annotation"
        )
        name = annotation_name(annotation, index)
        problems.append(Problem(kind="unknown image", record=name, message=message))
    return CocoJson(path=path, categories=categories, images=images, annotations=annotations)


def annotation_name(annotation: dict[str, Any], index: int) -> str:
    """How messages call an annotation."""
    if "id" in annotation:
        return f"annotation {annotation['id']}"
    if "segments_info" in annotation:
        return f"annotation of image {annotation.get('image_id')}"
    return f"annotation number {index}"


def unknown_category(category_id: object, categories: Sequence[Category]) -> str:
    """The message on a `category_id` that no category has."""
    return (
        f"category_id {category_id!r} is not among the {len(categories)} categories;"
        " add it to 'categories' or drop the annotation"
    )


def raise_problems(path: AnyPath, problems: Sequence[Problem | str]) -> None:
    """Raise ValueError that tells the first few problems of a file, if there are any."""
    if not problems:
        return
    lines = [f"{path}: {problem}" for problem in problems[:_SHOWN_PROBLEMS]]
    if len(problems) > _SHOWN_PROBLEMS:
        lines.append(f"... and {len(problems) - _SHOWN_PROBLEMS} more problems in this file")
    raise ValueError("\n".join(lines))


def read_json(path: AnyPath) -> Any:
    """What a JSON file holds. ValueError if it is none."""
    try:
        return json.loads(path.read_bytes())
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(
            f"{path}: is not valid JSON ({error}); restore or export it anew"
        ) from None


def is_instance_json(path: AnyPath) -> bool:
    """Whether a file of any name holds COCO's instances; it is searched, not parsed, for speed."""
    if not isinstance(path, Path):
        return _is_instance_json(path)
    stat = path.stat()
    return _is_known_instance_json(path, stat.st_size, stat.st_mtime_ns)


@lru_cache(maxsize=64)
def _is_known_instance_json(path: Path, size: int, changed: int) -> bool:
    """Asked several times before a training; a file that has changed is read again."""
    return _is_instance_json(path)


def _is_instance_json(path: AnyPath) -> bool:
    with path.open("rb") as file:
        head = file.read(_HEAD)
    if not any(key.search(head) for key in _LISTS):
        return False
    text = path.read_bytes()
    return all(key.search(text) for key in _LISTS) and b'"segments_info"' not in text


def lacks_annotations(path: AnyPath) -> bool:
    """Whether a file lists images alone, as COCO's own of the images to be tested on do."""
    text = path.read_bytes()
    if b'"annotations"' in text:
        return False
    try:
        return "images" in json.loads(text)
    except (ValueError, TypeError):
        return False


def _load(path: AnyPath) -> Content:
    if not path.is_file():
        raise FileNotFoundError(f"{path}: there is no such annotation file; check the path")
    content = read_json(path)
    if not isinstance(content, dict):
        raise ValueError(f"{path}: is no COCO file: it must be an object, not a list or a value")
    for key in ("images", "annotations", "categories"):
        entries = content.get(key)
        if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
            raise ValueError(
                f"{path}: is no COCO annotation file: '{key}' must be a list of objects"
                f" (found at the top: {', '.join(map(str, content)) or 'nothing'})"
            )
    return content


def _check_kind(path: AnyPath, annotations: list[dict[str, Any]], kind: Kind) -> None:
    for annotation in annotations[:1]:
        is_panoptic = "segments_info" in annotation
        if is_panoptic and kind == "instance":
            raise ValueError(
                f"{path}: is a panoptic file (its annotations have 'segments_info'), but is opened"
                " as an instance file; open it with CocoPanoptic"
            )
        if not is_panoptic and kind == "panoptic":
            raise ValueError(
                f"{path}: is an instance file (its annotations have no 'segments_info'), but is"
                " opened as a panoptic file; open it with CocoInstances"
            )


def _categories(
    entries: list[dict[str, Any]], kind: Kind, problems: list[Problem]
) -> tuple[Category, ...]:
    def fault(record: str, message: str, kind: str = "malformed category") -> None:
        problems.append(Problem(kind=kind, record=record, message=message))

    if not entries:
        fault("", "'categories' is empty; list every class with its id and name")
    categories: dict[int, Category] = {}
    named = [entry for entry in entries if isinstance(entry.get("id"), int)]
    if len(named) < len(entries):
        fault("", "a category has no 'id' that is a whole number; give it one")
    for index, entry in enumerate(sorted(named, key=lambda entry: int(entry["id"]))):
        id, name = entry["id"], entry.get("name")
        record = f"category {id}"
        if id in categories:
            fault(record, "the id stands twice; give each category its own", "id stands twice")
        if not isinstance(name, str):
            fault(record, f"'name' must be a string, not {name!r}")
        if kind == "panoptic" and entry.get("isthing") not in (0, 1):
            fault(record, "'isthing' must be 1 (objects) or 0 (stuff); add it")
        color = entry.get("color", generated_color(index))
        color = web_color(color) or color
        if not _is_color(color):
            fault(record, f"'color' must be [r, g, b], 0..255, not {color!r}")
            color = generated_color(index)
        red, green, blue = color
        categories[id] = Category(
            id=id,
            name=str(name),
            is_thing=bool(entry.get("isthing", 1)),
            color=(red, green, blue),
        )
    return tuple(categories.values())


def _is_color(color: object) -> bool:
    return (
        isinstance(color, list | tuple)
        and len(color) == 3
        and all(isinstance(value, int) and 0 <= value <= 255 for value in color)
    )


def whole(value: Any) -> Any:
    """A number without a fraction as an int: some tools write 64.0."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _images(entries: list[dict[str, Any]], problems: list[Problem]) -> dict[int | str, ImageRecord]:
    def fault(record: str, message: str, kind: str = "malformed image record") -> None:
        problems.append(Problem(kind=kind, record=record, message=message))

    images: dict[int | str, ImageRecord] = {}
    for index, entry in enumerate(entries):
        id, file_name = entry.get("id"), entry.get("file_name")
        height, width = (whole(entry.get(side)) for side in ("height", "width"))
        record = f"image {id}"
        if not isinstance(id, int | str):
            fault(f"image number {index}", "has no 'id'; give it one")
        elif id in images:
            fault(record, "the id stands twice; give each image its own", "id stands twice")
        elif not isinstance(file_name, str) or not file_name:
            fault(record, f"'file_name' must be a string, not {file_name!r}")
        elif not (isinstance(height, int) and isinstance(width, int) and min(height, width) > 0):
            size = f"{height!r} and {width!r}"
            fault(record, f"'height' and 'width' must be its size in pixels, not {size}")
        else:
            images[id] = ImageRecord(id=id, file_name=file_name, size=(height, width))
    return images
