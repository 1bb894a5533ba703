"""COCO's instance format: one JSON with polygons or a run-length encoding for every object."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np

from mask2former.archive import AnyPath, any_path
from mask2former.data.coco_exports import (
    brushed_are_objects,
    drop_placeholders,
    find_images,
    mend_alone,
    mend_any,
    placed,
)
from mask2former.data.coco_json import (
    CocoJson,
    Mend,
    Problem,
    annotation_name,
    is_instance_json,
    lacks_annotations,
    raise_problems,
    read_coco_json,
    unknown_category,
)
from mask2former.data.dataset import read_annotated_image, require_file
from mask2former.data.format import NO_SPLIT, Format, first_existing, folder_of, names_matching
from mask2former.imaging import SUFFIXES
from mask2former.masks import EncodedMasks, Polygons, Rle, mask_of_annotation
from mask2former.structures import Category, Sample, Task


@dataclass(frozen=True, kw_only=True)
class _Lack:
    """What an annotation may have too little of, though that is no error."""

    message: str  # of the doctor
    log: str


BOX_ALONE, NO_AREA, SHORT_POLYGON = (
    "box without a mask",
    "mask without a pixel",
    "polygon without area",
)
_LACKS = {
    BOX_ALONE: _Lack(
        message="no mask, only a box, which is taken as a crowd; export polygons, or draw them",
        log="%s: %d annotations have a box and no mask: taken as crowds",
    ),
    NO_AREA: _Lack(
        message="has neither a mask nor a box, so it is left out; draw it anew or drop it",
        log="%s: %d annotations without a mask or a box left out: no area",
    ),
    SHORT_POLYGON: _Lack(
        message="polygons of fewer than 3 corners have no area and are left out; drop them",
        log="%s: polygons of fewer than 3 corners left out of %d annotations: no area",
    ),
}

log = logging.getLogger("mask2former")


@dataclass(frozen=True, kw_only=True, slots=True)
class CocoObject:
    """One annotation, its segmentation checked as far as that is cheap."""

    name: str
    label: int
    is_crowd: bool
    mask: Rle | Polygons
    is_box: bool = False  # no more is known of it


class CocoInstances:
    """The images of a COCO instance file, in its order, those without objects included.

    Labels follow the ascending ids of the categories. Of an annotation that has a box and no mask
    the box is a crowd; what has no area is left out. The log says how many.
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
        self.mend = mend
        content = read_coco_json(self.path, "instance", mend)
        if categories is not None:
            content = replace(content, categories=categories)
        self.categories = content.categories
        self._images = tuple(placed(content.images, self.images_dir).values())
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
    lacks: list[Problem] = []
    for annotation, found in collect_objects(content, problems, lacks):
        objects.setdefault(annotation["image_id"], []).append(found)
    raise_problems(content.path, problems)
    for kind, count in Counter(lack.kind for lack in lacks).items():
        log.warning(_LACKS[kind].log, content.path, count)
    return objects


def collect_objects(
    content: CocoJson, problems: list[Problem], lacks: list[Problem]
) -> Iterator[tuple[dict[str, Any], CocoObject]]:
    """Each annotation with what it describes.

    `problems` is told of those at fault, which are left out, and `lacks` of those that have no
    mask, or only part of it.
    """
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
            mask, lack = _read_mask(annotation, image.size)
        except ValueError as error:
            fault("malformed mask", name, str(error))
            continue
        if lack is not None:
            lacks.append(Problem(kind=lack, record=name, message=_LACKS[lack].message))
        if mask is None:
            continue
        is_box = lack == BOX_ALONE
        yield (
            annotation,
            CocoObject(
                name=name,
                label=label_of[category_id],
                is_crowd=is_box or bool(annotation.get("iscrowd", 0)),
                mask=mask,
                is_box=is_box,
            ),
        )


def _read_mask(
    annotation: dict[str, Any], size: tuple[int, int]
) -> tuple[Rle | Polygons | None, str | None]:
    """The mask of an annotation if it has any area, and which of `_LACKS` it has."""
    found = mask_of_annotation(annotation)
    if found is None:
        return None, NO_AREA
    mask, is_box = found
    if isinstance(mask, Mapping):
        if "counts" not in mask or mask.get("size") != list(size):
            raise ValueError(
                "segmentation: a run-length encoding must have 'counts' and the 'size' of its"
                f" image, {list(size)}, not {mask.get('size')}"
            )
        return mask, None
    polygons = [np.asarray(polygon, np.float32) for polygon in mask]  # a tenth of the memory
    if is_box:
        return polygons, BOX_ALONE
    return polygons, SHORT_POLYGON if len(polygons) < len(annotation["segmentation"]) else None


