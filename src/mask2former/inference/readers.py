"""Results back from files: the folders that `ResultWriter` makes, GeoJSON, YOLO's label lines."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch

from mask2former.inference.outlines import Polygon
from mask2former.masks import box_of_mask, decode_rle, ids_of_colors, rasterize_polygons
from mask2former.structures import (
    TASKS,
    Category,
    Instances,
    Panoptic,
    Region,
    Segment,
    Segmentation,
    Semantic,
    Task,
)

Size = tuple[int, int]  # (H, W) in pixels


class Results:
    """The results in a folder that `mask2former predict` or `ResultWriter` wrote, in its order.

    Each image's maps are read, and its masks made at its full size, when it comes up; those of
    `predict --tile` may be too large for that. Raises FileNotFoundError if a file is missing,
    ValueError, naming file and record, if one is not what it should be.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        self.categories = tuple(
            Category(
                id=row["id"],
                name=row["name"],
                is_thing=bool(row["isthing"]),
                color=tuple(row["color"]),
            )
            for row in self._rows("categories.json", ("id", "name", "isthing", "color"))
        )
        self.images = self._rows("images.json", ("id", "file_name", "stem", "height", "width"))
        self._label_of = {category.id: label for label, category in enumerate(self.categories)}
        self._has_instances = (self.folder / "instances.json").exists()
        self._results: dict[int | str, list[dict[str, Any]]] = {i["id"]: [] for i in self.images}
        if self._has_instances:
            keys = ("image_id", "category_id", "segmentation", "bbox", "score")
            for index, result in enumerate(self._rows("instances.json", keys)):
                if result["image_id"] not in self._results:
                    raise ValueError(
                        f"{self.folder / 'instances.json'}: result {index}: image_id"
                        f" {result['image_id']!r} is not in images.json; restore both from the same"
                        " run"
                    )
                self._label(result, f"{self.folder / 'instances.json'}: result {index}")
                self._results[result["image_id"]].append({**result, "index": index})
        rows = []
        if (self.folder / "panoptic.json").exists():
            rows = self._rows("panoptic.json", ("image_id", "file_name", "segments_info"))
        self._panoptic = {row["image_id"]: row for row in rows}

    @property
    def instance_records(self) -> list[dict[str, Any]]:
        """Those of `instances.json`, image by image."""
        return [record for of_image in self._results.values() for record in of_image]

    def __len__(self) -> int:
        return len(self.images)

    def __iter__(self) -> Iterator[Segmentation]:
        return (self[index] for index in range(len(self)))

    def __getitem__(self, index: int) -> Segmentation:
        record = self.images[index]
        size = (record["height"], record["width"])
        return Segmentation(
            size=size,
            name=record["file_name"],
            instances=self._instances(record["id"], size) if self._has_instances else None,
            panoptic=self._segments(record["id"], size),
            semantic=self._semantic(self.folder / "semantic" / f"{record['stem']}.png", size),
        )

    @property
    def tasks(self) -> tuple[Task, ...]:
        """Of which the folder holds results."""
        held = {
            "panoptic": bool(self._panoptic),
            "instance": self._has_instances,
            "semantic": (self.folder / "semantic").is_dir(),
        }
        return tuple(task for task in TASKS if held[task])

    def _instances(self, image_id: int | str, size: Size) -> Instances:
        results = self._results[image_id]
        masks = np.zeros((len(results), *size), bool)
        for place, result in enumerate(results):
            name = f"{self.folder / 'instances.json'}: result {result['index']}"
            try:
                mask = decode_rle(result["segmentation"])
            except ValueError as error:
                raise ValueError(f"{name}: {error}; restore the file") from None
            if mask.shape != size:
                raise ValueError(
                    f"{name}: its mask measures {list(mask.shape)}, its image {list(size)};"
                    " restore instances.json and images.json from the same run"
                )
            masks[place] = mask
        boxes = torch.tensor([result["bbox"] for result in results]).reshape(-1, 4).float()
        boxes[:, 2:] += boxes[:, :2]
        return Instances(
            masks=torch.from_numpy(masks),
            scores=torch.tensor([float(result["score"]) for result in results]),
            labels=torch.tensor([self._label_of[r["category_id"]] for r in results]).long(),
            boxes=boxes,
            categories=self.categories,
        )

    def _segments(self, image_id: int | str, size: Size) -> Panoptic | None:
        annotation = self._panoptic.get(image_id)
        if annotation is None:
            return None
        path = self.folder / "panoptic" / annotation["file_name"]
        ids = ids_of_colors(read_png(path, size, channels=3))
        name = f"{self.folder / 'panoptic.json'}: image {image_id}"
        segments = []
        for index, segment in enumerate(annotation["segments_info"]):
            _check_keys(segment, ("id", "category_id", "score", "area"), f"{name}, entry {index}")
            label = self._label(segment, f"{name}, segment {segment['id']}")
            segments.append(
                Segment(
                    id=segment["id"],
                    label=label,
                    category=self.categories[label],
                    score=segment["score"],
                    area=segment["area"],
                )
            )
        for unknown in sorted(set(np.unique(ids).tolist()) - {0, *(s.id for s in segments)}):
            raise ValueError(
                f"{path}: segment {unknown} is not in panoptic.json; restore both from the same run"
            )
        return Panoptic(
            ids=torch.from_numpy(ids), segments=tuple(segments), categories=self.categories
        )

    def _semantic(self, path: Path, size: Size) -> Semantic | None:
        if not path.exists():
            return None
        labels = read_png(path, size).astype(np.int64)
        if labels.max() >= len(self.categories):
            raise ValueError(
                f"{path}: label {labels.max()} is none of the {len(self.categories)} in"
                " categories.json; restore both from the same run"
            )
        return Semantic(labels=torch.from_numpy(labels), categories=self.categories)

    def _label(self, result: dict[str, Any], name: str) -> int:
        if result["category_id"] not in self._label_of:
            raise ValueError(
                f"{name}: category_id {result['category_id']!r} is not in categories.json; restore"
                " both from the same run"
            )
        return self._label_of[result["category_id"]]

    def _rows(self, name: str, keys: Sequence[str]) -> list[dict[str, Any]]:
        """The records of a JSON file, each with these keys."""
        path = self.folder / name
        if not path.exists():
            raise FileNotFoundError(
                f"{path}: there is no such file; name a folder that `mask2former predict` wrote"
            )
        try:
            content = json.loads(path.read_bytes())
        except ValueError as error:
            raise ValueError(f"{path}: is no JSON ({error}); restore it") from None
        if name == "panoptic.json" and isinstance(content, dict):
            content = content.get("annotations")
        if not isinstance(content, list):
            raise ValueError(f"{path}: holds no list of records; restore it")
        for index, row in enumerate(content):
            _check_keys(row, keys, f"{path}: record {index}")
        return content


