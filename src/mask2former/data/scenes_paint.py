"""What the things and grounds of a drawn scene look like: textures, light, shadow, noise."""

from __future__ import annotations

import colorsys
import math
from collections.abc import Callable

import cv2
import numpy as np
from jaxtyping import Float32, UInt8

from mask2former.data.scenes_layout import STUFF, THINGS, Ground, Thing, value_noise

_MARGIN = 16  # pixels around a thing and around the canvas: room for blur and shadow


def _rgb(hue: float, saturation: float, value: float) -> Float32[np.ndarray, "3"]:
    """0..1 each; the hue in degrees."""
    return np.array(colorsys.hsv_to_rgb(hue / 360 % 1, saturation, value), dtype=np.float32)


def _mix(low: np.ndarray, high: np.ndarray, amount: np.ndarray) -> Float32[np.ndarray, "H W 3"]:
    """From colour `low` where the amount is 0 to `high` where it is 1."""
    return np.asarray(cv2.merge([a + amount * (b - a) for a, b in zip(low, high, strict=True)]))


def _rgb_of(gray: Float32[np.ndarray, "H W"]) -> Float32[np.ndarray, "H W 3"]:
    """Three channels alike: contiguous, and so four times faster than a broadcast one."""
    return np.asarray(cv2.merge([gray] * 3))


def _blend(below: np.ndarray, above: np.ndarray, coverage: np.ndarray) -> None:
    """Lay `above` over `below`, in place: large temporaries cost more than the arithmetic."""
    above -= below
    above *= _rgb_of(coverage)
    below += above


def _sky(rng: np.random.Generator, size: int) -> Float32[np.ndarray, "H W 3"]:
    dusk = rng.random() < 0.25
    hue = rng.uniform(315, 360) if dusk else rng.uniform(195, 225)
    high, low = _rgb(hue, rng.uniform(0.35, 0.6), 0.82), _rgb(hue, rng.uniform(0.12, 0.25), 0.97)
    height = np.linspace(0, 1.4, size, dtype=np.float32)[:, None].clip(0, 1)
    clouds = 0.6 * value_noise(rng, size, 7, 3) + 0.4 * value_noise(rng, size, 16, 8)
    clouds = np.clip((clouds - rng.uniform(0.45, 0.6)) * 3, 0, 0.85)
    clear = [a + height * (b - a) for a, b in zip(high, low, strict=True)]
    return np.asarray(cv2.merge([channel + clouds * (0.97 - channel) for channel in clear]))


