"""Small images and masks on disk, folders as zip files, and samples as one map of numbers."""

from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np
from PIL import Image

from mask2former.structures import Sample

NOTHING, VOID = -2, -1  # in `segments`


def write_image(path: Path, size: tuple[int, int], color: tuple[int, int, int] = (9, 8, 7)) -> None:
    """An image of `size` (H, W) in one colour."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size[::-1], color).save(path)


def write_map(path: Path, pixels: np.ndarray, palette: list[int] | None = None) -> None:
    """Grey values of 8 or 16 bits, indices with a `palette`, or colours [H, W, 3]."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(pixels)
    if palette is not None:
        image.putpalette(palette)
    image.save(path)


def zipped(folder: Path) -> Path:
    """A zip file beside a folder, of all that is in it."""
    archive = folder.with_suffix(".zip")
    with zipfile.ZipFile(archive, "w") as file:
        for path in sorted(folder.rglob("*")):
            file.write(path, path.relative_to(folder))
    return archive


def segments(sample: Sample) -> np.ndarray:
    """[H, W]: which of the sample's masks a pixel is in, else `VOID` or `NOTHING`."""
    height, width = sample.masks.size
    everything = (0.0, 0.0, float(width), float(height)), (height, width)
    masks = sample.masks.render(*everything)
    assert masks.sum(axis=0).max(initial=0) <= 1, "masks of a map do not overlap"
    out = np.full((height, width), NOTHING)
    assert sample.void is not None
    out[sample.void.render(*everything)[0]] = VOID
    for index, mask in enumerate(masks):
        assert (out[mask] == NOTHING).all(), "what is void is in no mask"
        out[mask] = index
    return out


def labels(sample: Sample) -> np.ndarray:
    """[H, W]: the label of the mask that a pixel is in, else `VOID` or `NOTHING`."""
    index = segments(sample)
    return np.where(index >= 0, np.append(sample.labels, 0)[index], index)
