"""Binary masks: COCO's run-length encoding, boxes, polygons, and masks that stay compressed.

Pixel (y, x) covers [x, x + 1) by [y, y + 1); it is set where its centre lies inside the shape. A
run-length encoding counts pixels column by column, background first.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int, Int32, UInt8

Rle = Mapping[str, Any]  # {"size": [H, W], "counts": str | bytes | list[int]}
Polygons = Sequence[Sequence[float] | np.ndarray]  # each x0, y0, x1, y1, ... in pixels
Box = tuple[float, float, float, float]  # x0, y0, x1, y1 in pixels, x1 and y1 exclusive

_BITS = 5  # a character holds 5 bits of a count, and one that says whether more follow
_MORE = 1 << _BITS
_SIGN = 1 << (_BITS - 1)
_FIRST_CHARACTER = 48
_MAX_CHARACTERS = 12  # of one count; more would not fit 63 bits
_TABLE = 1 << 24  # ids below are looked up in a table; those of panoptic PNGs are


# --- run-length encoding ----------------------------------------------------------------------


def encode_rle(mask: Bool[np.ndarray, "H W"]) -> dict[str, object]:
    """COCO's compressed encoding of a mask: {"size": [H, W], "counts": str}."""
    filled = mask if mask.dtype == bool else mask != 0
    left, top, right, bottom = box_of_mask(
        filled
    )  # most masks are small, and columns are far apart
    height, width = filled.shape
    return encode_region(filled[top:bottom, left:right], left, top, (height, width))


def encode_region(
    mask: Bool[np.ndarray, "h w"], left: int, top: int, size: tuple[int, int]
) -> dict[str, object]:
    """The encoding of a mask whose corner lies at (left, top) of an image of `size` (H, W).

    As `encode_rle` of the whole image's mask, which is never made.
    """
    height, width = size
    padded = np.zeros((mask.shape[0] + 2, mask.shape[1]), bool)  # runs begin and end in a column
    padded[1:-1] = mask
    row, column = np.divmod(np.flatnonzero(padded[1:] != padded[:-1]), max(1, mask.shape[1]))
    # Found row by row and sorted: to walk down the columns of a wide array takes far longer.
    changes = np.sort((left + column) * height + top + row)
    # A run down to the last row and one from the first row of the next column are one.
    meeting = np.flatnonzero(changes[1:] == changes[:-1])
    changes = np.delete(changes, np.concatenate([meeting, meeting + 1]))
    counts = np.diff(np.concatenate([[0], changes, [height * width]]))
    if len(counts) > 1 and counts[-1] == 0:
        counts = counts[:-1]
    return {"size": [height, width], "counts": _compress(counts)}


def decode_rle(rle: Rle) -> Bool[np.ndarray, "H W"]:
    """The mask of a compressed or uncompressed encoding.

    Raises ValueError, saying what is wrong, if the encoding is malformed.
    """
    (height, width), counts = _read_rle(rle)
    return _decode_columns(counts, height, 0, width)


def _compress(counts: Int[np.ndarray, "R"]) -> str:
    values = counts.astype(np.int64)
    values[3:] -= counts[1:-2]  # from the fourth on, the difference to the last count of its kind
    characters: list[np.ndarray] = []
    used: list[np.ndarray] = []
    unfinished = np.ones(len(values), bool)
    while unfinished.any():
        low = values & (_MORE - 1)
        values = values >> _BITS
        used.append(unfinished)
        more = unfinished & (values != np.where(low & _SIGN, -1, 0))
        characters.append(low + more * _MORE + _FIRST_CHARACTER)
        unfinished = more
    table = np.stack(characters, axis=1).astype(np.uint8)
    return bytes(table[np.stack(used, axis=1)]).decode("ascii")


