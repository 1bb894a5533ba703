from __future__ import annotations

import numpy as np
import pytest
import torch

from mask2former.inference.visualize import (
    contact_sheet,
    draw_instances,
    draw_panoptic,
    draw_semantic,
    overlay,
)
from mask2former.structures import (
    Category,
    Instances,
    Panoptic,
    Segment,
    Segmentation,
    Semantic,
)

CELL = Category(id=1, name="cell", is_thing=True, color=(220, 40, 40))
GROUND = Category(id=2, name="ground", is_thing=False, color=(40, 40, 220))
CATEGORIES = (CELL, GROUND)


def gray(height: int, width: int) -> np.ndarray:
    return np.full((height, width, 3), 128, np.uint8)


def panoptic(ids: torch.Tensor, stuff: tuple[int, ...] = ()) -> Panoptic:
    segments = tuple(
        Segment(
            id=id,
            label=int(id in stuff),
            category=CATEGORIES[id in stuff],
            score=0.9,
            area=int((ids == id).sum()),
        )
        for id in range(1, int(ids.max()) + 1)
    )
    return Panoptic(ids=ids, segments=segments, categories=CATEGORIES)


def instances(masks: torch.Tensor, scores: list[float]) -> Instances:
    boxes = []
    for mask in masks:
        y, x = mask.nonzero().T
        box = [x.min(), y.min(), x.max() + 1, y.max() + 1] if len(x) else [0, 0, 0, 0]
        boxes.append([float(edge) for edge in box])
    return Instances(
        masks=masks,
        scores=torch.tensor(scores),
        labels=torch.zeros(len(masks), dtype=torch.int64),
        boxes=torch.tensor(boxes).view(-1, 4),
        categories=CATEGORIES,
    )


def squares(count: int, side: int = 12) -> torch.Tensor:
    """`count` separate squares in a row, ids from 1."""
    ids = torch.zeros(side + 8, count * (side + 8), dtype=torch.int32)
    for index in range(count):
        left = index * (side + 8) + 4
        ids[4 : 4 + side, left : left + side] = index + 1
    return ids


def test_panoptic_tints_segments_towards_their_colour_and_leaves_the_rest() -> None:
    ids = torch.zeros(60, 80, dtype=torch.int32)
    ids[10:50, 10:30] = 1
    ids[10:50, 50:70] = 2
    image = gray(60, 80)
    drawn = draw_panoptic(image, panoptic(ids, stuff=(2,)), names=False)
    assert drawn.dtype == np.uint8
    assert (image == 128).all(), "the image given must stay as it is"
    red, _, blue = drawn[30, 20].astype(int)
    assert red > 150
    assert red > blue + 50
    red, _, blue = drawn[30, 60].astype(int)
    assert blue > 140
    assert blue > red + 30
    assert (drawn[:, 36:44] == 128).all()
    assert (drawn[30, 9:11].max(0) > drawn[30, 20]).any(), "the outline is stronger than the fill"


def test_neighbouring_things_of_one_class_differ_in_colour() -> None:
    ids = squares(12)
    drawn = draw_panoptic(gray(*ids.shape), panoptic(ids), names=False).astype(int)
    colors = [drawn[10, index * 20 + 10] for index in range(12)]
    for index in range(11):
        assert np.abs(colors[index] - colors[index + 1]).max() > 25


def test_a_single_thing_has_the_colour_of_its_category() -> None:
    ids = squares(1, side=30)
    drawn = draw_panoptic(gray(*ids.shape), panoptic(ids), names=False)
    expected = 128 + 0.45 * (np.array(CELL.color) - 128)
    np.testing.assert_allclose(drawn[19, 19], expected, atol=1)


def test_no_outline_where_a_segment_meets_the_border_of_the_image() -> None:
    ids = torch.ones(40, 40, dtype=torch.int32)
    drawn = draw_panoptic(gray(40, 40), panoptic(ids), names=False)
    assert len(np.unique(drawn.reshape(-1, 3), axis=0)) == 1


