"""Tiles of a result that is known put together again, and of a model that sees them one by one."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch

from mask2former.data.scenes import CATEGORIES, Scenes, ScenesConfig
from mask2former.inference import tiling
from mask2former.inference.tiling import Mosaic, Tile, Tiling, tiles_of
from mask2former.segmenter import Segmenter
from mask2former.structures import (
    TASKS,
    Instances,
    LargeSegmentation,
    Panoptic,
    Region,
    Segment,
    Segmentation,
    Semantic,
)


@pytest.mark.parametrize("size", [(100, 100), (256, 300), (1000, 333), (64, 2000), (257, 256)])
@pytest.mark.parametrize("cut", [Tiling(size=128, overlap=32), Tiling(size=64, overlap=0)])
def test_tiles_cover_the_image_and_cores_share_nothing(size: tuple[int, int], cut: Tiling) -> None:
    owners = np.zeros(size, int)
    for tile in tiles_of(*size, cut):
        owners[tile.core_rows, tile.core_columns] += 1
        assert tile.rows.stop - tile.rows.start == min(cut.size, size[0])
        assert tile.columns.stop - tile.columns.start == min(cut.size, size[1])
        inner = tile.inner
        assert inner[0].start >= 0
        assert inner[1].stop <= tile.columns.stop - tile.columns.start
    assert (owners == 1).all()
    rows = sorted({tile.rows.start for tile in tiles_of(*size, cut)})
    assert all(a + min(cut.size, size[0]) - b >= cut.overlap for a, b in pairwise(rows))


@pytest.mark.parametrize(("size", "overlap"), [(16, 0), (64, 33), (64, -1)])
def test_tilings_that_cannot_be(size: int, overlap: int) -> None:
    with pytest.raises(ValueError, match=f"tiles of {size} pixels that overlap by {overlap}"):
        Tiling(size=size, overlap=overlap)


# --- a model that is always right -----------------------------------------------------------------


def world(seed: int, size: int = 256) -> tuple[np.ndarray, list[int]]:
    """Ids from 1 and their labels: a drawn scene's truth."""
    config = ScenesConfig(size=size, min_things=8, max_things=14, max_size=size / 2.2)
    sample = Scenes(length=1, seed=seed, config=config)[0]
    masks = sample.masks.render((0, 0, size, size), (size, size))
    ids = np.zeros((size, size), np.int32)
    for number, mask in enumerate(masks, start=1):
        ids[mask] = number
    return ids, sample.labels.tolist()


def answer(ids: np.ndarray, labels: list[int], tile: Tile) -> Segmentation:
    """What is in a tile, its segments numbered anew."""
    part = ids[tile.rows, tile.columns]
    segments, masks = [], []
    local = np.zeros_like(part)
    for number, old in enumerate(np.unique(part).tolist(), start=1):
        mask = part == old
        label = labels[old - 1]
        local[mask] = number
        masks.append(mask)
        segments.append(
            Segment(
                id=number,
                label=label,
                category=CATEGORIES[label],
                score=0.9,
                area=int(mask.sum()),
            )
        )
    things = [i for i, s in enumerate(segments) if s.category.is_thing]
    kept = np.stack(masks)[things] if things else np.zeros((0, *part.shape), bool)
    boxes = [[x.min(), y.min(), x.max() + 1, y.max() + 1] for y, x in (m.nonzero() for m in kept)]
    lookup = np.array([0, *(s.label for s in segments)])
    return Segmentation(
        size=part.shape,
        name="x",
        panoptic=Panoptic(
            ids=torch.from_numpy(local), segments=tuple(segments), categories=CATEGORIES
        ),
        instances=Instances(
            masks=torch.from_numpy(kept),
            scores=torch.full((len(things),), 0.9),
            labels=torch.tensor([segments[i].label for i in things]).long(),
            boxes=torch.tensor(np.array(boxes).reshape(-1, 4)).float(),
            categories=CATEGORIES,
        ),
        semantic=Semantic(labels=torch.from_numpy(lookup[local]), categories=CATEGORIES),
    )


