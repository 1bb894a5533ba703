"""What travels between the parts: categories, samples, targets, model output and results.

Words for dimensions: B batch, T frames, Q queries, N objects, K classes, C channels, H W pixels.
A label is always an index into a tuple of categories (0 .. K-1); the ids that a data set or a file
uses for its categories appear only where files are read or written.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any, Literal, Protocol, TypeVar, get_args

import numpy as np
import torch
from jaxtyping import Bool, Float, Int, Int64, UInt8
from torch import Tensor

from mask2former import onednn
from mask2former.masks import encode_rle

Task = Literal["panoptic", "instance", "semantic"]
TASKS: tuple[Task, ...] = get_args(Task)


@dataclass(frozen=True)
class Category:
    """One class: `id` is the data set's own number for it, `color` is RGB, 0..255."""

    id: int
    name: str
    is_thing: bool
    color: tuple[int, int, int]


def class_names(categories: Sequence[Category]) -> list[str]:
    """Their names, made unique with the data set's id where two share one."""
    count = Counter(category.name for category in categories)
    return [c.name if count[c.name] == 1 else f"{c.name} ({c.id})" for c in categories]


@dataclass(frozen=True, kw_only=True)
class View:
    """How an image is shown to a model at test time and how its answer is read.

    It is part of the model's config and travels with its weights.
    """

    shortest_side: int = 800  # pixels after resizing
    longest_side: int = 1333  # pixels; wins over `shortest_side`
    mean: tuple[float, float, float] = (123.675, 116.28, 103.53)  # RGB, 0..255
    std: tuple[float, float, float] = (58.395, 57.12, 57.375)
    contrast_percentiles: tuple[float, float] | None = None  # stretch these to 0 and 255, per image
    size_divisor: int = 32  # sides are padded to a multiple of it
    object_threshold: float = 0.8  # panoptic: a query below this score is dropped
    overlap_threshold: float = 0.8  # panoptic: a segment that keeps less of its mask is dropped
    max_detections: int = 100  # instance: the one knob that limits detections per image
    instances_of_things_only: bool = True
    resize_semantic_scores: bool = False  # instead of logits: official models, semantic only


class Masks(Protocol):
    """The masks of one image's objects, compressed until the crop that is looked at is known."""

    def __len__(self) -> int: ...

    @property
    def size(self) -> tuple[int, int]:
        """(H, W) in pixels."""

    def render(
        self, box: tuple[float, float, float, float], size: tuple[int, int]
    ) -> Bool[np.ndarray, "N h w"]:
        """The part of every mask inside `box` (x0, y0, x1, y1 in pixels), scaled to `size` (h, w).

        What lies outside the image is background. Empty masks stay in, so that N never changes.
        """


@dataclass(frozen=True, kw_only=True)
class Sample:
    """One annotated image as a data set yields it: nothing resized, nothing dropped."""

    image: UInt8[np.ndarray, "H W 3"]  # RGB
    labels: Int64[np.ndarray, "N"]
    masks: Masks
    is_crowd: Bool[np.ndarray, "N"]
    image_id: int | str
    name: str  # file or record, for messages
    void: Masks | None = None  # one mask: pixels that carry no annotation (panoptic data sets)


@dataclass(frozen=True, kw_only=True)
class Targets:
    """What the loss compares one image (or clip) with; the masks cover the padded canvas."""

    labels: Int64[Tensor, "N"]
    masks: Bool[Tensor, "N T H W"]
    ignore: Bool[Tensor, "T H W"] | None = (
        None  # void and crowd pixels, if the loss shall skip them
    )

    def to(self, device: torch.device) -> Targets:
        ignore = None if self.ignore is None else self.ignore.to(device)
        return Targets(labels=self.labels.to(device), masks=self.masks.to(device), ignore=ignore)


@dataclass(frozen=True, kw_only=True)
class Batch:
    """What a model is trained on: normalised images on a common canvas, and their targets."""

    images: Float[Tensor, "B 3 H W"]
    targets: tuple[Targets, ...]
    names: tuple[str, ...]  # which image each row is, for messages


def mask_logits(
    embeddings: Float[Tensor, "B Q C"], features: Float[Tensor, "B C T h w"]
) -> Float[Tensor, "B Q T h w"]:
    """The dot product of every query's embedding with the features of every pixel."""
    pixels = features.flatten(2).transpose(1, 2)
    if (
        features.dtype == torch.float32
        and onednn.fuses(features)
        and onednn.outruns_mkl()
        and pixels.is_contiguous()  # channels last
    ):
        logits = of_each_image(embeddings, pixels)
    else:
        logits = embeddings @ features.flatten(2)
    maps: Tensor = logits.unflatten(2, features.shape[2:])
    return maps


def of_each_image(
    embeddings: Float[Tensor, "B Q C"], pixels: Float[Tensor, "B S C"]
) -> Float[Tensor, "B Q S"]:
    """The products as those of linear layers whose weights are the pixels."""
    if len(embeddings) == 1:
        return onednn.linear(embeddings[0], pixels[0], None).unsqueeze(0)
    out = embeddings.new_empty(*embeddings.shape[:2], pixels.shape[1])
    for image, rows, place in zip(embeddings, pixels, out, strict=True):
        place.copy_(onednn.linear(image, rows, None))
    return out


