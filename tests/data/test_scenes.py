import json
from pathlib import Path

import cv2
import numpy as np
import pytest

from mask2former.data.coco_panoptic import CocoPanoptic
from mask2former.data.scenes import CATEGORIES, Scenes, draw, write_coco_panoptic
from mask2former.data.scenes_layout import (
    THINGS,
    ScenesConfig,
    Thing,
    draw_shape,
    place_things,
)
from mask2former.masks import decode_rle
from mask2former.structures import Sample

CONFIG = ScenesConfig()


@pytest.fixture(scope="module")
def samples() -> list[Sample]:
    scenes = Scenes(length=40, seed=11)
    return [scenes[index] for index in range(len(scenes))]


@pytest.fixture(scope="module")
def placements() -> list[list[Thing]]:
    return [place_things(np.random.default_rng([5, index]), CONFIG) for index in range(200)]


def masks_of(sample: Sample) -> np.ndarray:
    height, width = sample.image.shape[:2]
    return sample.masks.render((0, 0, width, height), (height, width))


def visible_and_whole(things: list[Thing]) -> tuple[np.ndarray, np.ndarray]:
    owner = np.full((CONFIG.size, CONFIG.size), -1)
    for index, thing in enumerate(things):
        owner[thing.box][thing.mask] = index
    visible = np.array([(owner == index).sum() for index in range(len(things))])
    return visible, np.array([thing.mask.sum() for thing in things])


def test_a_scene_depends_on_seed_and_index_alone() -> None:
    first, again = Scenes(length=3, seed=4), Scenes(length=9, seed=4)
    first[0]
    assert np.array_equal(first[2].image, again[2].image)
    assert np.array_equal(masks_of(first[2]), masks_of(again[2]))
    assert not np.array_equal(first[2].image, first[1].image)
    assert not np.array_equal(first[2].image, Scenes(length=3, seed=5)[2].image)


def test_the_row_ends_where_it_says() -> None:
    scenes = Scenes(length=2)
    assert len(scenes) == 2
    with pytest.raises(IndexError, match="scene 2 is not among the 2"):
        scenes[2]
    assert len(list(scenes)) == 2


def test_every_pixel_belongs_to_exactly_one_segment_and_none_is_empty(
    samples: list[Sample],
) -> None:
    for sample in samples:
        masks = masks_of(sample)
        assert sample.image.shape == (256, 256, 3)
        assert sample.image.dtype == np.uint8
        assert sample.labels.dtype == np.int64
        assert len(masks) == len(sample.labels) == len(sample.is_crowd)
        assert np.array_equal(masks.sum(axis=0), np.ones((256, 256)))
        assert masks.any(axis=(1, 2)).all()
        assert not sample.is_crowd.any()


def test_three_or_four_stuff_classes_once_each_and_three_to_fourteen_things(
    samples: list[Sample],
) -> None:
    stuff = [[label for label in s.labels.tolist() if label >= len(THINGS)] for s in samples]
    counts = [len(s.labels) - len(grounds) for s, grounds in zip(samples, stuff, strict=True)]
    assert {len(grounds) for grounds in stuff} == {3, 4}
    assert all(len(set(grounds)) == len(grounds) for grounds in stuff)
    assert min(counts) >= 3
    assert max(counts) <= 14
    assert {label for s in samples for label in s.labels.tolist()} == set(range(len(CATEGORIES)))


def test_the_sky_is_above() -> None:
    sky = next(index for index, c in enumerate(CATEGORIES) if c.name == "sky")
    for sample in Scenes(length=15, seed=8):
        if sky in sample.labels:
            masks = masks_of(sample)
            heights = [np.nonzero(mask)[0].mean() for mask in masks]
            grounds = [h for h, label in zip(heights, sample.labels, strict=True) if label >= 6]
            assert heights[sample.labels.tolist().index(sky)] == min(grounds)


