"""Boundary AP (Cheng et al., Boundary IoU, CVPR 2021): average precision that sees outlines."""

from __future__ import annotations

from typing import Any

import numpy as np
from jaxtyping import Bool

from mask2former.evaluation.average_precision import AveragePrecision
from mask2former.evaluation.matching import Overlap
from mask2former.evaluation.overlap import boundary_iou, encode_boundary
from mask2former.masks import box_of_mask


class BoundaryAP(AveragePrecision):
    """The figures of `AveragePrecision` with the IoU of boundaries, as "boundary_AP" and so on.

    A detection's overlap is the smaller of its masks' IoU and of their boundaries' IoU. A boundary
    is what lies within 2 % of the image's diagonal of the mask's border, inside of it.
    """

    prefix = "boundary_"
    overlap: Overlap = staticmethod(boundary_iou)

    def record(
        self, mask: Bool[np.ndarray, "H W"], rle: dict[str, Any] | None = None
    ) -> dict[str, Any]:
        left, top, right, bottom = box_of_mask(mask)
        part = mask[top:bottom, left:right]
        height, width = mask.shape
        boundary = encode_boundary(part, left, top, (height, width))
        return super().record(mask, rle) | {"boundary": boundary}
