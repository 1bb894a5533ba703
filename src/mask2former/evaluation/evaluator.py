"""The contract of an evaluator: results and truth in, tallies kept, figures out."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from typing import Generic, Protocol, Self, TypeVar

import torch.distributed

from mask2former.structures import Category, Instances, Sample, Segmentation

ImageId = int | str


class Evaluator(Protocol):
    """Collects one task's figures image by image; what it holds stays small and can be pickled."""

    def update(self, result: Segmentation, sample: Sample) -> None:
        """Add one image.

        Raises ValueError, naming the sample, if the result lacks the task or has another size
        than the truth, or if the image was added before.
        """

    def merge(self, other: Self, /) -> None:
        """Add the images that `other` has seen; the two must have none in common."""

    def fresh(self) -> Self:
        """One that measures the same and has seen no image."""

    def compute(self) -> dict[str, float]:
        """The figures so far, in percent.

        A figure that stands on nothing (no image yet, a class that never occurred) is left out.
        """


class Mergeable(Protocol):
    """What several processes gather each for its own images."""

    def merge(self, other: Self, /) -> None:
        """Add what `other` has gathered."""


AnyMergeable = TypeVar("AnyMergeable", bound=Mergeable)
Kept = TypeVar("Kept")


class Grouped:
    """Any evaluator, over all images and over each kind of image.

    `groups` names the kind of an image by its id; images that it lacks count in the total only.
    The figures of a kind stand under "<kind>/<figure>", as in "fluorescence/AP50".
    """

    def __init__(self, evaluator: Evaluator, groups: Mapping[ImageId, str]) -> None:
        self.empty = evaluator.fresh()
        self.groups = dict(groups)
        self.evaluators: dict[str | None, Evaluator] = {}

    def update(self, result: Segmentation, sample: Sample) -> None:
        self.of_image(sample.image_id).update(result, sample)

    def merge(self, other: Self) -> None:
        for group, evaluator in other.evaluators.items():
            self._of(group).merge(evaluator)

    def fresh(self) -> Self:
        return type(self)(self.empty, self.groups)

    def of_image(self, image_id: ImageId) -> Evaluator:
        """The evaluator of the kind of an image."""
        return self._of(self.groups.get(image_id))

    def compute(self) -> dict[str, float]:
        total = self.empty.fresh()
        for evaluator in self.evaluators.values():
            total.merge(evaluator)
        figures = total.compute()
        for group in sorted(group for group in self.evaluators if group is not None):
            for key, value in self.evaluators[group].compute().items():
                figures[f"{group}/{key}"] = value
        return figures

    def _of(self, group: str | None) -> Evaluator:
        if group not in self.evaluators:
            self.evaluators[group] = self.empty.fresh()
        return self.evaluators[group]


def update_with_figures(
    evaluator: Evaluator, result: Segmentation, sample: Sample
) -> dict[str, float]:
    """Add one image, and return the figures of it alone, at no second matching."""
    total = evaluator.of_image(sample.image_id) if isinstance(evaluator, Grouped) else evaluator
    alone = total.fresh()
    alone.update(result, sample)
    total.merge(alone)
    return alone.compute()


def merge_across_ranks(evaluator: AnyMergeable) -> AnyMergeable:
    """The evaluator that has seen the images of every process, on every process.

    All processes must call it. Without torch.distributed it is the evaluator itself.
    """
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return evaluator
    gathered: list[AnyMergeable] = [evaluator] * torch.distributed.get_world_size()
    torch.distributed.all_gather_object(gathered, evaluator)
    merged, *others = gathered
    for other in others:
        merged.merge(other)
    return merged


# --- what evaluators share --------------------------------------------------------------------


def remember(images: set[ImageId], new: Iterable[ImageId]) -> None:
    """Note which images were scored; ValueError if one comes twice and would count double."""
    for image_id in new:
        if image_id in images:
            raise ValueError(
                f"image {image_id!r} was scored twice; give every image its own image_id, and"
                " evaluate with a sampler that neither repeats nor pads"
            )
        images.add(image_id)


class InstanceEvaluator(ABC, Generic[Kept]):
    """What evaluators of the `instances` part share: of each image they keep what `matched` made.

    With `fresh` and `compute` beside it a class of this kind is an `Evaluator`.
    """

    def __init__(self, categories: Sequence[Category]) -> None:
        self.categories = tuple(categories)
        self.images: set[ImageId] = set()
        self.matches: dict[ImageId, Kept] = {}

    @abstractmethod
    def matched(self, instances: Instances, sample: Sample) -> Kept:
        """What is kept of an image, whose result fits it."""

    def update(self, result: Segmentation, sample: Sample) -> None:
        instances = result.instances
        if instances is None:
            raise missing_task(sample, "instances")
        size = tuple(instances.masks.shape[1:])
        check_sample(size, sample, len(instances.categories), self.categories)
        matches = self.matched(instances, sample)
        remember(self.images, [sample.image_id])
        self.matches[sample.image_id] = matches

    def merge(self, other: Self) -> None:
        remember(self.images, other.images)
        self.matches.update(other.matches)

    def in_order(self) -> list[Kept]:
        """What is kept, in a fixed order of the images: equal scores rank alike on any machine."""
        order = sorted(self.matches, key=lambda image_id: (isinstance(image_id, str), image_id))
        return [self.matches[image_id] for image_id in order]


def check_sample(
    size: tuple[int, ...], sample: Sample, num_categories: int, categories: Sequence[Category]
) -> None:
    """Raise ValueError unless a result of `size` and `num_categories` fits sample and evaluator."""
    if size != sample.masks.size:
        raise ValueError(
            f"{sample.name}: the result has {_pixels(size)} but the truth has"
            f" {_pixels(sample.masks.size)}; bring the result to the size of the image"
        )
    if num_categories != len(categories):
        raise ValueError(
            f"{sample.name}: the result knows {num_categories} categories but the truth has"
            f" {len(categories)}; predict with a model of the same categories"
        )
    labels = sample.labels
    if len(labels) and (labels.min() < 0 or labels.max() >= len(categories)):
        raise ValueError(
            f"{sample.name}: a label of the truth is outside 0..{len(categories) - 1}; labels are"
            " indices into the categories the evaluator was given"
        )


def missing_task(sample: Sample, task: str) -> ValueError:
    return ValueError(f"{sample.name}: the result has no {task} part; ask the segmenter for it")


def _pixels(size: tuple[int, ...]) -> str:
    return " x ".join(str(side) for side in reversed(size)) + " pixels"
