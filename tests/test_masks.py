"""Masks against pycocotools, and the renderers against each other."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from pycocotools import mask as coco_mask

from mask2former.masks import (
    EncodedMasks,
    IdMapMasks,
    check_polygons,
    decode_rle,
    encode_region,
    encode_rle,
    mask_of_annotation,
    places_of,
    rasterize_polygons,
)


def random_masks(count: int) -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    masks = []
    for _ in range(count):
        coarse = rng.random(rng.integers(1, 40, 2)) < rng.random()
        masks.append(coarse.repeat(rng.integers(1, 12), 0).repeat(rng.integers(1, 12), 1))
    return [*masks, np.zeros((5, 7), bool), np.ones((5, 7), bool), np.ones((1, 1), bool)]


@pytest.mark.parametrize("mask", random_masks(60))
def test_encoding_is_that_of_pycocotools(mask: np.ndarray) -> None:
    theirs = coco_mask.encode(np.asfortranarray(mask.astype(np.uint8)))
    ours = encode_rle(mask)
    assert ours == {"size": theirs["size"], "counts": theirs["counts"].decode()}
    np.testing.assert_array_equal(decode_rle(theirs), mask)
    np.testing.assert_array_equal(decode_rle(ours), mask)


@pytest.mark.parametrize("mask", random_masks(30))
@pytest.mark.parametrize("corner", [(0, 0), (3, 5)])
@pytest.mark.parametrize("room", [(0, 0), (4, 2)])
def test_a_part_is_encoded_as_the_whole(
    mask: np.ndarray, corner: tuple[int, int], room: tuple[int, int]
) -> None:
    (left, top), (below, beside) = corner, room
    whole = np.pad(mask, ((top, below), (left, beside)))
    assert encode_region(mask, left, top, whole.shape) == encode_rle(whole)  # type: ignore[arg-type]


def test_long_runs_survive() -> None:
    mask = np.zeros((3000, 4000), np.uint8)
    mask[10:2990, 2000:3999] = 1
    assert encode_rle(mask)["counts"] == coco_mask.encode(np.asfortranarray(mask))["counts"].decode(
        "ascii"
    )
    np.testing.assert_array_equal(decode_rle(encode_rle(mask)), mask)


def test_uncompressed_counts() -> None:
    mask = decode_rle({"size": [2, 3], "counts": [1, 2, 3]})
    np.testing.assert_array_equal(mask, [[0, 1, 0], [1, 0, 0]])


@pytest.mark.parametrize(
    ("rle", "message"),
    [
        ({"size": [2, 3], "counts": [1, 2]}, "add up to 3 pixels, but size"),
        ({"size": [3, 3], "counts": encode_rle(np.ones((3, 4)))["counts"]}, "add up to 12"),
        ({"size": [2, 3], "counts": [7, -1]}, "negative"),
        ({"size": [2, 3], "counts": "0 6"}, "character 1"),
        ({"size": [2, 3], "counts": "0é"}, "character 1"),
        ({"size": [2, 3], "counts": "V"}, "middle of a number"),
        ({"size": [2, 3], "counts": "o" * 20 + "0"}, "too large"),
        ({"size": [2, 3], "counts": ["a"]}, "whole numbers"),
        ({"size": [2], "counts": [2]}, "expected"),
        ({"counts": [2]}, "expected"),
        ({"size": [-2, -3], "counts": [6]}, "negative"),
    ],
)
def test_malformed_encodings_are_refused(rle: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        decode_rle(rle)


# --- polygons ---------------------------------------------------------------------------------

SQUARE = [1.0, 1.0, 5.0, 1.0, 5.0, 4.0, 1.0, 4.0]


def test_polygon_covers_pixel_centres() -> None:
    mask = rasterize_polygons([SQUARE], (0, 0, 8, 6), (6, 8))
    expected = np.zeros((6, 8), bool)
    expected[1:4, 1:5] = True
    np.testing.assert_array_equal(mask, expected)
    np.testing.assert_array_equal(mask, coco_mask.decode(coco_mask.frPyObjects([SQUARE], 6, 8)[0]))


def test_polygons_agree_with_pycocotools() -> None:
    rng = np.random.default_rng(1)
    for _ in range(30):
        angles = np.sort(rng.random(9)) * 2 * np.pi
        radii = rng.uniform(12, 40, 9)
        x, y = 30 + radii * np.cos(angles), 25 + radii * np.sin(angles)  # partly out of frame
        polygon = np.stack([x, y], axis=1).ravel().tolist()
        ours = rasterize_polygons([polygon], (0, 0, 60, 50), (50, 60))
        theirs = coco_mask.decode(coco_mask.frPyObjects([polygon], 50, 60)[0]).astype(bool)
        assert (ours != theirs).sum() <= 0.02 * theirs.sum() + 4  # theirs rounds to a fifth pixel


def test_polygons_form_a_union_and_may_cross_themselves() -> None:
    other = [3.0, 2.0, 7.0, 2.0, 7.0, 6.0, 3.0, 6.0]
    both = rasterize_polygons([SQUARE, other], (0, 0, 8, 6), (6, 8))
    single = [rasterize_polygons([p], (0, 0, 8, 6), (6, 8)) for p in (SQUARE, other)]
    np.testing.assert_array_equal(both, single[0] | single[1])
    bow_tie = [0.0, 0.0, 8.0, 6.0, 8.0, 0.0, 0.0, 6.0]
    crossed = rasterize_polygons([bow_tie], (0, 0, 8, 6), (6, 8))
    assert crossed[:, 0].sum() == 6
    assert crossed[0].sum() == 2  # only the corners, not the space between them


def test_polygon_is_cropped_and_scaled() -> None:
    mask = rasterize_polygons([SQUARE], (1, 1, 9, 5), (8, 16))
    expected = np.zeros((8, 16), bool)
    expected[:6, :8] = True
    np.testing.assert_array_equal(mask, expected)
    assert not rasterize_polygons([SQUARE], (6, 0, 8, 6), (4, 4)).any()


@pytest.mark.parametrize(
    ("polygon", "message"),
    [
        ([0, 0, 1, 1], "holds 4 numbers"),
        ([0, 0, 1, 1, 2, 2, 3], "holds 7 numbers"),
        ([0, 0, 1, float("nan"), 2, 2], "not finite"),
        (["a"] * 6, "no list of numbers"),
        ([[0, 0], [1, 1], [2, 2]], "holds 6 numbers"),
    ],
)
def test_polygons_are_checked(polygon: list[float], message: str) -> None:
    with pytest.raises(ValueError, match=f"polygon 1 .*{message}"):
        check_polygons([SQUARE, polygon])


def test_fewer_corners_may_be_allowed() -> None:
    check_polygons([SQUARE, [], [1.0, 2.0]], least=0)
    with pytest.raises(ValueError, match="polygon 0 holds 3 numbers"):
        check_polygons([[1.0, 2.0, 3.0]], least=0)


RLE = {"size": [1, 2], "counts": [1, 1]}


@pytest.mark.parametrize(
    ("annotation", "expected"),
    [
        ({"segmentation": RLE, "bbox": [0, 0, 1, 1]}, (RLE, False)),
        ({"segmentation": [[1, 2], SQUARE], "bbox": [0, 0, 1, 1]}, ([SQUARE], False)),
        ({"segmentation": [[1, 2]], "bbox": [2, 3, 4, 5]}, ([[2, 3, 6, 3, 6, 8, 2, 8]], True)),
        ({"bbox": [2, 3, 4, 5]}, ([[2, 3, 6, 3, 6, 8, 2, 8]], True)),
        ({"segmentation": [], "bbox": [2, 3, 4, 0]}, None),
        ({"segmentation": [], "bbox": [2, 3, float("inf"), 5]}, None),
        ({"segmentation": [], "bbox": [2, 3, 4]}, None),
        ({}, None),
    ],
)
def test_what_an_annotation_says_of_its_mask(
    annotation: dict[str, Any], expected: tuple[object, bool] | None
) -> None:
    assert mask_of_annotation(annotation) == expected


# --- rendering --------------------------------------------------------------------------------


def overlapping_free_map() -> tuple[np.ndarray, list[int]]:
    id_map = np.zeros((40, 60), np.int32)
    id_map[5:20, 10:30] = 70000
    id_map[10:38, 25:50] = 3
    id_map[0:3, 0:4] = 41
    return id_map, [3, 70000, 999, 41]  # 999 has no pixel


BOXES = [
    (0.0, 0.0, 60.0, 40.0),
    (-20.0, -7.3, 33.5, 50.0),
    (20.2, 8.1, 90.0, 31.4),
    (100.0, 100.0, 120.0, 130.0),
]


@pytest.mark.parametrize("box", BOXES)
@pytest.mark.parametrize("size", [(40, 60), (17, 23), (128, 64)])
def test_renderers_agree_with_a_plain_loop(
    box: tuple[float, float, float, float], size: tuple[int, int]
) -> None:
    id_map, ids = overlapping_free_map()
    expected = np.zeros((4, *size), bool)
    for row, column in np.ndindex(*size):
        y = int(np.floor(box[1] + (row + 0.5) * (box[3] - box[1]) / size[0]))
        x = int(np.floor(box[0] + (column + 0.5) * (box[2] - box[0]) / size[1]))
        if 0 <= y < 40 and 0 <= x < 60:
            expected[:, row, column] = id_map[y, x] == np.array(ids)
    from_map = IdMapMasks(id_map, ids)
    from_rle = EncodedMasks((40, 60), [encode_rle(id_map == id) for id in ids])
    np.testing.assert_array_equal(from_map.render(box, size), expected)
    np.testing.assert_array_equal(from_rle.render(box, size), expected)
    assert len(from_map) == len(from_rle) == 4
    assert from_map.size == from_rle.size == (40, 60)


def test_outside_is_background_even_if_zero_is_an_id() -> None:
    mask = IdMapMasks(np.zeros((4, 4), np.int32), [0]).render((-2, 0, 4, 4), (4, 6))
    assert mask[0, :, 2:].all()
    assert not mask[0, :, :2].any()


def test_polygons_end_at_the_image() -> None:
    polygon = [-5.0, -5.0, 20.0, -5.0, 20.0, 20.0, -5.0, 20.0]
    mask = EncodedMasks((6, 8), [[polygon]]).render((-4, -4, 12, 12), (16, 16))[0]
    assert mask.sum() == 6 * 8
    assert mask[4:10, 4:12].all()


def test_nothing_to_render() -> None:
    box = (0.0, 0.0, 4.0, 4.0)
    assert IdMapMasks(np.zeros((4, 4), np.int32), []).render(box, (5, 6)).shape == (0, 5, 6)
    assert EncodedMasks((4, 4), []).render(box, (5, 6)).shape == (0, 5, 6)
    assert not EncodedMasks((4, 4), [[]]).render(box, (5, 6)).any()


def test_bad_masks_are_named() -> None:
    good = encode_rle(np.ones((4, 4), bool))
    with pytest.raises(
        ValueError, match=r"mask 1: .*its size \[3, 4\] is not the image's \[4, 4\]"
    ):
        EncodedMasks((4, 4), [good, encode_rle(np.ones((3, 4), bool))])
    with pytest.raises(ValueError, match="annotation 7: polygon 0 holds 2 numbers"):
        EncodedMasks((4, 4), [[[1.0, 2.0]]], names=["annotation 7"])


@pytest.mark.parametrize("offset", [0, 1 << 30, -9])
def test_places_of_ids(offset: int) -> None:
    """Within a table's reach or not, each id is found where it is listed."""
    ids = np.random.default_rng(0).integers(0, 9, (7, 5)) + offset
    known = [7 + offset, 3 + offset, 100 + offset]
    expected = [[known.index(id) if id in known else -5 for id in row] for row in ids.tolist()]
    assert places_of(ids, known, missing=-5).tolist() == expected
    assert places_of(ids[:0], known, missing=-5).shape == (0, 5)


def test_places_in_an_id_map_are_those_of_its_masks() -> None:
    masks = IdMapMasks(np.random.default_rng(0).integers(0, 9, (7, 5)), [8, 2, 5])
    rendered = masks.render((0, 0, 5, 7), (7, 5))
    expected = np.where(rendered.any(axis=0), rendered.argmax(axis=0), -1)
    assert np.array_equal(masks.places(), expected)