def put_together(ids: np.ndarray, labels: list[int], cut: Tiling) -> LargeSegmentation:
    mosaic = Mosaic(ids.shape, CATEGORIES, TASKS, min_score=0.5)  # type: ignore[arg-type]
    for tile in tiles_of(*ids.shape, cut):
        mosaic.add(tile, answer(ids, labels, tile))
    return mosaic.result("x")


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("cut", [Tiling(size=96, overlap=40), Tiling(size=128, overlap=64)])
def test_what_is_right_in_every_tile_is_right_as_a_whole(
    seed: int, cut: Tiling, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Things larger than a tile and smaller than the strip, cut by two and by four tiles."""
    monkeypatch.setattr(tiling, "BLOCK", 5000)
    ids, labels = world(seed)
    result = put_together(ids, labels, cut)
    assert result.semantic is not None
    assert np.array_equal(result.semantic.labels, np.array([-1, *labels])[ids])
    assert result.panoptic is not None
    found = result.panoptic.ids.numpy()
    assert (found > 0).all()
    pairs = np.unique(np.stack([ids.ravel(), found.ravel()]), axis=1).T
    by_id = {segment.id: segment for segment in result.panoptic.segments}
    assert len(by_id) == len(result.panoptic.segments)
    # Every true segment is one segment, and every segment is one true one.
    assert len(pairs) == len(np.unique(ids)) == len(by_id)
    for true, number in pairs.tolist():
        assert by_id[number].label == labels[true - 1]
        assert by_id[number].area == (ids == true).sum()
    assert result.regions is not None
    things = [
        i for i, label in enumerate(labels, 1) if CATEGORIES[label].is_thing and (ids == i).any()
    ]
    assert len(result.regions) == len(things)
    masks = {}
    for region in result.regions:
        whole = np.zeros(ids.shape, bool)
        x0, y0, x1, y1 = region.box
        whole[y0:y1, x0:x1] = region.mask
        masks[whole.tobytes()] = region
    assert {(ids == i).tobytes() for i in things} == masks.keys()


def test_a_piece_that_its_owner_does_not_see_is_dropped() -> None:
    """Found by the left tile alone, and lying mostly in the right one's core."""
    cut = Tiling(size=64, overlap=32)
    left, right = tiles_of(64, 96, cut)
    ids = np.ones((64, 96), np.int32)
    ids[20:30, 46:60] = 2  # the cores meet at column 48
    labels = [6, 0]
    mosaic = Mosaic((64, 96), CATEGORIES, TASKS, min_score=0.5)
    mosaic.add(left, answer(ids, labels, left))
    mosaic.add(right, answer(np.ones_like(ids), labels, right))
    result = mosaic.result("x")
    assert result.regions == ()
    assert result.panoptic is not None
    assert [segment.label for segment in result.panoptic.segments] == [6]
    assert (result.panoptic.ids == 0).sum() == 2 * 10  # what of it lay in the left core


def test_twins_that_touch_stay_two() -> None:
    ids = np.ones((64, 160), np.int32)
    ids[20:40, 70:80], ids[20:40, 80:90] = 2, 3
    result = put_together(ids, [6, 0, 0], Tiling(size=64, overlap=32))
    assert result.panoptic is not None
    assert [segment.label for segment in result.panoptic.segments] == [6, 0, 0]
    assert result.regions is not None
    assert sorted(region.box for region in result.regions) == [(70, 20, 80, 40), (80, 20, 90, 40)]


def test_large_maps_lie_in_a_file(monkeypatch: pytest.MonkeyPatch) -> None:
    ids, labels = world(0)
    expected = put_together(ids, labels, Tiling(size=96, overlap=40))
    monkeypatch.setattr(tiling, "IN_MEMORY", 100)
    mosaic = Mosaic(ids.shape, CATEGORIES, TASKS, min_score=0.5)  # type: ignore[arg-type]
    assert isinstance(mosaic.ids, np.memmap)
    found = put_together(ids, labels, Tiling(size=96, overlap=40))
    assert found.panoptic is not None
    assert expected.panoptic is not None
    assert torch.equal(found.panoptic.ids, expected.panoptic.ids)


# --- a real model ---------------------------------------------------------------------------------


def shown_at(side: int) -> Segmenter:
    """The embedded model for nuclei, with images shown at this size."""
    model = Segmenter.from_pretrained("nuclei", device="cpu").model
    view = replace(model.config.view, shortest_side=side, longest_side=side)
    model.config = replace(model.config, view=view)
    return Segmenter(model)


def discs(size: int, count: int) -> np.ndarray:
    """Bright discs on a dark ground, as nuclei look under fluorescence."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:size, :size]
    image = rng.normal(12, 3, (size, size))
    for cx, cy in rng.uniform(30, size - 30, (count, 2)):
        image += 150 * np.clip(15 - np.hypot(x - cx, y - cy), 0, 2) / 2
    return np.clip(image, 0, 255).astype(np.uint8)[..., None].repeat(3, 2)


def test_tiled_and_whole_agree() -> None:
    """On an image that fits both ways, at one scale. A tile sees less around it, so they are not
    the same to the bit: 99 % of the pixels, and 95 % of the nuclei at an IoU of 0.8, are."""
    image = discs(896, 90)
    whole = shown_at(896)(image)
    tiled = shown_at(448).tiled(image, tile=448, overlap=112, progress=False)
    assert whole.semantic is not None
    assert tiled.semantic is not None
    assert (whole.semantic.labels == tiled.semantic.labels).float().mean() > 0.99
    assert whole.instances is not None
    assert tiled.regions is not None
    sure = whole.instances.above(0.7).masks.numpy()
    assert len(sure) > 60
    ious = np.array([max(iou(mask, region) for region in tiled.regions) for mask in sure])
    assert (ious > 0.8).mean() > 0.95
    assert abs(len(whole.instances.above(0.5)) - len(tiled.regions)) <= 4  # none is counted twice


def iou(mask: np.ndarray, region: Region) -> float:
    x0, y0, x1, y1 = region.box
    both = (mask[y0:y1, x0:x1] & region.mask).sum()
    return float(both / (mask.sum() + region.mask.sum() - both))


@pytest.mark.parametrize("batch_size", [1, 3])
def test_batches_of_tiles_and_single_tasks(batch_size: int) -> None:
    segmenter = shown_at(64)
    segmenter.batch_size = batch_size
    image = discs(150, 4)
    result = segmenter.tiled(image, "instance", tile=64, overlap=16, progress=False)
    assert result.size == (150, 150)
    assert result.panoptic is None
    assert result.semantic is None
    assert result.regions is not None
    assert all(region.score >= 0.5 for region in result.regions)
    scores = [region.score for region in result.regions]
    assert scores == sorted(scores, reverse=True)


def test_what_is_read_is_the_tile_alone(tmp_path: Path) -> None:
    """An image on disk that is mapped, not read."""
    path = tmp_path / "image.npy"
    np.save(path, discs(150, 4))
    mapped = np.load(path, mmap_mode="r")
    segmenter = shown_at(64)
    found = segmenter.tiled(mapped, "panoptic", tile=64, progress=False)
    expected = segmenter.tiled(discs(150, 4), "panoptic", tile=64, progress=False)
    assert found.panoptic is not None
    assert expected.panoptic is not None
    assert torch.equal(found.panoptic.ids, expected.panoptic.ids)


MEMORY = """
import sys, numpy as np
from pathlib import Path
from mask2former import Segmenter
side = int(sys.argv[1])
segmenter = Segmenter.from_pretrained("nuclei", device="cpu")
image = np.lib.format.open_memmap(sys.argv[2], mode="w+", dtype=np.uint8, shape=(side, side, 3))
patch = np.load(sys.argv[3])
for y in range(0, side, len(patch)):
    for x in range(0, side, len(patch)):
        image[y:y + len(patch), x:x + len(patch)] = patch[:side - y, :side - x]
result = segmenter.tiled(image, tile=1024, overlap=64)
assert result.panoptic.ids.shape == (side, side)
status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
print(len(result.regions), int(status["VmHWM"].split()[0]) // 1024)
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_20000_x_20000_pixels_in_3_gb(tmp_path: Path) -> None:
    """The peak of the whole process; pages of the image's file count in it."""
    np.save(tmp_path / "patch.npy", discs(1000, 60))
    words = [sys.executable, "-c", MEMORY, "20000", str(tmp_path / "a.npy")]
    done = subprocess.run(
        [*words, str(tmp_path / "patch.npy")], capture_output=True, text=True, check=True
    )
    nuclei, peak = map(int, done.stdout.split()[-2:])
    assert nuclei > 20_000
    assert peak < 3000, f"{peak} MB"