def _decompress(text: str | bytes) -> Int[np.ndarray, "R"]:
    raw = text.encode("utf-8") if isinstance(text, str) else text
    codes = np.frombuffer(raw, np.uint8).astype(np.int64) - _FIRST_CHARACTER
    if len(codes) == 0:
        return codes
    if codes.min() < 0 or codes.max() >= 2 * _MORE:
        at = int(np.flatnonzero((codes < 0) | (codes >= 2 * _MORE))[0])
        raise ValueError(
            f"run-length encoding: character {at} ({bytes(raw[at : at + 1])!r}) of 'counts' is not"
            " one of COCO's compressed format"
        )
    last = np.flatnonzero(codes < _MORE)  # the last character of every count
    if len(last) == 0 or last[-1] != len(codes) - 1:
        raise ValueError("run-length encoding: 'counts' ends in the middle of a number")
    first = np.concatenate([[0], last[:-1] + 1])
    lengths = last - first + 1
    if lengths.max() > _MAX_CHARACTERS:
        raise ValueError("run-length encoding: 'counts' holds a number that is too large")
    place = np.arange(len(codes)) - np.repeat(first, lengths)
    values = np.add.reduceat((codes & (_MORE - 1)) << (_BITS * place), first)
    negative = (codes[last] & _SIGN) != 0
    values = np.where(negative, values - (np.int64(1) << (_BITS * lengths)), values)
    values[1::2] = np.cumsum(values[1::2])
    values[2::2] = np.cumsum(values[2::2])
    return values


def _read_rle(rle: Rle) -> tuple[tuple[int, int], Int[np.ndarray, "R"]]:
    """(H, W) and the counts, checked."""
    try:
        height, width = (int(side) for side in rle["size"])
        counts = rle["counts"]
    except (KeyError, TypeError, ValueError):
        raise ValueError(
            'run-length encoding: expected {"size": [H, W], "counts": ...}, got ' + repr(rle)[:80]
        ) from None
    if isinstance(counts, str | bytes):
        runs = _decompress(counts)
    else:
        try:
            runs = np.asarray(counts, np.int64).reshape(-1)
        except (TypeError, ValueError):
            raise ValueError(
                "run-length encoding: 'counts' must be a string or a list of whole numbers"
            ) from None
    if height < 0 or width < 0:
        raise ValueError(f"run-length encoding: size [{height}, {width}] is negative")
    if len(runs) and runs.min() < 0:
        raise ValueError(
            f"run-length encoding: count {int(np.argmin(runs))} of 'counts' is negative"
        )
    if runs.sum() != height * width:
        raise ValueError(
            f"run-length encoding: 'counts' add up to {runs.sum()} pixels,"
            f" but size [{height}, {width}] has {height * width}"
        )
    return (height, width), runs


def _decode_columns(
    counts: Int[np.ndarray, "R"], height: int, first: int, last: int
) -> Bool[np.ndarray, "H w"]:
    """Columns `first` up to, without, `last` of a mask."""
    ends = np.clip(np.cumsum(counts), first * height, last * height)
    lengths = np.diff(ends, prepend=first * height)
    values = np.arange(len(counts)) % 2 == 1
    return np.repeat(values, lengths).reshape(last - first, height).T


def _box_of_counts(counts: Int[np.ndarray, "R"], height: int) -> Box:
    ends = np.cumsum(counts)[1::2]
    starts, ends = (ends - counts[1::2]), ends - 1
    kept = starts <= ends
    if not kept.any():
        return (0.0, 0.0, 0.0, 0.0)
    (left, top), (right, bottom) = np.divmod(starts[kept], height), np.divmod(ends[kept], height)
    x0, x1 = left[0], right[-1] + 1
    if (left != right).any():  # a run that goes on in the next column touches both borders
        return (float(x0), 0.0, float(x1), float(height))
    return (float(x0), float(top.min()), float(x1), float(bottom.max() + 1))


# --- segment ids as colours ---------------------------------------------------------------------


def colors_of_ids(ids: Int[np.ndarray, "H W"]) -> UInt8[np.ndarray, "H W 3"]:
    """COCO panoptic's picture of segment ids below 2^24: red + 256 green + 65536 blue."""
    colors = np.empty((*ids.shape, 3), np.uint8)
    for channel in range(3):
        colors[:, :, channel] = ids >> 8 * channel & 255
    return colors


