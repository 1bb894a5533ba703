"""An endless, seeded panoptic data set that is drawn, not loaded: exact to the pixel.

Things of six classes, told apart by their shape and never by their colour, lie on grounds of five
textured stuff classes. Truth and picture come from the same coverage: a pixel belongs to what
covers more than half of it.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from jaxtyping import Int32, UInt8
from rich.progress import track

from mask2former.data.scenes_layout import (
    STUFF,
    THINGS,
    ScenesConfig,
    draw_grounds,
    draw_id_map,
    place_things,
)
from mask2former.data.scenes_paint import paint
from mask2former.masks import IdMapMasks, encode_rle
from mask2former.structures import TASKS, Category, Sample, Task

_COLORS = (
    (230, 57, 70),
    (255, 159, 28),
    (255, 214, 10),
    (181, 23, 158),
    (114, 9, 183),
    (247, 140, 190),
    (168, 218, 255),
    (38, 84, 164),
    (88, 152, 62),
    (222, 197, 148),
    (122, 116, 112),
)
CATEGORIES: tuple[Category, ...] = tuple(
    Category(id=index + 1, name=name, is_thing=name in THINGS, color=color)
    for index, (name, color) in enumerate(zip(THINGS + STUFF, _COLORS, strict=True))
)


class Scenes:
    """`length` scenes of an endless row; scene `i` depends on `seed` and `i` alone."""

    categories = CATEGORIES
    tasks: tuple[Task, ...] = TASKS

    def __init__(
        self, *, length: int = 1000, seed: int = 0, config: ScenesConfig | None = None
    ) -> None:
        self.length = length
        self.seed = seed
        self.config = config or ScenesConfig()

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> Sample:
        if not 0 <= index < self.length:
            raise IndexError(f"scene {index} is not among the {self.length} of this data set")
        rng = np.random.default_rng([self.seed, index])
        image, id_map, labels = draw(rng, self.config)
        return Sample(
            image=image,
            labels=np.array(labels, dtype=np.int64),
            masks=IdMapMasks(id_map, range(1, len(labels) + 1)),
            is_crowd=np.zeros(len(labels), dtype=bool),
            image_id=index,
            name=f"scene {index} of seed {self.seed}",
        )


def draw(
    rng: np.random.Generator, config: ScenesConfig
) -> tuple[UInt8[np.ndarray, "H W 3"], Int32[np.ndarray, "H W"], list[int]]:
    """One scene: its RGB image, the id of the segment at each pixel, the segments' labels.

    Segment `i` has id `i + 1`; every pixel belongs to a segment and every segment has pixels.
    """
    for _ in range(20):
        grounds = draw_grounds(rng, config)
        things = place_things(rng, config)
        id_map = draw_id_map(config.size, grounds, things)
        areas = np.bincount(id_map.ravel(), minlength=1 + len(grounds) + len(things))[1:]
        # Rare: a ground that the next border or a thing left next to nothing of.
        if len(things) >= config.min_things and areas[: len(grounds)].min() >= id_map.size / 64:
            break
    else:
        raise ValueError(f"{config}: no scene holds so much; choose fewer or smaller things")
    image = paint(rng, config.size, grounds, things)
    labels = [ground.label for ground in grounds] + [thing.label for thing in things]
    return image, id_map, labels


# --- on disk ----------------------------------------------------------------------------------


def write_coco_panoptic(scenes: Scenes, folder: Path | str, split: str) -> None:
    """Write images/, panoptic/ and annotations/ in COCO's panoptic and instance formats.

    Everything is written aside and moved at the end, the annotations last: what has annotations is
    complete.
    """
    folder = Path(folder)
    parts = [f"images/{split}", f"panoptic/{split}"]
    parts += [f"annotations/{kind}_{split}.json" for kind in ("instances", "panoptic")]
    for part in parts:
        if (folder / part).exists():
            raise FileExistsError(
                f"{folder / part} exists already; delete it, or choose another folder or split"
            )
    folder.mkdir(parents=True, exist_ok=True)
    aside = Path(tempfile.mkdtemp(prefix=".scenes-", dir=folder))
    try:
        _write(scenes, aside, split)
        for part in parts:
            (folder / part).parent.mkdir(exist_ok=True)
            os.replace(aside / part, folder / part)
    finally:
        shutil.rmtree(aside)


def _write(scenes: Scenes, folder: Path, split: str) -> None:
    for part in (f"images/{split}", f"panoptic/{split}", "annotations"):
        (folder / part).mkdir(parents=True)
    images: list[dict[str, Any]] = []
    panoptic: list[dict[str, Any]] = []
    instances: list[dict[str, Any]] = []
    for index in track(range(len(scenes)), description=f"Drawing scenes: {split}"):
        sample = scenes[index]
        height, width = sample.image.shape[:2]
        masks = sample.masks.render((0, 0, width, height), (height, width))
        name = f"{index:012d}.png"
        ids = np.zeros((height, width), dtype=np.int64)
        segments = []
        for number, (mask, label) in enumerate(zip(masks, sample.labels, strict=True), start=1):
            ids[mask] = number
            segment: dict[str, Any] = {
                "id": number,
                "category_id": CATEGORIES[label].id,
                "area": int(mask.sum()),
                "bbox": list(cv2.boundingRect(mask.astype(np.uint8))),
                "iscrowd": 0,
            }
            segments.append(segment)
            if CATEGORIES[label].is_thing:
                own = {
                    "id": len(instances) + 1,
                    "image_id": index,
                    "segmentation": encode_rle(mask),
                }
                instances.append(segment | own)
        # A panoptic PNG holds id = R + 256 G + 256² B; OpenCV writes the channels as B, G, R.
        colors = np.stack([ids >> 16, ids >> 8 & 255, ids & 255], axis=2).astype(np.uint8)
        for part, pixels in (("images", sample.image[..., ::-1]), ("panoptic", colors)):
            (folder / part / split / name).write_bytes(cv2.imencode(".png", pixels)[1].tobytes())
        images.append({"id": index, "file_name": name, "height": height, "width": width})
        panoptic.append({"image_id": index, "file_name": name, "segments_info": segments})

    categories = [
        {"id": c.id, "name": c.name, "isthing": int(c.is_thing), "color": list(c.color)}
        for c in CATEGORIES
    ]
    for kind, records, kept in (
        ("panoptic", panoptic, categories),
        ("instances", instances, [c for c in categories if c["isthing"]]),
    ):
        content = {"images": images, "annotations": records, "categories": kept}
        (folder / "annotations" / f"{kind}_{split}.json").write_text(json.dumps(content))
