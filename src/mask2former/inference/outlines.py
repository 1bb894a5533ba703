"""Masks as outlines: polygons with holes, GeoJSON, YOLO's lines.

Coordinates are in pixels, (0, 0) the image's corner, pixel (y, x) covering [x, x + 1). An outline
runs an eighth of a pixel inside its border pixels, so that it holds the centres of exactly the
pixels of its mask: filling it by that rule gives the mask back. Pixels that touch at a corner alone
are not connected, so that no ring touches itself or another.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np
from jaxtyping import Bool, Float

from mask2former.structures import Region

Ring = Float[np.ndarray, "P 2"]  # x, y; not closed
_FINE = 4  # parts of a pixel that outlines are drawn in
Polygon = tuple[Ring, ...]  # an outer ring, then its holes


def polygons_of(mask: Bool[np.ndarray, "H W"]) -> list[Polygon]:
    """The connected parts of a mask, largest first; nothing for an empty one."""
    fine = mask.astype(np.uint8).repeat(_FINE, 0).repeat(_FINE, 1)
    a, b, c, d = mask[:-1, :-1], mask[:-1, 1:], mask[1:, :-1], mask[1:, 1:]
    for corner, dx in ((a & d & ~b & ~c, -1), (b & c & ~a & ~d, 0)):
        y, x = (_FINE * (place + 1) for place in np.nonzero(corner))
        fine[y - 1, x + dx] = fine[y, x - 1 - dx] = 0
    contours, tree = cv2.findContours(fine, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_SIMPLE)
    if tree is None:
        return []
    rings = [(contour[:, 0].astype(np.float64) + 0.5) / _FINE for contour in contours]
    parts: dict[int, list[Ring]] = {
        i: [ring]
        for i, (ring, node) in enumerate(zip(rings, tree[0], strict=True))
        if node[3] < 0  # without a parent: an outer ring
    }
    for ring, node in zip(rings, tree[0], strict=True):
        if node[3] >= 0:
            parts[node[3]].append(ring)
    return sorted(map(tuple, parts.values()), key=lambda part: -area(part[0]))


def area(ring: Ring) -> float:
    """In square pixels."""
    x, y = ring.T
    return float(abs(x @ np.roll(y, -1) - y @ np.roll(x, -1)) / 2)


def geojson(regions: Sequence[Region]) -> dict[str, Any]:
    """A FeatureCollection, one feature an instance: GIS and pathology viewers read it."""
    features = []
    for region in regions:
        corner = np.array(region.box[:2])
        closed = [
            [[*(ring + corner).tolist(), (ring[0] + corner).tolist()] for ring in part]
            for part in polygons_of(region.mask)
        ]
        if not closed:
            continue
        category = region.category
        properties = {
            "classification": {"name": category.name, "color": list(category.color)},
            "category_id": category.id,
            "score": round(region.score, 5),
        }
        geometry = (
            {"type": "Polygon", "coordinates": closed[0]}
            if len(closed) == 1
            else {"type": "MultiPolygon", "coordinates": closed}
        )
        features.append({"type": "Feature", "geometry": geometry, "properties": properties})
    return {"type": "FeatureCollection", "features": features}


def yolo_lines(regions: Sequence[Region], size: tuple[int, int]) -> str:
    """YOLO's segmentation labels: `label x y x y ...` in shares of the image, a line an instance.

    `size` is the image's (H, W). The format knows neither holes nor parts: of each mask it is the
    outer ring of the largest part.
    """
    height, width = size
    lines = []
    for region in regions:
        for part in polygons_of(region.mask)[:1]:
            shares = ((part[0] + region.box[:2]) / (width, height)).ravel()
            lines.append(" ".join([str(region.label), *(f"{share:.6f}" for share in shares)]))
    return "".join(f"{line}\n" for line in lines)