def ids_of_colors(colors: UInt8[np.ndarray, "H W C"]) -> Int32[np.ndarray, "H W"]:
    """Back from `colors_of_ids`; a fourth channel is not looked at."""
    red, green, blue = (colors[:, :, channel].astype(np.int32) for channel in range(3))
    return red | green << 8 | blue << 16


def places_of(
    ids: Int[np.ndarray, "H W"], known: Sequence[int] | Int[np.ndarray, "N"], *, missing: int
) -> Int32[np.ndarray, "H W"]:
    """Where in the list `known` each id stands; `missing` for one that is not there."""
    listed = np.asarray(known, np.int64).reshape(-1)
    if not ids.size:
        return np.zeros(ids.shape, np.int32)
    if ids.min() >= 0 and ids.max() < _TABLE:
        table = np.full(int(ids.max()) + 1, missing, np.int32)
        here = np.flatnonzero((listed >= 0) & (listed < len(table)))
        table[listed[here]] = here
        places: Int32[np.ndarray, "H W"] = table[ids]
        return places
    place = {id: index for index, id in enumerate(listed.tolist())}
    values, inverse = np.unique(ids, return_inverse=True)
    table = np.array([place.get(value, missing) for value in values.tolist()], np.int32)
    places = table[inverse].reshape(ids.shape)
    return places


# --- boxes and polygons -----------------------------------------------------------------------


def box_of_mask(mask: Bool[np.ndarray, "H W"]) -> tuple[int, int, int, int]:
    """The box around a mask; (0, 0, 0, 0) if it is empty."""
    rows = np.flatnonzero(mask.any(axis=1))
    if not len(rows):
        return (0, 0, 0, 0)
    top, bottom = int(rows[0]), int(rows[-1]) + 1
    inside = mask[top:bottom]
    if inside.shape[1] % 8 == 0 and inside.flags.c_contiguous:  # eight pixels at a time
        occupied = np.bitwise_or.reduce(inside.view(np.uint64), axis=0).view(bool)
    else:
        occupied = inside.any(axis=0)
    columns = np.flatnonzero(occupied)
    return int(columns[0]), top, int(columns[-1]) + 1, bottom


def rasterize_polygons(
    polygons: Polygons, box: Box, size: tuple[int, int]
) -> Bool[np.ndarray, "h w"]:
    """The union of the polygons inside `box`, scaled to `size` (h, w).

    A polygon may leave the box or cross itself (a part that it surrounds twice is outside).
    """
    height, width = size
    x0, y0, x1, y1 = box
    scale = np.array([width / (x1 - x0), height / (y1 - y0)])
    canvas = np.zeros((height, width), bool)
    for polygon in polygons:
        points = (np.asarray(polygon, np.float64).reshape(-1, 2) - (x0, y0)) * scale
        _fill(canvas, points)
    return canvas


