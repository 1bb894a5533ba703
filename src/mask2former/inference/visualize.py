"""Pictures of results: translucent fills, smooth outlines, names where a segment is widest."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import cv2
import numpy as np
from jaxtyping import Bool, Float, UInt8
from PIL import Image, ImageDraw, ImageFont
from scipy import ndimage

from mask2former.structures import (
    Category,
    Instances,
    LargeSegmentation,
    Panoptic,
    Region,
    Segmentation,
    Semantic,
)

Picture = UInt8[np.ndarray, "H W 3"]  # RGB
Color = tuple[float, ...]  # RGB, 0..255
_LUMA = np.array([0.299, 0.587, 0.114], np.float32)


def overlay(
    image: Picture, segmentation: Segmentation | LargeSegmentation, *, min_score: float = 0.5
) -> Picture:
    """The richest result there is over the image: panoptic, else instances, else semantic."""
    if segmentation.panoptic is not None:
        return draw_panoptic(image, segmentation.panoptic)
    if isinstance(segmentation, LargeSegmentation):
        if segmentation.regions is not None:
            return draw_regions(image, segmentation.regions, min_score=min_score)
    elif segmentation.instances is not None:
        return draw_instances(image, segmentation.instances, min_score=min_score)
    if segmentation.semantic is not None:
        return draw_semantic(image, segmentation.semantic)
    return image.copy()


def draw_panoptic(image: Picture, result: Panoptic, *, names: bool = True) -> Picture:
    """Every segment over the image. Things of one class differ in colour, stuff has its class's."""
    ids = result.ids.cpu().numpy()
    _check_size(image, ids.shape)
    boxes = ndimage.find_objects(ids)
    regions = []
    for segment in result.segments:
        if segment.id <= len(boxes) and (box := boxes[segment.id - 1]) is not None:
            mask = ids[box] == segment.id
            regions.append(_Region.of(segment.category, mask, box[0].start, box[1].start))
    return _paint(image, regions, names=names)


def draw_instances(
    image: Picture,
    result: Instances,
    *,
    min_score: float = 0.5,
    names: bool = True,
    scores: bool = True,
) -> Picture:
    """The instances of at least `min_score` over the image, named with their score in percent."""
    kept = result.above(min_score)
    _check_size(image, tuple(kept.masks.shape[1:]))
    return draw_regions(image, kept.regions(), min_score=min_score, names=names, scores=scores)


def draw_regions(
    image: Picture,
    result: Sequence[Region],
    *,
    min_score: float = 0.5,
    names: bool = True,
    scores: bool = True,
) -> Picture:
    """As `draw_instances`, for instances that keep to their boxes."""
    regions = []
    for instance in result:
        if instance.score < min_score:
            continue
        name = instance.category.name
        text = f"{name} {100 * instance.score:.0f}" if scores else name
        left, top = instance.box[:2]
        region = _Region.of(instance.category, instance.mask, top, left, text, thing=True)
        regions.append(region)
    return _paint(image, regions, names=names)


def draw_semantic(image: Picture, result: Semantic, *, names: bool = True) -> Picture:
    """Every class in its colour over the image, named where it is widest."""
    labels = result.labels.cpu().numpy().astype(np.int32)
    _check_size(image, labels.shape)
    regions = []
    for label, box in enumerate(ndimage.find_objects(labels + 1)):
        if box is not None:
            mask = labels[box] == label
            category = result.categories[label]
            region = _Region.of(category, mask, box[0].start, box[1].start, thing=False)
            regions.append(region)
    return _paint(image, regions, names=names)


