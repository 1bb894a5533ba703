"""Beside every image one picture of numbers, in which each object and each class has its own."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from jaxtyping import Int

from mask2former.data.dataset import read_annotated_image
from mask2former.data.pixel_maps import Pair, read_map, recode, used_values
from mask2former.masks import IdMapMasks
from mask2former.structures import TASKS, Category, Sample, Task

# The label of a number and whether it is a crowd; None if it is void. ValueError if it is neither.
Meaning = Callable[[int], tuple[int, bool] | None]

_VOID, _LEFT_OUT = -1, -2  # in the map of a sample, where segments count from 0


def read_numbers(pair: Pair) -> Int[np.ndarray, "H W"]:
    """The numbers of a mask as they are; colours as red + 256 green + 65536 blue."""
    return read_map(pair.mask).values


class SegmentMaps:
    """Panoptic annotation; with `things_only` an instance annotation, without the stuff."""

    categories: tuple[Category, ...]

    def __init__(
        self,
        pairs: Sequence[Pair],
        categories: tuple[Category, ...],
        meaning: Meaning,
        *,
        read: Callable[[Pair], Int[np.ndarray, "H W"]] = read_numbers,
        things_only: bool = False,
    ) -> None:
        """`meaning` explains the numbers by labels, indices into all of `categories`.

        It and `read` travel to loader processes, so each is a function of a module.
        """
        self.pairs, self.meaning, self.read = tuple(pairs), meaning, read
        kept = [i for i, category in enumerate(categories) if category.is_thing or not things_only]
        self.categories = tuple(categories[label] for label in kept)
        self.tasks: tuple[Task, ...] = ("instance",) if things_only else TASKS
        self._new_label = {label: new for new, label in enumerate(kept)}

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, index: int) -> Sample:
        pair = self.pairs[index]
        ids = self.read(pair)
        new: dict[int, int] = {}
        labels: list[int] = []
        crowds: list[bool] = []
        for id in used_values(ids):
            try:
                meant = self.meaning(id)
            except ValueError as error:
                raise ValueError(f"{pair.mask}: {error}") from None
            if meant is None:
                new[id] = _VOID
            elif meant[0] not in self._new_label:
                new[id] = _LEFT_OUT
            else:
                new[id] = len(labels)
                labels.append(self._new_label[meant[0]])
                crowds.append(meant[1])
        segments = recode(ids, new)
        height, width = segments.shape
        return Sample(
            image=read_annotated_image(pair.image, (height, width), str(pair.mask)),
            labels=np.array(labels, np.int64),
            masks=IdMapMasks(segments, range(len(labels))),
            is_crowd=np.array(crowds, bool),
            image_id=pair.id,
            name=pair.image.name,
            void=IdMapMasks(segments, [_VOID]),
        )