def test_names_are_written_on_large_segments_only() -> None:
    for side, written in ((80, True), (10, False)):
        ids = squares(1, side=side)
        image = gray(*ids.shape)
        plain = draw_panoptic(image, panoptic(ids), names=False)
        named = draw_panoptic(image, panoptic(ids), names=True)
        assert (plain != named).any() == written


def test_a_crowd_of_things_is_not_named() -> None:
    ids = squares(41, side=50)
    image = gray(*ids.shape)
    plain = draw_panoptic(image, panoptic(ids), names=False)
    assert (draw_panoptic(image, panoptic(ids), names=True) == plain).all()


def test_instances_below_the_score_and_empty_ones_are_not_drawn() -> None:
    ids = squares(3, side=30)
    masks = torch.stack([ids == 1, ids == 2, ids == 9])
    drawn = draw_instances(gray(*ids.shape), instances(masks, [0.9, 0.4, 0.8]), names=False)
    assert (drawn[19, 19] != 128).any()
    assert (drawn[:, 40:] == 128).all()
    drawn = draw_instances(
        gray(*ids.shape), instances(masks, [0.9, 0.4, 0.8]), min_score=0.3, names=False
    )
    assert (drawn[19, 57] != 128).any()


def test_semantic_paints_every_class_in_its_colour() -> None:
    labels = torch.zeros(40, 60, dtype=torch.int64)
    labels[:, 30:] = 1
    drawn = draw_semantic(gray(40, 60), Semantic(labels=labels, categories=CATEGORIES), names=False)
    for column, category in ((10, CELL), (50, GROUND)):
        expected = 128 + 0.35 * (np.array(category.color) - 128)
        np.testing.assert_allclose(drawn[20, column], expected, atol=1)


@pytest.mark.parametrize("shape", [(1, 1), (3, 200), (200, 3)])
def test_extreme_sizes_are_drawn(shape: tuple[int, int]) -> None:
    ids = torch.ones(shape, dtype=torch.int32)
    assert draw_panoptic(gray(*shape), panoptic(ids)).shape == (*shape, 3)


def test_overlay_prefers_panoptic_then_instances_then_semantic() -> None:
    ids = squares(2, side=30)
    image = gray(*ids.shape)
    masks = instances(torch.stack([ids == 1]), [0.9])
    semantic = Semantic(labels=(ids > 0).long(), categories=CATEGORIES)
    whole = Segmentation(
        size=image.shape[:2], name="", panoptic=panoptic(ids), instances=masks, semantic=semantic
    )
    two = Segmentation(size=image.shape[:2], name="", instances=masks, semantic=semantic)
    one = Segmentation(size=image.shape[:2], name="", semantic=semantic)
    none = Segmentation(size=image.shape[:2], name="")
    assert (overlay(image, whole) == draw_panoptic(image, panoptic(ids))).all()
    assert (overlay(image, two) == draw_instances(image, masks)).all()
    assert (overlay(image, one) == draw_semantic(image, semantic)).all()
    assert (overlay(image, none) == image).all()


def test_an_image_of_another_size_or_kind_is_refused() -> None:
    ids = squares(1)
    with pytest.raises(ValueError, match=r"\[5, 5\] pixels high and wide, the result \[20, 20\]"):
        draw_panoptic(gray(5, 5), panoptic(ids))
    with pytest.raises(ValueError, match="float64"):
        draw_panoptic(np.zeros((20, 20, 3)), panoptic(ids))


def test_contact_sheet_sets_pictures_in_columns() -> None:
    red, blue = gray(50, 100), gray(100, 100)
    red[:] = (255, 0, 0)
    blue[:] = (0, 0, 255)
    sheet = contact_sheet(
        [[red, blue], [blue, red]], ["left", "right"], titles=["a", "b"], cell_width=120
    )
    is_red = (sheet == (255, 0, 0)).all(2)
    is_blue = (sheet == (0, 0, 255)).all(2)
    assert is_red.sum() == 2 * 60 * 120
    assert is_blue.sum() == 2 * 120 * 120
    assert (sheet[0] == 255).all()
    with pytest.raises(ValueError, match="3 column titles for rows of"):
        contact_sheet([[red, blue]], ["a", "b", "c"])
