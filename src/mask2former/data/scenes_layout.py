"""Where the things and grounds of a drawn scene are: how much of each pixel each one covers."""

from __future__ import annotations

import math
from dataclasses import dataclass

import cv2
import numpy as np
from jaxtyping import Bool, Float32, Int32

THINGS = ("disc", "square", "triangle", "star", "ring", "cross")
STUFF = ("sky", "water", "grass", "sand", "rock")

_SUPERSAMPLING = 4


@dataclass(frozen=True, kw_only=True)
class ScenesConfig:
    """What is drawn. Lengths are in pixels."""

    size: int = 256  # of the square picture
    min_things: int = 3
    max_things: int = 14
    min_size: float = 6.0  # a thing's longer side, log-uniform between the two
    max_size: float = 120.0
    overlap: float = 0.5  # share of the things that try to be laid partly over another
    min_visible: float = 0.45  # share of its mask that a covered thing keeps
    min_visible_area: int = 16  # pixels that a covered thing keeps

    def __post_init__(self) -> None:
        if not 1 <= self.min_things <= self.max_things:
            raise ValueError(
                f"ScenesConfig: min_things={self.min_things} and max_things={self.max_things}; "
                "choose 1 <= min_things <= max_things"
            )
        if not 4 <= self.min_size <= self.max_size <= self.size / 2:
            raise ValueError(
                f"ScenesConfig: min_size={self.min_size}, max_size={self.max_size}, "
                f"size={self.size}; choose 4 <= min_size <= max_size <= size / 2"
            )


@dataclass(frozen=True)
class Ground:
    """A stuff region, laid over the grounds before it."""

    label: int
    coverage: Float32[np.ndarray, "H W"]  # 0..1


@dataclass(frozen=True)
class Thing:
    """A thing, laid over the things before it."""

    label: int
    size: float  # its longer side
    x: int  # left of its box
    y: int
    coverage: Float32[np.ndarray, "h w"]  # 0..1, in the box

    @property
    def box(self) -> tuple[slice, slice]:
        """Its rows and columns in the image."""
        height, width = self.coverage.shape
        return slice(self.y, self.y + height), slice(self.x, self.x + width)

    @property
    def mask(self) -> Bool[np.ndarray, "h w"]:
        """All of it, seen or hidden, in the box."""
        return self.coverage > 0.5


def draw_grounds(rng: np.random.Generator, config: ScenesConfig) -> list[Ground]:
    """Three or four stuff regions from top to bottom, the sky, if any, first."""
    size = config.size
    names = [STUFF[index] for index in rng.permutation(len(STUFF))[: rng.integers(3, 5)]]
    names.sort(key=lambda name: name != "sky")
    heights = rng.uniform(0.7, 1.3, len(names))
    tops = np.cumsum(heights / heights.sum()) - heights / heights.sum()
    x = np.arange(size, dtype=np.float32) / size - 0.5
    y = x[:, None]

    grounds = [Ground(len(THINGS) + STUFF.index(names[0]), np.ones((size, size), dtype=np.float32))]
    for index, name in enumerate(names[1:], start=1):
        steepest = 0.15 if index == 1 else 0.5  # the horizon is nearly level
        angle = rng.uniform(-steepest, steepest)
        distance = math.cos(angle) * (y + 0.5 - float(tops[index])) + math.sin(angle) * x
        distance += 0.11 * (value_noise(rng, size, 4, 4) - 0.5)
        rough = 0.05 if name in ("rock", "grass") else 0.02
        distance += rough * (value_noise(rng, size, 18, 18) - 0.5)
        coverage = np.clip(distance * size + 0.5, 0, 1)
        grounds.append(Ground(len(THINGS) + STUFF.index(name), coverage))
    return grounds


def place_things(rng: np.random.Generator, config: ScenesConfig) -> list[Thing]:
    """Things from back to front, wholly inside the image, none of them covered beyond fairness.

    A thing that finds no fair place is left out.
    """
    owner = np.zeros((config.size, config.size), dtype=np.int64)  # 0 is nothing, i + 1 is thing i
    things: list[Thing] = []
    areas = visible = np.zeros(0, dtype=np.int64)
    for _ in range(rng.integers(config.min_things, config.max_things + 1)):
        label = int(rng.integers(len(THINGS)))
        size = float(np.exp(rng.uniform(np.log(config.min_size), np.log(config.max_size))))
        coverage = draw_shape(rng, THINGS[label], size)
        mask = coverage > 0.5
        least = np.maximum(config.min_visible_area, config.min_visible * areas)
        tries_to_cover = 20 if things and rng.random() < config.overlap else 0
        for attempt in range(100):
            cover = attempt < tries_to_cover
            x, y = _propose(rng, config.size, size, things if cover else [])
            thing = Thing(label, size, x, y, coverage)
            below = owner[thing.box]
            hidden = np.bincount(below[mask], minlength=len(things) + 1)[1:]
            is_fair = not np.any((hidden > 0) & (visible - hidden < least))
            if is_fair and (not cover or np.any(hidden > 0.1 * areas)):
                things.append(thing)
                below[mask] = len(things)
                areas = np.append(areas, mask.sum())
                visible = np.append(visible - hidden, mask.sum())
                break
    return things


