"""What a report shows of an evaluation: gathered image by image, as large for ten as for a million.

Nothing but counts and some small pictures is kept.
"""

from __future__ import annotations

import base64
import heapq
from dataclasses import dataclass
from typing import Literal, Self

import cv2
import numpy as np
import torch
from jaxtyping import Int, UInt8

from mask2former.evaluation.confusion import (
    LEAST_SCORE,
    f1,
    object_confusion,
)
from mask2former.evaluation.evaluator import ImageId
from mask2former.evaluation.mean_iou import pixel_confusion, semantic_truth
from mask2former.evaluation.truth import truth_of
from mask2former.inference.visualize import draw_panoptic, draw_regions, draw_semantic, overlay
from mask2former.masks import box_of_mask
from mask2former.structures import (
    Category,
    Instances,
    Panoptic,
    Region,
    Sample,
    Segment,
    Segmentation,
    Semantic,
)

Picture = UInt8[np.ndarray, "H W 3"]  # RGB
SHOWN = 6  # best and worst images
LONGEST_SIDE = 480  # pixels of their pictures
PARTS = 20  # of the histogram of scores
SCORES = ("PQ", "mIoU", "F1")  # an image's score is the first of these that it has


@dataclass(frozen=True, kw_only=True)
class Shown:
    """One image: its score in percent, and image, truth and prediction as data URLs."""

    image_id: ImageId
    name: str
    score: float
    true: int  # objects
    found: int
    pictures: tuple[str, str, str]


@dataclass(frozen=True, kw_only=True)
class Findings:
    """An examination's outcome, as it is kept in a file."""

    categories: tuple[Category, ...]
    images: int
    objects: tuple[int, ...]  # true ones of each class, crowds aside
    images_with: tuple[int, ...]  # images in which each class occurs
    confusion_of: Literal["pixels", "objects"]
    confusion: tuple[tuple[int, int, int], ...]  # truth, prediction, count; K is "nothing"
    score: str  # which figure of an image the scores are
    histogram: tuple[int, ...]  # of the scores, in equal parts of 0 to 100
    worst: tuple[Shown, ...]  # the worst first
    best: tuple[Shown, ...]  # the best first; none that is among the worst


class Examination:
    """Give `update` to `evaluate` as `on_image`."""

    def __init__(self, categories: tuple[Category, ...], *, shown: int = SHOWN) -> None:
        count = len(categories)
        self.categories = categories
        self.shown = shown
        self.images = 0
        self.objects = np.zeros(count, np.int64)
        self.images_with = np.zeros(count, np.int64)
        self.confusion = np.zeros((count + 1, count + 1), np.int64)
        self.confusion_of: Literal["pixels", "objects"] = "objects"
        self.score = ""
        self.histogram = np.zeros(PARTS, np.int64)
        # Heaps whose first is the one that goes; the id decides between equal scores.
        self.worst: list[tuple[float, str, Shown]] = []  # by the negative score
        self.best: list[tuple[float, str, Shown]] = []

    def update(self, sample: Sample, result: Segmentation, figures: dict[str, float]) -> None:
        """Add one image; `figures` are its own, in percent.

        Its score is its PQ or, for want of that, its mIoU; of instances alone it is their F1 (see
        `f1`), which says more of one image than an average precision.
        """
        self.images += 1
        labels = sample.labels[~sample.is_crowd]
        self.objects += np.bincount(labels, minlength=len(self.objects))
        self.images_with[np.unique(labels)] += 1
        count = len(self.categories)
        if result.semantic is not None:
            self.confusion_of = "pixels"
            self.confusion[:count, :count] += pixel_confusion(result, sample, count)
        else:
            confusion = object_confusion(result, sample, count)
            self.confusion += confusion
            if (share := f1(confusion)) is not None:
                figures = figures | {"F1": share}
        name = next((name for name in SCORES if name in figures), None)
        if name is None:
            return  # neither truth nor an answer
        self.score, score = name, figures[name]
        self.histogram[min(int(score / 100 * PARTS), PARTS - 1)] += 1
        keys = ((-score, repr(sample.image_id)), (score, repr(sample.image_id)))
        heaps = (self.worst, self.best)
        wanted = [
            (heap, key)
            for heap, key in zip(heaps, keys, strict=True)
            if len(heap) < self.shown or key > heap[0][:2]
        ]
        if wanted:
            shown = show(sample, result, score, self.categories)
            for heap, key in wanted:
                self._keep(heap, (*key, shown))

    def merge(self, other: Self) -> None:
        """Add the images of another process."""
        self.images += other.images
        self.objects += other.objects
        self.images_with += other.images_with
        self.confusion += other.confusion
        self.histogram += other.histogram
        self.score = self.score or other.score
        if other.confusion_of == "pixels":
            self.confusion_of = "pixels"
        for heap, others in ((self.worst, other.worst), (self.best, other.best)):
            for entry in others:
                self._keep(heap, entry)

    def findings(self) -> Findings:
        worst = [shown for *_, shown in sorted(self.worst, key=lambda entry: entry[:2])[::-1]]
        best = [shown for *_, shown in sorted(self.best, key=lambda entry: entry[:2])[::-1]]
        among = {shown.image_id for shown in worst}
        rows, columns = np.nonzero(self.confusion)
        counts = self.confusion[rows, columns]
        return Findings(
            categories=self.categories,
            images=self.images,
            objects=tuple(self.objects.tolist()),
            images_with=tuple(self.images_with.tolist()),
            confusion_of=self.confusion_of,
            confusion=tuple(zip(rows.tolist(), columns.tolist(), counts.tolist(), strict=True)),
            score=self.score,
            histogram=tuple(self.histogram.tolist()),
            worst=tuple(worst),
            best=tuple(shown for shown in best if shown.image_id not in among),
        )

    def _keep(self, heap: list[tuple[float, str, Shown]], entry: tuple[float, str, Shown]) -> None:
        if len(heap) < self.shown:
            heapq.heappush(heap, entry)
        elif entry[:2] > heap[0][:2]:
            heapq.heapreplace(heap, entry)


