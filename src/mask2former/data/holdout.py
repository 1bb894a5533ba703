"""Images held out for validation, where a data set comes without a split for it."""

from __future__ import annotations

from mask2former.data.dataset import Dataset, Part


def hold_out(dataset: Dataset, every: int) -> tuple[Part, Part]:
    """All images but every so many-th, and these (the last image, if there are fewer).

    ValueError if there is but one image.
    """
    if every < 2:
        raise ValueError(f"data.holdout is {every}; hold out one image of 2 or more")
    count = len(dataset)
    if count < 2:
        raise ValueError(
            f"{count} annotated images cannot be split into training and validation; annotate more,"
            " or validate on those that are trained on, to see whether it learns: data.val=train"
        )
    held = range(every - 1, count, every) or range(count - 1, count)
    return Part(dataset, [i for i in range(count) if i not in held]), Part(dataset, held)