def _water(rng: np.random.Generator, size: int) -> Float32[np.ndarray, "H W 3"]:
    hue = rng.uniform(170, 222)
    waves = 0.5 * value_noise(rng, size, size // 5, 9) + 0.5 * value_noise(rng, size, size // 9, 5)
    deep, crest = _rgb(hue, 0.75, rng.uniform(0.28, 0.42)), _rgb(hue - 8, 0.42, 0.85)
    return _mix(deep, crest, np.clip((waves - 0.2) * 1.3, 0, 1) ** 2)


def _grass(rng: np.random.Generator, size: int) -> Float32[np.ndarray, "H W 3"]:
    hue = rng.uniform(72, 128)
    blades = (
        value_noise(rng, size, size // 9, size // 2) * 0.65 + value_noise(rng, size, 9, 9) * 0.35
    )
    dark, bright = _rgb(hue + 12, 0.75, 0.24), _rgb(hue - 10, 0.62, rng.uniform(0.62, 0.8))
    return _mix(dark, bright, blades)


def _sand(rng: np.random.Generator, size: int) -> Float32[np.ndarray, "H W 3"]:
    hue = rng.uniform(30, 46)
    x = np.arange(size, dtype=np.float32)
    warp = value_noise(rng, size, 6, 6) * 30
    period = rng.uniform(9, 16)
    ripples = 0.5 + 0.5 * np.sin(
        (x[:, None] + rng.uniform(-0.4, 0.4) * x + warp) * 2 * np.pi / period
    )
    grain = rng.random((size, size), dtype=np.float32)
    dark, bright = _rgb(hue - 5, 0.48, rng.uniform(0.6, 0.7)), _rgb(hue, 0.3, 0.96)
    return _mix(dark, bright, 0.25 * ripples + 0.35 * grain + 0.4 * value_noise(rng, size, 5, 5))


def _rock(rng: np.random.Generator, size: int) -> Float32[np.ndarray, "H W 3"]:
    hue, saturation = rng.uniform(0, 360), rng.uniform(0.03, 0.14)
    facets = 3.5 * value_noise(rng, size, 14, 9) + 0.8 * value_noise(rng, size, 50, 40)
    steps = np.floor(facets)
    # A facet darkens toward the next one, as if it leaned over.
    stone = 0.45 * (facets - steps) + 0.2 * (steps % 2) + 0.35 * value_noise(rng, size, 64, 64)
    dark, bright = _rgb(hue, saturation, 0.2), _rgb(hue, saturation, rng.uniform(0.6, 0.75))
    return _mix(dark, bright, stone)


_TEXTURES: dict[str, Callable[[np.random.Generator, int], Float32[np.ndarray, "H W 3"]]] = {
    "sky": _sky,
    "water": _water,
    "grass": _grass,
    "sand": _sand,
    "rock": _rock,
}


def _add_margin(image: np.ndarray) -> np.ndarray:
    sides = (_MARGIN, _MARGIN, _MARGIN, _MARGIN)
    return np.asarray(cv2.copyMakeBorder(image, *sides, cv2.BORDER_CONSTANT))


def paint(
    rng: np.random.Generator, size: int, grounds: list[Ground], things: list[Thing]
) -> UInt8[np.ndarray, "H W 3"]:
    """An RGB picture of a scene."""
    canvas = np.zeros((size, size, 3), dtype=np.float32)
    for ground in grounds:
        texture = _TEXTURES[STUFF[ground.label - len(THINGS)]](rng, size)
        _blend(canvas, texture, ground.coverage)
    canvas = _add_margin(canvas)
    light = rng.uniform(0, 2 * np.pi)
    for thing in things:
        _paint_thing(rng, canvas, thing, light)
    return _photograph(rng, canvas[_MARGIN:-_MARGIN, _MARGIN:-_MARGIN])


def _paint_thing(
    rng: np.random.Generator, canvas: Float32[np.ndarray, "H W 3"], thing: Thing, light: float
) -> None:
    """Lay a thing and its shadow on the canvas. Nothing here knows the thing's class."""
    coverage = _add_margin(thing.coverage)
    side = len(coverage)
    behind = canvas[thing.y : thing.y + side, thing.x : thing.x + side]
    x = (np.arange(side, dtype=np.float32) - (side - 1) / 2) * (2 / thing.size)
    y = x[:, None]
    light_x, light_y = math.cos(light), math.sin(light)
    lit = x * light_x + y * light_y  # -1 .. 1 across the thing
    gloss = np.exp(-5 * (x - 0.35 * light_x) ** 2) * np.exp(-5 * (y - 0.35 * light_y) ** 2)

    width = int(max(3, min(0.2 * thing.size, 17))) | 1
    soft = cv2.blur(coverage, (width, width))
    # Toward its edge a thing darkens, and so does the ground beside it, away from the light.
    brightness = _surface(rng, x, y, thing.size) * (1 + rng.uniform(0.1, 0.3) * lit)
    brightness *= 1 - 0.55 * np.clip(1 - soft, 0, 0.6)
    color = _contrasting_color(rng, behind[coverage > 0.5])
    gloss *= rng.uniform(0, 0.3)
    surface = np.asarray(cv2.merge([brightness * channel + gloss for channel in color]))

    distance = max(1.0, min(0.06 * thing.size, 5.0))
    away = (-round(light_y * distance), -round(light_x * distance))
    behind *= _rgb_of(1 - rng.uniform(0.3, 0.5) * np.roll(soft, away, axis=(0, 1)))
    _blend(behind, surface, coverage)


def _contrasting_color(
    rng: np.random.Generator, behind: Float32[np.ndarray, "P 3"]
) -> Float32[np.ndarray, "3"]:
    """The first of eight random colours that stands out from `behind`, else the one that does most.

    Always eight, so that what is drawn next does not depend on rounding.
    """
    draws = rng.uniform((0, 0.2, 0.3), (360, 1, 1), size=(8, 3)).tolist()
    candidates = np.stack([_rgb(*draw) for draw in draws])
    pixels = behind[:: max(1, len(behind) // 96)]
    distances = np.linalg.norm(candidates[:, None] - pixels[None], axis=2)
    near = np.sort(distances, axis=1)[:, len(pixels) // 16]
    contrast = np.minimum(near, 0.45)
    return np.asarray(candidates[np.argmax(contrast)])


def _surface(
    rng: np.random.Generator, x: np.ndarray, y: np.ndarray, size: float
) -> Float32[np.ndarray, "h w"]:
    """A pattern's brightness, about 1: plain, stripes, spots or mottles."""
    kind = rng.integers(4)
    angle, strength = rng.uniform(0, np.pi), rng.uniform(0.1, 0.25)
    waves = min(rng.uniform(1.5, 4.0), size / 8) * np.pi  # nothing finer than eight pixels
    side = x.size
    along = (x * math.cos(angle) + y * math.sin(angle)) * waves
    across = (y * math.cos(angle) - x * math.sin(angle)) * waves
    if kind == 1:
        return np.asarray(1 + strength * np.sign(np.sin(along)), dtype=np.float32)
    if kind == 2:
        spots = np.clip(np.sin(along) * np.sin(across) * 4 - 1, -1, 1)
        return np.asarray(1 + strength * spots, dtype=np.float32)
    if kind == 3:
        cells = max(2, side // 6)
        return 1 + 2 * strength * (value_noise(rng, side, cells, cells) - 0.5)
    return np.ones((side, side), dtype=np.float32)


def _photograph(
    rng: np.random.Generator, image: Float32[np.ndarray, "H W 3"]
) -> UInt8[np.ndarray, "H W 3"]:
    """Uneven light, tint, contrast, blur and noise."""
    size = len(image)
    light = rng.uniform(0.9, 1.15) + rng.uniform(0.1, 0.5) * (value_noise(rng, size, 2, 2) - 0.5)
    contrast = rng.uniform(0.85, 1.1)
    light *= contrast
    image *= cv2.merge([light * rng.uniform(0.94, 1.06) for _ in range(3)])
    image = np.asarray(cv2.GaussianBlur(image, (5, 5), rng.uniform(0.3, 0.8)), np.float32)
    image += 0.5 * (1 - contrast)  # about mid-grey
    # The difference of two bytes is near enough to normal and far cheaper; its deviation is 104.5.
    first, second = rng.integers(0, 256, (2, *image.shape), dtype=np.uint8)
    image += (rng.uniform(0.005, 0.035) / 104.5) * cv2.subtract(first, second, dtype=cv2.CV_32F)
    image *= 255
    return np.asarray(np.clip(image, 0, 255, out=image).round(out=image), dtype=np.uint8)