def test_sizes_are_log_uniform(placements: list[list[Thing]]) -> None:
    logs = np.log([thing.size for things in placements for thing in things])
    shares = np.histogram(logs, 6, range=(np.log(6), np.log(120)))[0] / len(logs)
    assert len(logs) > 1000
    assert np.all(np.abs(shares - 1 / 6) < 0.04)


def test_a_things_size_is_its_extent(placements: list[list[Thing]]) -> None:
    excess = []
    for thing in (thing for things in placements[:60] for thing in things):
        rows, columns = np.nonzero(thing.mask)
        excess.append(max(np.ptp(rows), np.ptp(columns)) + 1 - thing.size)
    assert abs(np.mean(excess)) < 0.5
    assert max(excess) < 2
    assert min(excess) > -3  # the tip of a star is too thin to own a pixel


def test_a_quarter_of_the_things_are_partly_covered(placements: list[list[Thing]]) -> None:
    hidden = []
    for things in placements:
        visible, whole = visible_and_whole(things)
        hidden.extend(1 - visible / whole)
    share = np.mean(np.array(hidden) > 0.05)
    assert 0.25 < share < 0.6


def test_no_thing_is_covered_beyond_fairness(placements: list[list[Thing]]) -> None:
    for things in placements:
        visible, whole = visible_and_whole(things)
        covered = visible < whole
        assert np.all(visible[covered] >= 16)
        assert np.all(visible[covered] >= 0.45 * whole[covered])
        assert np.all(visible > 0)


def test_colour_does_not_tell_things_apart() -> None:
    """Nearest class mean colour, learned on half of the scenes, is near chance on the others."""
    scenes = Scenes(length=120, seed=21)
    colors, labels = [], []
    for sample in scenes:
        for mask, label in zip(masks_of(sample), sample.labels, strict=True):
            if label < len(THINGS):
                colors.append(sample.image[mask].mean(axis=0))
                labels.append(label)
    color, label = np.array(colors), np.array(labels)
    half = len(label) // 2
    means = np.stack([color[:half][label[:half] == k].mean(axis=0) for k in range(len(THINGS))])
    guess = np.linalg.norm(color[half:, None] - means, axis=2).argmin(axis=1)
    assert np.mean(guess == label[half:]) < 1 / 6 + 0.08


def test_truth_and_picture_agree_at_the_borders(samples: list[Sample]) -> None:
    """Shifted by a pixel , the truth explains the picture less well."""

    def unexplained(image: np.ndarray, masks: np.ndarray) -> float:
        parts = [image[mask] - image[mask].mean(axis=0) for mask in masks if mask.any()]
        return float(sum((part**2).sum() for part in parts))

    better = []
    for sample in samples[:12]:
        image, masks = sample.image.astype(float), masks_of(sample)
        exact = unexplained(image, masks)
        for dy, dx in ((0, 1), (1, 0), (0, -1), (-1, 0)):
            better.append(exact < unexplained(image, np.roll(masks, (dy, dx), axis=(1, 2))))
    assert np.mean(better) > 0.95


@pytest.mark.parametrize("name", THINGS)
def test_a_shape_fills_its_share_of_its_box(name: str) -> None:
    """Each shape's area over its squared longer side tells it from an empty or full box."""
    low, high = {
        "disc": (0.58, 0.82),
        "square": (0.36, 0.97),
        "triangle": (0.3, 0.52),
        "star": (0.22, 0.47),
        "ring": (0.37, 0.64),
        "cross": (0.33, 0.66),
    }[name]
    rng = np.random.default_rng(3)
    shares = [draw_shape(rng, name, 100.0).sum() / 100**2 for _ in range(30)]
    assert min(shares) > low
    assert max(shares) < high


def test_the_smallest_ring_has_a_hole_and_nothing_else_has() -> None:
    for name in THINGS:
        mask = np.pad(draw_shape(np.random.default_rng(6), name, 6.0) > 0.5, 1)
        regions = cv2.connectedComponents((~mask).astype(np.uint8), connectivity=4)[0] - 1
        assert regions == (2 if name == "ring" else 1)


