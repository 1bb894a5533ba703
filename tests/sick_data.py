"""A sound data set in COCO's formats, made by a seed, for tests that break it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from mask2former.masks import colors_of_ids, encode_rle

HEIGHT, WIDTH = 48, 64
COUNTS = {"train": 200, "val": 60}
CATEGORIES = [
    {"id": 3, "name": "bolt", "isthing": 1},
    {"id": 5, "name": "nut", "isthing": 1},
    {"id": 9, "name": "bench", "isthing": 0},
]
Content = dict[str, Any]


def picture(rng: np.random.Generator) -> Image.Image:
    """Clouds of colour, unlike those of any other seed."""
    coarse = Image.fromarray(rng.integers(0, 256, (6, 8, 3), dtype=np.uint8))
    return coarse.resize((WIDTH, HEIGHT), Image.Resampling.BICUBIC)


def boxes(rng: np.random.Generator) -> list[tuple[int, int, int, int]]:
    """Three (x0, y0, x1, y1) that do not touch one another."""
    found = []
    for column in range(3):
        x0, y0 = 20 * column + int(rng.integers(1, 5)), int(rng.integers(1, 15))
        found.append((x0, y0, x0 + int(rng.integers(10, 15)), y0 + int(rng.integers(12, 30))))
    return found


def mask_of(box: tuple[int, int, int, int]) -> np.ndarray:
    mask = np.zeros((HEIGHT, WIDTH), bool)
    mask[box[1] : box[3], box[0] : box[2]] = True
    return mask


def write_images(folder: Path) -> None:
    for number, (split, count) in enumerate(COUNTS.items()):
        (folder / "images" / split).mkdir(parents=True, exist_ok=True)
        for index in range(count):
            rng = np.random.default_rng([7, number, index])
            picture(rng).save(folder / "images" / split / f"{index:04}.png")


def image_records(split: str) -> list[Content]:
    return [
        {"id": index + 1, "file_name": f"{index:04}.png", "height": HEIGHT, "width": WIDTH}
        for index in range(COUNTS[split])
    ]


def write_instances(folder: Path) -> None:
    """Polygons and run-length encodings in turn; every class is there, no crowds, no overlaps."""
    write_images(folder)
    for number, split in enumerate(COUNTS):
        annotations: list[Content] = []
        for index in range(COUNTS[split]):
            for place, box in enumerate(boxes(np.random.default_rng([8, number, index]))):
                x0, y0, x1, y1 = box
                polygon = [x0, y0, x1, y0, x1, y1, x0, y1]
                annotations.append(
                    {
                        "id": 10 * index + place + 1,
                        "image_id": index + 1,
                        "category_id": CATEGORIES[(index + place) % 3]["id"],
                        "segmentation": [polygon] if place % 2 else encode_rle(mask_of(box)),
                        "bbox": [x0, y0, x1 - x0, y1 - y0],
                        "area": (x1 - x0) * (y1 - y0),
                        "iscrowd": 0,
                    }
                )
        content = {
            "images": image_records(split),
            "categories": CATEGORIES,
            "annotations": annotations,
        }
        write_content(folder, f"instances_{split}", content)


def write_panoptic(folder: Path) -> None:
    """Two things and the bench around them, which is left void in a stripe."""
    write_images(folder)
    for number, split in enumerate(COUNTS):
        (folder / "panoptic" / split).mkdir(parents=True, exist_ok=True)
        annotations: list[Content] = []
        for index in range(COUNTS[split]):
            ids = np.full((HEIGHT, WIDTH), 900, np.int32)
            ids[:, -2:] = 0
            for place, box in enumerate(boxes(np.random.default_rng([8, number, index]))[:2]):
                ids[mask_of(box)] = 7 + 300 * place
            segments = [
                {"id": id, "category_id": category, "area": int((ids == id).sum()), "iscrowd": 0}
                for id, category in ((7, 3), (307, 5), (900, 9))
            ]
            name = f"{index:04}.png"
            Image.fromarray(colors_of_ids(ids)).save(folder / "panoptic" / split / name)
            annotations.append(
                {"image_id": index + 1, "file_name": name, "segments_info": segments}
            )
        content = {
            "images": image_records(split),
            "categories": CATEGORIES,
            "annotations": annotations,
        }
        write_content(folder, f"panoptic_{split}", content)


def write_content(folder: Path, name: str, content: Content) -> None:
    path = folder / "annotations" / f"{name}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))


def change(folder: Path, name: str, edit: Callable[[Content], None]) -> None:
    """Rewrite an annotation file after `edit`."""
    content = json.loads((folder / "annotations" / f"{name}.json").read_text())
    edit(content)
    write_content(folder, name, content)
