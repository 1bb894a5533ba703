"""What a data set looks like, from a bounded number of its images: what settings are chosen by."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from mask2former.data.dataset import Dataset
from mask2former.data.inspection import coarse_masks
from mask2former.structures import Sample

LOOKED_AT = 100  # images at most
RENDERED = 512  # pixels of the longest side that masks are measured at


@dataclass(frozen=True, kw_only=True)
class Survey:
    """Figures of the images that were looked at."""

    images: int  # in the data set
    looked_at: int
    shortest_side: int  # pixels; the median
    aspect: float  # longest to shortest side, which one image in ten exceeds
    most_objects: int  # of one image, stuff included
    things: int  # in all images looked at
    # Pixels: a thing's size is the root of its area. None where there are none.
    median_size: float | None = None
    small_size: float | None = None  # one thing in ten is smaller


def survey(dataset: Dataset, most: int = LOOKED_AT) -> Survey:
    """Look at up to `most` images, evenly spread. ValueError if the data set is empty."""
    count = len(dataset)
    if count == 0:
        raise ValueError("the data set holds no image")
    is_thing = np.array([category.is_thing for category in dataset.categories])
    indices = np.unique(np.linspace(0, count - 1, min(count, most)).round().astype(int))
    sides, objects, sizes = [], [0], []
    for index in indices.tolist():
        sample = dataset[index]
        sides.append(sample.image.shape[:2])
        objects.append(int((~sample.is_crowd).sum()))
        sizes.append(sizes_of(sample)[is_thing[sample.labels] & ~sample.is_crowd])
    short, long = np.sort(np.array(sides), axis=1).T
    measured = np.concatenate(sizes)
    found = len(measured) > 0
    return Survey(
        images=count,
        looked_at=len(indices),
        shortest_side=round(float(np.median(short))),
        aspect=float(np.percentile(long / short, 90)),
        most_objects=max(objects),
        things=len(measured),
        median_size=float(np.median(measured)) if found else None,
        small_size=float(np.percentile(measured, 10)) if found else None,
    )


def sizes_of(sample: Sample) -> Float[np.ndarray, "N"]:
    """The root of every object's area in pixels; at least a cell of the map it is measured on."""
    masks = coarse_masks(sample.masks, RENDERED)
    cell = math.prod(sample.masks.size) / math.prod(masks.shape[1:])
    sizes: np.ndarray = np.sqrt(np.maximum(masks.sum((1, 2)), 1) * cell)
    return sizes
