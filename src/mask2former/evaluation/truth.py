"""What evaluators ask of a sample's annotation, made once for all of them."""

from __future__ import annotations

import weakref
from functools import cached_property

import numpy as np
from jaxtyping import Bool, Int32

from mask2former.masks import IdMapMasks, box_of_mask, encode_region
from mask2former.structures import Masks, Sample

NOBODY = -1


class Truth:
    """The masks of a sample at the size of its image, and maps made of them."""

    def __init__(self, sample: Sample) -> None:
        self._masks, self._void, self._is_crowd = sample.masks, sample.void, sample.is_crowd
        self.size = sample.masks.size

    @cached_property
    def masks(self) -> Bool[np.ndarray, "N H W"]:
        return _full(self._masks)

    @cached_property
    def void(self) -> Bool[np.ndarray, "H W"] | None:
        """The pixels that carry no annotation; None where the sample names none."""
        return None if self._void is None else _full(self._void)[0]

    @cached_property
    def owners(self) -> Int32[np.ndarray, "H W"]:
        """Which mask lies on top at each pixel, `NOBODY` where none does.

        Objects lie above crowds, and of two objects the later one.
        """
        if isinstance(self._masks, IdMapMasks):
            return self._masks.places()
        owners = np.full(self.size, NOBODY, np.int32)
        for index in np.argsort(~self._is_crowd, kind="stable").tolist():
            mask = self.masks[index]
            left, top, right, bottom = box_of_mask(mask)
            part = slice(top, bottom), slice(left, right)
            np.copyto(owners[part], np.int32(index), where=mask[part])
        return owners

    @cached_property
    def rles(self) -> list[dict[str, object]]:
        """COCO's run-length encoding of every mask."""
        encodings = []
        for mask in self.masks:
            left, top, right, bottom = box_of_mask(mask)
            encodings.append(encode_region(mask[top:bottom, left:right], left, top, self.size))
        return encodings


# The evaluators of one pass are shown a sample one after the other: the last one is kept, until it
# is replaced or the sample itself is gone.
_last: tuple[weakref.ref[Sample], Truth] | None = None


def truth_of(sample: Sample) -> Truth:
    global _last
    if _last is not None and _last[0]() is sample:
        return _last[1]
    truth = Truth(sample)
    _last = (weakref.ref(sample, _forget), truth)
    return truth


def _forget(gone: weakref.ref[Sample]) -> None:
    global _last
    if _last is not None and _last[0] is gone:
        _last = None


def _full(masks: Masks) -> Bool[np.ndarray, "N H W"]:
    height, width = masks.size
    return masks.render((0, 0, width, height), (height, width))
