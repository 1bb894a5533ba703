"""What evaluators share of a sample: maps of overlapping masks, made once, forgotten in time."""

from __future__ import annotations

import gc
from dataclasses import replace

import numpy as np
import pytest

from mask2former.evaluation import truth
from mask2former.evaluation.truth import Truth, truth_of
from mask2former.masks import EncodedMasks, IdMapMasks, encode_rle
from mask2former.structures import Masks, Sample

SIZE = (33, 47)


def sample_of(masks: Masks) -> Sample:
    count = len(masks)
    return Sample(
        image=np.zeros((*SIZE, 3), np.uint8),
        labels=np.zeros(count, np.int64),
        masks=masks,
        is_crowd=np.arange(count) % 3 == 2,
        image_id=1,
        name="image 1",
    )


def painted(sample: Sample) -> np.ndarray:
    """One mask after the other: crowds first."""
    owners = np.full(SIZE, -1)
    masks = sample.masks.render((0, 0, SIZE[1], SIZE[0]), SIZE)
    for crowd in (True, False):
        for index in np.flatnonzero(sample.is_crowd == crowd).tolist():
            owners[masks[index]] = index
    return owners


@pytest.mark.parametrize("kind", ["overlapping", "id map"])
def test_the_mask_on_top(kind: str) -> None:
    rng = np.random.default_rng(0)
    encodings = [encode_rle(rng.random(SIZE) < 0.3) for _ in range(7)]
    encodings.append(encode_rle(np.zeros(SIZE, bool)))
    ids = rng.integers(0, 12, SIZE)
    masks = EncodedMasks(SIZE, encodings) if kind == "overlapping" else IdMapMasks(ids, [9, 4, 7])
    sample = sample_of(masks)
    assert np.array_equal(Truth(sample).owners, painted(sample))
    assert Truth(sample).rles == [encode_rle(mask) for mask in Truth(sample).masks]


def test_made_once_and_forgotten_with_the_sample() -> None:
    masks = IdMapMasks(np.zeros(SIZE, np.int64), [0])
    sample = sample_of(masks)
    first = truth_of(sample)
    assert truth_of(sample) is first
    other = replace(sample, image_id=2)
    assert truth_of(other) is not first
    assert truth_of(sample) is not first
    del sample
    gc.collect()
    assert truth._last is None