def _check_keys(row: Any, keys: Sequence[str], name: str) -> None:
    missing = [key for key in keys if not isinstance(row, dict) or key not in row]
    if missing:
        raise ValueError(f"{name}: lacks {', '.join(missing)}; restore the file")


def read_png(path: Path, size: Size, *, channels: int = 1) -> np.ndarray:
    """Its pixels, RGB if they have channels; an error names it if it is not of `size` (H, W)."""
    if not path.exists():
        raise FileNotFoundError(f"{path}: there is no such file; restore it")
    # OpenCV, unlike Pillow, has no fear of maps as large as those of `predict --tile`.
    pixels = cv2.imdecode(np.fromfile(path, np.uint8), cv2.IMREAD_UNCHANGED)
    if pixels is None:
        raise ValueError(f"{path}: cannot be read; restore it")
    expected = (*size, channels)[: 2 + (channels > 1)]
    if pixels.shape != expected:
        raise ValueError(
            f"{path}: has shape {list(pixels.shape)}, not {list(expected)}; restore the PNG of"
            " this image"
        )
    return pixels[..., ::-1] if channels > 1 else pixels


# --- outlines -------------------------------------------------------------------------------------


def regions_from_geojson(
    document: dict[str, Any] | list[Any], size: Size, categories: Sequence[Category]
) -> list[Region]:
    """The instances of polygons in pixels of an image of `size`, as `outlines.geojson` makes them.

    A FeatureCollection, or a bare list of features. The class is `properties.classification.name`
    (QuPath's place for it) or `properties.name`, together with `properties.category_id` where two
    classes share a name; the score is `properties.score`, else 1. Raises ValueError, naming the
    feature, for anything else.
    """
    features = document if isinstance(document, list) else document.get("features", ())
    regions = []
    for index, feature in enumerate(features):
        name = f"feature {index}"
        properties = feature.get("properties") or {}
        label = _label_of_feature(properties, categories, name)
        geometry = feature.get("geometry") or {}
        if geometry.get("type") not in ("Polygon", "MultiPolygon"):
            raise ValueError(
                f"{name}: geometry {geometry.get('type')!r} has no area; keep polygons alone"
            )
        parts = geometry.get("coordinates", [])
        if geometry["type"] == "Polygon":
            parts = [parts]
        try:
            polygons = [
                tuple(np.asarray(ring, np.float64)[:, :2] for ring in part) for part in parts
            ]
            score = float(properties.get("score", 1.0))
        except (TypeError, ValueError, IndexError):
            raise ValueError(
                f"{name}: its rings must be lists of [x, y] and its score, if any, a number;"
                " correct or remove it"
            ) from None
        regions += _region(polygons, size, score, label, categories[label], name)
    return regions


