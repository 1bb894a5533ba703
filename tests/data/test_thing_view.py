"""The things of a panoptic data set alone, beside the panoptic one."""

from __future__ import annotations

import numpy as np

from mask2former.data.scenes import Scenes
from mask2former.data.thing_view import ThingView
from mask2former.training.config import ScenesData


def test_things_keep_their_names_and_masks() -> None:
    scenes = Scenes(length=3, seed=5)
    view = ThingView(scenes)
    assert len(view) == 3
    assert view.tasks == ("instance",)
    assert all(category.is_thing for category in view.categories)
    for index in range(3):
        whole, part = scenes[index], view[index]
        things = [i for i, label in enumerate(whole.labels) if scenes.categories[label].is_thing]
        assert len(part.masks) == len(part.labels) == len(things) > 0
        assert part.masks.size == whole.masks.size
        names = [view.categories[label].name for label in part.labels]
        assert names == [scenes.categories[whole.labels[i]].name for i in things]
        box, size = (0.0, 0.0, 256.0, 256.0), (128, 128)
        wanted = whole.masks.render(box, size)[things]
        np.testing.assert_array_equal(part.masks.render(box, size), wanted)


def test_scenes_for_each_task() -> None:
    for task, tasks in (("instance", ("instance",)), ("semantic", ("semantic",))):
        assert ScenesData(task=task).open_val().tasks == tasks  # type: ignore[arg-type]
