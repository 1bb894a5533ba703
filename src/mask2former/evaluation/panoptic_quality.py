"""Panoptic quality (Kirillov et al., Panoptic Segmentation, CVPR 2019), with crowds and void.

A predicted and a true segment of one class match when their IoU exceeds one half, which at most
one partner can. PQ = SQ × RQ: the mean IoU of the matches times how many of both found a match.

By object size, in pixels of sqrt(area): small < 32 <= medium < 96 <= large. Matches and misses
fall into the bin of the true segment, false alarms into that of the predicted one.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
from jaxtyping import Float, Int, Int64
from PIL import Image

from mask2former.evaluation.evaluator import (
    ImageId,
    check_sample,
    missing_task,
    remember,
)
from mask2former.evaluation.truth import NOBODY, truth_of
from mask2former.masks import places_of
from mask2former.structures import Category, Sample, Segmentation, class_names

SIZES = ("small", "medium", "large")
SIZE_EDGES = (32, 96)  # pixels of sqrt(area) at which medium and large begin

VOID = 0  # the id of pixels that carry no annotation


@dataclass(frozen=True, kw_only=True)
class TrueSegment:
    """What the truth says of a segment; the area counts even where it contradicts the map."""

    id: int
    label: int
    area: int  # pixels
    is_crowd: bool = False


@dataclass(frozen=True, kw_only=True)
class PanopticTally:
    """Matches, false alarms and misses by object size (S = small, medium, large) and class."""

    iou_sum: Float[np.ndarray, "S K"]  # over the matches
    tp: Int64[np.ndarray, "S K"]
    fp: Int64[np.ndarray, "S K"]
    fn: Int64[np.ndarray, "S K"]

    @classmethod
    def zeros(cls, num_classes: int) -> Self:
        shape = (len(SIZES), num_classes)
        tp, fp, fn = (np.zeros(shape, np.int64) for _ in range(3))
        return cls(iou_sum=np.zeros(shape), tp=tp, fp=fp, fn=fn)

    def __add__(self, other: Self) -> Self:
        return type(self)(
            iou_sum=self.iou_sum + other.iou_sum,
            tp=self.tp + other.tp,
            fp=self.fp + other.fp,
            fn=self.fn + other.fn,
        )


def tally_image(
    true_ids: Int[np.ndarray, "H W"],
    true_segments: Sequence[TrueSegment],
    predicted_ids: Int[np.ndarray, "H W"],
    predicted_labels: Mapping[int, int],
    *,
    num_classes: int,
    name: str,
) -> PanopticTally:
    """Match the segments of one image.

    In both maps 0 is nothing: void in the truth, no answer in the prediction. A true id without
    a segment is plain background. `predicted_labels` gives the label of every predicted id.
    Raises ValueError, naming the image, if predicted ids and their map disagree.
    """
    truth, found = sorted({VOID, *(s.id for s in true_segments)}), sorted({0, *predicted_labels})
    overlap = _overlaps(true_ids, truth, predicted_ids, found)
    predicted_area = dict(zip(found, overlap.sum(axis=0).tolist(), strict=False))
    absent = {id for id in predicted_labels if id == 0 or not predicted_area[id]}
    if overlap[:, -1].any() or absent:
        stray = min(absent | (set(np.unique(predicted_ids).tolist()) - set(found)))
        where = "its list only" if stray in absent else "its map but not in its list"
        raise ValueError(
            f"{name}: segment {stray} of the prediction is in {where} of segments; every id of the"
            " map but 0 needs an entry, and every entry a pixel"
        )
    tally = PanopticTally.zeros(num_classes)
    segments = {segment.id: segment for segment in true_segments}
    matched_truth: set[int] = set()
    matched_predictions: set[int] = set()
    row_of = {id: row for row, id in enumerate(truth)}
    void = dict(zip(found, overlap[row_of[VOID]].tolist(), strict=False))
    for row, column in np.argwhere(overlap[:-1, :-1]).tolist():
        true, predicted, pixels = truth[row], found[column], int(overlap[row, column])
        segment = segments.get(true)
        if segment is None or predicted == 0 or segment.is_crowd:
            continue
        if segment.label != predicted_labels[predicted]:
            continue
        union = segment.area + predicted_area[predicted] - pixels - void[predicted]
        if 2 * pixels > union:
            bin_ = _size_bin(segment.area)
            tally.tp[bin_, segment.label] += 1
            tally.iou_sum[bin_, segment.label] += pixels / union
            matched_truth.add(true)
            matched_predictions.add(predicted)

    # Where a class has two crowds in an image only the last is forgiving: so does panopticapi.
    crowd_of = {segment.label: segment.id for segment in true_segments if segment.is_crowd}
    for segment in true_segments:
        if segment.id not in matched_truth and not segment.is_crowd:
            tally.fn[_size_bin(segment.area), segment.label] += 1
    for predicted, label in predicted_labels.items():
        if predicted in matched_predictions:
            continue
        forgiven = void[predicted]
        if label in crowd_of:
            forgiven += int(overlap[row_of[crowd_of[label]], found.index(predicted)])
        area = predicted_area[predicted]
        if 2 * forgiven <= area:
            tally.fp[_size_bin(area), label] += 1
    return tally


def _overlaps(
    true_ids: Int[np.ndarray, "H W"],
    truth: Sequence[int],
    predicted_ids: Int[np.ndarray, "H W"],
    found: Sequence[int],
) -> Int64[np.ndarray, "T1 P1"]:
    """Pixels of each pair of these ids; ids that are in neither list make the last row, column."""
    rows, columns = len(truth) + 1, len(found) + 1
    pairs = places_of(true_ids, truth, missing=rows - 1).astype(np.int64)
    pairs *= columns
    pairs += places_of(predicted_ids, found, missing=columns - 1)
    return np.bincount(pairs.ravel(), minlength=rows * columns).reshape(rows, columns)


def _size_bin(area: int) -> int:
    return sum(area >= edge**2 for edge in SIZE_EDGES)


def summarize(tally: PanopticTally, categories: Sequence[Category]) -> dict[str, float]:
    """The figures of a tally, in percent.

    "PQ", "SQ", "RQ": the mean over the classes that occur in truth or prediction; with "_things"
    and "_stuff" over those of one kind, "PQ_small", "_medium", "_large" over those that occur at
    that size; "PQ/<class>". Without such a class the figure is left out.
    """
    is_thing = np.array([category.is_thing for category in categories], bool)
    tp, fp, fn = tally.tp.sum(0), tally.fp.sum(0), tally.fn.sum(0)
    pq, sq, rq = _qualities(tally.iou_sum.sum(0), tp, fp, fn)
    occurs = tp + fp + fn > 0

    figures: dict[str, float] = {}
    for suffix, chosen in (
        ("", occurs),
        ("_things", occurs & is_thing),
        ("_stuff", occurs & ~is_thing),
    ):
        if chosen.any():
            for key, quality in (("PQ", pq), ("SQ", sq), ("RQ", rq)):
                figures[key + suffix] = 100 * float(quality[chosen].mean())
    for size, *of_size in zip(SIZES, tally.iou_sum, tally.tp, tally.fp, tally.fn, strict=True):
        chosen = sum(of_size[1:]) > 0
        if chosen.any():
            figures[f"PQ_{size}"] = 100 * float(_qualities(*of_size)[0][chosen].mean())
    for name, quality, present in zip(class_names(categories), pq, occurs, strict=True):
        if present:
            figures[f"PQ/{name}"] = 100 * float(quality)
    return figures


def _qualities(
    iou_sum: Float[np.ndarray, "K"],
    tp: Int64[np.ndarray, "K"],
    fp: Int64[np.ndarray, "K"],
    fn: Int64[np.ndarray, "K"],
) -> tuple[Float[np.ndarray, "K"], Float[np.ndarray, "K"], Float[np.ndarray, "K"]]:
    """PQ, SQ and RQ of each class, 0..1; 0 where a class does not occur."""
    size = np.maximum(tp + (fp + fn) / 2, 0.5)  # 0.5 is the least that is not zero
    return iou_sum / size, iou_sum / np.maximum(tp, 1), tp / size


class PanopticQuality:
    """PQ of the `panoptic` part of results; see `summarize` for the figures.

    Pixels of `Sample.void` are void; other pixels without a mask are background, where a
    predicted segment is a false alarm. Areas are those of the rendered masks.
    """

    def __init__(self, categories: Sequence[Category]) -> None:
        self.categories = tuple(categories)
        self.images: set[ImageId] = set()
        self.tally = PanopticTally.zeros(len(self.categories))

    def update(self, result: Segmentation, sample: Sample) -> None:
        panoptic = result.panoptic
        if panoptic is None:
            raise missing_task(sample, "panoptic")
        size = tuple(panoptic.ids.shape)
        check_sample(size, sample, len(panoptic.categories), self.categories)
        true_ids, true_segments = _truth_of(sample)
        tally = tally_image(
            true_ids,
            true_segments,
            panoptic.ids.cpu().numpy(),
            {segment.id: segment.label for segment in panoptic.segments},
            num_classes=len(self.categories),
            name=sample.name,
        )
        remember(self.images, [sample.image_id])
        self.tally += tally

    def merge(self, other: Self) -> None:
        remember(self.images, other.images)
        self.tally += other.tally

    def fresh(self) -> Self:
        return type(self)(self.categories)

    def compute(self) -> dict[str, float]:
        return summarize(self.tally, self.categories)


def _truth_of(sample: Sample) -> tuple[Int[np.ndarray, "H W"], list[TrueSegment]]:
    """The id map (mask i is i + 1) and the segments; an object lies above a crowd it overlaps."""
    truth, count = truth_of(sample), len(sample.labels)
    id_of = np.arange(1, count + 2)  # the last one, which `NOBODY` finds: background
    assert NOBODY == -1
    ids: Int[np.ndarray, "H W"] = id_of[truth.owners]
    if truth.void is not None:
        ids[truth.void] = VOID
    areas = np.bincount(ids.ravel(), minlength=count + 1)[1:].tolist()
    segments = [
        TrueSegment(
            id=index + 1,
            label=int(sample.labels[index]),
            area=areas[index],
            is_crowd=bool(sample.is_crowd[index]),
        )
        for index in range(count)
        if areas[index]  # a mask without a pixel of its own cannot be found
    ]
    return ids, segments


# --- files in COCO's panoptic format ----------------------------------------------------------


def score_panoptic_files(
    gt_json: str | Path, gt_dir: str | Path, pred_json: str | Path, pred_dir: str | Path
) -> dict[str, float]:
    """The figures of `summarize` for a prediction on disk, equal to panopticapi's."""
    tally, categories = tally_panoptic_files(gt_json, gt_dir, pred_json, pred_dir)
    return summarize(tally, categories)


