"""The loss: every prediction is matched to the objects and compared with them (paper, 3.3)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

from mask2former.loss.cells import cell_labels
from mask2former.loss.matcher import FOCAL_ALPHA, MaskTerm, Match, Matcher, Places
from mask2former.loss.point_terms import Measured, PointTerms
from mask2former.loss.points import Generators, uncertain_points
from mask2former.loss.truth import Coverage, Truth
from mask2former.structures import Category, Output, Prediction, Targets

IGNORED = -100  # a label that costs nothing
TINY = 1e-6  # least divisor, where nothing has a weight


@dataclass(frozen=True, kw_only=True)
class LossConfig:
    """Weights of the terms (of the matching costs too) and where masks are compared."""

    class_weight: float = 2.0
    mask_weight: float = 5.0
    dice_weight: float = 5.0
    no_object_weight: float = 0.1
    points: int = 12544
    oversample: float = 3.0
    importance: float = 0.75
    mask_term: MaskTerm = "cross_entropy"  # "focal": MaskFormer's, in loss and matching
    matching_on: Places = "points"  # "masks": every cell of the stride-4 map
    loss_on: Places = "points"
    # Beyond the paper, for models with `selected_share`: the class of every cell, see `cells.py`.
    cell_weight: float = 0.0

    @property
    def compares_predictions(self) -> bool:
        """Whether queries are matched to objects and compared with them, not cells alone."""
        return bool(self.class_weight or self.mask_weight or self.dice_weight)


@dataclass(frozen=True, kw_only=True)
class Losses:
    """The unweighted terms of every prediction (in the order of `Output.predictions`)."""

    classification: Float[Tensor, "L"]
    mask: Float[Tensor, "L"]
    dice: Float[Tensor, "L"]
    cells: Float[Tensor, ""]  # 0 where it has no weight
    total: Float[Tensor, ""]  # weighted, summed


class Criterion(nn.Module):
    """Output + targets -> losses. All of it in fp32, whatever the model computed in."""

    class_weights: Tensor
    is_thing: Tensor

    def __init__(self, config: LossConfig, categories: tuple[Category, ...]) -> None:
        super().__init__()
        self.config = config
        self.matcher = Matcher(
            class_weight=config.class_weight,
            mask_weight=config.mask_weight,
            dice_weight=config.dice_weight,
            points=config.points,
            on=config.matching_on,
            mask_term=config.mask_term,
        )
        weights = torch.ones(len(categories) + 1)
        weights[-1] = config.no_object_weight
        self.register_buffer("class_weights", weights, persistent=False)
        is_thing = torch.tensor([category.is_thing for category in categories])
        self.register_buffer("is_thing", is_thing, persistent=False)

    def forward(
        self,
        output: Output,
        targets: tuple[Targets, ...],
        names: tuple[str, ...] | None = None,
        *,
        counts: Sequence[int] | None = None,
        seeds: Sequence[int] | None = None,
    ) -> Losses:
        """`names` of the images are for the error that a non-finite prediction raises.

        Where the batch is a part of a larger one, `counts` are the objects of every image of the
        whole one: the losses of the parts then add up to those of the whole. Under
        torch.distributed their mean over the processes is that of all their images together.
        `seeds`, one an image, make the points that are drawn for it a function of its seed.
        """
        names = names or tuple(f"image {i}" for i in range(len(targets)))
        counts = [len(target.labels) for target in targets] if counts is None else counts
        generators: Generators = None
        if seeds is not None:
            device = self.class_weights.device
            generators = [torch.Generator(device).manual_seed(seed) for seed in seeds]
        config = self.config
        places = (config.matching_on, config.loss_on)
        at_points = "points" in places and config.compares_predictions
        height, width = output.predictions[-1].mask_features.shape[-2:]
        cells_size = (height, width) if "masks" in places or config.cell_weight else None
        truths = tuple(Truth.of(target, points=at_points, cells=cells_size) for target in targets)
        terms = self.terms_of_predictions(output, truths, names, counts, generators)
        classification, mask, dice = terms.unbind(1)
        cells = mask.new_zeros(())
        if config.cell_weight:
            assert output.cell_logits is not None, "cell_weight wants a decoder with selected_share"
            part = len(targets) / len(counts)
            cells = part * self.cell_term(output.cell_logits.float(), truths)
        total = (
            config.class_weight * classification.sum()
            + config.mask_weight * mask.sum()
            + config.dice_weight * dice.sum()
            + config.cell_weight * cells
        )
        return Losses(classification=classification, mask=mask, dice=dice, cells=cells, total=total)

    def terms_of_predictions(
        self,
        output: Output,
        truths: tuple[Truth, ...],
        names: tuple[str, ...],
        counts: Sequence[int],
        generators: Generators,
    ) -> Float[Tensor, "L 3"]:
        """Class, mask and dice term of every prediction; zeros if none of them has a weight."""
        config, last = self.config, len(output.predictions) - 1
        features = output.predictions[-1].mask_features.float()  # one map serves all predictions
        if not config.compares_predictions:
            return features.new_zeros(last + 1, 3)
        pixels = features.movedim(1, -1)
        # Apart once for all: on whole masks the gradient of each taking apart is a batch's copy.
        of_images = pixels.unbind()
        objects, class_weight = self.normalisers(counts, output.class_logits.shape[1])
        classes: dict[int, Tensor] = {}
        masks: dict[int, Tensor | Measured] = {}
        embeddings: dict[int, Tensor] = {}
        matches: list[Match] = []
        with torch.autocast(self.class_weights.device.type, enabled=False):
            for layer in (last, *range(last)):  # the official order of the random draws
                prediction = in_fp32(output.predictions[layer], features)
                where = f"prediction {layer} of {last + 1}"
                matches = self.matcher(prediction, of_images, truths, where, names, generators)
                classes[layer] = self.class_term(prediction, truths, matches)
                pairs = zip(prediction.mask_embeddings, matches, strict=True)
                embeddings[layer] = torch.cat([e[match.queries] for e, match in pairs])
                masks[layer] = self.mask_terms(
                    embeddings[layer], of_images, truths, matches, generators
                )
            order = range(last + 1)
            classification = torch.stack([classes[layer] for layer in order]) / class_weight
            mask_terms = together(
                [masks[layer] for layer in order],
                pixels,
                torch.stack([embeddings[layer] for layer in order]),
                [len(match.queries) for match in matches],
            )
        return torch.cat((classification[:, None], mask_terms / objects), 1)

    def normalisers(
        self, counts: Sequence[int], queries: int
    ) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:
        """Objects (at least 1) and summed weights of the class term, of images of `counts` objects.

        Both are averaged over ranks. As every object is matched while there are queries, the
        weights are known before the matching.
        """
        matched = sum(min(count, queries) for count in counts)
        unmatched = len(counts) * queries - matched
        weights = matched + self.config.no_object_weight * unmatched
        mean = mean_over_ranks(self.class_weights.new_tensor([sum(counts), weights]))
        return mean[0].clamp(min=1), mean[1].clamp(min=TINY)

    def class_term(
        self, prediction: Prediction, truths: tuple[Truth, ...], matches: list[Match]
    ) -> Float[Tensor, ""]:
        """Cross-entropy, summed with its weights; unmatched queries are to say "no object"."""
        logits = prediction.class_logits
        labels = torch.full(logits.shape[:2], logits.shape[-1] - 1, device=logits.device)
        for image, (truth, match) in enumerate(zip(truths, matches, strict=True)):
            labels[image, match.queries] = truth.target.labels[match.objects]
        return F.cross_entropy(logits.transpose(1, 2), labels, self.class_weights, reduction="sum")

    def cell_term(
        self,
        logits: Float[Tensor, "B T h w K1"],
        truths: tuple[Truth, ...],
    ) -> Float[Tensor, ""]:
        """Cross-entropy of every cell: a thing's class about its middle, "no object" elsewhere."""
        no_object = len(self.is_thing)
        coverage = coverage_of(truths)
        labels = []
        for truth, c in zip(truths, coverage, strict=True):
            of = truth.target.labels
            size = logits.shape[2:4]
            labels.append(cell_labels(of, c.truth, self.is_thing[of], size, no_object))
        for cells, c in zip(labels, coverage, strict=True):
            if c.valid is not None:  # void and crowds are no proof that there is nothing
                height, width = cells.shape[1:]
                valid = F.adaptive_avg_pool2d(c.valid.float(), (height, width)) > 0.5
                cells[(cells == no_object) & ~valid] = IGNORED
        flat = torch.stack(labels).flatten()
        weights = mean_over_ranks(self.class_weights[flat[flat != IGNORED]].sum())
        summed = F.cross_entropy(
            logits.flatten(0, 3),
            flat,
            self.class_weights,
            ignore_index=IGNORED,
            reduction="sum",
        )
        return summed / weights.clamp(min=TINY)

    def mask_terms(
        self,
        embeddings: Float[Tensor, "M D"],
        pixels: Sequence[Float[Tensor, "T h w D"]],
        truths: tuple[Truth, ...],
        matches: list[Match],
        generators: Generators,
    ) -> Float[Tensor, "2"] | Measured:
        """Cross-entropy and dice, summed over the matched masks (of every frame).

        Maps are made for matched queries alone: nothing of the other queries is ever held.
        """
        parts = embeddings.split([len(match.queries) for match in matches])
        pairs = list(zip(parts, pixels, strict=True))
        if self.config.loss_on == "points" and len(embeddings):
            with torch.no_grad():
                maps = torch.cat([maps_of(*pair) for pair in pairs])
            return self.at_points(maps, truths, matches, generators)
        maps = torch.cat([maps_of(*pair) for pair in pairs])
        if len(maps) == 0:
            return maps.sum().expand(2)  # 0, and a gradient of 0 for every parameter
        in_all = in_cells(coverage_of(truths), matches)
        return torch.stack(mask_losses(maps.flatten(1), *in_all, self.config.mask_term))

    def at_points(
        self,
        maps: Float[Tensor, "M h w"],
        truths: tuple[Truth, ...],
        matches: list[Match],
        generators: Generators,
    ) -> Measured:
        """The same two terms at points of each mask's own."""
        config = self.config
        frames = truths[0].target.masks.shape[1]
        rows = [len(match.objects) * frames for match in matches]
        points = uncertain_points(
            maps, config.points, config.oversample, config.importance, rows, generators
        )
        parts = points.split(rows)
        read = [read_masks(t, m, p) for t, m, p in zip(truths, matches, parts, strict=True)]
        masks = torch.cat([mask for mask, _ in read])
        valid: Tensor | None = None
        if any(truth.ignore is not None for truth in truths):
            valid = torch.cat([torch.ones_like(m).bool() if v is None else v for m, v in read])
        return Measured.at(
            points, maps, lambda logits: mask_losses(logits, masks, valid, config.mask_term)
        )


