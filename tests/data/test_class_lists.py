from __future__ import annotations

import json
from pathlib import Path

import pytest

from mask2former.data.class_lists import LISTS, categories_named, class_list, things_of

# How many classes, and how many of them are things, as the released models have them.
COUNTS = {
    "ade20k": (150, 100),
    "ade20k_full": (847, 0),
    "cityscapes": (19, 8),
    "coco": (133, 80),
    "mapillary": (65, 37),
    "youtube_vis_2019": (40, 40),
    "youtube_vis_2021": (40, 40),
}


@pytest.mark.parametrize("name", LISTS)
def test_counts(name: str) -> None:
    categories = class_list(name)
    assert (len(categories), len(things_of(name))) == COUNTS[name]
    assert len({category.id for category in categories}) == len(categories)
    assert all(0 <= value <= 255 for category in categories for value in category.color)


def test_coco_is_what_its_annotations_say(shared: Path) -> None:
    path = shared / "data" / "coco" / "annotations" / "panoptic_val2017.json"
    records = json.loads(path.read_text())["categories"]
    found = [(c.id, c.name, c.is_thing) for c in class_list("coco")]
    assert found == [(r["id"], r["name"], bool(r["isthing"])) for r in records]


def test_unknown_list_names_the_known_ones() -> None:
    with pytest.raises(ValueError, match="'voc' is no list of classes; there are: ade20k"):
        class_list("voc")


def test_names_find_their_benchmark() -> None:
    for categories in (class_list("cityscapes"), things_of("coco"), class_list("ade20k")):
        assert categories_named([category.name for category in categories]) == categories


def test_ids_are_unique_where_a_class_is_new() -> None:
    names = [category.name for category in things_of("coco")]
    found = categories_named([*names, "drone", "kite string"])
    assert len({category.id for category in found}) == 82
    assert found[0] == class_list("coco")[0]


def test_a_list_of_names_alone_is_not_asked() -> None:
    """All of the full ADE20K would be stuff, in colours that are made up."""
    names = [category.name for category in class_list("ade20k_full")[:9]]
    assert names[1] == "building, edifice"
    assert all(c.is_thing for c in categories_named(names[1:2]))


def test_names_that_no_benchmark_knows_are_things() -> None:
    found = categories_named(["bolt", "nut", "person"])
    assert [category.name for category in found] == ["bolt", "nut", "person"]
    assert [category.id for category in found] == [0, 1, 2]
    assert all(category.is_thing for category in found)