def test_draw_follows_its_config() -> None:
    config = ScenesConfig(size=96, min_things=2, max_things=2, min_size=10, max_size=20)
    image, id_map, labels = draw(np.random.default_rng(0), config)
    assert image.shape == (96, 96, 3)
    assert id_map.dtype == np.int32
    assert sorted(np.unique(id_map)) == list(range(1, len(labels) + 1))
    assert sum(label < len(THINGS) for label in labels) == 2


def test_a_config_that_cannot_be_drawn_is_refused() -> None:
    with pytest.raises(ValueError, match="min_things <= max_things"):
        ScenesConfig(min_things=5, max_things=4)
    with pytest.raises(ValueError, match="max_size <= size / 2"):
        ScenesConfig(size=128)
    crowded = ScenesConfig(size=16, min_things=15, max_things=15, min_size=7, max_size=8)
    with pytest.raises(ValueError, match="fewer or smaller things"):
        draw(np.random.default_rng(0), crowded)


def test_what_is_written_is_what_was_drawn(tmp_path: Path) -> None:
    scenes = Scenes(length=2, seed=9)
    write_coco_panoptic(scenes, tmp_path, "val")
    panoptic = json.loads((tmp_path / "annotations/panoptic_val.json").read_text())
    instances = json.loads((tmp_path / "annotations/instances_val.json").read_text())
    assert sorted(path.name for path in tmp_path.iterdir()) == ["annotations", "images", "panoptic"]
    assert [c["id"] for c in panoptic["categories"]] == [c.id for c in CATEGORIES]
    assert [c["name"] for c in instances["categories"]] == list(THINGS)
    for sample, entry, annotation in zip(
        scenes, panoptic["images"], panoptic["annotations"], strict=True
    ):
        masks = masks_of(sample)
        image = cv2.imread(str(tmp_path / "images/val" / entry["file_name"]))[..., ::-1]
        assert np.array_equal(image, sample.image)
        png = cv2.imread(str(tmp_path / "panoptic/val" / annotation["file_name"])).astype(int)
        ids = png[..., 2] + 256 * png[..., 1] + 256**2 * png[..., 0]
        things = [a for a in instances["annotations"] if a["image_id"] == entry["id"]]
        for mask, label, segment in zip(
            masks, sample.labels, annotation["segments_info"], strict=True
        ):
            assert np.array_equal(ids == segment["id"], mask)
            assert segment["category_id"] == CATEGORIES[label].id
            assert segment["area"] == mask.sum()
            if CATEGORIES[label].is_thing:
                thing = things.pop(0)
                assert np.array_equal(decode_rle(thing["segmentation"]), mask)
                rows, columns = np.nonzero(mask)
                box = [columns.min(), rows.min(), np.ptp(columns) + 1, np.ptp(rows) + 1]
                assert thing["bbox"] == segment["bbox"] == box
        assert not things


def test_the_panoptic_reader_reads_it_back(tmp_path: Path) -> None:
    scenes = Scenes(length=2, seed=3)
    write_coco_panoptic(scenes, tmp_path, "val")
    read = CocoPanoptic(
        tmp_path / "annotations/panoptic_val.json",
        tmp_path / "panoptic/val",
        tmp_path / "images/val",
    )
    assert read.categories == CATEGORIES
    for index in range(2):
        assert np.array_equal(read[index].image, scenes[index].image)
        assert np.array_equal(read[index].labels, scenes[index].labels)
        assert np.array_equal(masks_of(read[index]), masks_of(scenes[index]))


def test_writing_refuses_to_overwrite_and_leaves_nothing_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_coco_panoptic(Scenes(length=1), tmp_path, "train")
    with pytest.raises(FileExistsError, match="delete it"):
        write_coco_panoptic(Scenes(length=1), tmp_path, "train")

    def fail(*_: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(cv2, "imencode", fail)
    with pytest.raises(OSError, match="disk full"):
        write_coco_panoptic(Scenes(length=1), tmp_path / "other", "val")
    assert list((tmp_path / "other").iterdir()) == []