def together(
    terms: Sequence[Tensor | Measured],
    pixels: Float[Tensor, "B T h w D"],
    embeddings: Float[Tensor, "L M D"],
    matched: Sequence[int],
) -> Float[Tensor, "L 2"]:
    """The mask terms of all predictions, those that were measured at points with their gradient."""
    measured = [term for term in terms if isinstance(term, Measured)]
    if measured:
        attached: Tensor = PointTerms.apply(  # type: ignore[no-untyped-call]
            pixels, embeddings, measured, matched
        )
        return attached
    return torch.stack([term for term in terms if isinstance(term, Tensor)])


def read_masks(
    truth: Truth, match: Match, points: Float[Tensor, "M P 2"]
) -> tuple[Float[Tensor, "M P"], Bool[Tensor, "M P"] | None]:
    """The matched masks (of every frame) of an image, each at its own points; where to judge."""
    assert truth.masks is not None
    frame = torch.arange(truth.target.masks.shape[1], device=points.device)
    which = (match.objects[:, None] * len(frame) + frame).flatten()
    masks = truth.masks.at(points, which)
    if truth.ignore is None:
        return masks, None
    return masks, truth.ignore.at(points, frame.repeat(len(match.objects))) < 0.5


def mean_over_ranks(x: Tensor) -> Tensor:
    """The mean of every process's tensor; without torch.distributed the tensor itself."""
    distributed = torch.distributed
    if distributed.is_available() and distributed.is_initialized():
        distributed.all_reduce(x)
        x = x / distributed.get_world_size()
    return x


