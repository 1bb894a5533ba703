"""Results as the objects of other libraries, and back: supervision, OpenCV, Hugging Face datasets.

The libraries are imported when their function is called: `pip install "mask2former[exchange]"`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
import torch
from jaxtyping import Bool, Float32, Int32

from mask2former.inference.writers import encode_image, label_map
from mask2former.masks import box_of_mask, colors_of_ids, decode_rle, ids_of_colors
from mask2former.structures import (
    Category,
    Instances,
    Panoptic,
    Region,
    Segment,
    Segmentation,
    Semantic,
    class_names,
)

if TYPE_CHECKING:
    from datasets import Dataset
    from supervision import Detections

Contour = Int32[np.ndarray, "P 1 2"]  # x, y of border pixels, as OpenCV has them


# --- supervision --------------------------------------------------------------------------------


def to_supervision(result: Instances | Panoptic) -> Detections:
    """`supervision.Detections`: instances, or the segments of a panoptic result.

    `class_id` is the label, `data["class_name"]` its name; for segments `data["segment_id"]` is
    their id. Raises ImportError if supervision is not installed.
    """
    try:
        from supervision import Detections
    except ImportError as error:
        raise _missing("supervision") from error
    if isinstance(result, Instances):
        masks, labels, scores = result.masks.cpu().numpy(), result.labels, result.scores
        data: dict[str, Any] = {}
        boxes = result.boxes.cpu().numpy().astype(np.float32)
    else:
        ids = result.ids.cpu().numpy()
        masks = np.array([ids == s.id for s in result.segments], bool).reshape(-1, *ids.shape)
        labels = torch.tensor([s.label for s in result.segments], dtype=torch.int64)
        scores = torch.tensor([s.score for s in result.segments], dtype=torch.float32)
        data = {"segment_id": np.array([s.id for s in result.segments], np.int64)}
        boxes = _boxes(masks)
    class_ids = labels.cpu().numpy()
    names = np.array([result.categories[label].name for label in class_ids.tolist()], str)
    return Detections(
        xyxy=boxes,
        mask=masks,
        confidence=scores.float().cpu().numpy(),
        class_id=class_ids.astype(int),
        data={"class_name": names, **data},
    )


def from_supervision(
    detections: Detections, size: tuple[int, int], categories: Sequence[Category]
) -> Instances:
    """Instances of detections with masks, of an image of `size` (H, W).

    `class_id` is an index into `categories`. They are put in order of their confidence, which is 1
    where there is none. Raises ValueError if masks or classes are missing or a class is none of the
    categories.
    """
    if len(detections) == 0:
        return Instances(
            masks=torch.zeros(0, *size, dtype=torch.bool),
            scores=torch.zeros(0),
            labels=torch.zeros(0, dtype=torch.int64),
            boxes=torch.zeros(0, 4),
            categories=tuple(categories),
        )
    if detections.mask is None:
        raise ValueError("these Detections have boxes but no masks, and instances are masks")
    if detections.class_id is None:
        raise ValueError("these Detections have no class_id; set it to indices of the categories")
    labels = torch.as_tensor(np.asarray(detections.class_id), dtype=torch.int64)
    _check_labels(labels.tolist(), categories)
    scores = (
        torch.ones(len(labels))
        if detections.confidence is None
        else torch.as_tensor(np.asarray(detections.confidence), dtype=torch.float32)
    )
    order = torch.argsort(scores, descending=True, stable=True)
    masks = torch.from_numpy(np.ascontiguousarray(np.asarray(detections.mask, bool)))
    if masks.shape[1:] != size:
        raise ValueError(f"the masks measure {list(masks.shape[1:])}, the image {list(size)}")
    boxes = _boxes(masks.numpy())
    return Instances(
        masks=masks[order],
        scores=scores[order],
        labels=labels[order],
        boxes=torch.from_numpy(boxes)[order],
        categories=tuple(categories),
    )


# --- OpenCV ---------------------------------------------------------------------------------------


def to_contours(region: Region) -> list[Contour]:
    """OpenCV's contours of an instance, in pixels of the image: outer ones and those of holes.

    `cv2.drawContours(image, contours, -1, color, cv2.FILLED)` paints exactly the mask.
    """
    found, _ = cv2.findContours(
        region.mask.astype(np.uint8), cv2.RETR_CCOMP, cv2.CHAIN_APPROX_SIMPLE, offset=region.box[:2]
    )
    return [np.asarray(contour, np.int32) for contour in found]


def from_contours(
    contours: Sequence[Contour], category: Category, label: int, *, score: float = 1.0
) -> Region | None:
    """The instance that filling these contours paints; None if there are none."""
    if not len(contours):
        return None
    points = np.concatenate([contour.reshape(-1, 2) for contour in contours])
    (x0, y0), (x1, y1) = points.min(axis=0).tolist(), (points.max(axis=0) + 1).tolist()
    canvas = np.zeros((y1 - y0, x1 - x0), np.uint8)
    cv2.drawContours(canvas, contours, -1, 1, cv2.FILLED, offset=(-x0, -y0))
    return Region(
        mask=canvas.astype(bool), box=(x0, y0, x1, y1), score=score, label=label, category=category
    )


# --- Hugging Face datasets ------------------------------------------------------------------------


def to_datasets(results: Iterable[Segmentation], categories: Sequence[Category]) -> Dataset:
    """A `datasets.Dataset`, one row an image; what an image has no result for is None.

    name, height, width
    objects    category, score, bbox (x, y, width, height), segmentation (COCO's RLE) of instances
    segments   id, category, isthing, score, area of panoptic segments
    panoptic   an image: ids as colours, R + 256 G + 65536 B
    semantic   an image: the label of each pixel

    `push_to_hub` and `save_to_disk` of what is returned do the rest. Raises ImportError if datasets
    is not installed.
    """
    try:
        import datasets
    except ImportError as error:
        raise _missing("datasets") from error
    category = datasets.ClassLabel(names=class_names(categories))
    rle = {"size": datasets.List(datasets.Value("int32")), "counts": datasets.Value("string")}
    features = datasets.Features(
        {
            "name": datasets.Value("string"),
            "height": datasets.Value("int32"),
            "width": datasets.Value("int32"),
            "objects": datasets.List(
                {
                    "category": category,
                    "score": datasets.Value("float32"),
                    "bbox": datasets.List(datasets.Value("float32"), length=4),
                    "segmentation": rle,
                }
            ),
            "segments": datasets.List(
                {
                    "id": datasets.Value("int32"),
                    "category": category,
                    "isthing": datasets.Value("bool"),
                    "score": datasets.Value("float32"),
                    "area": datasets.Value("int64"),
                }
            ),
            "panoptic": datasets.Image(),
            "semantic": datasets.Image(),
        }
    )
    rows = [_row(result) for result in results]
    columns = {name: [row[name] for row in rows] for name in features}
    return datasets.Dataset.from_dict(columns, features=features)


def from_datasets(dataset: Dataset, categories: Sequence[Category]) -> Iterator[Segmentation]:
    """The results of a dataset that `to_datasets` made, one at a time."""
    kept = tuple(categories)
    names = dataset.features["objects"].feature["category"].names
    if names != class_names(kept):
        raise ValueError(
            f"the dataset was made with the categories {', '.join(names[:10])}"
            f"{' ...' if len(names) > 10 else ''}; pass these, in this order"
        )
    for row in dataset:
        size = (row["height"], row["width"])
        yield Segmentation(
            size=size,
            name=row["name"],
            instances=None if row["objects"] is None else _instances(row["objects"], size, kept),
            panoptic=None if row["panoptic"] is None else _panoptic(row, kept),
            semantic=None
            if row["semantic"] is None
            else Semantic(
                labels=torch.from_numpy(np.array(row["semantic"]).astype(np.int64)), categories=kept
            ),
        )


def _row(result: Segmentation) -> dict[str, Any]:
    row: dict[str, Any] = {
        "name": result.name,
        "height": result.size[0],
        "width": result.size[1],
        **dict.fromkeys(("objects", "segments", "panoptic", "semantic")),
    }
    if result.instances is not None:
        boxes = result.instances.boxes.tolist()
        row["objects"] = [
            {
                "category": label,
                "score": score,
                "bbox": [x0, y0, x1 - x0, y1 - y0],
                "segmentation": rle,
            }
            for label, score, (x0, y0, x1, y1), rle in zip(
                result.instances.labels.tolist(),
                result.instances.scores.tolist(),
                boxes,
                result.instances.rles(),
                strict=True,
            )
        ]
    if result.panoptic is not None:
        row["segments"] = [
            {
                "id": s.id,
                "category": s.label,
                "isthing": s.category.is_thing,
                "score": s.score,
                "area": s.area,
            }
            for s in result.panoptic.segments
        ]
        row["panoptic"] = _png(colors_of_ids(result.panoptic.ids.cpu().numpy()))
    if result.semantic is not None:
        row["semantic"] = _png(label_map(result.semantic))
    return row


def _png(image: np.ndarray) -> dict[str, Any]:
    return {"bytes": encode_image(image, ".png"), "path": None}


def _instances(
    objects: Sequence[dict[str, Any]], size: tuple[int, int], categories: tuple[Category, ...]
) -> Instances:
    masks = [decode_rle(thing["segmentation"]) for thing in objects]
    boxes = torch.tensor([thing["bbox"] for thing in objects]).reshape(-1, 4)
    boxes[:, 2:] += boxes[:, :2]
    return Instances(
        masks=torch.from_numpy(np.array(masks, bool).reshape(-1, *size)),
        scores=torch.tensor([thing["score"] for thing in objects]),
        labels=torch.tensor([thing["category"] for thing in objects], dtype=torch.int64),
        boxes=boxes,
        categories=categories,
    )


def _panoptic(row: dict[str, Any], categories: tuple[Category, ...]) -> Panoptic:
    return Panoptic(
        ids=torch.from_numpy(ids_of_colors(np.array(row["panoptic"].convert("RGB")))),
        segments=tuple(
            Segment(
                id=segment["id"],
                label=segment["category"],
                category=categories[segment["category"]],
                score=segment["score"],
                area=segment["area"],
            )
            for segment in row["segments"]
        ),
        categories=categories,
    )


def _boxes(masks: Bool[np.ndarray, "N H W"]) -> Float32[np.ndarray, "N 4"]:
    return np.array([box_of_mask(mask) for mask in masks], np.float32).reshape(-1, 4)


def _check_labels(labels: Sequence[int], categories: Sequence[Category]) -> None:
    for label in labels:
        if not 0 <= label < len(categories):
            raise ValueError(
                f"class {label} is none of the {len(categories)} categories, which are numbered"
                " from 0; pass the categories that these results were made with"
            )


def _missing(library: str) -> ImportError:
    return ImportError(f'{library} is not installed: pip install "mask2former[exchange]"')
