"""Images held out for validation, where a data set comes without a split for it."""

from __future__ import annotations

from collections.abc import Sequence

from mask2former.data.dataset import Dataset, labels_of
from mask2former.structures import Category, Sample, Task


class Part:
    """The images of a data set at some indices."""

    def __init__(self, dataset: Dataset, indices: Sequence[int]) -> None:
        self.dataset, self.indices = dataset, indices

    @property
    def categories(self) -> tuple[Category, ...]:
        return self.dataset.categories

    @property
    def tasks(self) -> tuple[Task, ...]:
        return self.dataset.tasks

    def __len__(self) -> int:
        return len(self.indices)

    def labels_of(self, index: int) -> set[int]:
        return labels_of(self.dataset, self.indices[index])

    def __getitem__(self, index: int) -> Sample:
        return self.dataset[self.indices[index]]


def hold_out(dataset: Dataset, every: int) -> tuple[Part, Part]:
    """All images but every so many-th, and these (the last image, if there are fewer).

    ValueError if there is but one image.
    """
    if every < 2:
        raise ValueError(f"data.holdout is {every}; hold out one image of 2 or more")
    count = len(dataset)
    if count < 2:
        raise ValueError(
            f"{count} annotated images cannot be split into training and validation; annotate more"
        )
    held = range(every - 1, count, every) or range(count - 1, count)
    return Part(dataset, [i for i in range(count) if i not in held]), Part(dataset, held)
