"""Results in files: pictures, COCO results, COCO panoptic, label maps."""

from __future__ import annotations

import json
import os
from collections.abc import Collection, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self

import cv2
import numpy as np
import yaml
from jaxtyping import Int, UInt8
from scipy import ndimage

from mask2former.inference.outlines import geojson, yolo_lines
from mask2former.inference.visualize import overlay
from mask2former.masks import colors_of_ids, encode_region
from mask2former.structures import (
    Category,
    LargeSegmentation,
    Panoptic,
    Region,
    Segmentation,
    Semantic,
)

Outlines = Literal["geojson", "yolo"]


class ResultWriter:
    """Writes the results of many images into one folder; use it in a `with` statement.

    overlays/<stem>.jpg    the result painted over the image
    panoptic/<stem>.png    segment ids as colours, R + 256 G + 65536 B; 0 is nothing
    panoptic.json          COCO panoptic: images, annotations (with a score each), categories
    instances.json         COCO results: image_id, category_id, segmentation (RLE), bbox, score
    semantic/<stem>.png    the label of each pixel: an index into categories.json; 8 bits, or 16
                           if there are more than 255 categories
    categories.json        label, id, name, isthing and colour of every category
    images.json            id, name, stem, height and width of every image

    and if they are asked for, of the instances that are drawn:

    geojson/<stem>.geojson outlines with holes, in pixels
    yolo/<stem>.txt        YOLO's segmentation labels, and yolo/data.yaml with the names

    What an image has no result for is not written. `category_id` is `Category.id`. A file is there
    whole or not at all; the JSON files are written by `close`, also when an error ends the `with`
    block, and hold the images that were added until then.
    """

    def __init__(
        self,
        folder: str | Path,
        categories: tuple[Category, ...],
        *,
        min_score: float = 0.5,
        outlines: Collection[Outlines] = (),
    ) -> None:
        """`min_score` is that of the instances in overlays and outlines; instances.json holds all.

        `outlines` are the formats, beyond the usual ones, that instances are written in.
        """
        self.folder = Path(folder)
        self.categories = categories
        self.min_score = min_score
        self.outlines = outlines
        self._images: list[dict[str, Any]] = []
        self._panoptic: list[dict[str, Any]] = []
        self._instances: list[dict[str, Any]] = []
        self._kinds: set[str] = set()  # of results that were added
        self._stems: set[str] = set()  # in lower case, as some file systems see them
        self.folder.mkdir(parents=True, exist_ok=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def add(
        self,
        segmentation: Segmentation | LargeSegmentation,
        image: UInt8[np.ndarray, "H W 3"] | None = None,
        name: str | None = None,
        *,
        image_id: int | str | None = None,
    ) -> str:
        """Write the files of one image; returns the stem of their names.

        `image` is what the overlay is painted on; without it there is none. `name`, a path or file
        name, is the segmentation's own if left out. Two names with the same stem (a/1.jpg, b/1.png)
        get different files (1, 1_2). `image_id` counts from 1 unless it is given.
        """
        name = segmentation.name if name is None else name
        image_id = len(self._images) + 1 if image_id is None else image_id
        stem = self._free_stem(name)
        annotation, results = None, []
        regions = instances_of(segmentation)
        if image is not None:
            quality = [cv2.IMWRITE_JPEG_QUALITY, 92]
            picture = overlay(image, segmentation, min_score=self.min_score)
            self._write_image(f"overlays/{stem}.jpg", picture, quality)
        if segmentation.panoptic is not None:
            ids = segmentation.panoptic.ids.cpu().numpy()
            self._write_image(f"panoptic/{stem}.png", colors_of_ids(ids))
            annotation = _panoptic_annotation(segmentation.panoptic, ids, image_id, f"{stem}.png")
        if regions is not None:
            results = _instance_results(regions, segmentation.size, image_id)
            drawn = [region for region in regions if region.score >= self.min_score]
            if "geojson" in self.outlines:
                self._write_json(f"geojson/{stem}.geojson", geojson(drawn))
            if "yolo" in self.outlines:
                self._write(f"yolo/{stem}.txt", yolo_lines(drawn, segmentation.size).encode())
        if segmentation.semantic is not None:
            self._write_image(f"semantic/{stem}.png", label_map(segmentation.semantic))

        # Only now that all files are written does the image count as done.
        self._stems.add(stem.lower())
        height, width = segmentation.size
        self._images.append(
            {"id": image_id, "file_name": name, "stem": stem, "height": height, "width": width}
        )
        if annotation is not None:
            self._kinds.add("panoptic")
            self._panoptic.append(annotation)
        if regions is not None:
            self._kinds.add("instances")
            self._instances += results
        return stem

    def close(self) -> None:
        """Write the JSON files."""
        categories = [
            {
                "label": label,
                "id": category.id,
                "name": category.name,
                "isthing": int(category.is_thing),
                "color": list(category.color),
            }
            for label, category in enumerate(self.categories)
        ]
        self._write_json("categories.json", categories)
        self._write_json("images.json", self._images)
        if "yolo" in self.outlines and "instances" in self._kinds:
            names = {label: category.name for label, category in enumerate(self.categories)}
            text = yaml.safe_dump({"names": names}, allow_unicode=True)
            self._write("yolo/data.yaml", text.encode())
        if "panoptic" in self._kinds:
            document = {
                "images": self._images,
                "annotations": self._panoptic,
                "categories": categories,
            }
            self._write_json("panoptic.json", document)
        if "instances" in self._kinds:
            self._write_json("instances.json", self._instances)

    def _free_stem(self, name: str) -> str:
        stem = Path(name.replace("\\", "/")).stem or "image"
        free, count = stem, 1
        while free.lower() in self._stems:
            count += 1
            free = f"{stem}_{count}"
        return free

    def _write_image(self, name: str, image: np.ndarray, options: Sequence[int] = ()) -> None:
        self._write(name, encode_image(image, Path(name).suffix, options))

    def _write_json(self, name: str, document: object) -> None:
        self._write(name, json.dumps(document).encode())

    def _write(self, name: str, data: bytes) -> None:
        write_whole(self.folder / name, data)


def write_whole(path: Path, data: bytes) -> None:
    """Write a file, and the folder that it lies in; it is there whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        unfinished.write_bytes(data)
        os.replace(unfinished, path)
    finally:
        unfinished.unlink(missing_ok=True)


def encode_image(image: np.ndarray, suffix: str, options: Sequence[int] = ()) -> bytes:
    """The file of a grey or RGB image."""
    stored = image[..., ::-1] if image.ndim == 3 else image  # OpenCV stores BGR
    done, data = cv2.imencode(suffix, stored, options)
    assert done, suffix
    return bytes(data)


def label_map(result: Semantic) -> np.ndarray:
    """Labels in 8 bits, or in 16 where there are more than 255 categories."""
    depth = np.uint8 if len(result.categories) <= 255 else np.uint16
    return result.labels.cpu().numpy().astype(depth)


def _panoptic_annotation(
    result: Panoptic, ids: Int[np.ndarray, "H W"], image_id: int | str, file_name: str
) -> dict[str, Any]:
    boxes = ndimage.find_objects(ids)
    segments = []
    for segment in result.segments:
        rows, columns = boxes[segment.id - 1]
        box = [columns.start, rows.start, columns.stop - columns.start, rows.stop - rows.start]
        segments.append(
            {
                "id": segment.id,
                "category_id": segment.category.id,
                "area": segment.area,
                "bbox": box,
                "iscrowd": 0,
                "score": round(segment.score, 5),
            }
        )
    return {"image_id": image_id, "file_name": file_name, "segments_info": segments}


def instances_of(segmentation: Segmentation | LargeSegmentation) -> tuple[Region, ...] | None:
    """The instances of either kind of result; None if there is no such part."""
    if isinstance(segmentation, LargeSegmentation):
        return segmentation.regions
    return None if segmentation.instances is None else segmentation.instances.regions()


def _instance_results(
    regions: tuple[Region, ...], size: tuple[int, int], image_id: int | str
) -> list[dict[str, Any]]:
    results = []
    for region in regions:
        x0, y0, x1, y1 = region.box
        results.append(
            {
                "image_id": image_id,
                "category_id": region.category.id,
                "segmentation": encode_region(region.mask, x0, y0, size),
                "bbox": [x0, y0, x1 - x0, y1 - y0],
                "score": round(region.score, 5),
            }
        )
    return results
