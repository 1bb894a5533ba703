"""Which images are held out, and when."""

from __future__ import annotations

from pathlib import Path

import pytest

from mask2former.data.holdout import hold_out
from mask2former.data.scenes import Scenes, write_coco_panoptic
from mask2former.data.scenes_layout import ScenesConfig
from mask2former.training.config import FolderData

SMALL = ScenesConfig(size=64, min_things=1, max_things=2, min_size=8, max_size=20)


@pytest.mark.parametrize(("count", "held"), [(12, [4, 9]), (5, [4]), (3, [2]), (2, [1])])
def test_every_fifth(count: int, held: list[int]) -> None:
    train, val = hold_out(Scenes(length=count, seed=0), 5)
    assert list(val.indices) == held
    assert sorted([*train.indices, *val.indices]) == list(range(count))
    assert val[0].image_id == held[0]
    assert train.categories == val.categories
    assert train.tasks == ("panoptic", "instance", "semantic")


def test_one_image_cannot_be_split() -> None:
    with pytest.raises(ValueError, match="annotate more"):
        hold_out(Scenes(length=1, seed=0), 5)
    with pytest.raises(ValueError, match="holdout is 1; hold out one image of 2 or more"):
        hold_out(Scenes(length=5, seed=0), 1)


def test_only_where_there_is_no_split_to_validate_on(tmp_path: Path) -> None:
    write_coco_panoptic(Scenes(length=6, seed=0, config=SMALL), tmp_path, "train")
    alone = FolderData(folder=str(tmp_path))
    assert alone.divided == "train"
    assert (len(alone.open_train()), len(alone.open_val())) == (5, 1)
    by_heart = FolderData(folder=str(tmp_path), val="train")
    assert (by_heart.divided, len(by_heart.open_val())) == (None, 6)
    write_coco_panoptic(Scenes(length=3, seed=1, config=SMALL), tmp_path, "test")
    assert alone.divided == "train"  # a test split is not to be looked at before the end
    assert (len(alone.open_train()), len(alone.open_val())) == (5, 1)
    on_test = FolderData(folder=str(tmp_path), val="test")
    assert (on_test.divided, len(on_test.open_train()), len(on_test.open_val())) == (None, 6, 3)
    write_coco_panoptic(Scenes(length=2, seed=1, config=SMALL), tmp_path, "val")
    assert alone.divided is None
    assert (len(alone.open_train()), len(alone.open_val())) == (6, 2)
