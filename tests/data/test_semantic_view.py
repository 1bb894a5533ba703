"""Segments of one class united to one mask."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mask2former.data.coco_panoptic import CocoPanoptic
from mask2former.data.semantic_view import SemanticView
from mask2former.masks import EncodedMasks, encode_rle
from mask2former.structures import Category, Sample, Task

CATEGORIES = tuple(
    Category(id=i, name=name, is_thing=i < 2, color=(i, 0, 0))
    for i, name in enumerate(("cow", "pig", "grass"))
)
EVERYTHING = (0.0, 0.0, 8.0, 6.0), (6, 8)


class OneImage:
    """Two cows that overlap, a crowd of cows, and grass; no pig."""

    categories = CATEGORIES
    tasks: tuple[Task, ...] = ("panoptic", "instance", "semantic")

    def __init__(self) -> None:
        self.masks = np.zeros((4, 6, 8), bool)
        self.masks[0, 3:] = True  # grass
        self.masks[1, :2, :4] = True
        self.masks[2, 1:3, 2:6] = True
        self.masks[3, 0, 7] = True  # crowd

    def __len__(self) -> int:
        return 1

    def __getitem__(self, index: int) -> Sample:
        return Sample(
            image=np.zeros((6, 8, 3), np.uint8),
            labels=np.array([2, 0, 0, 0]),
            masks=EncodedMasks((6, 8), [encode_rle(mask) for mask in self.masks]),
            is_crowd=np.array([False, False, False, True]),
            image_id=7,
            name="image",
            void=EncodedMasks((6, 8), [encode_rle(~self.masks.any(0))]),
        )


def test_objects_of_a_class_are_one_mask() -> None:
    whole = OneImage()
    view = SemanticView(whole)
    sample = view[0]
    assert (len(view), view.categories, view.tasks) == (1, CATEGORIES, ("semantic",))
    assert (sample.labels.tolist(), len(sample.masks), sample.masks.size) == ([0, 2], 2, (6, 8))
    assert not sample.is_crowd.any()  # a crowd of cows is cow
    rendered = sample.masks.render(*EVERYTHING)
    np.testing.assert_array_equal(rendered[0], whole.masks[1:].any(axis=0))
    np.testing.assert_array_equal(rendered[1], whole.masks[0])
    assert sample.void is not None
    assert (sample.image_id, sample.void.render(*EVERYTHING).sum()) == (7, 9)


def test_a_part_of_it_at_another_scale() -> None:
    whole = OneImage()
    part = (1.0, 0.0, 5.0, 4.0), (8, 8)
    rendered = SemanticView(whole)[0].masks.render(*part)
    apart = whole[0].masks.render(*part)
    np.testing.assert_array_equal(rendered[0], apart[1:].any(axis=0))
    np.testing.assert_array_equal(rendered[1], apart[0])


def test_an_image_without_objects(tmp_path: Path) -> None:
    (tmp_path / "p").mkdir()
    Image.new("RGB", (4, 4)).save(tmp_path / "p" / "a.png")
    content = {
        "images": [{"id": 1, "file_name": "a.png", "height": 4, "width": 4}],
        "categories": [{"id": 1, "name": "cow", "isthing": 1}],
        "annotations": [{"image_id": 1, "file_name": "a.png", "segments_info": []}],
    }
    (tmp_path / "p.json").write_text(json.dumps(content))
    sample = SemanticView(CocoPanoptic(tmp_path / "p.json", tmp_path / "p", tmp_path / "p"))[0]
    assert (sample.labels.tolist(), len(sample.masks)) == ([], 0)
    assert sample.masks.render((0, 0, 4, 4), (4, 4)).shape == (0, 4, 4)


@pytest.mark.data
def test_equals_the_semantic_maps_that_come_with_coco(shared: Path) -> None:
    root = shared / "data" / "coco"
    panoptic = CocoPanoptic(
        root / "annotations" / "panoptic_val2017.json",
        root / "annotations" / "panoptic_val2017",
        root / "images" / "val2017",
    )
    view = SemanticView(panoptic)
    for index in range(4):
        sample = view[index]
        path = root / "semantic" / "val2017" / Path(sample.name).with_suffix(".png")
        ids = np.asarray(Image.open(path))
        size = sample.masks.size
        rendered = sample.masks.render((0, 0, size[1], size[0]), size)
        of_labels = {panoptic.categories[label].id for label in sample.labels}
        assert of_labels == set(np.unique(ids).tolist()) - {0}
        for label, mask in zip(sample.labels, rendered, strict=True):
            np.testing.assert_array_equal(mask, ids == panoptic.categories[label].id)
