"""The training view: jitter, crop, flip and colour, one pipeline for every task.

The crop is chosen first and image and masks are made inside it alone, so that the 500 objects of
a large image never exist at full size.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import cv2
import numpy as np
import torch
from jaxtyping import UInt8
from PIL import Image

from mask2former.imaging import stretch_contrast
from mask2former.structures import Sample, Targets

PAD = 128  # grey that fixed-size crops are padded with


@dataclass(frozen=True, kw_only=True)
class TrainView:
    """How an image is shown to a model in training; the default is COCO's large-scale jitter.

    The image is scaled to `size` times a factor drawn from `scale`, or to one of `sizes`: its
    longest side if `fit` is "inside", its shortest if "shortest_side". Then a crop is taken; what
    it lacks is padded, or with `whole_canvas` off left out: then batches are padded as at test,
    to the largest of their images.
    """

    size: int = 1024  # pixels
    scale: tuple[float, float] = (0.1, 2.0)
    sizes: tuple[int, ...] = ()  # pixels; in place of `size` and `scale`, each as likely
    longest_side: int | None = None  # pixels; what no side may exceed once it is scaled
    fit: Literal["inside", "shortest_side"] = "inside"
    crop: tuple[int, int] = (1024, 1024)  # (H, W)
    whole_canvas: bool = True  # views smaller than `crop` are padded to it
    flip: bool = True  # left and right
    turn: bool = False  # quarter turns and top and bottom: where there is no upright
    color: bool = False  # SSD's: brightness, contrast, saturation, hue
    invert: float = 0.0  # share of images shown as negatives
    contrast_percentiles: tuple[float, float] | None = None  # as `View.contrast_percentiles`
    ignore_void: bool = False  # leave void and crowd pixels out of the mask terms of the loss


def apply(
    sample: Sample, view: TrainView, rng: np.random.Generator
) -> tuple[UInt8[np.ndarray, "H W 3"], Targets]:
    """One random view of a sample; objects that are not in it, and crowds, are no targets."""
    box, size = random_crop(sample.image.shape[:2], view, rng)
    image = sample.image
    if view.contrast_percentiles is not None:
        image = stretch_contrast(image, view.contrast_percentiles)
    canvas = view.crop if view.whole_canvas else size
    image = render_image(image, box, size, canvas)
    if view.color:
        image = distort_color(image, rng)
    if view.invert > rng.random():
        image = 255 - image
    keep = ~sample.is_crowd
    masks = pad(sample.masks.render(box, size), canvas)
    ignore = None
    if view.ignore_void:
        ignore = masks[~keep].any(0)
        if sample.void is not None:
            ignore |= pad(sample.void.render(box, size), canvas).any(0)
    keep &= masks.any((1, 2))
    masks = masks[keep]
    if view.flip and rng.random() < 0.5:
        image, masks, ignore = flip(image, masks, ignore, axis=1)
    if view.turn:
        if rng.random() < 0.5:
            image, masks, ignore = flip(image, masks, ignore, axis=0)
        if canvas[0] == canvas[1] and rng.random() < 0.5:
            image, masks = image.transpose(1, 0, 2), masks.transpose(0, 2, 1)
            ignore = None if ignore is None else ignore.T
    targets = Targets(
        labels=torch.from_numpy(sample.labels[keep]),
        masks=torch.from_numpy(np.ascontiguousarray(masks)).unsqueeze(1),
        ignore=None if ignore is None else torch.from_numpy(np.ascontiguousarray(ignore))[None],
    )
    return np.ascontiguousarray(image), targets


Box = tuple[float, float, float, float]


def random_crop(
    size: tuple[int, ...], view: TrainView, rng: np.random.Generator
) -> tuple[Box, tuple[int, int]]:
    """The part of the image that is shown (x0, y0, x1, y1), and its size (h, w) on the canvas."""
    height, width = size[0], size[1]
    side = float(rng.choice(view.sizes)) if view.sizes else view.size * rng.uniform(*view.scale)
    ratio = side / (max(height, width) if view.fit == "inside" else min(height, width))
    if view.longest_side is not None:
        ratio = min(ratio, view.longest_side / max(height, width))
    scaled_h, scaled_w = max(round(height * ratio), 1), max(round(width * ratio), 1)
    h, w = min(view.crop[0], scaled_h), min(view.crop[1], scaled_w)
    y, x = rng.integers(scaled_h - h + 1), rng.integers(scaled_w - w + 1)
    sy, sx = height / scaled_h, width / scaled_w
    return (x * sx, y * sy, (x + w) * sx, (y + h) * sy), (h, w)


def render_image(
    image: UInt8[np.ndarray, "H W 3"], box: Box, size: tuple[int, int], canvas: tuple[int, int]
) -> UInt8[np.ndarray, "h w 3"]:
    """The part inside `box`, scaled to `size` as the test view scales, padded to `canvas`."""
    h, w = size
    part = Image.fromarray(image).resize((w, h), Image.Resampling.BILINEAR, box=box)
    if (h, w) == canvas:
        return np.asarray(part)
    out = np.full((*canvas, 3), PAD, np.uint8)
    out[:h, :w] = np.asarray(part)
    return out


def pad(masks: np.ndarray, canvas: tuple[int, int]) -> np.ndarray:
    """Masks [N, h, w] on a larger canvas, background around them."""
    n, h, w = masks.shape
    if (h, w) == canvas:
        return masks
    out = np.zeros((n, *canvas), bool)
    out[:, :h, :w] = masks
    return out


def flip(
    image: np.ndarray, masks: np.ndarray, ignore: np.ndarray | None, axis: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
    """All three mirrored; axis 0 is top and bottom, 1 left and right."""
    flipped = None if ignore is None else np.flip(ignore, axis)
    return np.flip(image, axis), np.flip(masks, axis + 1), flipped


def distort_color(
    image: UInt8[np.ndarray, "H W 3"], rng: np.random.Generator
) -> UInt8[np.ndarray, "H W 3"]:
    """SSD's distortion (Liu et al., ECCV 2016): each of four changes half of the time."""
    levels = np.arange(256, dtype=np.float32)  # what becomes of each: brightness, contrast
    if rng.random() < 0.5:
        levels = np.clip(levels + rng.uniform(-32, 32), 0, 255)
    contrast_first = rng.random() < 0.5
    if contrast_first and rng.random() < 0.5:
        levels = np.clip(levels * rng.uniform(0.5, 1.5), 0, 255)
    saturation = rng.uniform(0.5, 1.5) if rng.random() < 0.5 else 1.0
    hue = rng.uniform(-18, 18) if rng.random() < 0.5 else 0.0
    contrast = 1.0
    if not contrast_first and rng.random() < 0.5:
        contrast = rng.uniform(0.5, 1.5)
    if saturation == 1.0 and hue == 0.0:
        table = np.clip(levels * contrast, 0, 255).astype(np.uint8)
        return np.asarray(cv2.LUT(image, table), np.uint8)
    hsv = cv2.cvtColor(cv2.LUT(image, levels / 255), cv2.COLOR_RGB2HSV)
    turned = hsv[..., 0] + 2 * hue  # by less than a turn; a remainder takes three times as long
    np.subtract(turned, 360, out=turned, where=turned >= 360)
    np.add(turned, 360, out=turned, where=turned < 0)
    hsv[..., 0] = turned
    hsv[..., 1] = np.clip(hsv[..., 1] * saturation, 0, 1)
    x = np.asarray(cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB), np.float32) * 255
    x *= contrast
    return np.clip(x, 0, 255, out=x).astype(np.uint8)
