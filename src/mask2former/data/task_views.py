"""Panoptic annotation for every task: as it is, its things alone, or its classes."""

from __future__ import annotations

from typing import Protocol

from mask2former.archive import AnyPath
from mask2former.data.dataset import Dataset
from mask2former.data.semantic_view import SemanticView
from mask2former.data.thing_view import ThingView
from mask2former.structures import Task


class PanopticReader(Protocol):
    """Opens a split; with `things_only` without the stuff, as an instance annotation."""

    def __call__(self, folder: AnyPath, split: str, *, things_only: bool) -> Dataset: ...


def viewed(dataset: Dataset, task: Task) -> Dataset:
    """A data set as an annotation of `task`: itself if it was made for it."""
    if task == dataset.tasks[0]:
        return dataset
    return ThingView(dataset) if task == "instance" else SemanticView(dataset)


def open_panoptic(read: PanopticReader, folder: AnyPath, split: str, task: Task) -> Dataset:
    """What `Format.open` is, as `partial(open_panoptic, read)`, where `read` knows all tasks."""
    return viewed(read(folder, split, things_only=task == "instance"), task)