def _propose(
    rng: np.random.Generator, image_size: int, size: float, neighbours: list[Thing]
) -> tuple[int, int]:
    """A place (left, top) for a thing: near one of `neighbours`, or anywhere if there are none."""
    room = image_size - math.ceil(size)
    if not neighbours:
        return int(rng.integers(room)), int(rng.integers(room))
    other = neighbours[rng.integers(len(neighbours))]
    angle, reach = rng.uniform(0, 2 * np.pi), rng.uniform(0.3, 0.85) * (size + other.size) / 2
    shift = (other.size - size) / 2
    x = other.x + shift + reach * math.cos(angle)
    y = other.y + shift + reach * math.sin(angle)
    return min(max(round(x), 0), room - 1), min(max(round(y), 0), room - 1)


def draw_shape(rng: np.random.Generator, name: str, size: float) -> Float32[np.ndarray, "h w"]:
    """How much of each pixel a shape covers, 0..1; `size` is its longer side in pixels."""
    contours = _outlines(rng, name)
    aspect, tilt, turn = rng.uniform(0.78, 1.0), *rng.uniform(0, 2 * np.pi, 2)
    # Turned twice, so that the direction of the squeeze is independent of the shape's own axes.
    squeeze = _rotation(tilt) @ np.diag([1.0, aspect]) @ _rotation(turn - tilt)
    contours = [points @ squeeze.T for points in contours]
    corner, extent = contours[0].min(axis=0), np.ptp(contours[0], axis=0).max()
    offset = rng.uniform(0, 1, 2)  # no shape is aligned with the grid
    side = math.ceil(size) + 1
    fine = np.zeros((side * _SUPERSAMPLING,) * 2, dtype=np.uint8)
    polygons = []
    for points in contours:
        pixels = (points - corner) * (size / extent) + offset
        # Sixteenths of a fine pixel, whose centre has the whole number.
        polygons.append(np.round((pixels * _SUPERSAMPLING - 0.5) * 16).astype(np.int32))
    cv2.fillPoly(fine, polygons, 255, shift=4)
    coarse = cv2.resize(fine, (side, side), interpolation=cv2.INTER_AREA)
    return np.asarray(coarse, dtype=np.float32) / 255


def _outlines(rng: np.random.Generator, name: str) -> list[np.ndarray]:
    """Closed contours, slightly irregular, about the origin; a second one is a hole."""
    if name in ("disc", "ring"):
        turns = np.linspace(0, 2 * np.pi, 48, endpoint=False)
        amounts, phases = rng.uniform(0, 0.025, 2), rng.uniform(0, 2 * np.pi, 2)
        radius = 1 + sum(
            amount * np.cos(waves * turns + phase)
            for waves, amount, phase in zip((2, 3), amounts, phases, strict=True)
        )
        circle = np.stack([np.cos(turns), np.sin(turns)], axis=1) * radius[:, None]
        return [circle] if name == "disc" else [circle, circle * rng.uniform(0.48, 0.6)]
    if name == "cross":
        w = rng.uniform(0.28, 0.4)
        corners = [(w, w), (w, 1), (-w, 1), (-w, w), (-1, w), (-1, -w)]
        points = np.array(corners + [(-x, -y) for x, y in corners])
    elif name == "star":
        turns = np.linspace(0, 2 * np.pi, 10, endpoint=False)
        radius = np.where(np.arange(10) % 2, rng.uniform(0.4, 0.5), 1.0)
        points = np.stack([np.cos(turns), np.sin(turns)], axis=1) * radius[:, None]
    else:
        turns = np.linspace(0, 2 * np.pi, 3 if name == "triangle" else 4, endpoint=False)
        points = np.stack([np.cos(turns), np.sin(turns)], axis=1)
    return [points + rng.uniform(-0.05, 0.05, points.shape)]


def _rotation(angle: float) -> np.ndarray:
    return np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])


def draw_id_map(size: int, grounds: list[Ground], things: list[Thing]) -> Int32[np.ndarray, "H W"]:
    """The id of what is seen at each pixel: grounds, then things, counted from 1."""
    ids = np.zeros((size, size), dtype=np.int32)
    for number, ground in enumerate(grounds, start=1):
        ids[ground.coverage > 0.5] = number
    for number, thing in enumerate(things, start=1 + len(grounds)):
        ids[thing.box][thing.mask] = number
    return ids


def value_noise(
    rng: np.random.Generator, size: int, rows: int, columns: int
) -> Float32[np.ndarray, "H W"]:
    """Smooth value noise, about 0..1."""
    grid = rng.random((rows + 1, columns + 1), dtype=np.float32)
    # Smooth at a quarter of the size first: ten times faster, and no eye sees the difference.
    middle = (max(columns + 1, size // 4), max(rows + 1, size // 4))
    smooth = cv2.resize(grid, middle, interpolation=cv2.INTER_CUBIC)
    return np.asarray(cv2.resize(smooth, (size, size)))