@dataclass(kw_only=True)  # not frozen: Fabric rebuilds what a wrapped model returns
class Prediction:
    """One prediction head's answer. Mask logits are made when they are asked for.

    A mask is the dot product of a query's embedding with every pixel's feature, so holding
    embeddings and features instead of maps saves Q/C of the memory per layer.
    """

    class_logits: Float[Tensor, "B Q K1"]  # last class is "no object"
    mask_embeddings: Float[Tensor, "B Q C"]
    mask_features: Float[Tensor, "B C T h w"]
    is_clip: bool = False

    @property
    def mask_logits(self) -> Float[Tensor, "B Q *T h w"]:
        """[B, Q, H/4, W/4] for images, [B, Q, T, H/4, W/4] for clips."""
        logits = mask_logits(self.mask_embeddings, self.mask_features)
        return logits if self.is_clip else logits.squeeze(2)


@dataclass(kw_only=True)  # not frozen, as above
class Output:
    """What `Mask2Former` returns: one prediction for the queries, one after each decoder layer."""

    predictions: tuple[Prediction, ...]
    cell_logits: Float[Tensor, "B T h w K1"] | None = None  # stride 8, if queries come from cells

    @property
    def class_logits(self) -> Float[Tensor, "B Q K1"]:
        return self.predictions[-1].class_logits

    @property
    def mask_logits(self) -> Float[Tensor, "B Q *T h w"]:
        return self.predictions[-1].mask_logits

    @property
    def auxiliary(self) -> tuple[Prediction, ...]:
        """All predictions but the last, in order: the queries' own first."""
        return self.predictions[:-1]


# --- results ---------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Segment:
    """One region of a panoptic result."""

    id: int  # its value in `Panoptic.ids`
    label: int
    category: Category
    score: float
    area: int  # pixels


@dataclass(frozen=True, kw_only=True)
class Panoptic:
    """Every pixel belongs to at most one segment; id 0 is nothing."""

    ids: Int[Tensor, "H W"]
    segments: tuple[Segment, ...]
    categories: tuple[Category, ...] = field(repr=False)


@dataclass(frozen=True, kw_only=True)
class Region:
    """One instance: its mask inside of its box (x0, y0, x1, y1 in pixels)."""

    mask: Bool[np.ndarray, "h w"] = field(repr=False)
    box: tuple[int, int, int, int]
    score: float
    label: int
    category: Category


@dataclass(frozen=True, kw_only=True)
class Instances:
    """Objects, best score first; their masks may overlap. Boxes are (x0, y0, x1, y1) in pixels."""

    masks: Bool[Tensor, "N H W"]
    scores: Float[Tensor, "N"]
    labels: Int64[Tensor, "N"]
    boxes: Float[Tensor, "N 4"]
    categories: tuple[Category, ...] = field(repr=False)

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def names(self) -> list[str]:
        return [self.categories[label].name for label in self.labels.tolist()]

    def above(self, score: float) -> Instances:
        """Those whose score is at least `score`."""
        keep = self.scores >= score
        return Instances(
            masks=self.masks[keep],
            scores=self.scores[keep],
            labels=self.labels[keep],
            boxes=self.boxes[keep],
            categories=self.categories,
        )

    def regions(self) -> tuple[Region, ...]:
        """Each one's mask inside of its box; those whose mask is empty are left out."""
        rows = zip(
            self.masks.cpu().numpy(),
            self.boxes.round().int().tolist(),
            self.scores.tolist(),
            self.labels.tolist(),
            strict=True,
        )
        return tuple(
            Region(
                mask=mask[y0:y1, x0:x1],
                box=(x0, y0, x1, y1),
                score=score,
                label=label,
                category=self.categories[label],
            )
            for mask, (x0, y0, x1, y1), score, label in rows
            if x1 > x0 and y1 > y0
        )

    def rles(self) -> list[dict[str, object]]:
        """COCO's compressed run-length encoding of every mask: {"size": [H, W], "counts": str}."""
        return [encode_rle(mask) for mask in self.masks.cpu().numpy()]


@dataclass(frozen=True, kw_only=True)
class Semantic:
    """One label a pixel; `scores` holds each class's (unnormalised) score if it was asked for."""

    labels: Int[Tensor, "H W"]
    categories: tuple[Category, ...] = field(repr=False)
    scores: Float[Tensor, "K H W"] | None = field(default=None, repr=False)


@dataclass(frozen=True, kw_only=True)
class Segmentation:
    """What a `Segmenter` returns for one image: the tasks that were asked for, the others None."""

    size: tuple[int, int]  # (H, W) of the image
    name: str
    instances: Instances | None = None
    panoptic: Panoptic | None = None
    semantic: Semantic | None = None

    def to(self, device: str | torch.device) -> Segmentation:
        """The same, with every tensor on `device`."""
        return replace(
            self,
            instances=None if self.instances is None else _moved(self.instances, device),
            panoptic=None if self.panoptic is None else _moved(self.panoptic, device),
            semantic=None if self.semantic is None else _moved(self.semantic, device),
        )


@dataclass(frozen=True, kw_only=True)
class LargeSegmentation:
    """What `Segmenter.tiled` returns: as `Segmentation`, but instances keep to their boxes.

    The maps of a very large image lie in a temporary file.
    """

    size: tuple[int, int]  # (H, W) of the image
    name: str
    regions: tuple[Region, ...] | None = None  # best score first
    panoptic: Panoptic | None = None
    semantic: Semantic | None = None


Result = TypeVar("Result", Panoptic, Instances, Semantic)


def _moved(result: Result, device: str | torch.device) -> Result:
    values = {f.name: getattr(result, f.name) for f in fields(result)}
    moved: dict[str, Any] = {
        name: value.to(device) for name, value in values.items() if isinstance(value, Tensor)
    }
    return replace(result, **moved)
