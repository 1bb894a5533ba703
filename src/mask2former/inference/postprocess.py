"""From a model's answer for one image to results at the image's own size.

Queries are selected first. Then their masks are upsampled, a block of rows at a time, and every
task takes what it needs from the block, so that [Q, H, W] never exists whole. As in the official
code the logits are resized, not their sigmoid.

Everything is computed in float32; results stay on the device of the logits.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import Protocol

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from mask2former.inference.resample import Axis, Size, blocks, upsampled
from mask2former.inference.resample import Sizes as Sizes
from mask2former.structures import (
    TASKS,
    Category,
    Instances,
    Panoptic,
    Segment,
    Segmentation,
    Semantic,
    Task,
    View,
)

NOTHING = 1e-30  # a probability that no sum of probabilities notices


def panoptic(
    class_logits: Float[Tensor, "Q K1"],
    mask_logits: Float[Tensor, "Q h w"],
    sizes: Sizes,
    categories: tuple[Category, ...],
    view: View,
) -> Panoptic:
    """One segment or nothing for every pixel; stuff is one segment a class.

    Among the queries above `view.object_threshold` a pixel goes to the one with the largest score
    times mask probability, if its mask probability there is at least one half. A query that owns
    less than `view.overlap_threshold` of its mask is dropped. Segment ids count from 1.
    """
    task = _PanopticTask(_probabilities(class_logits, categories), categories, view, sizes.output)
    _run([task], mask_logits, sizes)
    return task.result()


def instance(
    class_logits: Float[Tensor, "Q K1"],
    mask_logits: Float[Tensor, "Q h w"],
    sizes: Sizes,
    categories: tuple[Category, ...],
    view: View,
) -> Instances:
    """The `view.max_detections` best pairs of query and class, best first.

    A score is the class probability times the mean mask probability inside the mask. Pairs whose
    mask is empty are left out (the official code returns them, with a score of 0).
    """
    task = _InstanceTask(_probabilities(class_logits, categories), categories, view, sizes.output)
    _run([task], mask_logits, sizes)
    return task.result()


def semantic(
    class_logits: Float[Tensor, "Q K1"],
    mask_logits: Float[Tensor, "Q h w"],
    sizes: Sizes,
    categories: tuple[Category, ...],
    *,
    keep_scores: bool = False,
    resize_scores: bool = False,
) -> Semantic:
    """The class with the largest sum over queries of class times mask probability, per pixel.

    `keep_scores` returns those sums too. `resize_scores` takes them on the canvas and resizes the
    sums instead of the logits, as the official models that are semantic only do.
    """
    task = _SemanticTask(
        _probabilities(class_logits, categories), categories, sizes.output, keep_scores
    )
    if resize_scores:
        task.run_resizing_scores(mask_logits, sizes)
    else:
        _run([task], mask_logits, sizes)
    return task.result()


def segment(
    class_logits: Float[Tensor, "Q K1"],
    mask_logits: Float[Tensor, "Q h w"],
    sizes: Sizes,
    categories: tuple[Category, ...],
    view: View,
    tasks: Collection[Task],
    *,
    name: str = "",
    keep_scores: bool = False,
) -> Segmentation:
    """The results of several tasks, as `panoptic`, `instance` and `semantic` give them.

    The masks are upsampled once for all of them, unless `view.resize_semantic_scores` sets the
    semantic task apart. `name` is the image's, for the result.
    """
    if not tasks or not set(tasks) <= set(TASKS):
        raise ValueError(f"tasks {sorted(tasks)}: choose one or more of {', '.join(TASKS)}")
    probabilities = _probabilities(class_logits, categories)
    panoptic_task = instance_task = semantic_task = None
    if "panoptic" in tasks:
        panoptic_task = _PanopticTask(probabilities, categories, view, sizes.output)
    if "instance" in tasks:
        instance_task = _InstanceTask(probabilities, categories, view, sizes.output)
    if "semantic" in tasks:
        semantic_task = _SemanticTask(probabilities, categories, sizes.output, keep_scores)
    chosen = [task for task in (panoptic_task, instance_task, semantic_task) if task is not None]
    if semantic_task is not None and view.resize_semantic_scores:
        chosen.remove(semantic_task)
        semantic_task.run_resizing_scores(mask_logits, sizes)
    if chosen:
        _run(chosen, mask_logits, sizes)
    return Segmentation(
        size=sizes.output,
        name=name,
        panoptic=panoptic_task.result() if panoptic_task else None,
        instances=instance_task.result() if instance_task else None,
        semantic=semantic_task.result() if semantic_task else None,
    )


# --- the pass over the image --------------------------------------------------------------------


class _Task(Protocol):
    queries: Int64[Tensor, "N"]  # whose masks it needs, ascending; on the CPU

    def start(self, device: torch.device) -> None: ...

    def add(
        self, rows: slice, logits: Float[Tensor, "N R W"], probabilities: Float[Tensor, "N R W"]
    ) -> None: ...


@torch.no_grad()
def _run(tasks: Sequence[_Task], mask_logits: Float[Tensor, "Q h w"], sizes: Sizes) -> None:
    """Show every task the masks of its queries at the output size, block by block."""
    device = mask_logits.device
    for task in tasks:
        task.start(device)
    queries = torch.unique(torch.cat([task.queries for task in tasks]))
    if len(queries) == 0:
        return
    picks = [  # where a task's queries are among all; None: it needs every one
        None
        if len(task.queries) == len(queries)
        else torch.searchsorted(queries, task.queries).to(device)
        for task in tasks
    ]
    logits = mask_logits if len(queries) == len(mask_logits) else mask_logits[queries.to(device)]
    with torch.autocast(device.type, enabled=False):
        for rows, block in upsampled(logits.float(), sizes):
            probabilities = block.sigmoid()
            for task, pick in zip(tasks, picks, strict=True):
                if len(task.queries) == 0:
                    continue
                if pick is None:
                    task.add(rows, block, probabilities)
                else:
                    task.add(rows, block[pick], probabilities[pick])


def _probabilities(
    class_logits: Float[Tensor, "Q K1"], categories: tuple[Category, ...]
) -> Float[Tensor, "Q K1"]:
    """Class probabilities on the CPU, where queries are selected: the one wait for the device."""
    if class_logits.shape[-1] != len(categories) + 1:
        raise ValueError(
            f"class_logits has {class_logits.shape[-1]} columns, but {len(categories)} categories "
            f"and 'no object' need {len(categories) + 1}; pass the categories of the model"
        )
    return class_logits.detach().float().cpu().softmax(-1)


# --- the tasks ----------------------------------------------------------------------------------


class _PanopticTask:
    def __init__(
        self,
        probabilities: Float[Tensor, "Q K1"],
        categories: tuple[Category, ...],
        view: View,
        size: Size,
    ) -> None:
        scores, labels = probabilities.max(-1)
        keep = (labels != len(categories)) & (scores > view.object_threshold)
        self.queries = keep.nonzero().flatten()
        self._scores = scores[keep]
        self._labels: list[int] = labels[keep].tolist()
        self._categories = categories
        self._overlap_threshold = view.overlap_threshold
        self._size = size

    def start(self, device: torch.device) -> None:
        count = len(self.queries)
        self._weights = self._scores.to(device)[:, None, None]
        # Twice the owner's place among the queries, plus one if its probability reaches one half.
        self._codes = torch.zeros(self._size, dtype=torch.int32, device=device)
        self._code_areas = torch.zeros(2 * count, dtype=torch.int64, device=device)
        self._mask_areas = torch.zeros(count, device=device)

    def add(
        self, rows: slice, logits: Float[Tensor, "N R W"], probabilities: Float[Tensor, "N R W"]
    ) -> None:
        owner = _argmax(probabilities * self._weights)
        inside = _compare(torch.ge, probabilities, 0.5)
        codes = 2 * owner + inside.gather(0, owner[None])[0].long()
        self._codes[rows] = codes
        self._code_areas += codes.flatten().bincount(minlength=len(self._code_areas))
        self._mask_areas += inside.sum((1, 2))

    def result(self) -> Panoptic:
        areas: list[list[int]] = self._code_areas.view(-1, 2).tolist()
        mask_areas: list[float] = self._mask_areas.tolist()
        scores: list[float] = self._scores.tolist()
        segments: dict[int, Segment] = {}  # by id
        stuff: dict[int, int] = {}  # label -> id
        id_of_code = torch.zeros(max(1, 2 * len(areas)), dtype=torch.int32)
        for query, (outside, inside) in enumerate(areas):
            if inside == 0 or (outside + inside) / mask_areas[query] < self._overlap_threshold:
                continue
            label, score, area = self._labels[query], scores[query], inside
            category = self._categories[label]
            id = stuff.get(label, len(segments) + 1)
            if id in segments:
                area += segments[id].area
                score = max(score, segments[id].score)
            if not category.is_thing:
                stuff[label] = id
            segments[id] = Segment(id=id, label=label, category=category, score=score, area=area)
            id_of_code[2 * query + 1] = id
        return Panoptic(
            ids=id_of_code.to(self._codes.device)[self._codes],
            segments=tuple(segments.values()),
            categories=self._categories,
        )


class _InstanceTask:
    def __init__(
        self,
        probabilities: Float[Tensor, "Q K1"],
        categories: tuple[Category, ...],
        view: View,
        size: Size,
    ) -> None:
        pairs = probabilities[:, :-1].flatten()
        scores, best = pairs.topk(min(view.max_detections, len(pairs)))
        labels = best % len(categories)
        if view.instances_of_things_only:  # after the top k, as the official code does
            is_thing = torch.tensor([category.is_thing for category in categories])[labels]
            scores, best, labels = scores[is_thing], best[is_thing], labels[is_thing]
        self.queries, self._pair_queries = torch.unique(
            best // len(categories), return_inverse=True
        )
        self._scores = scores
        self._labels = labels
        self._categories = categories
        self._size = size

    def start(self, device: torch.device) -> None:
        count, (height, width) = len(self.queries), self._size
        self._masks = torch.zeros(count, height, width, dtype=torch.bool, device=device)
        self._in_row = torch.zeros(count, height, device=device)
        self._in_column = torch.zeros(count, width, device=device)
        self._areas = torch.zeros(count, device=device)
        self._sums = torch.zeros(count, device=device)

    def add(
        self, rows: slice, logits: Float[Tensor, "N R W"], probabilities: Float[Tensor, "N R W"]
    ) -> None:
        inside = _compare(torch.gt, logits, 0.0)
        self._masks[:, rows] = inside
        self._in_row[:, rows] = inside.amax(2)
        self._in_column = torch.maximum(self._in_column, inside.amax(1))
        self._areas += inside.sum((1, 2))
        self._sums += inside.mul_(probabilities).sum((1, 2))

    def result(self) -> Instances:
        device = self._masks.device
        index = self._pair_queries.to(device)
        scores = self._scores.to(device) * (self._sums / (self._areas + 1e-6))[index]
        left, right = _extent(self._in_column)
        top, bottom = _extent(self._in_row)
        order = scores.argsort(descending=True, stable=True)
        order = order[self._areas[index[order]] > 0]
        index = index[order]
        return Instances(
            masks=self._masks[index],
            scores=scores[order],
            labels=self._labels.to(device)[order],
            boxes=torch.stack([left, top, right, bottom], dim=1)[index],
            categories=self._categories,
        )


class _SemanticTask:
    def __init__(
        self,
        probabilities: Float[Tensor, "Q K1"],
        categories: tuple[Category, ...],
        size: Size,
        keep_scores: bool,
    ) -> None:
        self.queries = torch.arange(len(probabilities))
        weights = probabilities[:, :-1].T.contiguous()
        # Intel's processors take thirty times as long for products with denormal numbers.
        self._class_probabilities = weights.masked_fill(weights < NOTHING, 0.0)
        self._categories = categories
        self._size = size
        self._keep_scores = keep_scores

    def start(self, device: torch.device) -> None:
        self._weights = self._class_probabilities.to(device)
        self._labels = torch.zeros(self._size, dtype=torch.int64, device=device)
        self._scores: Tensor | None = None
        if self._keep_scores:
            self._scores = torch.zeros(len(self._categories), *self._size, device=device)

    def add(
        self, rows: slice, logits: Float[Tensor, "Q R W"], probabilities: Float[Tensor, "Q R W"]
    ) -> None:
        self._add_scores(rows, self._sum(probabilities))

    @torch.no_grad()
    def run_resizing_scores(self, mask_logits: Float[Tensor, "Q h w"], sizes: Sizes) -> None:
        """As `_run` does it, but what is resized to the output are the scores."""
        device = mask_logits.device
        self.start(device)
        height, width = sizes.output
        on_image = Sizes(padded=sizes.padded, image=sizes.image, output=sizes.image)
        rows = Axis(sizes.image[0], sizes.image[0], sizes.image[0], height, device)
        columns = Axis(sizes.image[1], sizes.image[1], sizes.image[1], width, device)
        with torch.autocast(device.type, enabled=False):
            parts = [
                columns.apply(self._sum(logits.sigmoid()))
                for _, logits in upsampled(mask_logits.float(), on_image)
            ]
            wide = torch.cat(parts, dim=1)
            for block in blocks(height, len(wide) * width, device):
                source = rows.sources(block)
                self._add_scores(block, rows.matrix[block, source] @ wide[:, source])

    def _sum(self, probabilities: Float[Tensor, "Q R W"]) -> Float[Tensor, "K R W"]:
        sums = self._weights @ probabilities.flatten(1)
        return sums.view(-1, *probabilities.shape[1:])

    def _add_scores(self, rows: slice, scores: Float[Tensor, "K R W"]) -> None:
        self._labels[rows] = _argmax(scores)
        if self._scores is not None:
            self._scores[:, rows] = scores

    def result(self) -> Semantic:
        return Semantic(labels=self._labels, categories=self._categories, scores=self._scores)


# --- arithmetic that torch vectorises -------------------------------------------------------------


def _argmax(values: Float[Tensor, "N R W"]) -> Int64[Tensor, "R W"]:
    """The first index of the largest value; on the CPU three times faster than `argmax(0)`."""
    countdown = torch.arange(len(values), 0, -1, device=values.device, dtype=values.dtype)
    is_best = _compare(torch.eq, values, values.amax(0))
    return len(values) - is_best.mul_(countdown[:, None, None]).amax(0).long()


def _compare(
    operation: Callable[..., Tensor], values: Float[Tensor, "..."], other: Tensor | float
) -> Float[Tensor, "..."]:
    """A comparison that answers 1.0 or 0.0; on the CPU four times faster than with booleans."""
    return operation(values, other, out=torch.empty_like(values))


def _extent(occupied: Float[Tensor, "N L"]) -> tuple[Float[Tensor, "N"], Float[Tensor, "N"]]:
    """The first occupied position, and the one after the last."""
    length = occupied.shape[1]
    return occupied.argmax(1).float(), (length - occupied.flip(1).argmax(1)).float()
