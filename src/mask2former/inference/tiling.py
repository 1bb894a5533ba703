"""One result from the results of overlapping tiles: images of any size in bounded memory.

Neighbouring tiles share a strip. Each pixel is answered by the tile whose middle is nearer (its
*core*), so no pixel comes from a tile's border. What two tiles call the same in the strip that they
share, by class and by more than half of its area there, is one object and is joined; an object that
lies in the strip whole is therefore found twice and counted once.
"""

from __future__ import annotations

import mmap
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
import torch
from jaxtyping import Bool, Int

from mask2former.structures import (
    Category,
    LargeSegmentation,
    Panoptic,
    Region,
    Segment,
    Segmentation,
    Semantic,
    Task,
)

IN_MEMORY = 1 << 26  # pixels; maps that are larger lie in a temporary file
SAME = 0.5  # of their union in the strip that two tiles share: above it, two masks are one object
BLOCK = 1 << 24  # pixels that are looked at together at the end


@dataclass(frozen=True, kw_only=True)
class Tiling:
    """How an image is cut up; both in pixels of the image."""

    size: int  # of a tile's sides
    overlap: int  # at least so much is shared; best a little more than the objects measure

    def __post_init__(self) -> None:
        if self.size < 32 or not 0 <= self.overlap <= self.size // 2:
            raise ValueError(
                f"tiles of {self.size} pixels that overlap by {self.overlap}: choose at least 32,"
                " and an overlap of at most half a tile"
            )


@dataclass(frozen=True)
class Tile:
    """Rows and columns of the image, and of the core within it."""

    rows: slice
    columns: slice
    core_rows: slice
    core_columns: slice

    @property
    def inner(self) -> tuple[slice, slice]:
        """The core, counted from the tile's own corner."""
        y, x = self.rows.start, self.columns.start
        return (
            slice(self.core_rows.start - y, self.core_rows.stop - y),
            slice(self.core_columns.start - x, self.core_columns.stop - x),
        )

    def shared_with(self, other: Tile) -> tuple[slice, slice] | None:
        """Rows and columns of the image that both tiles hold."""
        top, bottom = max(self.rows.start, other.rows.start), min(self.rows.stop, other.rows.stop)
        left = max(self.columns.start, other.columns.start)
        right = min(self.columns.stop, other.columns.stop)
        return (slice(top, bottom), slice(left, right)) if top < bottom and left < right else None

    def at(self, place: tuple[slice, slice]) -> tuple[slice, slice]:
        """A place of the image, counted from the tile's own corner."""
        y, x = self.rows.start, self.columns.start
        rows, columns = place
        return slice(rows.start - y, rows.stop - y), slice(columns.start - x, columns.stop - x)


def tiles_of(height: int, width: int, tiling: Tiling) -> Iterator[Tile]:
    """The tiles of an image, row by row; all of one size but where the image is smaller."""
    for rows, core_rows in _spans(height, tiling):
        for columns, core_columns in _spans(width, tiling):
            yield Tile(rows, columns, core_rows, core_columns)


