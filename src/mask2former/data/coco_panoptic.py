"""COCO's panoptic format: one PNG of segment ids for every image, and a JSON that explains them."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
from jaxtyping import Int32
from PIL import Image, UnidentifiedImageError

from mask2former.archive import AnyPath, any_path
from mask2former.data.coco import IMAGES
from mask2former.data.coco_json import (
    CocoJson,
    ImageRecord,
    Problem,
    annotation_name,
    raise_problems,
    read_coco_json,
    unknown_category,
)
from mask2former.data.dataset import SizeMismatchError, read_annotated_image, require_file
from mask2former.data.format import Format, first_existing, folder_of, names_matching
from mask2former.data.pixel_maps import used_values
from mask2former.data.task_views import open_panoptic
from mask2former.masks import IdMapMasks, ids_of_colors
from mask2former.structures import TASKS, Category, Sample, Task


class PngModeError(ValueError):
    """The PNG of an annotation does not hold colours, so no ids."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PanopticRecord:
    """The annotation of one image."""

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
        id_map = read_png(self.png_dir / record.png, record.image.size, name)
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


def _read_records(content: CocoJson) -> tuple[PanopticRecord, ...]:
    problems: list[Problem] = []
    records = tuple(record for _, record in collect_records(content, problems))
    raise_problems(content.path, problems)
    return records


def collect_records(
    content: CocoJson, problems: list[Problem]
) -> Iterator[tuple[dict[str, Any], PanopticRecord]]:
    """Each annotation as it stands in the file, and what it describes.

    Segments and annotations at fault are left out, and `problems` told of them.
    """
    seen: set[int | str] = set()
    label_of = content.label_of

    def fault(kind: str, name: str, message: str) -> None:
        problems.append(Problem(kind=kind, record=name, message=message))

    for index, annotation in enumerate(content.annotations):
        name = annotation_name(annotation, index)
        image = content.images[annotation["image_id"]]
        if image.id in seen:
            message = "the image is annotated twice; drop one of the annotations"
            fault("image annotated twice", name, message)
        seen.add(image.id)
        png, segments = annotation.get("file_name"), annotation.get("segments_info")
        if not isinstance(png, str) or not png:
            fault("malformed annotation", name, f"'file_name' must name its PNG, not {png!r}")
        if not isinstance(segments, list) or not all(isinstance(s, dict) for s in segments):
            fault("malformed annotation", name, "'segments_info' must be a list of objects")
            continue
        kept = _sound_segments(segments, content.categories, name, problems)
        if isinstance(png, str) and png:
            yield (
                annotation,
                PanopticRecord(
                    image=image,
                    png=png,
                    ids=tuple(segment["id"] for segment in kept),
                    labels=tuple(label_of[segment["category_id"]] for segment in kept),
                    is_crowd=tuple(bool(segment.get("iscrowd", 0)) for segment in kept),
                ),
            )


def _sound_segments(
    segments: list[dict[str, Any]],
    categories: tuple[Category, ...],
    name: str,
    problems: list[Problem],
) -> list[dict[str, Any]]:
    """Those that can be used; `problems` is told of the others."""
    seen: set[int] = set()
    known = {category.id for category in categories}
    sound: list[dict[str, Any]] = []

    def fault(kind: str, message: str) -> None:
        problems.append(Problem(kind=kind, record=name, message=message))

    for segment in segments:
        id, category_id = segment.get("id"), segment.get("category_id")
        if not isinstance(id, int) or not 0 < id < 1 << 24:
            message = f"segment {id!r}: 'id' must be within 1..{(1 << 24) - 1}; 0 is void"
            fault("malformed segment", message)
        elif id in seen:
            fault("id stands twice", f"segment {id}: the id stands twice; drop one of the segments")
        elif not isinstance(category_id, int) or category_id not in known:
            message = f"segment {id}: {unknown_category(category_id, categories)}"
            fault("unknown category", message)
        else:
            sound.append(segment)
        if isinstance(id, int):
            seen.add(id)
    return sound


def read_png(path: AnyPath, size: tuple[int, int], record: str) -> Int32[np.ndarray, "H W"]:
    """The segment ids of a PNG: red + 256 green + 65536 blue."""
    require_file(path, record)
    try:
        with Image.open(io.BytesIO(path.read_bytes())) as image:
            mode, pixels = image.mode, np.asarray(image)
    except (UnidentifiedImageError, OSError, SyntaxError, ValueError) as error:
        raise ValueError(f"{record}: its PNG {path} cannot be read: {error}; restore it") from error
    if mode not in ("RGB", "RGBA"):
        raise PngModeError(
            f"{record}: its PNG {path} has mode {mode}, not RGB; a panoptic PNG stores an id as"
            " red + 256 * green + 65536 * blue"
        )
    if pixels.shape[:2] != size:
        raise SizeMismatchError(
            f"{record}: its PNG {path} has height {pixels.shape[0]}, width {pixels.shape[1]}, but"
            f" the image has height {size[0]}, width {size[1]}; restore the PNG of this image"
        )
    return ids_of_colors(pixels)


def painted_ids(id_map: Int32[np.ndarray, "H W"]) -> set[int]:
    """The ids that a PNG has pixels of; 0 is void, not an id."""
    return set(used_values(id_map)) - {0}


def _check_ids(id_map: Int32[np.ndarray, "H W"], ids: Sequence[int], record: str) -> list[int]:
    """Raise ValueError if a pixel has an id of none of `ids`; returns those that have no pixel."""
    painted = painted_ids(id_map)
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


def files_of(folder: AnyPath, split: str) -> tuple[AnyPath, AnyPath, AnyPath]:
    """The annotation file of a split, the folder of its PNGs, and that of its images.

    FileNotFoundError without.
    """
    file = first_existing(folder, (_JSON,), split)
    assert file is not None, "a split that _splits found has its file"
    return (
        file,
        folder_of(file, folder, _PNGS, split, "PNGs"),
        folder_of(file, folder, IMAGES, split, "images"),
    )


def _read(folder: AnyPath, split: str, *, things_only: bool) -> CocoPanoptic:
    return CocoPanoptic(*files_of(folder, split), things_only=things_only)


FORMAT = Format(
    name="coco-panoptic",
    title="COCO panoptic",
    layout=(_JSON,),
    tasks=TASKS,
    splits=_splits,
    open=partial(open_panoptic, _read),
)
