"""How many training views a second the loader makes, and what they are made of.

python -m benchmarks.loader [--views 60] [--size 512] [--workers 0 1 2]

Drawn scenes are written to disk (PNG) and read as panoptic maps and as run-length encodings, with
COCO's view (crops of 1024, scaled by 0.1 to 2) and ADE20K's (crops of 512, with colour). Prints a
table and writes JSON. The parts of a view are in processor time, which is
no matter of what else runs.
"""

from __future__ import annotations

import json
import platform
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from itertools import islice

import cv2
import numpy as np
import torch
from jaxtyping import Bool

from benchmarks.measure import command, markdown
from mask2former.data.dataset import Dataset
from mask2former.data.detect import open_dataset
from mask2former.data.loader import Stream, batches
from mask2former.data.scenes import Scenes, write_coco_panoptic
from mask2former.data.scenes_layout import ScenesConfig
from mask2former.data.transforms import TrainView
from mask2former.masks import Box
from mask2former.structures import TASKS, Category, Masks, Sample, Task, View

BATCH = 2
IMAGES = 24  # few, so that they come from memory and not from the disk
VIEWS = {
    "COCO's, 1024": TrainView(ignore_void=True),
    "ADE20K's, 512": TrainView(
        size=512, scale=(0.5, 2.0), fit="shortest_side", crop=(512, 512), color=True
    ),
}
READ_AS: dict[str, Task] = {"panoptic map": "panoptic", "RLE": "instance"}


@dataclass(frozen=True, kw_only=True)
class Measured:
    """One kind of view: processor time of its parts, and the rate by number of workers."""

    annotation: str
    view: str
    objects: float  # of a scene, on average
    decode: float  # seconds a view: the image and its annotation, read
    masks: float  # made inside the crop
    image: float  # all else: scaled, coloured, flipped, normalised
    rates: dict[int, float]  # views a second

    def row(self) -> list[str]:
        parts = (self.decode, self.masks, self.image)
        return [
            self.annotation,
            self.view,
            f"{self.objects:.0f}",
            *(f"{rate:.1f}" for rate in self.rates.values()),
            f"{1000 * sum(parts):.0f} ms",
            *(f"{part / sum(parts):.0%}" for part in parts),
        ]


class Clocked:
    """A data set that adds up the processor time of reading and, later, making masks."""

    categories: tuple[Category, ...]
    tasks: tuple[Task, ...] = TASKS

    def __init__(self, dataset: Dataset) -> None:
        self.dataset, self.categories = dataset, dataset.categories
        self.decode = self.masks = 0.0
        self.objects = 0

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> Sample:
        started = time.process_time()
        sample = self.dataset[index]
        self.decode += time.process_time() - started
        self.objects += len(sample.masks)
        void = None if sample.void is None else _ClockedMasks(sample.void, self._add)
        return replace(sample, masks=_ClockedMasks(sample.masks, self._add), void=void)

    def _add(self, seconds: float) -> None:
        self.masks += seconds


class _ClockedMasks:
    def __init__(self, masks: Masks, add: Callable[[float], None]) -> None:
        self._masks, self._add = masks, add

    def __len__(self) -> int:
        return len(self._masks)

    @property
    def size(self) -> tuple[int, int]:
        return self._masks.size

    def render(self, box: Box, size: tuple[int, int]) -> Bool[np.ndarray, "N h w"]:
        started = time.process_time()
        masks = self._masks.render(box, size)
        self._add(time.process_time() - started)
        return masks


def rate(dataset: Dataset, view: TrainView, workers: int, views: int) -> float:
    """Views a second, once the workers are at work."""
    steps, warm = views // BATCH, 4 + 4 * workers  # what the workers make beforehand is not counted
    stream = Stream(dataset, view, View(), seed=0)
    loader = batches(stream, batch_size=BATCH, first=0, last=warm + steps, workers=workers)
    for _ in islice(loader, warm):
        pass
    started = time.perf_counter()
    count = sum(len(batch.names) for batch in loader)
    return count / (time.perf_counter() - started)


def measure(
    annotation: str, view_name: str, dataset: Dataset, views: int, workers: list[int]
) -> Measured:
    view = VIEWS[view_name]
    clocked = Clocked(dataset)
    stream = Stream(clocked, view, View(), seed=0)
    stream[0]
    clocked.decode = clocked.masks = clocked.objects = 0
    started = time.process_time()
    for t in range(1, views + 1):
        stream[t]
    whole = time.process_time() - started
    return Measured(
        annotation=annotation,
        view=view_name,
        objects=clocked.objects / views,
        decode=clocked.decode / views,
        masks=clocked.masks / views,
        image=(whole - clocked.decode - clocked.masks) / views,
        rates={count: rate(dataset, view, count, views) for count in workers},
    )


def table(found: list[Measured], workers: list[int]) -> str:
    header = ["read from", "view", "objects", *(f"{count} workers: views/s" for count in workers)]
    header += ["one view", "decode", "masks", "image"]
    return f"## Loader\n\n{markdown(header, [m.row() for m in found])}\n"


def main() -> None:
    parser = command(__doc__, "loader")
    parser.add_argument("--views", type=int, default=60, help="of each measurement")
    parser.add_argument("--size", type=int, default=512, help="of the square scenes, in pixels")
    parser.add_argument("--workers", type=int, nargs="+", default=[0, 1, 2])
    parser.set_defaults(threads=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    cv2.setNumThreads(options.threads)
    with tempfile.TemporaryDirectory() as name:
        drawing = ScenesConfig(size=options.size, min_things=10, max_things=30)
        write_coco_panoptic(Scenes(length=IMAGES, config=drawing), name, "train")
        found = [
            measure(annotation, view, open_dataset(name, task=task), options.views, options.workers)
            for annotation, task in READ_AS.items()
            for view in VIEWS
        ]
    print(table(found, options.workers))
    options.out.parent.mkdir(parents=True, exist_ok=True)
    document = {
        "machine": {
            "processor": platform.processor() or platform.machine(),
            "threads": options.threads,
            "torch": torch.__version__,
        },
        "image": {"size": options.size, "format": "PNG"},
        "views": [asdict(m) for m in found],
    }
    options.out.write_text(json.dumps(document, indent=1) + "\n")


if __name__ == "__main__":
    main()
