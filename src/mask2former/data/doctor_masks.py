"""The doctor's look at masks: outside of the image, empty, twice, unlike their box or area."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np
from jaxtyping import Bool

from mask2former.data.coco import CocoObject
from mask2former.data.coco_json import ImageRecord, Problem
from mask2former.masks import Box, box_of_mask, decode_rle, rasterize_polygons

OUTSIDE = "mask outside the frame"  # wholly, which is an error
_MARGIN = 1.0  # pixels that a point may lie outside
_SAME = 0.9  # intersection over union of two masks of one class that are one object
_BOX_PIXELS, _BOX_SHARE = 3.0, 0.05  # how far a box may be off: tools round, and count edges
_AREA_SHARE = 0.1  # how far an area may be off, beside the outline


@dataclass(frozen=True, kw_only=True)
class _Pixels:
    """A mask inside of its box."""

    name: str
    label: int
    mask: Bool[np.ndarray, "h w"]
    left: int
    top: int

    @property
    def box(self) -> Box:
        height, width = self.mask.shape
        return (self.left, self.top, self.left + width, self.top + height)


def outside(found: CocoObject, size: tuple[int, int]) -> list[Problem]:
    """Whether a polygon leaves its image of `size` (H, W); of kind `OUTSIDE` if all of it does."""
    if isinstance(found.mask, Mapping) or not len(found.mask):
        return []
    x0, y0, x1, y1 = _bounds(found)
    excess = max(-x0, -y0, x1 - size[1], y1 - size[0])
    if excess <= _MARGIN:
        return []
    frame = f"the image, which is {size[0]} high and {size[1]} wide"
    if min(x1, y1, size[1] - x0, size[0] - y0) <= 0:
        message = f"lies outside of {frame}; drop it, or restore the image that was annotated"
        return [Problem(kind=OUTSIDE, record=found.name, message=message)]
    message = (
        f"its polygon reaches {excess:.0f} pixels outside of {frame}; that part is cut off. Was the"
        " image cropped or scaled afterwards?"
    )
    return [Problem(kind="mask outside of the image", record=found.name, message=message)]


def examine_masks(
    image: ImageRecord, objects: Sequence[tuple[dict[str, Any], CocoObject]]
) -> tuple[list[Problem], list[Problem], tuple[int, int]]:
    """What is wrong with the masks of an image: errors, warnings.

    With it how many pixels are in two masks or more, and how many in any; crowds aside.
    """
    errors: list[Problem] = []
    warnings: list[Problem] = []
    drawn: list[_Pixels] = []
    counts = np.zeros(image.size, np.uint16)
    for annotation, found in objects:
        try:
            pixels = _draw(found, image.size)
        except ValueError as error:
            errors.append(Problem(kind="malformed mask", record=found.name, message=str(error)))
            continue
        if not pixels.mask.any():
            message = "its mask has no pixel inside of the image; draw it anew or drop it"
            warnings.append(
                Problem(kind="mask without a pixel", record=found.name, message=message)
            )
            continue
        warnings.extend(_box_problems(annotation.get("bbox"), found, pixels, image.size))
        warnings.extend(_area_problems(annotation.get("area"), pixels))
        if not found.is_crowd:
            drawn.append(pixels)
            height, width = pixels.mask.shape
            part = counts[pixels.top : pixels.top + height, pixels.left : pixels.left + width]
            part += pixels.mask
    warnings.extend(_twice(drawn))
    return errors, warnings, (int((counts > 1).sum()), int((counts > 0).sum()))


def box_problem(name: str, box: object, true: Box, tolerance: float = _BOX_PIXELS) -> list[Problem]:
    """Whether a `bbox` [x, y, width, height] differs from the `true` one (x0, y0, x1, y1)."""
    try:
        x, y, width, height = (float(value) for value in box)  # type: ignore[attr-defined]
    except (TypeError, ValueError):
        message = f"'bbox' must be [x, y, width, height], not {str(box)[:40]}; correct or drop it"
        return [Problem(kind="box unlike the mask", record=name, message=message)]
    slack = (true[2] - true[0], true[3] - true[1]) * 2
    wrong = any(
        not abs(value - right) <= max(tolerance, _BOX_SHARE * side)
        for value, right, side in zip((x, y, x + width, y + height), true, slack, strict=True)
    )
    if not wrong:
        return []
    right = [round(v, 1) for v in (true[0], true[1], true[2] - true[0], true[3] - true[1])]
    message = (
        f"'bbox' is {[round(v, 1) for v in (x, y, width, height)]}, but the mask's is {right}; one"
        " of them belongs to another object or image"
    )
    return [Problem(kind="box unlike the mask", record=name, message=message)]


def _box_problems(
    box: object, found: CocoObject, pixels: _Pixels, size: tuple[int, int]
) -> list[Problem]:
    if box is None:
        return []
    problems = box_problem(found.name, box, pixels.box)
    if problems and not isinstance(found.mask, Mapping):
        # Of what lies outside of the image, or between pixels, some tools know and others not.
        return box_problem(found.name, box, _bounds(found))
    return problems


def _area_problems(area: object, pixels: _Pixels) -> list[Problem]:
    if area is None:
        return []
    count = int(pixels.mask.sum())
    padded = np.pad(pixels.mask, 1)
    outline = sum(int((np.diff(padded, axis=axis) != 0).sum()) for axis in (0, 1))
    slack = _AREA_SHARE * count + 0.75 * outline
    if isinstance(area, int | float) and abs(area - count) <= slack:
        return []
    message = f"'area' is {area}, but the mask has {count} pixels; correct it, or drop the field"
    return [Problem(kind="area unlike the mask", record=pixels.name, message=message)]


def _twice(drawn: list[_Pixels]) -> list[Problem]:
    """Objects of one class whose masks are nearly the same."""
    problems: list[Problem] = []
    by_label: dict[int, list[_Pixels]] = {}
    for pixels in drawn:
        by_label.setdefault(pixels.label, []).append(pixels)
    for group in by_label.values():
        for first, second in _near(group):
            if (share := _overlap(first, second)) > _SAME:
                message = (
                    f"covers {100 * share:.0f} % of the same pixels as {first.name}, of the same"
                    " class; drop one of the two"
                )
                problems.append(
                    Problem(kind="object annotated twice", record=second.name, message=message)
                )
    return problems


def _near(group: list[_Pixels]) -> list[tuple[_Pixels, _Pixels]]:
    """Pairs whose boxes are so much alike that their masks may be one."""
    if len(group) < 2:
        return []
    x0, y0, x1, y1 = np.array([pixels.box for pixels in group]).T
    area = np.array([int(pixels.mask.sum()) for pixels in group])
    width = np.minimum(x1[:, None], x1) - np.maximum(x0[:, None], x0)
    height = np.minimum(y1[:, None], y1) - np.maximum(y0[:, None], y0)
    common = np.clip(width, 0, None) * np.clip(height, 0, None)
    likely = common > _SAME * np.maximum(area[:, None], area)
    return [(a, b) for (i, a), (j, b) in combinations(enumerate(group), 2) if likely[i, j]]


def _overlap(first: _Pixels, second: _Pixels) -> float:
    """Intersection over union."""
    x0, y0 = max(first.left, second.left), max(first.top, second.top)
    x1, y1 = min(first.box[2], second.box[2]), min(first.box[3], second.box[3])
    parts = [
        p.mask[int(y0) - p.top : int(y1) - p.top, int(x0) - p.left : int(x1) - p.left]
        for p in (first, second)
    ]
    common = int((parts[0] & parts[1]).sum())
    return common / (int(first.mask.sum()) + int(second.mask.sum()) - common)


def _bounds(found: CocoObject) -> Box:
    polygons = [np.asarray(polygon) for polygon in found.mask]
    points = np.concatenate(polygons).reshape(-1, 2)
    (x0, y0), (x1, y1) = points.min(axis=0), points.max(axis=0)
    return float(x0), float(y0), float(x1), float(y1)


def _draw(found: CocoObject, size: tuple[int, int]) -> _Pixels:
    """ValueError if the encoding is malformed."""
    left, top = 0, 0
    if isinstance(found.mask, Mapping):
        mask = decode_rle(found.mask)
    elif not len(found.mask):
        mask = np.zeros((0, 0), bool)
    else:
        x0, y0, x1, y1 = _bounds(found)
        left, top = max(0, int(np.floor(x0))), max(0, int(np.floor(y0)))
        right, bottom = min(size[1], int(np.ceil(x1))), min(size[0], int(np.ceil(y1)))
        if right <= left or bottom <= top:
            mask = np.zeros((0, 0), bool)
        else:
            box = (left, top, right, bottom)
            mask = rasterize_polygons(found.mask, box, (bottom - top, right - left))
    x0, y0, x1, y1 = box_of_mask(mask) if mask.size else (0, 0, 0, 0)
    return _Pixels(
        name=found.name,
        label=found.label,
        mask=mask[y0:y1, x0:x1],
        left=left + x0,
        top=top + y0,
    )