def maps_of(
    embeddings: Float[Tensor, "N D"], pixels: Float[Tensor, "T h w D"]
) -> Float[Tensor, "NT h w"]:
    """The mask logits of one image, frame by frame of one mask after the other."""
    return F.linear(embeddings, pixels.flatten(0, 2)).view(-1, *pixels.shape[1:3])


def in_fp32(prediction: Prediction, features: Float[Tensor, "B C T h w"]) -> Prediction:
    """A prediction with `features`, its own in fp32, for its mask features."""
    return Prediction(
        class_logits=prediction.class_logits.float(),
        mask_embeddings=prediction.mask_embeddings.float(),
        mask_features=features,
        is_clip=prediction.is_clip,
    )


def coverage_of(truths: tuple[Truth, ...]) -> tuple[Coverage, ...]:
    found = tuple(truth.coverage for truth in truths if truth.coverage is not None)
    assert len(found) == len(truths), "the truth was not made ready for cells"
    return found


def in_cells(
    coverage: tuple[Coverage, ...], matches: list[Match]
) -> tuple[Float[Tensor, "M P"], Bool[Tensor, "M P"] | None]:
    """Truth and validity of the matched masks (of every frame) in every cell."""
    pairs = list(zip(coverage, matches, strict=True))
    truth = torch.cat([c.truth[m.objects].flatten(0, 1).flatten(1) for c, m in pairs])
    if all(c.valid is None for c in coverage):
        return truth, None
    valid = [
        torch.ones_like(c.truth[m.objects], dtype=torch.bool)
        if c.valid is None
        else c.valid.expand(len(m.objects), -1, -1, -1)
        for c, m in pairs
    ]
    return truth, torch.cat([v.flatten(0, 1).flatten(1) for v in valid])


def mask_losses(
    logits: Float[Tensor, "M P"],
    truth: Float[Tensor, "M P"],
    valid: Bool[Tensor, "M P"] | None,
    term: MaskTerm = "cross_entropy",
) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:
    """Binary cross-entropy, or the focal loss (mean over the points of a mask), and dice loss,
    summed over masks."""
    entropy = F.binary_cross_entropy_with_logits(logits, truth, reduction="none")
    probability = logits.sigmoid()
    if term == "focal":
        missed = probability * (1 - truth) + (1 - probability) * truth
        weight = FOCAL_ALPHA * truth + (1 - FOCAL_ALPHA) * (1 - truth)
        entropy = weight * missed.square() * entropy
    if valid is None:
        entropy_mean = entropy.mean(1)
    else:
        entropy_mean = (entropy * valid).sum(1) / valid.sum(1).clamp(min=1)
        probability, truth = probability * valid, truth * valid
    overlap = 2 * (probability * truth).sum(1)
    dice = 1 - (overlap + 1) / (probability.sum(1) + truth.sum(1) + 1)
    return entropy_mean.sum(), dice.sum()