def contact_sheet(
    rows: Sequence[Sequence[Picture]],
    columns: Sequence[str],
    *,
    titles: Sequence[str] = (),
    cell_width: int = 360,
) -> Picture:
    """Pictures side by side on white: a title above each column and, if given, under each row.

    Every picture is scaled to `cell_width` pixels; a row is as high as its highest picture.
    """
    if not rows or any(len(row) != len(columns) for row in rows):
        lengths = [len(row) for row in rows]
        raise ValueError(f"{len(columns)} column titles for rows of {lengths} pictures")
    if titles and len(titles) != len(rows):
        raise ValueError(f"{len(titles)} row titles for {len(rows)} rows")
    gap = max(6, cell_width // 40)
    font_size = max(12, cell_width // 20)
    width = len(columns) * (cell_width + gap) + gap
    bands = [_text_band(columns, cell_width, gap, font_size)]
    for index, row in enumerate(rows):
        cells = [_scaled(picture, cell_width) for picture in row]
        band = np.full((max(len(cell) for cell in cells) + gap, width, 3), 255, np.uint8)
        for column, cell in enumerate(cells):
            left = gap + column * (cell_width + gap)
            band[: len(cell), left : left + cell_width] = cell
        bands.append(band)
        if titles:
            bands.append(_text_band([titles[index]], width - 2 * gap, gap, font_size * 3 // 4))
    return np.concatenate(bands)


# --- painting -------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class _Region:
    """A mask, cropped to its box, with what is written on it."""

    mask: Bool[np.ndarray, "h w"]
    top: int
    left: int
    category: Category
    text: str
    thing: bool

    @staticmethod
    def of(
        category: Category,
        mask: Bool[np.ndarray, "h w"],
        top: int,
        left: int,
        text: str | None = None,
        thing: bool | None = None,
    ) -> _Region:
        return _Region(
            mask=mask,
            top=top,
            left=left,
            category=category,
            text=category.name if text is None else text,
            thing=category.is_thing if thing is None else thing,
        )

    @property
    def center(self) -> tuple[float, float]:
        return self.top + self.mask.shape[0] / 2, self.left + self.mask.shape[1] / 2


def _paint(image: Picture, regions: list[_Region], *, names: bool) -> Picture:
    # Small ones on top; what lies under a thing is painted before it.
    regions = sorted(regions, key=lambda region: (region.thing, -int(region.mask.sum())))
    colors = _choose_colors(regions)
    scale = float(np.sqrt(image.shape[0] * image.shape[1]))
    line = float(np.clip(scale / 500, 1.0, 3.5))
    canvas = image.astype(np.float32)
    for region, color in zip(regions, colors, strict=True):
        height, width = region.mask.shape
        part = canvas[region.top : region.top + height, region.left : region.left + width]
        _blend(part, color, region.mask.astype(np.float32) * (0.45 if region.thing else 0.35))
    for region, color in zip(regions, colors, strict=True):
        _outline(canvas, region, color, line if region.thing else 0.7 * line)
    picture = canvas.round().clip(0, 255).astype(np.uint8)
    if names:
        _write_names(picture, regions, colors, font_size=int(np.clip(scale / 38, 11, 36)))
    return picture


def _blend(part: Float[np.ndarray, "h w 3"], color: Color, alpha: Float[np.ndarray, "h w"]) -> None:
    part += alpha[..., None] * (np.asarray(color, np.float32) - part)


def _outline(
    canvas: Float[np.ndarray, "H W 3"], region: _Region, color: Color, line: float
) -> None:
    """Draw the level line of the softened mask: smooth where a pixel border is a staircase."""
    pad = 4
    top, left = region.top - pad, region.left - pad
    bottom, right = region.top + region.mask.shape[0], region.left + region.mask.shape[1]
    # What touches the image's border goes on beyond it: no line is drawn there.
    beyond = [
        (pad * (region.top == 0), pad * (bottom == canvas.shape[0])),
        (pad * (region.left == 0), pad * (right == canvas.shape[1])),
    ]
    soft = np.pad(region.mask.astype(np.float32), beyond, mode="edge")
    soft = np.pad(soft, [(pad - before, pad - after) for before, after in beyond])
    soft = np.asarray(cv2.GaussianBlur(soft, (0, 0), 0.9), np.float32)
    slope = np.hypot(cv2.Scharr(soft, -1, 1, 0), cv2.Scharr(soft, -1, 0, 1)) / 32
    distance = np.abs(soft - 0.5) / np.maximum(slope, 1e-4)  # pixels, near the line
    alpha = np.clip(line / 2 + 0.5 - distance, 0, 1)
    part = canvas[max(0, top) : bottom + pad, max(0, left) : right + pad]
    alpha = alpha[max(0, -top) :, max(0, -left) :][: part.shape[0], : part.shape[1]]
    rim = tuple(0.8 * channel + 51 for channel in color)  # a little lighter than the fill
    _blend(part, rim, 0.95 * alpha)


def _choose_colors(regions: list[_Region]) -> list[Color]:
    """The category's colour for stuff; for things one near it that their neighbours do not have."""
    counts: dict[str, int] = {}
    for region in regions:
        counts[region.category.name] = counts.get(region.category.name, 0) + region.thing
    centers = np.array([region.center for region in regions])
    chosen: list[Color] = []
    for index, region in enumerate(regions):
        if not region.thing:
            chosen.append(region.category.color)
            continue
        candidates = _variants(region.category.color, counts[region.category.name])
        if index:
            near = np.argsort(((centers[:index] - centers[index]) ** 2).sum(1))[:6]
            gaps = np.linalg.norm(
                _lab(candidates)[:, None] - _lab(np.array([chosen[i] for i in near])), axis=2
            ).min(1)
            # Beyond a clear difference, nearness to the category's own colour wins.
            best = int(np.argmax(np.minimum(gaps, 45) - 0.5 * np.arange(len(gaps))))
        else:
            best = 0
        chosen.append(tuple(candidates[best].tolist()))
    return chosen


@lru_cache(maxsize=256)
def _variants(color: Color, count: int) -> Float[np.ndarray, "V 3"]:
    """Colours for `count` things of one class: its own first, then ever farther from it."""
    hue, saturation, value = cv2.cvtColor(np.array([[color]], np.float32) / 255, cv2.COLOR_RGB2HSV)[
        0, 0
    ]
    steps = np.arange(24, dtype=np.float32)
    spread = min(180.0, 20.0 * (count - 1))  # degrees to either side; a crowd takes all hues
    side = np.where(steps % 2 == 0, 1, -1)
    hues = (hue + side * spread * np.ceil(steps / 2) / 12) % 360
    vivid = np.where(steps == 0, saturation, np.clip(saturation, 0.55, 0.9))
    bright = np.where(steps == 0, value, np.clip(value + 0.12 * (steps % 3 - 1), 0.65, 1.0))
    hsv = np.stack([hues, vivid, bright], axis=1).astype(np.float32)
    rgb = np.asarray(cv2.cvtColor(hsv[None], cv2.COLOR_HSV2RGB)[0]) * 255
    # Blues are darker than they measure: lighten what would not show on a dark image.
    white = np.clip((110 - rgb[1:] @ _LUMA) / 145, 0, 1)[:, None]
    rgb[1:] += white * (255 - rgb[1:])
    return rgb[:1] if count <= 1 else rgb


def _lab(colors: Float[np.ndarray, "V 3"]) -> Float[np.ndarray, "V 3"]:
    """Where equal distances look equally different."""
    return np.asarray(cv2.cvtColor(colors.astype(np.float32)[None] / 255, cv2.COLOR_RGB2LAB)[0])


# --- text -----------------------------------------------------------------------------------------


def _write_names(
    picture: Picture, regions: list[_Region], colors: list[Color], font_size: int
) -> None:
    """Names that leave visible what they name; none on things where there is a crowd."""
    crowded = sum(region.thing for region in regions) > 40
    taken = np.zeros(picture.shape[:2], bool)
    for region, color in zip(reversed(regions), reversed(colors), strict=True):
        if crowded and region.thing:
            continue
        label = _label(region.text, color, font_size)
        height, width = label.shape[:2]
        if height * width > 0.55 * region.mask.sum():
            continue
        if height > picture.shape[0] or width > picture.shape[1]:
            continue
        rows, columns = region.mask.shape
        free = region.mask & ~taken[region.top :, region.left :][:rows, :columns]
        inner = cv2.distanceTransform(np.pad(free, 1).astype(np.uint8), cv2.DIST_L2, 5)
        _, radius, _, (x, y) = cv2.minMaxLoc(inner)
        if radius < 0.4 * height:
            continue
        top = int(np.clip(region.top + y - 1 - height // 2, 0, picture.shape[0] - height))
        left = int(np.clip(region.left + x - 1 - width // 2, 0, picture.shape[1] - width))
        spot = (slice(top, top + height), slice(left, left + width))
        if not taken[spot].any():
            taken[spot] = True
            alpha = label[..., 3:].astype(np.float32) / 255
            mixed = picture[spot] * (1 - alpha) + label[..., :3] * alpha
            picture[spot] = mixed.round().astype(np.uint8)


def _label(text: str, color: Color, font_size: int) -> UInt8[np.ndarray, "h w 4"]:
    """Text on a rounded box of the segment's colour, black or white, whichever reads better."""
    ink = (0, 0, 0) if np.dot(color, _LUMA) > 140 else (255, 255, 255)
    font = _font(font_size)
    left, _, right, _ = font.getbbox(text)
    _, line_top, _, line_bottom = font.getbbox("Ag")
    pad = max(2, font_size // 4)
    width, height = int(right - left) + 2 * pad, int(line_bottom - line_top) + 2 * pad - 1
    fine = 4  # the box is drawn at this scale and averaged, for smooth corners
    box = Image.new("L", (width * fine, height * fine), 0)
    ImageDraw.Draw(box).rounded_rectangle(
        (0, 0, width * fine - 1, height * fine - 1), radius=fine * font_size // 3, fill=225
    )
    label = Image.new("RGB", (width, height), tuple(int(c) for c in color))
    ImageDraw.Draw(label).text((pad - left, pad - line_top), text, fill=ink, font=font)
    alpha = np.asarray(box.resize((width, height), Image.Resampling.BOX))
    return np.dstack([np.asarray(label), alpha])


def _text_band(texts: Sequence[str], cell_width: int, gap: int, font_size: int) -> Picture:
    """A white strip with each text centred over its column."""
    font = _font(font_size)
    strip = Image.new(
        "RGB", (len(texts) * (cell_width + gap) + gap, 2 * font_size), (255, 255, 255)
    )
    draw = ImageDraw.Draw(strip)
    for column, text in enumerate(texts):
        center = gap + column * (cell_width + gap) + cell_width / 2
        draw.text((center, font_size), text, fill=(30, 30, 30), font=font, anchor="mm")
    return np.array(strip)


@lru_cache(maxsize=16)
def _font(size: int) -> ImageFont.FreeTypeFont:
    font = ImageFont.load_default(size)
    assert isinstance(font, ImageFont.FreeTypeFont)
    return font


def _scaled(picture: Picture, width: int) -> Picture:
    height = max(1, round(picture.shape[0] * width / picture.shape[1]))
    shrinks = width < picture.shape[1]
    method = cv2.INTER_AREA if shrinks else cv2.INTER_CUBIC
    return np.asarray(cv2.resize(picture, (width, height), interpolation=method))


def _check_size(image: Picture, size: tuple[int, ...]) -> None:
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
        raise ValueError(
            f"the image to draw on is {image.dtype} {list(image.shape)}; "
            "it must be RGB, uint8, [height, width, 3]"
        )
    if image.shape[:2] != size:
        raise ValueError(
            f"the image to draw on is {list(image.shape[:2])} pixels high and wide, the result "
            f"{list(size)}; draw on the image that the result was made from"
        )
