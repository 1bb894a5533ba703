"""COCO's panoptic format: one PNG of segment ids for every image, and a JSON that explains them."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from jaxtyping import Int32
from PIL import Image, UnidentifiedImageError

from mask2former.archive import AnyPath, any_path
from mask2former.data.coco import IMAGES
from mask2former.data.coco_json import (
    CocoJson,
    ImageRecord,
    annotation_name,
    raise_problems,
    read_coco_json,
    unknown_category,
)
from mask2former.data.dataset import Dataset, read_annotated_image, require_file
from mask2former.data.format import Format, first_existing, folder_of, names_matching
from mask2former.data.semantic_view import SemanticView
from mask2former.masks import IdMapMasks, ids_of_colors
from mask2former.structures import TASKS, Category, Sample, Task


@dataclass(frozen=True, kw_only=True, slots=True)
class _Record:
    image: ImageRecord
    png: str
    ids: tuple[int, ...]
    labels: tuple[int, ...]
    is_crowd: tuple[bool, ...]


class CocoPanoptic:
    """The annotated images of a COCO panoptic file, in the order of its annotations.

    Things and stuff share one label space, by ascending id of the categories. A sample's `void`
    is where the PNG is 0. With `things_only` the stuff classes and their segments are left out,
    so that a panoptic file serves as an instance file.
    """

    categories: tuple[Category, ...]

    def __init__(
        self,
        annotations_json: str | AnyPath,
        png_dir: str | AnyPath,
        images_dir: str | AnyPath,
        *,
        things_only: bool = False,
        categories: tuple[Category, ...] | None = None,
        file_name: Callable[[str], str] | None = None,
        allow_empty: bool = False,
    ) -> None:
        """Read and check the JSON; images and PNGs are read when they are asked for.

        For files that a benchmark's own tools wrote: `categories` stand in place of the file's, in
        whose ids they must be; `file_name` gives an image's file by its id; with `allow_empty` a
        segment without a pixel stays, as an empty mask.

        Raises FileNotFoundError or ValueError naming the file, the record and the cure.
        """
        self.path, self.png_dir = any_path(annotations_json), any_path(png_dir)
        self.images_dir = any_path(images_dir)
        content = read_coco_json(self.path, "panoptic")
        if categories is not None:
            content = replace(content, categories=categories)
        if file_name is not None:
            images = content.images.items()
            renamed = {id: replace(image, file_name=file_name(str(id))) for id, image in images}
            content = replace(content, images=renamed)
        self.allow_empty = allow_empty
        self._records = _read_records(content)
        for record in self._records[:1]:  # a wrong folder shows at once
            name = f"{self.path}: image {record.image.id}"
            require_file(self.images_dir / record.image.file_name, name)
            require_file(self.png_dir / record.png, name)
        kept = [
            label
            for label, category in enumerate(content.categories)
            if category.is_thing or not things_only
        ]
        self.categories = tuple(content.categories[label] for label in kept)
        self.tasks: tuple[Task, ...] = ("instance",) if things_only else TASKS
        self._new_label = {label: new for new, label in enumerate(kept)}

    def __len__(self) -> int:
        return len(self._records)

    def labels_of(self, index: int) -> set[int]:
        labels = self._records[index].labels
        return {self._new_label[label] for label in labels if label in self._new_label}

    def __getitem__(self, index: int) -> Sample:
        record = self._records[index]
        name = f"{self.path}: image {record.image.id}"
        id_map = _read_png(self.png_dir / record.png, record.image.size, name)
        lacking = _check_ids(id_map, record.ids, f"{name}, {self.png_dir / record.png}")
        if lacking and not self.allow_empty:
            raise ValueError(
                f"{name}, {self.png_dir / record.png}: segment {lacking[0]} of 'segments_info' has"
                " no pixel in the PNG; drop the segment or restore the PNG"
            )
        kept = [i for i, label in enumerate(record.labels) if label in self._new_label]
        return Sample(
            image=read_annotated_image(
                self.images_dir / record.image.file_name, record.image.size, name
            ),
            labels=np.array([self._new_label[record.labels[i]] for i in kept], np.int64),
            masks=IdMapMasks(id_map, [record.ids[i] for i in kept]),
            is_crowd=np.array([record.is_crowd[i] for i in kept], bool),
            image_id=record.image.id,
            name=record.image.file_name,
            void=IdMapMasks(id_map, [0]),
        )


def _read_records(content: CocoJson) -> tuple[_Record, ...]:
    records: list[_Record] = []
    seen: set[int | str] = set()
    problems: list[str] = []
    label_of = content.label_of
    for index, annotation in enumerate(content.annotations):
        name = annotation_name(annotation, index)
        image = content.images[annotation["image_id"]]
        if image.id in seen:
            problems.append(f"{name}: the image is annotated twice; drop one of the annotations")
        seen.add(image.id)
        png, segments = annotation.get("file_name"), annotation.get("segments_info")
        if not isinstance(png, str) or not png:
            problems.append(f"{name}: 'file_name' must name its PNG, not {png!r}")
        if not isinstance(segments, list) or not all(isinstance(s, dict) for s in segments):
            problems.append(f"{name}: 'segments_info' must be a list of objects")
            continue
        found = [
            f"{name}: {problem}" for problem in _segment_problems(segments, content.categories)
        ]
        problems.extend(found)
        if not found:
            records.append(
                _Record(
                    image=image,
                    png=str(png),
                    ids=tuple(segment["id"] for segment in segments),
                    labels=tuple(label_of[segment["category_id"]] for segment in segments),
                    is_crowd=tuple(bool(segment.get("iscrowd", 0)) for segment in segments),
                )
            )
    raise_problems(content.path, problems)
    return tuple(records)


def _segment_problems(
    segments: list[dict[str, Any]], categories: tuple[Category, ...]
) -> list[str]:
    problems: list[str] = []
    seen: set[int] = set()
    known = {category.id for category in categories}
    for segment in segments:
        id, category_id = segment.get("id"), segment.get("category_id")
        if not isinstance(id, int) or not 0 < id < 1 << 24:
            problems.append(f"segment {id!r}: 'id' must be within 1..{(1 << 24) - 1}; 0 is void")
            continue
        if id in seen:
            problems.append(f"segment {id}: the id stands twice; drop one of the segments")
        seen.add(id)
        if not isinstance(category_id, int) or category_id not in known:
            problems.append(f"segment {id}: {unknown_category(category_id, categories)}")
    return problems


def _read_png(path: AnyPath, size: tuple[int, int], record: str) -> Int32[np.ndarray, "H W"]:
    """The segment ids of a PNG: red + 256 green + 65536 blue."""
    require_file(path, record)
    try:
        with Image.open(io.BytesIO(path.read_bytes())) as image:
            mode, pixels = image.mode, np.asarray(image)
    except (UnidentifiedImageError, OSError, SyntaxError, ValueError) as error:
        raise ValueError(f"{record}: its PNG {path} cannot be read: {error}; restore it") from error
    if mode not in ("RGB", "RGBA"):
        raise ValueError(
            f"{record}: its PNG {path} has mode {mode}, not RGB; a panoptic PNG stores an id as"
            " red + 256 * green + 65536 * blue"
        )
    if pixels.shape[:2] != size:
        raise ValueError(
            f"{record}: its PNG {path} has height {pixels.shape[0]}, width {pixels.shape[1]}, but"
            f" the image has height {size[0]}, width {size[1]}; restore the PNG of this image"
        )
    return ids_of_colors(pixels)


def _check_ids(id_map: Int32[np.ndarray, "H W"], ids: Sequence[int], record: str) -> list[int]:
    """Raise ValueError if a pixel has an id of none of `ids`; returns those that have no pixel."""
    flat = id_map.ravel()
    starts = np.concatenate([flat[:1], flat[1:][flat[1:] != flat[:-1]]])  # few, quick to sort
    painted = set(np.unique(starts).tolist()) - {0}
    for unexplained in sorted(painted - set(ids))[:1]:
        raise ValueError(
            f"{record}: the PNG has pixels of id {unexplained}, which no segment in"
            " 'segments_info' has; add the segment, or paint the pixels 0 (void)"
        )
    return sorted(set(ids) - painted)


# --- the layout it lies in --------------------------------------------------------------------

_JSON = "annotations/panoptic_<s>.json"
_PNGS = ("annotations/panoptic_<s>", "panoptic/<s>", "panoptic_<s>")


def _splits(folder: AnyPath) -> tuple[str, ...]:
    return tuple(sorted(names_matching(folder, _JSON)))


def _open(folder: AnyPath, split: str, task: Task) -> Dataset:
    file = first_existing(folder, (_JSON,), split)
    assert file is not None, "a split that _splits found has its file"
    dataset = CocoPanoptic(
        file,
        folder_of(file, folder, _PNGS, split, "PNGs"),
        folder_of(file, folder, IMAGES, split, "images"),
        things_only=task == "instance",
    )
    return SemanticView(dataset) if task == "semantic" else dataset


FORMAT = Format(
    name="coco-panoptic",
    title="COCO panoptic",
    layout=(_JSON,),
    tasks=TASKS,
    splits=_splits,
    open=_open,
)