# --- pictures -----------------------------------------------------------------------------------


def show(
    sample: Sample, result: Segmentation, score: float, categories: tuple[Category, ...]
) -> Shown:
    """The image with its truth and the answer, drawn small so that names stay readable."""
    height, width = sample.image.shape[:2]
    scale = min(1.0, LONGEST_SIDE / max(height, width))
    size = max(1, round(height * scale)), max(1, round(width * scale))
    image = np.asarray(cv2.resize(sample.image, size[::-1], interpolation=cv2.INTER_AREA))
    if result.panoptic is not None:
        found = len(result.panoptic.segments)
        truth = draw_panoptic(image, _small_panoptic(true_panoptic(sample, categories), size))
        answer = overlay(
            image,
            Segmentation(
                size=size, name=result.name, panoptic=_small_panoptic(result.panoptic, size)
            ),
        )
    elif result.instances is not None:
        kept = result.instances.above(LEAST_SCORE)
        found = len(kept)
        truth = draw_regions(image, _true_regions(sample, categories, size), scores=False)
        answer = overlay(
            image, Segmentation(size=size, name=result.name, instances=_small_instances(kept, size))
        )
    else:
        assert result.semantic is not None
        labels = result.semantic.labels.cpu().numpy()
        found = len(np.unique(labels))
        truth = draw_semantic(image, _small_semantic(semantic_truth(sample), categories, size))
        answer = draw_semantic(image, _small_semantic(labels, categories, size))
    return Shown(
        image_id=sample.image_id,
        name=sample.name,
        score=score,
        true=int((~sample.is_crowd).sum()),
        found=found,
        pictures=(jpeg_url(image), jpeg_url(truth), jpeg_url(answer)),
    )


def true_panoptic(sample: Sample, categories: tuple[Category, ...]) -> Panoptic:
    """The truth as an answer; an object lies above a crowd that it overlaps, void above all."""
    truth = truth_of(sample)
    ids = truth.owners + 1
    if truth.void is not None:
        ids[truth.void] = 0
    areas = np.bincount(ids.ravel(), minlength=len(sample.labels) + 1).tolist()
    segments = tuple(
        Segment(id=id, label=label, category=categories[label], score=1.0, area=areas[id])
        for id, label in enumerate(sample.labels.tolist(), start=1)
        if areas[id]
    )
    return Panoptic(ids=torch.from_numpy(ids), segments=segments, categories=categories)


def jpeg_url(picture: Picture, quality: int = 85) -> str:
    """A picture as text that a page can hold."""
    # Colour at full resolution, or the outlines would blur.
    options = [cv2.IMWRITE_JPEG_QUALITY, quality]
    options += [cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444]
    done, data = cv2.imencode(".jpg", picture[..., ::-1], options)
    assert done
    return "data:image/jpeg;base64," + base64.b64encode(data.tobytes()).decode()


def _small(labels: Int[np.ndarray, "H W"], size: tuple[int, int]) -> Int[np.ndarray, "h w"]:
    method = cv2.INTER_NEAREST_EXACT
    return np.asarray(cv2.resize(labels.astype(np.int32), size[::-1], interpolation=method))


def _small_panoptic(result: Panoptic, size: tuple[int, int]) -> Panoptic:
    ids = torch.from_numpy(_small(result.ids.cpu().numpy(), size))
    return Panoptic(ids=ids, segments=result.segments, categories=result.categories)


def _small_semantic(
    labels: Int[np.ndarray, "H W"], categories: tuple[Category, ...], size: tuple[int, int]
) -> Semantic:
    return Semantic(labels=torch.from_numpy(_small(labels, size)), categories=categories)


def _small_instances(result: Instances, size: tuple[int, int]) -> Instances:
    masks = [_small(mask, size) > 0 for mask in result.masks.cpu().numpy()]
    stacked = np.stack(masks) if masks else np.zeros((0, *size), bool)
    boxes = torch.tensor([box_of_mask(mask) for mask in masks]).reshape(-1, 4).float()
    return Instances(
        masks=torch.from_numpy(stacked),
        scores=result.scores.cpu(),
        labels=result.labels.cpu(),
        boxes=boxes,
        categories=result.categories,
    )


def _true_regions(
    sample: Sample, categories: tuple[Category, ...], size: tuple[int, int]
) -> list[Region]:
    regions = []
    height, width = sample.masks.size
    masks = sample.masks.render((0, 0, width, height), size)
    for label, mask in zip(sample.labels.tolist(), masks, strict=True):
        if mask.any():
            x0, y0, x1, y1 = (int(side) for side in box_of_mask(mask))
            category = categories[label]
            box = (x0, y0, x1, y1)
            crop = mask[y0:y1, x0:x1]
            regions.append(Region(mask=crop, box=box, score=1.0, label=label, category=category))
    return regions
