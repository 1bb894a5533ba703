"""The overlap of run-length encoded masks, and of their boundaries."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import cv2
import numpy as np
from jaxtyping import Bool, Float

from mask2former.masks import box_of_mask, encode_region

Record = Mapping[str, Any]

DILATION = 0.02  # a boundary's width, as a share of the image's diagonal


def mask_api() -> Any:
    """faster-coco-eval's functions on encodings: those of pycocotools, in C++."""
    try:
        from faster_coco_eval.core import mask
    except ImportError as error:
        raise ImportError(
            'average precision needs faster-coco-eval: pip install "mask2former[train]"'
        ) from error
    return mask


def mask_iou(detections: Sequence[Record], objects: Sequence[Record]) -> Float[np.ndarray, "D N"]:
    """IoU of the masks under "segmentation"; of a crowd, the share of the detection inside it."""
    return _iou(detections, objects, "segmentation")


def boundary_iou(
    detections: Sequence[Record], objects: Sequence[Record]
) -> Float[np.ndarray, "D N"]:
    """The smaller of the masks' IoU and that of their boundaries; crowds go by the masks.

    Cheng et al., Boundary IoU, CVPR 2021.
    """
    ious = mask_iou(detections, objects)
    single = ~np.array([bool(record.get("iscrowd", 0)) for record in objects], bool)
    boundaries = _iou(detections, objects, "boundary")
    ious[:, single] = np.minimum(ious, boundaries)[:, single]
    return ious


def _iou(
    detections: Sequence[Record], objects: Sequence[Record], key: str
) -> Float[np.ndarray, "D N"]:
    crowd = [int(record.get("iscrowd", 0)) for record in objects]
    ious: Float[np.ndarray, "D N"] = np.asarray(
        mask_api().iou([d[key] for d in detections], [o[key] for o in objects], crowd)
    )
    return ious.reshape(len(detections), len(objects))


def encode_boundary(
    mask: Bool[np.ndarray, "h w"], left: int, top: int, size: tuple[int, int]
) -> dict[str, object]:
    """The encoding of a mask's pixels that are near to its border, for an image of `size` (H, W).

    The mask lies in a box whose corner is at (left, top). Near is within `DILATION` of the
    diagonal, in steps to any of the eight neighbours; the border of the image is a border, too.
    """
    steps = max(1, round(DILATION * float(np.hypot(*size))))
    x0, y0, x1, y1 = box_of_mask(mask)
    part = mask[y0:y1, x0:x1]
    if not part.size:
        return encode_region(part, 0, 0, size)
    padded = np.pad(part, 1).view(np.uint8)  # as many steps of one pixel as one of so many
    kernel = np.ones((2 * steps + 1, 2 * steps + 1), np.uint8)
    inside = cv2.erode(padded, kernel)[1:-1, 1:-1].astype(bool)
    return encode_region(part & ~inside, left + x0, top + y0, size)
