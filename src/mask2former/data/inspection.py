"""What a data set holds: images, sizes, objects, classes; counted through its reader."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Bool, Float, Int64
from rich.console import Console
from rich.progress import track

from mask2former.data.dataset import Dataset
from mask2former.structures import Category, Masks, Sample

_COARSE = 256  # longest side that masks are drawn at, to count their pixels


@dataclass(kw_only=True)
class Inspection:
    """Figures of one split, of the images that were read."""

    categories: tuple[Category, ...]
    length: int  # images of the split
    sizes: list[tuple[int, int]] = field(default_factory=list)  # (H, W) of each image read
    objects: list[int] = field(default_factory=list)  # of each image read
    crowds: int = 0
    class_objects: Int64[np.ndarray, "K"]
    class_images: Int64[np.ndarray, "K"]
    class_pixels: Float[np.ndarray, "K"]  # sum over the images of the share of their pixels
    void_pixels: float = 0.0  # as class_pixels, of those that carry no annotation
    unreadable: list[str] = field(default_factory=list)  # messages
    samples: list[Sample] = field(default_factory=list)  # for pictures

    @property
    def class_shares(self) -> Float[np.ndarray, "K"]:
        """Mean share of an image's pixels, 0..1."""
        return self.class_pixels / max(1, len(self.sizes))

    @property
    def void_share(self) -> float:
        return self.void_pixels / max(1, len(self.sizes))


def inspect(dataset: Dataset, *, most: int, pictures: int, progress: bool = False) -> Inspection:
    """Read up to `most` images, evenly spread, and keep `pictures` of them that have objects."""
    categories, length = dataset.categories, len(dataset)
    result = Inspection(
        categories=categories,
        length=length,
        class_objects=np.zeros(len(categories), np.int64),
        class_images=np.zeros(len(categories), np.int64),
        class_pixels=np.zeros(len(categories)),
    )
    indices = spread(length, most)
    wanted = {int(index) for index in spread_of(indices, pictures)}
    owed = 0  # a picture that was to be kept had no object: the next one that has is kept
    for index in track(
        indices,
        "inspecting",
        disable=not progress,
        transient=True,
        console=Console(stderr=True),
    ):
        owed += index in wanted
        try:
            sample = dataset[index]
        except (ValueError, OSError) as error:
            result.unreadable.append(str(error))
            continue
        _count(result, sample)
        if owed and len(sample.labels):
            result.samples.append(sample)
            owed -= 1
    return result


def spread(length: int, most: int) -> list[int]:
    """Up to `most` of the indices below `length`, evenly apart."""
    count = min(length, most)
    return [index * length // count for index in range(count)]


def spread_of(indices: Sequence[int], most: int) -> list[int]:
    return [indices[place] for place in spread(len(indices), most)]


def coarse_masks(masks: Masks, longest: int) -> Bool[np.ndarray, "N h w"]:
    """All masks, the longest side of the image at most `longest`."""
    height, width = masks.size
    scale = min(1.0, longest / max(height, width))
    size = max(1, round(height * scale)), max(1, round(width * scale))
    return masks.render((0, 0, width, height), size)


def _count(result: Inspection, sample: Sample) -> None:
    height, width = sample.masks.size
    result.sizes.append((height, width))
    result.objects.append(len(sample.labels))
    result.crowds += int(sample.is_crowd.sum())
    np.add.at(result.class_objects, sample.labels, 1)
    if sample.void is not None:
        result.void_pixels += float(coarse_masks(sample.void, _COARSE).any(axis=0).mean())
    masks = coarse_masks(sample.masks, _COARSE)
    for label in np.unique(sample.labels):
        result.class_images[label] += 1
        result.class_pixels[label] += masks[sample.labels == label].any(axis=0).mean()
