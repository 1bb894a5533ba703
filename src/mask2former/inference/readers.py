"""Results back from files: the folders that `ResultWriter` makes, GeoJSON, YOLO's label lines."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError

from mask2former.inference.outlines import Polygon
from mask2former.masks import decode_rle, ids_of_colors, rasterize_polygons
from mask2former.structures import (
    Category,
    Instances,
    Panoptic,
    Region,
    Segment,
    Segmentation,
    Semantic,
)

Size = tuple[int, int]  # (H, W) in pixels


class Results:
    """The results in a folder that `mask2former predict` or `ResultWriter` wrote, in its order.

    Label maps are read when their image comes up. Raises FileNotFoundError if a file is missing,
    ValueError, naming file and record, if one is not what it should be.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        self.categories = self._categories()
        self.images: list[dict[str, Any]] = self._json("images.json")
        self._label_of = {category.id: label for label, category in enumerate(self.categories)}
        self._has_instances = (self.folder / "instances.json").exists()
        self._results: dict[int | str, list[dict[str, Any]]] = {i["id"]: [] for i in self.images}
        for index, result in enumerate(self._json("instances.json") if self._has_instances else ()):
            name = f"{self.folder / 'instances.json'}: result {index}"
            if result["image_id"] not in self._results:
                raise ValueError(
                    f"{name}: image_id {result['image_id']!r} is not in images.json; restore both"
                    " from the same run"
                )
            self._label(result, name)
            self._results[result["image_id"]].append(result)
        annotations: list[dict[str, Any]] = []
        if (self.folder / "panoptic.json").exists():
            annotations = self._json("panoptic.json")["annotations"]
        self._panoptic = {annotation["image_id"]: annotation for annotation in annotations}

    def __len__(self) -> int:
        return len(self.images)

    def __iter__(self) -> Iterator[Segmentation]:
        for record in self.images:
            size = (record["height"], record["width"])
            yield Segmentation(
                size=size,
                name=record["file_name"],
                instances=self._instances(record["id"], size) if self._has_instances else None,
                panoptic=self._segments(record["id"], size),
                semantic=self._semantic(self.folder / "semantic" / f"{record['stem']}.png", size),
            )

    def _instances(self, image_id: int | str, size: Size) -> Instances:
        results = self._results[image_id]
        masks = np.zeros((len(results), *size), bool)
        for index, result in enumerate(results):
            masks[index] = decode_rle(result["segmentation"])
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
        ids = ids_of_colors(_read_png(path, size, channels=3))
        segments = []
        for segment in annotation["segments_info"]:
            label = self._label(
                segment, f"{self.folder / 'panoptic.json'}: image {image_id}, {segment['id']}"
            )
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
        labels = _read_png(path, size).astype(np.int64)
        if labels.max() >= len(self.categories):
            raise ValueError(
                f"{path}: label {labels.max()} is none of the {len(self.categories)} in"
                " categories.json; restore both from the same run"
            )
        return Semantic(labels=torch.from_numpy(labels), categories=self.categories)

    def _categories(self) -> tuple[Category, ...]:
        rows = self._json("categories.json")
        return tuple(
            Category(
                id=row["id"],
                name=row["name"],
                is_thing=bool(row["isthing"]),
                color=tuple(row["color"]),
            )
            for row in rows
        )

    def _label(self, result: dict[str, Any], name: str) -> int:
        if result["category_id"] not in self._label_of:
            raise ValueError(
                f"{name}: category_id {result['category_id']!r} is not in categories.json; restore"
                " both from the same run"
            )
        return self._label_of[result["category_id"]]

    def _json(self, name: str) -> Any:
        path = self.folder / name
        if not path.exists():
            raise FileNotFoundError(
                f"{path}: there is no such file; name a folder that `mask2former predict` wrote"
            )
        try:
            return json.loads(path.read_bytes())
        except ValueError as error:
            raise ValueError(f"{path}: is no JSON ({error}); restore it") from None


def _read_png(path: Path, size: Size, *, channels: int = 1) -> np.ndarray:
    try:
        with Image.open(path) as image:
            pixels = np.asarray(image)
    except FileNotFoundError:
        raise FileNotFoundError(f"{path}: there is no such file; restore it") from None
    except (UnidentifiedImageError, OSError, SyntaxError, ValueError) as error:
        raise ValueError(f"{path}: cannot be read: {error}; restore it") from error
    expected = (*size, channels)[: 2 + (channels > 1)]
    if pixels.shape != expected:
        raise ValueError(
            f"{path}: has shape {list(pixels.shape)}, not {list(expected)}; restore the PNG of"
            " this image"
        )
    return pixels


# --- outlines -------------------------------------------------------------------------------------


def regions_from_geojson(document: dict[str, Any], categories: Sequence[Category]) -> list[Region]:
    """The instances of a FeatureCollection of polygons in pixels, as `outlines.geojson` makes it.

    The class is `properties.classification.name` (QuPath's place for it) or `properties.name`; the
    score is `properties.score`, else 1. Raises ValueError, naming the feature, for anything else.
    """
    label_of = {category.name: label for label, category in enumerate(categories)}
    regions = []
    for index, feature in enumerate(document.get("features", ())):
        name = f"feature {index}"
        properties = feature.get("properties") or {}
        class_name = (properties.get("classification") or {}).get("name", properties.get("name"))
        if class_name not in label_of:
            raise ValueError(
                f"{name}: its class {class_name!r} is none of the categories"
                f" ({', '.join(list(label_of)[:10])}); rename it or add the category"
            )
        geometry = feature.get("geometry") or {}
        if geometry.get("type") not in ("Polygon", "MultiPolygon"):
            raise ValueError(
                f"{name}: geometry {geometry.get('type')!r} has no area; keep polygons alone"
            )
        parts = geometry["coordinates"]
        if geometry["type"] == "Polygon":
            parts = [parts]
        polygons = [tuple(np.asarray(ring, np.float64)[:, :2] for ring in part) for part in parts]
        label = label_of[class_name]
        score = float(properties.get("score", 1.0))
        regions += _region(polygons, score, label, categories[label])
    return regions


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
        regions += _region([(ring,)], 1.0, label, categories[label])
    return regions


def _region(
    polygons: Sequence[Polygon], score: float, label: int, category: Category
) -> list[Region]:
    """The region inside polygons with holes; none if it holds no pixel's centre."""
    points = np.concatenate([part[0] for part in polygons])
    x0, y0 = np.floor(points.min(axis=0)).astype(int).tolist()
    x1, y1 = np.ceil(points.max(axis=0)).astype(int).tolist()
    box, size = (x0, y0, x1, y1), (y1 - y0, x1 - x0)
    mask = np.zeros(size, bool)
    if not mask.size:
        return []
    for outer, *holes in polygons:
        part = rasterize_polygons([outer.ravel()], box, size)
        for hole in holes:
            part &= ~rasterize_polygons([hole.ravel()], box, size)
        mask |= part
    if not mask.any():
        return []
    return [Region(mask=mask, box=box, score=score, label=label, category=category)]