def _fill(canvas: Bool[np.ndarray, "h w"], points: Float[np.ndarray, "P 2"]) -> None:
    """Set every pixel whose centre lies inside a polygon, by the even-odd rule.

    Drawing functions also paint the outline, which makes small objects half a pixel larger on
    each side; here a row's crossings with the edges toggle inside and outside.
    """
    height, width = canvas.shape
    edges = np.hstack([points, np.roll(points, -1, axis=0)])
    edges = np.where(edges[:, [1]] <= edges[:, [3]], edges, edges[:, [2, 3, 0, 1]])  # downwards
    # Row r is crossed if top <= r + 0.5 < bottom; columns left of the frame count as column 0.
    rows = np.clip(np.ceil(edges[:, [1, 3]] - 0.5), 0, height).astype(np.int64)
    lengths = rows[:, 1] - rows[:, 0]
    if not lengths.any():
        return
    edge = np.repeat(np.arange(len(edges)), lengths)
    row = np.arange(len(edge)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    row += rows[edge, 0]
    ax, ay, bx, by = edges[edge].T
    crossing = ax + (row + 0.5 - ay) * (bx - ax) / (by - ay)
    column = np.clip(np.ceil(crossing - 0.5), 0, width).astype(np.int64)
    top, left = row.min(), column.min()
    shape = (row.max() - top + 1, column.max() - left + 1)
    toggles = np.bincount((row - top) * shape[1] + column - left, minlength=shape[0] * shape[1])
    inside = (np.cumsum(toggles.reshape(shape), axis=1) % 2).astype(bool)[:, :-1]
    canvas[top : top + shape[0], left : left + shape[1] - 1] |= inside


def check_polygons(polygons: Polygons, *, least: int = 3) -> None:
    """Raise ValueError, saying which and why, if one is no polygon of at least so many corners."""
    for index, polygon in enumerate(polygons):
        try:
            points = np.asarray(polygon, np.float64)
        except (TypeError, ValueError):
            raise ValueError(f"polygon {index} is no list of numbers") from None
        if points.ndim != 1 or len(points) < 2 * least or len(points) % 2:
            raise ValueError(
                f"polygon {index} holds {points.size} numbers, not x0, y0, x1, y1, x2, y2, ... of"
                " at least three points; correct it or remove it"
            )
        if not np.isfinite(points).all():
            raise ValueError(f"polygon {index} has a coordinate that is not finite; correct it")


def mask_of_annotation(annotation: Mapping[str, Any]) -> tuple[Rle | Polygons, bool] | None:
    """The mask of an annotation in COCO's format, and whether it is the object's box, filled.

    Polygons of fewer than three corners have no area and are left out. If there is nothing else,
    the box stands for the mask; None without a box that has an area.

    Raises ValueError, saying why, if it is no segmentation.
    """
    segmentation = annotation.get("segmentation") or []
    if isinstance(segmentation, Mapping):
        return segmentation, False
    if not isinstance(segmentation, list):
        raise ValueError(
            "segmentation: must be a list of polygons or a run-length encoding, not"
            f" {str(segmentation)[:40]}; correct it or drop the annotation"
        )
    try:
        check_polygons(segmentation, least=0)
    except ValueError as error:
        raise ValueError(f"segmentation: {error}") from None
    polygons = [polygon for polygon in segmentation if len(polygon) >= 6]
    if polygons:
        return polygons, False
    corners = _corners_of(annotation.get("bbox"))
    return None if corners is None else ([corners], True)


def _corners_of(box: Any) -> list[float] | None:
    """Those of COCO's [x, y, width, height]; None if it is no box, or has no area."""
    try:
        x, y, width, height = (float(value) for value in box)
    except (TypeError, ValueError):
        return None
    if not (np.isfinite([x, y, width, height]).all() and min(width, height) > 0):
        return None
    return [x, y, x + width, y, x + width, y + height, x, y + height]


# --- the masks of one image -------------------------------------------------------------------


class IdMapMasks:
    """Masks that do not overlap: mask i is where `id_map` equals `ids[i]`."""

    def __init__(self, id_map: Int[np.ndarray, "H W"], ids: Sequence[int]) -> None:
        self._id_map = id_map
        self._ids = np.asarray(ids, np.int64).reshape(-1)
        assert len(np.unique(self._ids)) == len(self._ids), "an id stands twice in the list"

    def __len__(self) -> int:
        return len(self._ids)

    @property
    def size(self) -> tuple[int, int]:
        height, width = self._id_map.shape
        return height, width

    def places(self) -> Int32[np.ndarray, "H W"]:
        """The index of the mask that each pixel belongs to; -1 where it belongs to none."""
        return places_of(self._id_map, self._ids, missing=-1)

    def render(self, box: Box, size: tuple[int, int]) -> Bool[np.ndarray, "N h w"]:
        """See `Masks.render` in structures.py; nearest neighbour."""
        out = np.zeros((len(self), *size), bool)  # the system hands out zeroed pages on demand
        (to_y, from_y), (to_x, from_x) = _nearest(box, size, self.size)
        crop = self._id_map[from_y][:, from_x].ravel()
        if not len(self) or not len(crop):
            return out
        order = np.argsort(self._ids)
        ids = self._ids[order].astype(crop.dtype)
        place = np.minimum(np.searchsorted(ids, crop), len(ids) - 1)
        hits = np.flatnonzero(ids[place] == crop)
        pixels = (to_y[:, None] * size[1] + to_x).ravel()[hits]
        out.reshape(-1)[order[place[hits]] * (size[0] * size[1]) + pixels] = True
        return out


class EncodedMasks:
    """Masks that may overlap, each a run-length encoding or a list of polygons."""

    def __init__(
        self,
        size: tuple[int, int],
        masks: Sequence[Rle | Polygons],
        names: Sequence[str] | None = None,
    ) -> None:
        """Check the masks of an image of `size` (H, W).

        Raises ValueError for a malformed one, called by its entry in `names` or by its index.
        """
        self._size = size
        self._masks: list[tuple[Box, Polygons | Int[np.ndarray, "R"]]] = []
        for index, mask in enumerate(masks):
            try:
                self._masks.append(_parse(mask, size))
            except ValueError as error:
                name = f"mask {index}" if names is None else names[index]
                raise ValueError(f"{name}: {error}") from None

    def __len__(self) -> int:
        return len(self._masks)

    @property
    def size(self) -> tuple[int, int]:
        return self._size

    def render(self, box: Box, size: tuple[int, int]) -> Bool[np.ndarray, "N h w"]:
        """See `Masks.render` in structures.py; polygons are drawn at the output's resolution."""
        out = np.zeros((len(self), *size), bool)
        (to_y, from_y), (to_x, from_x) = _nearest(box, size, self._size)
        if not len(to_y) or not len(to_x):
            return out
        frame = slice(to_y[0], to_y[-1] + 1), slice(to_x[0], to_x[-1] + 1)
        for canvas, ((x0, y0, x1, y1), mask) in zip(out, self._masks, strict=True):
            if x0 >= box[2] or x1 <= box[0] or y0 >= box[3] or y1 <= box[1]:
                continue
            if not isinstance(mask, np.ndarray):
                canvas[frame] = rasterize_polygons(mask, box, size)[frame]
                continue
            left, right = np.searchsorted(from_x, (x0, x1))
            top, bottom = np.searchsorted(from_y, (y0, y1))
            if left == right or top == bottom:
                continue
            first = int(from_x[left])
            columns = _decode_columns(mask, self._size[0], first, int(from_x[right - 1]) + 1)
            part = columns[from_y[top:bottom, None], from_x[left:right] - first]
            canvas[to_y[top] : to_y[bottom - 1] + 1, to_x[left] : to_x[right - 1] + 1] = part
        return out


def _parse(
    mask: Rle | Polygons, size: tuple[int, int]
) -> tuple[Box, Polygons | Int[np.ndarray, "R"]]:
    """The box of a mask, with its polygons or its counts."""
    if isinstance(mask, Mapping):
        rle_size, counts = _read_rle(mask)
        if rle_size != size:
            raise ValueError(
                f"run-length encoding: its size {list(rle_size)} is not the image's"
                f" {list(size)}; encode the mask at the image's size"
            )
        return _box_of_counts(counts, size[0]), counts
    check_polygons(mask)
    if not len(mask):
        return (0.0, 0.0, 0.0, 0.0), mask
    points = np.concatenate(mask).reshape(-1, 2)
    (x0, y0), (x1, y1) = points.min(axis=0), points.max(axis=0)
    return (float(x0), float(y0), float(x1), float(y1)), mask


def _nearest(
    box: Box, size: tuple[int, int], image_size: tuple[int, int]
) -> tuple[tuple[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]:
    """For rows and for columns: output indices that fall inside the image, and their sources."""

    def axis(low: float, high: float, count: int, limit: int) -> tuple[np.ndarray, np.ndarray]:
        source = np.floor(low + (np.arange(count) + 0.5) * ((high - low) / count)).astype(np.int64)
        inside = np.flatnonzero((source >= 0) & (source < limit))
        return inside, source[inside]

    x0, y0, x1, y1 = box
    return axis(y0, y1, size[0], image_size[0]), axis(x0, x1, size[1], image_size[1])