def tally_panoptic_files(
    gt_json: str | Path, gt_dir: str | Path, pred_json: str | Path, pred_dir: str | Path
) -> tuple[PanopticTally, tuple[Category, ...]]:
    """Match two sets of files: a json with `annotations[].segments_info` and a folder of PNGs.

    Categories and the area of true segments are taken from `gt_json`. Raises ValueError, naming
    file and image, where an image or a segment is missing or a category unknown.
    """
    truth = json.loads(Path(gt_json).read_text())
    categories = tuple(
        Category(
            id=category["id"],
            name=category["name"],
            is_thing=bool(category["isthing"]),
            color=tuple(category.get("color", (0, 0, 0))),
        )
        for category in truth["categories"]
    )
    label_of = {category.id: label for label, category in enumerate(categories)}
    predictions = {
        annotation["image_id"]: annotation
        for annotation in json.loads(Path(pred_json).read_text())["annotations"]
    }
    tally = PanopticTally.zeros(len(categories))
    for annotation in truth["annotations"]:
        name = f"{pred_json}: image {annotation['image_id']}"
        prediction = predictions.get(annotation["image_id"])
        if prediction is None:
            raise ValueError(
                f"{name}: no annotation has this image_id; add one, with an empty segments_info"
                " if nothing was found"
            )
        true_ids = _read_ids(Path(gt_dir) / annotation["file_name"])
        predicted_ids = _read_ids(Path(pred_dir) / prediction["file_name"])
        if true_ids.shape != predicted_ids.shape:
            raise ValueError(
                f"{name}: {prediction['file_name']} has {predicted_ids.shape} rows and columns but"
                f" the truth has {true_ids.shape}; write the prediction at the image's size"
            )
        segments = [
            TrueSegment(
                id=record["id"],
                label=_label(record, label_of, f"{gt_json}: image {annotation['image_id']}"),
                area=record["area"],
                is_crowd=bool(record.get("iscrowd", 0)),
            )
            for record in annotation["segments_info"]
        ]
        labels = {r["id"]: _label(r, label_of, name) for r in prediction["segments_info"]}
        tally += tally_image(
            true_ids, segments, predicted_ids, labels, num_classes=len(categories), name=name
        )
    return tally, categories


def _label(record: Mapping[str, Any], label_of: Mapping[int, int], name: str) -> int:
    if record["category_id"] not in label_of:
        raise ValueError(
            f"{name}: segment {record['id']}: category_id {record['category_id']} is not among the"
            " categories of the truth; add it to 'categories' or drop the segment"
        )
    return label_of[record["category_id"]]


def _read_ids(path: Path) -> Int[np.ndarray, "H W"]:
    """The ids of a panoptic PNG: R + 256 G + 65536 B."""
    with Image.open(path) as image:
        rgb = np.asarray(image.convert("RGB")).astype(np.int64)
    return rgb[..., 0] + 256 * rgb[..., 1] + 65536 * rgb[..., 2]
