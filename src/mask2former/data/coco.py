"""COCO's instance format: one JSON with polygons or a run-length encoding for every object."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np

from mask2former.archive import AnyPath, any_path
from mask2former.data.coco_exports import brushed_are_objects, drop_placeholders, find_images
from mask2former.data.coco_json import (
    CocoJson,
    Mend,
    Problem,
    annotation_name,
    raise_problems,
    read_coco_json,
    unknown_category,
)
from mask2former.data.dataset import read_annotated_image, require_file
from mask2former.data.format import NO_SPLIT, Format, first_existing, folder_of, names_matching
from mask2former.masks import EncodedMasks, Polygons, Rle, check_polygons
from mask2former.structures import Category, Sample, Task


@dataclass(frozen=True, kw_only=True, slots=True)
class CocoObject:
    """One annotation, its segmentation checked as far as that is cheap."""

    name: str
    label: int
    is_crowd: bool
    mask: Rle | Polygons


class CocoInstances:
    """The images of a COCO instance file, in its order, those without objects included.

    Labels follow the ascending ids of the categories. An annotation with an empty list of
    polygons stays, as an empty mask.
    """

    categories: tuple[Category, ...]
    tasks: tuple[Task, ...] = ("instance",)

    def __init__(
        self,
        annotations_json: str | AnyPath,
        images_dir: str | AnyPath,
        *,
        categories: tuple[Category, ...] | None = None,
        mend: Mend | None = None,
    ) -> None:
        """Read and check the annotations; images and encodings are read when asked for.

        `categories` stand in place of the file's, in whose ids they must be. `mend` first changes
        what a tool has written otherwise than COCO does.

        Raises FileNotFoundError or ValueError naming the file, the record and the cure.
        """
        self.path, self.images_dir = any_path(annotations_json), any_path(images_dir)
        content = read_coco_json(self.path, "instance", mend)
        if categories is not None:
            content = replace(content, categories=categories)
        self.categories = content.categories
        self._images = tuple(content.images.values())
        self._objects = _read_objects(content)
        for image in self._images[:1]:  # a wrong folder shows at once
            require_file(self.images_dir / image.file_name, f"{self.path}: image {image.id}")

    def __len__(self) -> int:
        return len(self._images)

    def labels_of(self, index: int) -> set[int]:
        return {thing.label for thing in self._objects.get(self._images[index].id, [])}

    def __getitem__(self, index: int) -> Sample:
        image = self._images[index]
        objects = self._objects.get(image.id, [])
        masks = EncodedMasks(
            image.size,
            [thing.mask for thing in objects],
            names=[f"{self.path}: {thing.name}" for thing in objects],
        )
        return Sample(
            image=read_annotated_image(
                self.images_dir / image.file_name, image.size, f"{self.path}: image {image.id}"
            ),
            labels=np.array([thing.label for thing in objects], np.int64),
            masks=masks,
            is_crowd=np.array([thing.is_crowd for thing in objects], bool),
            image_id=image.id,
            name=image.file_name,
        )


def _read_objects(content: CocoJson) -> dict[int | str, list[CocoObject]]:
    """Every image's objects; ValueError tells the first few problems."""
    objects: dict[int | str, list[CocoObject]] = {}
    problems: list[Problem] = []
    for annotation, found in collect_objects(content, problems):
        objects.setdefault(annotation["image_id"], []).append(found)
    raise_problems(content.path, problems)
    return objects


def collect_objects(
    content: CocoJson, problems: list[Problem]
) -> Iterator[tuple[dict[str, Any], CocoObject]]:
    """Each annotation with what it describes; `problems` is told of those that are left out."""
    seen: set[object] = set()
    label_of = content.label_of

    def fault(kind: str, name: str, message: str) -> None:
        problems.append(Problem(kind=kind, record=name, message=message))

    for index, annotation in enumerate(content.annotations):
        name = annotation_name(annotation, index)
        image = content.images[annotation["image_id"]]
        id, category_id = annotation.get("id"), annotation.get("category_id")
        if isinstance(id, int | str):
            if id in seen:
                message = "the id stands twice; give each annotation its own"
                fault("id stands twice", name, message)
            seen.add(id)
        if not isinstance(category_id, int) or category_id not in label_of:
            fault("unknown category", name, unknown_category(category_id, content.categories))
            continue
        try:
            mask = _read_segmentation(annotation.get("segmentation"), image.size)
        except ValueError as error:
            fault("malformed mask", name, str(error))
            continue
        yield (
            annotation,
            CocoObject(
                name=name,
                label=label_of[category_id],
                is_crowd=bool(annotation.get("iscrowd", 0)),
                mask=mask,
            ),
        )


def _read_segmentation(segmentation: Any, size: tuple[int, int]) -> Rle | Polygons:
    if isinstance(segmentation, dict):
        if "counts" not in segmentation or segmentation.get("size") != list(size):
            raise ValueError(
                "segmentation: a run-length encoding must have 'counts' and the 'size' of its"
                f" image, {list(size)}, not {segmentation.get('size')}"
            )
        return segmentation
    if not isinstance(segmentation, list):
        raise ValueError(
            "segmentation: must be a list of polygons or a run-length encoding, not"
            f" {str(segmentation)[:40]}; boxes alone cannot train masks"
        )
    try:
        check_polygons(segmentation)
    except ValueError as error:
        raise ValueError(f"segmentation: {error}") from None
    return [np.asarray(polygon, np.float32) for polygon in segmentation]  # a tenth of the memory


# --- the layouts it lies in, of COCO itself and of tools that export it ------------------------

IMAGES = ("images/<s>", "<s>", "images")
_COCO = "annotations/instances_<s>.json"  # CVAT's too, with the split "default" or its own
_ROBOFLOW = "<s>/_annotations.coco.json"
_ALONE = ("_annotations.coco.json", "annotations.json")  # images are named from the folder
_LABEL_STUDIO = "result.json"


def _splits(folder: AnyPath) -> tuple[str, ...]:
    named = {name for pattern in (_COCO, _ROBOFLOW) for name in names_matching(folder, pattern)}
    if named:
        return tuple(sorted(named))
    alone = first_existing(folder, _ALONE) is not None or _is_label_studio(folder)
    return (NO_SPLIT,) if alone else ()


def _is_label_studio(folder: AnyPath) -> bool:
    """Whether the images lie beside its file, whose name alone tells little."""
    return (folder / _LABEL_STUDIO).is_file() and (folder / "images").is_dir()


def files_of(folder: AnyPath, split: str) -> tuple[AnyPath, AnyPath, Mend]:
    """The annotation file of a split, the folder of its images, and what mends the file's content.

    Raises FileNotFoundError if the folder is missing.
    """
    if split == NO_SPLIT:
        alone = first_existing(folder, _ALONE)
        if alone is not None:
            return alone, folder, drop_placeholders
        return folder / _LABEL_STUDIO, folder, partial(find_images, folder=folder)
    file = first_existing(folder, (_COCO,), split)
    if file is not None:
        return file, folder_of(file, folder, IMAGES, split, "images"), brushed_are_objects
    return folder / _ROBOFLOW.replace("<s>", split), folder / split, drop_placeholders


def _open(folder: AnyPath, split: str, task: Task) -> CocoInstances:
    file, images, mend = files_of(folder, split)
    return CocoInstances(file, images, mend=mend)


FORMAT = Format(
    name="coco",
    title="COCO instances",
    layout=(_COCO, _ROBOFLOW, *_ALONE, f"{_LABEL_STUDIO} with images/*"),
    tasks=("instance",),
    splits=_splits,
    open=_open,
)
