"""COCO's average precision of instance masks, computed by faster-coco-eval."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
from jaxtyping import Float

from mask2former.evaluation.evaluator import (
    ImageId,
    check_sample,
    missing_task,
    remember,
    render_full,
)
from mask2former.masks import encode_rle
from mask2former.structures import Category, Sample, Segmentation, class_names

AREAS: dict[str, tuple[float, float]] = {  # pixels of area, COCO's
    "all": (0, 1e5**2),
    "small": (0, 32**2),
    "medium": (32**2, 96**2),
    "large": (96**2, 1e5**2),
}

Record = dict[str, Any]  # an annotation or a detection in COCO's format


@dataclass(frozen=True, kw_only=True)
class ImageRecord:
    """What is kept of an image; category_id is a label, masks are run-length encoded."""

    size: tuple[int, int]  # (H, W)
    truth: list[Record]
    detections: list[Record]


class AveragePrecision:
    """AP of the `instances` part of results, over the classes that are things; in percent.

    "AP" is the mean over the classes of the truth of "AP/<class>", which averages over the IoU
    thresholds 0.50, 0.55 .. 0.95; "AP50", "AP75" stand at one threshold; "AP_small", "AP_medium",
    "AP_large" for objects of these areas (below 32², up to 96², above). Per image and class
    the `max_detections` best scores count. Crowds are neither to be found nor false alarms.

    An object's area is the number of pixels of its mask, as samples carry no other; COCO's files
    state the area of the polygons. `score_instance_files` goes by the files.
    """

    def __init__(self, categories: Sequence[Category], *, max_detections: int = 100) -> None:
        self.categories = tuple(categories)
        self.max_detections = max_detections
        self.images: set[ImageId] = set()
        self.records: dict[ImageId, ImageRecord] = {}

    def update(self, result: Segmentation, sample: Sample) -> None:
        instances = result.instances
        if instances is None:
            raise missing_task(sample, "instances")
        size = tuple(instances.masks.shape[1:])
        check_sample(size, sample, len(instances.categories), self.categories)
        is_thing = [category.is_thing for category in self.categories]
        truth = [
            {
                "category_id": label,
                "segmentation": encode_rle(mask),
                "area": int(mask.sum()),
                "iscrowd": int(is_crowd),
            }
            for label, mask, is_crowd in zip(
                sample.labels.tolist(), render_full(sample), sample.is_crowd, strict=True
            )
            if is_thing[label]
        ]
        detections = [
            {"category_id": label, "segmentation": encode_rle(mask), "score": score}
            for label, mask, score in zip(
                instances.labels.tolist(),
                instances.masks.cpu().numpy(),
                instances.scores.tolist(),
                strict=True,
            )
            if is_thing[label]
        ]
        remember(self.images, [sample.image_id])
        self.records[sample.image_id] = ImageRecord(
            size=sample.masks.size, truth=truth, detections=detections
        )

    def merge(self, other: Self) -> None:
        remember(self.images, other.images)
        self.records.update(other.records)

    def fresh(self) -> Self:
        return type(self)(self.categories, max_detections=self.max_detections)

    def compute(self) -> dict[str, float]:
        images: list[Record] = []
        truth: list[Record] = []
        detections: list[Record] = []
        # A fixed order, so that equal scores rank alike whichever process saw an image.
        for number, image_id in enumerate(sorted(self.records, key=_sort_key), start=1):
            record = self.records[image_id]
            images.append({"id": number, "height": record.size[0], "width": record.size[1]})
            truth += [annotation | {"image_id": number} for annotation in record.truth]
            detections += [detection | {"image_id": number} for detection in record.detections]
        names = class_names(self.categories)
        things = {
            label: names[label]
            for label, category in enumerate(self.categories)
            if category.is_thing
        }
        return average_precision(
            images, truth, detections, classes=things, max_detections=self.max_detections
        )


def _sort_key(image_id: ImageId) -> tuple[bool, ImageId]:
    return isinstance(image_id, str), image_id


def score_instance_files(
    gt_json: str | Path, results_json: str | Path, *, max_detections: int = 100
) -> dict[str, float]:
    """The figures of `AveragePrecision` for files in COCO's format, of all their categories.

    Areas of the truth are the file's own, those of detections the pixels of their masks (boxes
    in the results are ignored). Raises ValueError, naming file and record, where the two files
    do not fit.
    """
    data = json.loads(Path(gt_json).read_text())
    results = json.loads(Path(results_json).read_text())
    images = {image["id"] for image in data["images"]}
    categories = [
        Category(id=c["id"], name=c["name"], is_thing=True, color=(0, 0, 0))
        for c in data["categories"]
    ]
    classes = {
        category.id: name
        for category, name in zip(categories, class_names(categories), strict=True)
    }
    for annotation in data["annotations"]:
        if "area" not in annotation:
            raise ValueError(
                f"{gt_json}: annotation {annotation['id']}: 'area' is missing; add it (pixels)"
            )
    detections: list[Record] = []
    for number, result in enumerate(results):
        for field, known in (("image_id", images), ("category_id", classes)):
            if result[field] not in known:
                raise ValueError(
                    f"{results_json}: result {number}: {field} {result[field]!r} is not in"
                    f" {gt_json}; score it against the file it was predicted for"
                )
        if "segmentation" not in result:
            raise ValueError(
                f"{results_json}: result {number}: 'segmentation' is missing; add the mask's"
                " run-length encoding"
            )
        detections.append({key: value for key, value in result.items() if key != "bbox"})
    return average_precision(
        data["images"],
        data["annotations"],
        detections,
        classes=classes,
        max_detections=max_detections,
    )


def average_precision(
    images: Sequence[Record],
    annotations: Sequence[Record],
    detections: Sequence[Record],
    *,
    classes: Mapping[int, str],
    max_detections: int,
) -> dict[str, float]:
    """The figures for records in COCO's format, in percent; `classes` maps category_id to name."""
    precision = _precision(images, annotations, detections, list(classes), max_detections)
    half, three_quarters = 0, 5  # of the thresholds 0.50, 0.55 .. 0.95
    chosen: dict[str, Float[np.ndarray, "..."]] = {
        "AP": precision[..., 0],
        "AP50": precision[half, ..., 0],
        "AP75": precision[three_quarters, ..., 0],
    }
    for index, area in enumerate(AREAS):
        if area != "all":
            chosen[f"AP_{area}"] = precision[..., index]
    for index, category_id in enumerate(sorted(classes)):
        chosen[f"AP/{classes[category_id]}"] = precision[:, :, index, 0]
    figures: dict[str, float] = {}
    for key, values in chosen.items():
        valid = values[values > -1]  # -1 marks a class without truth
        if valid.size:
            figures[key] = 100 * float(valid.mean())
    return figures