def _spans(length: int, tiling: Tiling) -> list[tuple[slice, slice]]:
    """Tiles and their cores along one axis, evenly spread."""
    size = min(tiling.size, length)
    step = max(size - tiling.overlap, 1)
    count = 1 + max(0, -(-(length - size) // step))
    starts = [round(i * (length - size) / max(count - 1, 1)) for i in range(count)]
    cuts = [0, *((b + a + size) // 2 for a, b in pairwise(starts)), length]
    return [
        (slice(start, start + size), slice(cuts[i], cuts[i + 1])) for i, start in enumerate(starts)
    ]


# --- joining --------------------------------------------------------------------------------------


@dataclass
class _Piece:
    """What one tile found of an object."""

    label: int
    score: float
    total: int  # pixels in the tile
    own: int  # of them in its core
    region: Region | None = None  # of instances: the mask


class _Joined:
    """Pieces that are one object: a forest, as in union-find."""

    def __init__(self) -> None:
        self.pieces: list[_Piece] = []
        self.parents: list[int] = []

    def add(self, piece: _Piece) -> int:
        self.pieces.append(piece)
        self.parents.append(len(self.parents))
        return len(self.parents) - 1

    def root(self, i: int) -> int:
        while self.parents[i] != i:
            self.parents[i] = self.parents[self.parents[i]]
            i = self.parents[i]
        return i

    def join(self, a: int, b: int) -> None:
        a, b = sorted((self.root(a), self.root(b)))
        self.parents[b] = a

    def groups(self) -> dict[int, list[int]]:
        """By root. A lone piece that lies mostly in another tile's core is none: the tile that sees
        it best does not."""
        found: dict[int, list[int]] = {}
        for i in range(len(self.pieces)):
            found.setdefault(self.root(i), []).append(i)
        return {
            root: members
            for root, members in found.items()
            if len(members) > 1 or 2 * self.pieces[root].own >= self.pieces[root].total
        }


@dataclass
class _Seen:
    """A tile's answer as far as later tiles need it."""

    tile: Tile
    ids: Int[np.ndarray, "h w"] | None  # panoptic, local
    segments: dict[int, int]  # local id -> piece
    instances: list[int]  # pieces


@dataclass(frozen=True)
class _Part:
    """A part of a mask, and where it lies in the image."""

    left: int
    top: int
    right: int
    bottom: int
    mask: Bool[np.ndarray, "h w"]
    area: int


def _iou(a: _Part, b: _Part) -> float:
    top, bottom = max(a.top, b.top), min(a.bottom, b.bottom)
    left, right = max(a.left, b.left), min(a.right, b.right)
    if top >= bottom or left >= right:
        return 0.0
    own = a.mask[top - a.top : bottom - a.top, left - a.left : right - a.left]
    other = b.mask[top - b.top : bottom - b.top, left - b.left : right - b.left]
    both = int((own & other).sum())
    return both / max(a.area + b.area - both, 1)


class Mosaic:
    """Takes the tiles' results in the order of `tiles_of`; `result` is that of the whole image."""

    def __init__(
        self,
        size: tuple[int, int],
        categories: tuple[Category, ...],
        tasks: tuple[Task, ...],
        *,
        min_score: float,
    ) -> None:
        """`min_score` is the least of the instances that are kept."""
        self.size, self.categories, self.min_score = size, categories, min_score
        self.tasks = tasks
        self.ids = _map(size, np.dtype(np.int32)) if "panoptic" in tasks else None
        self.labels = _map(size, np.dtype(np.int16)) if "semantic" in tasks else None
        self.segments, self.instances = _Joined(), _Joined()
        self.stuff: dict[int, int] = {}  # label -> piece
        self.seen: list[_Seen] = []  # the tiles that later ones may touch

    def add(self, tile: Tile, result: Segmentation) -> None:
        """Add a tile's result."""
        now = _Seen(tile, None, {}, [])
        core = tile.core_rows, tile.core_columns
        if self.labels is not None:
            assert result.semantic is not None
            self.labels[core] = result.semantic.labels.numpy()[tile.inner]
        if self.ids is not None:
            assert result.panoptic is not None
            now.ids = result.panoptic.ids.numpy().astype(np.uint16)  # no tile has more segments
            now.segments = self._pieces_of(result.panoptic, now.ids, tile)
            table = np.zeros(max([0, *now.segments]) + 1, np.int32)
            for local, piece in now.segments.items():
                table[local] = piece + 1
            self.ids[core] = table[now.ids[tile.inner]]
        if "instance" in self.tasks:
            self._take_instances(now, result, tile)
        if tile.columns.start == 0:  # a new row: what lies above is written once more at the end
            release(self.ids)
            release(self.labels)
        self.seen = [old for old in self.seen if old.tile.rows.stop > tile.rows.start]
        for old in self.seen:
            shared = tile.shared_with(old.tile)
            if shared is not None:
                self._join_segments(old, now, shared)
                self._join_instances(old, now, shared)
        self.seen.append(now)

    def _pieces_of(
        self, panoptic: Panoptic, ids: Int[np.ndarray, "h w"], tile: Tile
    ) -> dict[int, int]:
        """A piece for every segment of a tile; stuff is one piece a class for the whole image."""
        count = max([0, *(segment.id for segment in panoptic.segments)]) + 1
        totals = np.bincount(ids.ravel(), minlength=count)
        owned = np.bincount(ids[tile.inner].ravel(), minlength=count)
        found = {}
        for segment in panoptic.segments:
            total, own = int(totals[segment.id]), int(owned[segment.id])
            if segment.category.is_thing or segment.label not in self.stuff:
                # Stuff is kept wherever it is: its piece counts as its tile's own.
                own = own if segment.category.is_thing else total
                piece = self.segments.add(_Piece(segment.label, segment.score, total, own))
                if not segment.category.is_thing:
                    self.stuff[segment.label] = piece
                found[segment.id] = piece
            else:
                found[segment.id] = self.stuff[segment.label]
                known = self.segments.pieces[found[segment.id]]
                known.score = max(known.score, segment.score)
        return found

    def _take_instances(self, now: _Seen, result: Segmentation, tile: Tile) -> None:
        assert result.instances is not None
        y, x = tile.rows.start, tile.columns.start
        for found in result.instances.above(self.min_score).regions():
            x0, y0, x1, y1 = found.box
            own = np.zeros(found.mask.shape, bool)
            rows, columns = tile.inner
            own[max(rows.start - y0, 0) : max(rows.stop - y0, 0)][
                :, max(columns.start - x0, 0) : max(columns.stop - x0, 0)
            ] = True
            region = replace(found, mask=found.mask.copy(), box=(x + x0, y + y0, x + x1, y + y1))
            total, kept = int(found.mask.sum()), int((found.mask & own).sum())
            piece = _Piece(found.label, found.score, total, kept, region)
            now.instances.append(self.instances.add(piece))

    def _join_segments(self, old: _Seen, now: _Seen, shared: tuple[slice, slice]) -> None:
        if old.ids is None or now.ids is None:
            return
        a, b = old.ids[old.tile.at(shared)].ravel(), now.ids[now.tile.at(shared)].ravel()
        height, width = int(a.max()) + 1, int(b.max()) + 1
        both = np.bincount(a.astype(np.int64) * width + b, minlength=height * width)
        both = both.reshape(height, width)
        union = both.sum(1)[:, None] + both.sum(0)[None] - both
        pieces = self.segments.pieces
        for i, j in np.argwhere(both > SAME * np.maximum(union, 1)).tolist():
            if i in old.segments and j in now.segments:  # and not in 0, which is nothing
                first, second = old.segments[i], now.segments[j]
                if pieces[first].label == pieces[second].label:
                    self.segments.join(first, second)

    def _join_instances(self, old: _Seen, now: _Seen, shared: tuple[slice, slice]) -> None:
        first, second = (
            [(i, self._part(i, shared)) for i in seen.instances] for seen in (old, now)
        )
        for i, a in first:
            for j, b in second:
                if self.instances.pieces[i].label != self.instances.pieces[j].label:
                    continue
                if a is not None and b is not None and _iou(a, b) > SAME:
                    self.instances.join(i, j)

    def _part(self, piece: int, shared: tuple[slice, slice]) -> _Part | None:
        """What of an instance lies in a place of the image; None if nothing does."""
        region = self.instances.pieces[piece].region
        assert region is not None
        x0, y0, x1, y1 = region.box
        rows, columns = shared
        top, bottom = max(y0, rows.start), min(y1, rows.stop)
        left, right = max(x0, columns.start), min(x1, columns.stop)
        if top >= bottom or left >= right:
            return None
        mask = region.mask[top - y0 : bottom - y0, left - x0 : right - x0]
        return _Part(left, top, right, bottom, mask, int(mask.sum()))

    # --- the end ------------------------------------------------------------------------------

    def result(self, name: str) -> LargeSegmentation:
        return LargeSegmentation(
            size=self.size,
            name=name,
            regions=self._regions() if "instance" in self.tasks else None,
            panoptic=self._panoptic(),
            semantic=None
            if self.labels is None
            else Semantic(labels=torch.from_numpy(self.labels), categories=self.categories),
        )

    def _panoptic(self) -> Panoptic | None:
        if self.ids is None:
            return None
        pieces = self.segments.pieces
        table = np.zeros(len(pieces) + 1, np.int32)
        groups = self.segments.groups()
        for number, members in enumerate(groups.values(), start=1):
            table[[member + 1 for member in members]] = number
        areas = np.zeros(len(groups) + 1, np.int64)
        rows = max(1, BLOCK // self.size[1])
        for start in range(0, self.size[0], rows):
            block = table[self.ids[start : start + rows]]
            self.ids[start : start + rows] = block
            areas += np.bincount(block.ravel(), minlength=len(areas))
            release(self.ids)
        segments = []
        for number, (root, members) in enumerate(groups.items(), start=1):
            if areas[number]:
                label = pieces[root].label
                segment = Segment(
                    id=number,
                    label=label,
                    category=self.categories[label],
                    score=max(pieces[member].score for member in members),
                    area=int(areas[number]),
                )
                segments.append(segment)
        return Panoptic(
            ids=torch.from_numpy(self.ids), segments=tuple(segments), categories=self.categories
        )

    def _regions(self) -> tuple[Region, ...]:
        found = []
        for members in self.instances.groups().values():
            regions = []
            for member in members:
                region = self.instances.pieces[member].region
                assert region is not None
                regions.append(region)
            found.append(regions[0] if len(regions) == 1 else _united(regions))
        return tuple(sorted(found, key=lambda region: -region.score))


def _united(regions: list[Region]) -> Region:
    """One region of all; its score is the best of theirs."""
    boxes = np.array([region.box for region in regions])
    (x0, y0), (x1, y1) = boxes[:, :2].min(0).tolist(), boxes[:, 2:].max(0).tolist()
    mask = np.zeros((y1 - y0, x1 - x0), bool)
    for region in regions:
        left, top, right, bottom = region.box
        mask[top - y0 : bottom - y0, left - x0 : right - x0] |= region.mask
    best = max(regions, key=lambda region: region.score)
    return replace(best, mask=mask, box=(x0, y0, x1, y1))


def _map(size: tuple[int, int], dtype: np.dtype) -> np.ndarray:
    """Zeros; a large map lies in a file without a name, which is gone when nothing holds it."""
    if size[0] * size[1] <= IN_MEMORY:
        return np.zeros(size, dtype)
    return np.memmap(tempfile.TemporaryFile(), dtype, "w+", shape=size)


def release(mapped: np.ndarray | None) -> None:
    """Let the system take the memory of a mapped file's pages; the file keeps what was written."""
    pages = getattr(mapped, "base", None)
    if isinstance(pages, mmap.mmap) and hasattr(mmap, "MADV_DONTNEED"):
        pages.madvise(mmap.MADV_DONTNEED)