def _label_of_feature(properties: dict[str, Any], categories: Sequence[Category], name: str) -> int:
    classification = properties.get("classification")
    of_class = classification.get("name") if isinstance(classification, dict) else classification
    class_name = properties.get("name") if of_class is None else of_class
    labels = [i for i, category in enumerate(categories) if category.name == class_name]
    if len(labels) > 1:
        labels = [i for i in labels if categories[i].id == properties.get("category_id")]
        if not labels:
            raise ValueError(
                f"{name}: several categories are called {class_name!r}; say which by"
                " properties.category_id"
            )
    if not labels:
        known = ", ".join(category.name for category in categories[:10])
        raise ValueError(
            f"{name}: its class {class_name!r} is none of the categories ({known}); rename it or"
            " add the category"
        )
    return labels[0]


def regions_from_yolo(text: str, size: Size, categories: Sequence[Category]) -> list[Region]:
    """The instances of a label file of YOLO segmentation, for an image of `size` (H, W).

    Their score is 1. Raises ValueError, naming the line, if it is no outline of a known class.
    """
    height, width = size
    regions = []
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.strip():
            continue
        try:
            first, *rest = line.split()
            label, shares = int(first), np.array(rest, np.float64)
        except ValueError:
            raise ValueError(
                f"line {number}: must be a class number and coordinates, not {line[:40]!r}"
            ) from None
        if len(shares) < 6 or len(shares) % 2:
            raise ValueError(
                f"line {number}: {len(shares)} numbers are no outline x y x y ...; lines of four"
                " are boxes, which hold no mask"
            )
        if not 0 <= label < len(categories):
            raise ValueError(
                f"line {number}: class {label} is none of the {len(categories)} categories"
            )
        ring = shares.reshape(-1, 2) * (width, height)
        regions += _region([(ring,)], size, 1.0, label, categories[label], f"line {number}")
    return regions


def _region(
    polygons: Sequence[Polygon],
    size: Size,
    score: float,
    label: int,
    category: Category,
    name: str,
) -> list[Region]:
    """The part of polygons with holes that is in the image; none if no pixel's centre is."""
    rings = [part[0] for part in polygons if len(part)]
    if not rings or not all(len(ring) for part in polygons for ring in part):
        raise ValueError(f"{name}: has no points; remove it")
    points = np.concatenate(rings)
    if not np.isfinite(points).all():
        raise ValueError(f"{name}: a coordinate is not finite; correct it")
    height, width = size
    x0, y0 = np.floor(points.min(axis=0)).clip(0, (width, height)).astype(int).tolist()
    x1, y1 = np.ceil(points.max(axis=0)).clip(0, (width, height)).astype(int).tolist()
    shape = (y1 - y0, x1 - x0)
    mask = np.zeros(shape, bool)
    if not mask.size:
        return []
    for outer, *holes in polygons:
        part = rasterize_polygons([outer.ravel()], (x0, y0, x1, y1), shape)
        for hole in holes:
            part &= ~rasterize_polygons([hole.ravel()], (x0, y0, x1, y1), shape)
        mask |= part
    left, top, right, bottom = box_of_mask(mask)
    if right == 0:
        return []
    return [
        Region(
            mask=mask[top:bottom, left:right],
            box=(x0 + left, y0 + top, x0 + right, y0 + bottom),
            score=score,
            label=label,
            category=category,
        )
    ]
