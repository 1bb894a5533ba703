"""Hugging Face datasets on disk (`save_to_disk`): label maps, and what `to_datasets` writes.

datasets is imported when one is opened: `pip install "mask2former[exchange]"`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Int32, UInt8

from mask2former.archive import AnyPath
from mask2former.data.dataset import Dataset, generated_color
from mask2former.data.format import NO_SPLIT, Format
from mask2former.data.pixel_maps import used_values
from mask2former.data.task_views import viewed
from mask2former.imaging import as_rgb
from mask2former.masks import EncodedMasks, IdMapMasks, ids_of_colors
from mask2former.structures import TASKS, Category, Sample, Task

if TYPE_CHECKING:
    from datasets import Dataset as Table

IMAGES = ("image", "pixel_values")
LABEL_MAPS = ("label", "labels", "annotation", "semantic_segmentation", "semantic", "mask")
NAMES = "id2label.json"  # beside the splits or in one: {"0": "road", ...}, by value of a pixel
VOID = (0, 255)  # values that are no class, unless they have a name


class _Rows:
    """What the three kinds share: a table of one split, the column of its images, its record."""

    categories: tuple[Category, ...]
    tasks: tuple[Task, ...]

    def __init__(self, table: Table, folder: Path) -> None:
        self.table, self.folder = table, folder
        names = [name for name in IMAGES if name in table.features]
        if not names:
            raise ValueError(
                f"{folder}: has no column 'image', only {', '.join(table.features)}; add the images"
                " that it annotates as such a column (results alone cannot train)"
            )
        self.image_column = names[0]

    def __len__(self) -> int:
        return len(self.table)

    def _read(self, index: int) -> tuple[dict[str, Any], UInt8[np.ndarray, "H W 3"], str]:
        """A row, its image, and how messages call it."""
        row = self.table[index]
        name = f"{self.folder}: row {index}"
        image = row[self.image_column]
        if image is None:
            raise ValueError(f"{name}: has no image; drop the row")
        return row, as_rgb(image), name


class HfSemantic(_Rows):
    """A column of images, and one of label maps; pixels of 0 or 255 without a name are void."""

    tasks: tuple[Task, ...] = ("semantic",)

    def __init__(self, table: Table, folder: Path) -> None:
        """ValueError if a column is missing or nothing names the classes."""
        super().__init__(table, folder)
        self.map_column = _label_map_column(_types(table.features.to_dict()))
        names = _class_names(table, folder)
        self.categories = _categories(names, stuff=names)  # all of a class is one region
        self._label_of = {category.id: label for label, category in enumerate(self.categories)}

    def __getitem__(self, index: int) -> Sample:
        row, image, name = self._read(index)
        values = _values(row[self.map_column], image.shape[:2], f"{name}, {self.map_column!r}")
        found, place = np.unique(values, return_inverse=True)
        for value in found.tolist():
            if value not in self._label_of and value not in VOID:
                raise ValueError(
                    f"{name}: {self.map_column!r} has pixels of {value}, which names no class; add"
                    f" it to {NAMES}, or paint them 255 (void)"
                )
        new = np.array([self._label_of.get(value, -1) for value in found.tolist()], np.int32)
        id_map: Int32[np.ndarray, "H W"] = new[place.reshape(values.shape)] + 1
        labels = np.sort(new[new >= 0]).astype(np.int64)
        return Sample(
            image=image,
            labels=labels,
            masks=IdMapMasks(id_map, (labels + 1).tolist()),
            is_crowd=np.zeros(len(labels), bool),
            image_id=index,
            name=name,
            void=IdMapMasks(id_map, [0]),
        )


class HfPanoptic(_Rows):
    """Segment ids as colours in `panoptic`, told by `segments`: as `to_datasets` writes them.

    A class is stuff if a segment of it says `isthing` 0.
    """

    tasks: tuple[Task, ...] = TASKS

    def __init__(self, table: Table, folder: Path) -> None:
        """ValueError if the images are missing or nothing names the classes."""
        super().__init__(table, folder)
        self._segments = table["segments"][:]
        told = [segment for row in self._segments for segment in row or ()]
        stuff = {s["category"] for s in told if s.get("isthing") in (0, False)}
        self.categories = _categories(_class_names(table, folder), stuff)

    def labels_of(self, index: int) -> set[int]:
        return {segment["category"] for segment in self._segments[index] or ()}

    def __getitem__(self, index: int) -> Sample:
        row, image, name = self._read(index)
        segments = self._segments[index]
        if row["panoptic"] is None or segments is None:
            raise ValueError(f"{name}: has no panoptic annotation; drop it, or choose another task")
        colors = np.asarray(row["panoptic"].convert("RGB"))
        _same_size(colors.shape[:2], image.shape[:2], f"{name}, 'panoptic'")
        id_map = ids_of_colors(colors)
        unexplained = set(used_values(id_map)) - {0} - {s["id"] for s in segments}
        if unexplained:
            raise ValueError(
                f"{name}: 'panoptic' has pixels of id {min(unexplained)}, which none of 'segments'"
                " has; add the segment, or paint the pixels 0 (void)"
            )
        return Sample(
            image=image,
            labels=np.array([s["category"] for s in segments], np.int64),
            masks=IdMapMasks(id_map, [s["id"] for s in segments]),
            is_crowd=np.zeros(len(segments), bool),
            image_id=index,
            name=row.get("name") or name,
            void=IdMapMasks(id_map, [0]),
        )


class HfInstances(_Rows):
    """Run-length encodings in `objects`, as `to_datasets` writes them."""

    tasks: tuple[Task, ...] = ("instance",)

    def __init__(self, table: Table, folder: Path) -> None:
        """ValueError if the images are missing or nothing names the classes."""
        super().__init__(table, folder)
        self.categories = _categories(_class_names(table, folder))
        self._objects = table["objects"]  # read when it is asked for

    def labels_of(self, index: int) -> set[int]:
        return {thing["category"] for thing in self._objects[index] or ()}

    def __getitem__(self, index: int) -> Sample:
        row, image, name = self._read(index)
        objects = row["objects"]
        if objects is None:
            raise ValueError(f"{name}: has no objects (None); drop it, or choose another task")
        return Sample(
            image=image,
            labels=np.array([thing["category"] for thing in objects], np.int64),
            masks=EncodedMasks(
                (image.shape[0], image.shape[1]),
                [thing["segmentation"] for thing in objects],
                names=[f"{name}: object {i}" for i in range(len(objects))],
            ),
            is_crowd=np.zeros(len(objects), bool),
            image_id=index,
            name=row.get("name") or name,
        )


# --- classes and pixels -----------------------------------------------------------------------


def _class_names(table: Table, folder: Path) -> dict[int, str]:
    """From the value of a pixel, or the number of a category, to the name of the class."""
    for place in (folder / NAMES, folder.parent / NAMES):
        if place.is_file():
            content = json.loads(place.read_text())
            try:
                return {int(value): str(name) for value, name in content.items()}
            except (AttributeError, ValueError):
                raise ValueError(
                    f'{place}: must be an object {{"0": "road", ...}}, by value of a pixel'
                ) from None
    for column in ("objects", "segments"):
        feature = table.features.get(column)
        category: Any = (getattr(feature, "feature", None) or {}).get("category")
        if hasattr(category, "names"):
            return dict(enumerate(category.names))
    raise ValueError(
        f'{folder}: nothing names its classes; put {NAMES} there, as {{"0": "road", ...}}, by'
        " the value of a pixel"
    )


def _categories(names: Mapping[int, str], stuff: Iterable[int] = ()) -> tuple[Category, ...]:
    without = frozenset(stuff)
    return tuple(
        Category(id=id, name=names[id], is_thing=id not in without, color=generated_color(label))
        for label, id in enumerate(sorted(names))
    )


def _values(image: Any, size: Sequence[int], record: str) -> Int32[np.ndarray, "H W"]:
    """The pixels of a label map; one of three channels must be grey."""
    if image is None:
        raise ValueError(f"{record}: has no label map; drop the row")
    pixels = np.asarray(image)
    _same_size(pixels.shape[:2], size, record)
    if pixels.ndim == 3:
        if (pixels[..., :3] != pixels[..., :1]).any():
            raise ValueError(
                f"{record}: is a picture in colours; store the number of a class in each pixel"
            )
        pixels = pixels[..., 0]
    return pixels.astype(np.int32)


def _same_size(found: Sequence[int], wanted: Sequence[int], record: str) -> None:
    if tuple(found) != tuple(wanted):
        raise ValueError(
            f"{record}: has height {found[0]}, width {found[1]}, but the image has height"
            f" {wanted[0]}, width {wanted[1]}; restore the annotation of this image"
        )


# --- the layout it lies in --------------------------------------------------------------------


def _types(features: Mapping[str, Any]) -> dict[str, Any]:
    """The kind of each column: "Image", "List" and so on."""
    return {name: f.get("_type") if isinstance(f, dict) else "List" for name, f in features.items()}


def _label_map_column(types: Mapping[str, Any]) -> str:
    return next((name for name in LABEL_MAPS if types.get(name) == "Image"), "")


def _features(folder: AnyPath) -> dict[str, Any]:
    """The columns of a split as its folder tells them; none if it is no such folder."""
    if not (folder / "state.json").is_file() or not (folder / "dataset_info.json").is_file():
        return {}
    return json.loads((folder / "dataset_info.json").read_text()).get("features") or {}


def _is_semantic(features: dict[str, Any]) -> bool:
    return bool(_label_map_column(_types(features)))


def _is_panoptic(features: dict[str, Any]) -> bool:
    return _types(features).get("panoptic") == "Image" and "segments" in features


def _is_instances(features: dict[str, Any]) -> bool:
    return "segmentation" in json.dumps(features.get("objects"))


def _splits(folder: AnyPath, fits: Callable[[dict[str, Any]], bool]) -> tuple[str, ...]:
    whole = folder / "dataset_dict.json"
    if whole.is_file():
        names: list[str] = json.loads(whole.read_text())["splits"]
        return tuple(name for name in names if fits(_features(folder / name)))
    return (NO_SPLIT,) if fits(_features(folder)) else ()


def _open(
    folder: AnyPath,
    split: str,
    task: Task,
    *,
    kind: type[HfSemantic] | type[HfPanoptic] | type[HfInstances],
) -> Dataset:
    if not isinstance(folder, Path):
        raise ValueError(f"{folder}: a dataset of Hugging Face is read from a folder; unpack it")
    try:
        import datasets
    except ImportError as error:
        raise ImportError(
            'datasets is not installed: pip install "mask2former[exchange]"'
        ) from error
    place = folder / split if split else folder
    return viewed(kind(datasets.load_from_disk(place), place), task)


def _format(
    name: str,
    columns: str,
    kind: type[HfSemantic] | type[HfPanoptic] | type[HfInstances],
    fits: Callable[[dict[str, Any]], bool],
) -> Format:
    return Format(
        name=name,
        title=f"Hugging Face dataset with {columns}",
        layout=("[<s>/]dataset_info.json, state.json and *.arrow",),
        tasks=kind.tasks,
        splits=partial(_splits, fits=fits),
        open=partial(_open, kind=kind),
    )


FORMATS = (
    _format("hf-panoptic", "panoptic maps", HfPanoptic, _is_panoptic),
    _format("hf-semantic", "label maps", HfSemantic, _is_semantic),
    _format("hf-instances", "objects", HfInstances, _is_instances),
)