def _precision(
    images: Sequence[Record],
    annotations: Sequence[Record],
    detections: Sequence[Record],
    category_ids: Sequence[int],
    max_detections: int,
) -> Float[np.ndarray, "IoU recall K area"]:
    """Interpolated precision at 10 IoU thresholds and 101 recalls, categories by ascending id."""
    try:
        from faster_coco_eval import COCO, COCOeval_faster
    except ImportError as error:
        raise ImportError(
            'average precision needs faster-coco-eval: pip install "mask2former[train]"'
        ) from error

    def silent(*_: object) -> None:
        """Take the place of its progress messages."""

    if not category_ids:
        return np.zeros((10, 101, 0, len(AREAS)))
    # It writes into the records it is given, and reads an annotation's id 0 as "not matched".
    numbered = [a | {"id": number} for number, a in enumerate(annotations, start=1)]
    dataset = {
        "images": [dict(image) for image in images],
        "annotations": numbered,
        "categories": [{"id": id_, "name": str(id_)} for id_ in category_ids],
    }
    truth = COCO(dataset, print_function=silent)
    found = truth.loadRes([dict(detection) for detection in detections])
    evaluation = COCOeval_faster(truth, found, iouType="segm", print_function=silent)
    evaluation.params.maxDets = [max_detections]
    evaluation.params.areaRng = [list(area) for area in AREAS.values()]
    evaluation.params.areaRngLbl = list(AREAS)
    evaluation.evaluate()
    evaluation.accumulate()
    precision: Float[np.ndarray, "IoU recall K area"] = evaluation.eval["precision"][..., 0]
    return precision
