"""A model measured on a data set: every figure that its annotation allows."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Protocol, runtime_checkable

import torch.distributed
from rich.progress import track

from mask2former.data.class_groups import groups_of, is_cityscapes
from mask2former.data.dataset import Dataset
from mask2former.evaluation.average_precision import AveragePrecision
from mask2former.evaluation.boundary_ap import BoundaryAP
from mask2former.evaluation.cityscapes_ap import CityscapesAP
from mask2former.evaluation.evaluator import (
    Evaluator,
    Grouped,
    ImageId,
    merge_across_ranks,
    update_with_figures,
)
from mask2former.evaluation.lvis_ap import Known, LvisAP
from mask2former.evaluation.mean_iou import MeanIoU
from mask2former.evaluation.panoptic_quality import PanopticQuality
from mask2former.segmenter import Augmentation, Segmenter
from mask2former.structures import Category, Sample, Segmentation, Task

OnImage = Callable[[Sample, Segmentation, dict[str, float]], None]


@runtime_checkable
class FederatedDataset(Protocol):
    """A data set that is annotated as LVIS is; see `LvisAP`."""

    frequency: Sequence[str]
    federated: Mapping[ImageId, Known]


def evaluators(
    categories: tuple[Category, ...],
    max_detections: int,
    tasks: tuple[Task, ...],
    groups: Mapping[int | str, str] | None = None,
    *,
    boundary: bool = False,
    dataset: Dataset | None = None,
) -> list[Evaluator]:
    """What measures the tasks; with `groups` (image id -> kind) each also says so kind by kind.

    `boundary` adds boundary AP. Cityscapes' classes are also measured by its own AP and by groups
    of classes; a federated `dataset` has LVIS's AP in place of COCO's.
    """
    made: list[Evaluator] = []
    if "panoptic" in tasks:
        made.append(PanopticQuality(categories))
    if "instance" in tasks:
        if isinstance(dataset, FederatedDataset):
            frequency, known = dataset.frequency, dataset.federated
            made.append(LvisAP(categories, frequency, known, max_detections=max_detections))
        else:
            made.append(AveragePrecision(categories, max_detections=max_detections))
        if is_cityscapes(categories):
            made.append(CityscapesAP(categories))
        if boundary:
            made.append(BoundaryAP(categories, max_detections=max_detections))
    if "semantic" in tasks:
        made.append(MeanIoU(categories, groups_of(categories)))
    return [Grouped(e, groups) if groups else e for e in made]


def evaluate(
    segmenter: Segmenter,
    dataset: Dataset,
    tasks: tuple[Task, ...],
    *,
    groups: Mapping[int | str, str] | None = None,
    progress: bool = True,
    on_image: OnImage | None = None,
    boundary: bool = False,
    augmentation: Augmentation | None = None,
) -> dict[str, float]:
    """PQ, AP and mIoU (in percent) of all tasks, from one forward pass an image.

    `boundary` adds boundary AP. With an `augmentation` the semantic result is the mean over views.

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
    measuring = evaluators(
        segmenter.categories,
        view.max_detections,
        tasks,
        groups,
        boundary=boundary,
        dataset=dataset,
    )
    indices = range(rank(), len(dataset), ranks())
    for i in track(indices, "evaluating", disable=not progress, transient=True):
        sample = dataset[i]
        result = segment_with(segmenter, sample, tasks, augmentation)
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


def segment_with(
    segmenter: Segmenter,
    sample: Sample,
    tasks: tuple[Task, ...],
    augmentation: Augmentation | None,
) -> Segmentation:
    """A sample's result; its semantic part, if it is asked for, by an augmentation."""
    if augmentation is None or "semantic" not in tasks:
        (result,) = segmenter.segment([sample.image], [sample.name], tasks)
        return result
    others = tuple(task for task in tasks if task != "semantic")
    result = segmenter.augmented(sample.image, augmentation, name=sample.name)
    if others:
        (plain,) = segmenter.segment([sample.image], [sample.name], others)
        result = replace(plain, semantic=result.semantic)
    return result


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
