"""LVIS: COCO's images with 1203 classes, of which each image is annotated for some alone.

Gupta et al., LVIS: A Dataset for Large Vocabulary Instance Segmentation, CVPR 2019.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

from mask2former.archive import AnyPath
from mask2former.data.coco import CocoInstances
from mask2former.data.coco_json import Content, raise_problems
from mask2former.data.format import Format, first_existing, names_matching
from mask2former.structures import Task


@dataclass(frozen=True, kw_only=True)
class Federated:
    """What is known of an image's classes beyond its objects (section 3.1 of the paper).

    A class that is in neither, and of which the image has no object, was not looked for.
    """

    absent: frozenset[int]  # labels of which the image has no object, as was verified
    not_exhaustive: frozenset[int]  # labels of which it may have more objects than are annotated


class Lvis(CocoInstances):
    """The images of an LVIS file; `federated` has what its evaluation needs, by image id.

    `frequency` says for every category how many training images have it: "r" (at most 10),
    "c" (at most 100) or "f"; "" where the file does not say.
    """

    def __init__(self, annotations_json: str | AnyPath, images_dir: str | AnyPath) -> None:
        """`images_dir` holds train2017 and val2017: both have images of LVIS's validation split.

        Raises FileNotFoundError or ValueError as `CocoInstances` does.
        """
        entries: list[dict[str, Any]] = []
        letters: dict[object, str] = {}

        def mend(content: Content) -> None:
            entries.extend(content["images"])
            letters.update(
                (c.get("id"), str(c.get("frequency", ""))) for c in content["categories"]
            )
            _name_images(content)

        super().__init__(annotations_json, images_dir, mend=mend)
        self.frequency = tuple(letters[category.id] for category in self.categories)
        label_of = {category.id: label for label, category in enumerate(self.categories)}
        problems: list[str] = []
        self.federated: dict[int | str, Federated] = {
            entry["id"]: Federated(
                absent=_labels(entry, "neg_category_ids", label_of, problems),
                not_exhaustive=_labels(entry, "not_exhaustive_category_ids", label_of, problems),
            )
            for entry in entries
        }
        raise_problems(self.path, problems)


def _name_images(content: Content) -> None:
    """Version 1 has no 'file_name': the end of the address, train2017/000000391895.jpg, is it."""
    for image in content["images"]:
        address = image.get("coco_url")
        if isinstance(address, str):
            image["file_name"] = "/".join(PurePosixPath(address).parts[-2:])


def _labels(
    entry: dict[str, Any], field: str, label_of: dict[int, int], problems: list[str]
) -> frozenset[int]:
    ids = entry.get(field, [])
    if not isinstance(ids, list):
        problems.append(f"image {entry['id']}: '{field}' must be a list of category ids")
        return frozenset()
    unknown = [id for id in ids if id not in label_of]
    for id in unknown[:1]:
        problems.append(
            f"image {entry['id']}: '{field}' has {id!r}, which is not among the {len(label_of)}"
            " categories; add it to 'categories' or drop it from the list"
        )
    return frozenset(label_of[id] for id in ids if id not in unknown)


# --- the layout it lies in --------------------------------------------------------------------

_VERSIONS = ("lvis_v1", "lvis_v0.5")
_JSON = tuple(f"{folder}{v}_<s>.json" for v in _VERSIONS for folder in ("annotations/", ""))
_ROOTS = ("", "images", "coco")
_PARTS = ("train2017", "val2017")


def _splits(folder: AnyPath) -> Iterable[str]:
    names = {name for pattern in _JSON for name in names_matching(folder, pattern)}
    return tuple(sorted(name for name in names if not name.startswith("image_info")))


def _open(folder: AnyPath, split: str, task: Task) -> Lvis:
    file = first_existing(folder, _JSON, split)
    assert file is not None, "a split that _splits found has its file"
    for root in _ROOTS:
        if first_existing(folder, (f"{root}/{part}".lstrip("/") for part in _PARTS)):
            return Lvis(file, folder / root if root else folder)
    raise FileNotFoundError(
        f"{file}: its images, COCO's of 2017, are missing; put the folders {' and '.join(_PARTS)}"
        f" into {folder} or into {folder / 'images'}"
    )


FORMAT = Format(
    name="lvis",
    title="LVIS",
    layout=("annotations/lvis_v1_<s>.json", "lvis_v1_<s>.json"),
    tasks=("instance",),
    splits=_splits,
    open=_open,
)
