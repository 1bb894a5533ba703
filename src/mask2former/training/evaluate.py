"""A model measured on a data set: every figure that its annotation allows."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch.distributed
from rich.progress import track

from mask2former.data.dataset import Dataset
from mask2former.evaluation.average_precision import AveragePrecision
from mask2former.evaluation.evaluator import (
    Evaluator,
    Grouped,
    merge_across_ranks,
    update_with_figures,
)
from mask2former.evaluation.mean_iou import MeanIoU
from mask2former.evaluation.panoptic_quality import PanopticQuality
from mask2former.segmenter import Segmenter
from mask2former.structures import Category, Sample, Segmentation, Task

OnImage = Callable[[Sample, Segmentation, dict[str, float]], None]


def evaluators(
    categories: tuple[Category, ...],
    max_detections: int,
    tasks: tuple[Task, ...],
    groups: Mapping[int | str, str] | None = None,
) -> list[Evaluator]:
    """One evaluator a task; with `groups` (image id -> kind) each also says so kind by kind."""
    made: dict[Task, Evaluator] = {}
    if "panoptic" in tasks:
        made["panoptic"] = PanopticQuality(categories)
    if "instance" in tasks:
        made["instance"] = AveragePrecision(categories, max_detections=max_detections)
    if "semantic" in tasks:
        made["semantic"] = MeanIoU(categories)
    return [Grouped(e, groups) if groups else e for e in made.values()]


def evaluate(
    segmenter: Segmenter,
    dataset: Dataset,
    tasks: tuple[Task, ...],
    *,
    groups: Mapping[int | str, str] | None = None,
    progress: bool = True,
    on_image: OnImage | None = None,
) -> dict[str, float]:
    """PQ, AP and mIoU (in percent) of all tasks, from one forward pass an image.

    `on_image` is called with every image's sample, result and own figures ("PQ", "AP", "mIoU",
    "PQ/<class>" ...), where there are several processes in the one that measured the image. Where
    several processes run under torch.distributed they share the images, and each returns the
    figures of all. ValueError if the data set's classes are not the model's, in the model's order.
    """
    check_categories(segmenter.categories, dataset.categories)
    for task in tasks:
        if task not in dataset.tasks:
            raise ValueError(
                f"the annotation cannot measure the task {task!r}, only"
                f" {', '.join(dataset.tasks)}; leave it out, or give panoptic annotation"
            )
    view = segmenter.model.config.view
    measuring = evaluators(segmenter.categories, view.max_detections, tasks, groups)
    indices = range(rank(), len(dataset), ranks())
    for i in track(indices, "evaluating", disable=not progress, transient=True):
        sample = dataset[i]
        (result,) = segmenter.segment([sample.image], [sample.name], tasks)
        if on_image is None:
            for evaluator in measuring:
                evaluator.update(result, sample)
            continue
        of_image: dict[str, float] = {}
        for evaluator in measuring:
            of_image |= update_with_figures(evaluator, result, sample)
        on_image(sample, result, of_image)
    figures: dict[str, float] = {}
    for evaluator in measuring:
        figures |= merge_across_ranks(evaluator).compute()
    return figures


def rank() -> int:
    """This process's number among those of torch.distributed; 0 where there is one alone."""
    return torch.distributed.get_rank() if _distributed() else 0


def ranks() -> int:
    return torch.distributed.get_world_size() if _distributed() else 1


def _distributed() -> bool:
    return torch.distributed.is_available() and torch.distributed.is_initialized()


def check_categories(model: tuple[Category, ...], dataset: tuple[Category, ...]) -> None:
    """ValueError if two lists of classes differ in a name or in the order."""
    ours, theirs = [c.name for c in model], [c.name for c in dataset]
    if ours == theirs:
        return
    lacking = [name for name in theirs if name not in ours]
    surplus = [name for name in ours if name not in theirs]
    raise ValueError(
        f"the model knows {len(ours)} classes, the data set has {len(theirs)}; only in the data "
        f"set: {', '.join(lacking[:5]) or 'none'}; only in the model: "
        f"{', '.join(surplus[:5]) or 'none'}. Their names and order must be the same"
    )