# --- the layouts it lies in, of COCO itself and of tools that export it ------------------------

IMAGES = ("images/<s>", "<s>", "images")
_COCO = "annotations/instances_<s>.json"  # CVAT's too, with the split "default" or its own
_ROBOFLOW = "<s>/_annotations.coco.json"
_ALONE = ("_annotations.coco.json", "annotations.json")  # images are named from the folder
_LABEL_STUDIO = "result.json"
# Names of any kind are looked into, unless one of the above is there: those files may be large.
_ANY = "annotations/<s>.json"
_ANY_ALONE = "*.json"  # if but one is COCO's, such as FiftyOne's labels.json
# Of COCO's that hold something else, and of other formats.
_OTHERS = ("panoptic_", "person_keypoints_", "stuff_", "captions_", "lvis_", "ade20k_", ".")
_MOST = 20  # more files are of another format, one an image


def _splits(folder: AnyPath) -> tuple[str, ...]:
    usual = {s: pattern for pattern in (_COCO, _ROBOFLOW) for s in names_matching(folder, pattern)}
    if usual:
        annotated = {s for s, pattern in usual.items() if not _is_test(folder, s, pattern)}
        return tuple(sorted(annotated or usual))
    if first_existing(folder, _ALONE) is not None or _is_label_studio(folder):
        return (NO_SPLIT,)
    files = _instance_files(folder / "annotations")
    if files:
        return tuple(sorted(path.stem for path in files))
    return (NO_SPLIT,) if len(_instance_files(folder)) == 1 else ()


def _is_test(folder: AnyPath, split: str, pattern: str) -> bool:
    """Whether a file lists images to be tested on, which nobody can open as annotated ones."""
    if not split.lower().startswith("test"):
        return False
    return lacks_annotations(folder / pattern.replace("<s>", split))


def _is_label_studio(folder: AnyPath) -> bool:
    """Whether the images lie beside its file, whose name alone tells little."""
    return (folder / _LABEL_STUDIO).is_file() and (folder / "images").is_dir()


def _instance_files(folder: AnyPath) -> list[AnyPath]:
    """Those in a folder that are COCO's by what they hold."""
    files = [path for path in folder.glob("*.json") if not path.name.startswith(_OTHERS)]
    if len(files) > _MOST:
        return []
    return [path for path in files if path.is_file() and is_instance_json(path)]


def files_of(folder: AnyPath, split: str) -> tuple[AnyPath, AnyPath, Mend]:
    """The annotation file of a split, the folder of its images, and what mends the file's content.

    Raises FileNotFoundError if the folder is missing.
    """
    if split == NO_SPLIT:
        alone = first_existing(folder, _ALONE)
        if alone is None and _is_label_studio(folder):
            return folder / _LABEL_STUDIO, folder, partial(find_images, folder=folder)
        return alone or _instance_files(folder)[0], folder, partial(mend_alone, folder=folder)
    file = first_existing(folder, (_COCO,), split)
    if file is not None:
        return file, _images_of(file, folder, split), brushed_are_objects
    file = first_existing(folder, (_ROBOFLOW,), split)
    if file is not None:
        return file, file.parent, drop_placeholders
    file = folder / _ANY.replace("<s>", split)
    return file, _images_of(file, folder, split), mend_any


def _images_of(file: AnyPath, folder: AnyPath, split: str) -> AnyPath:
    """The folder of a split's images, at the last the one that `annotations` lies in."""
    if first_existing(folder, IMAGES, split) is None and any(
        path.suffix.lower() in SUFFIXES for path in folder.iterdir()
    ):
        return folder
    return folder_of(file, folder, IMAGES, split, "images")


def _open(folder: AnyPath, split: str, task: Task) -> CocoInstances:
    file, images, mend = files_of(folder, split)
    return CocoInstances(file, images, mend=mend)


FORMAT = Format(
    name="coco",
    title="COCO instances",
    layout=(
        _COCO,
        _ROBOFLOW,
        *_ALONE,
        f"{_LABEL_STUDIO} with images/*",
        _ANY,
        f"{_ANY_ALONE} with the images beside it, in images or in data",
    ),
    tasks=("instance",),
    splits=_splits,
    open=_open,
)
