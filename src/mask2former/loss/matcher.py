"""Which query answers for which object: the assignment of least cost, image by image."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int64
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from mask2former.loss.points import Generators, sample_pixels, uniform_points
from mask2former.loss.truth import Truth
from mask2former.structures import Prediction

Places = Literal["points", "masks"]
MaskTerm = Literal["cross_entropy", "focal"]
FOCAL_ALPHA = 0.25  # of Lin et al., ICCV 2017; gamma is 2


@dataclass(frozen=True, kw_only=True)
class Match:
    """Query `queries[i]` answers for object `objects[i]`; queries ascend."""

    queries: Int64[Tensor, "M"]
    objects: Int64[Tensor, "M"]


@dataclass(frozen=True, kw_only=True)
class Matcher:
    """Cost of a pair: class, cross-entropy and dice, weighted as the loss is.

    Compared at `points` uniform points that all masks of an image share, or (`on="masks"`) in every
    cell of the stride-4 map.
    """

    class_weight: float = 2.0
    mask_weight: float = 5.0
    dice_weight: float = 5.0
    points: int = 12544
    on: Places = "points"
    mask_term: MaskTerm = "cross_entropy"

    @torch.no_grad()
    def __call__(
        self,
        prediction: Prediction,
        pixels: Sequence[Float[Tensor, "T h w D"]],
        truths: tuple[Truth, ...],
        where: str,
        names: tuple[str, ...],
        generators: Generators = None,
    ) -> list[Match]:
        """One match an image; `pixels` are the mask features of each, `generators` draw its points.

        ValueError names image, layer (`where`) and term that is not finite.
        """
        matches = []
        for image, truth in enumerate(truths):
            if not prediction.class_logits[image].isfinite().all():  # costs it has only for objects
                raise ValueError(non_finite("class", where, names[image], prediction, image))
            generator = None if generators is None else generators[image]
            terms = self.terms(prediction, image, pixels[image], truth, generator)
            for term, cost in terms.items():
                if not cost.isfinite().all():
                    raise ValueError(non_finite(term, where, names[image], prediction, image))
            total = torch.stack(tuple(terms.values())).sum(0)
            rows, columns = linear_sum_assignment(total.cpu().numpy())
            device = total.device
            matches.append(
                Match(
                    queries=torch.as_tensor(rows, device=device, dtype=torch.int64),
                    objects=torch.as_tensor(columns, device=device, dtype=torch.int64),
                )
            )
        return matches

    def terms(
        self,
        prediction: Prediction,
        image: int,
        pixels: Float[Tensor, "T h w D"],
        truth: Truth,
        generator: torch.Generator | None = None,
    ) -> dict[str, Float[Tensor, "Q N"]]:
        """The weighted cost matrices of one image; always fp32."""
        probability = prediction.class_logits[image].float().softmax(-1)
        logits, masks, valid = self.compared(
            prediction.mask_embeddings[image].float(), pixels, truth, generator
        )
        if valid is not None:
            logits, masks = logits[:, valid], masks[:, valid]
        mask_cost = focal_cost if self.mask_term == "focal" else cross_entropy_cost
        return {
            "class": -self.class_weight * probability[:, truth.target.labels],
            "mask": self.mask_weight * mask_cost(logits, masks),
            "dice": self.dice_weight * dice_cost(logits, masks),
        }

    def compared(
        self,
        embeddings: Float[Tensor, "Q D"],
        pixels: Float[Tensor, "T h w D"],
        truth: Truth,
        generator: torch.Generator | None,
    ) -> tuple[Float[Tensor, "Q P"], Float[Tensor, "N P"], Bool[Tensor, "P"] | None]:
        """Logits, truth and (if void is left out) validity at the places that are compared."""
        valid: Tensor | None
        if self.on == "points":
            assert truth.masks is not None
            own = None if generator is None else (generator,)
            points = uniform_points((1,), self.points, pixels.device, own)
            rows = sample_pixels(pixels, points[0])
            masks = truth.masks.at(points).view(-1, len(rows))
            valid = None if truth.ignore is None else truth.ignore.at(points).flatten() < 0.5
        else:
            assert truth.coverage is not None
            rows = pixels.flatten(0, 2)
            masks = truth.coverage.truth.flatten(1)
            valid = None if truth.coverage.valid is None else truth.coverage.valid.flatten()
        # The product with the features at the points, not points of ten full-size predictions.
        return embeddings @ rows.T, masks, valid


def cross_entropy_cost(
    logits: Float[Tensor, "Q P"], truth: Float[Tensor, "N P"]
) -> Float[Tensor, "Q N"]:
    """Mean binary cross-entropy of every pair; with softplus(x) - x * t it is one product."""
    return (F.softplus(logits).sum(-1, keepdim=True) - logits @ truth.T) / max(logits.shape[1], 1)


def focal_cost(logits: Float[Tensor, "Q P"], truth: Float[Tensor, "N P"]) -> Float[Tensor, "Q N"]:
    """Mean focal loss of every pair."""
    p = logits.sigmoid()
    present = FOCAL_ALPHA * (1 - p).square() * F.softplus(-logits)
    absent = (1 - FOCAL_ALPHA) * p.square() * F.softplus(logits)
    return (present @ truth.T + absent @ (1 - truth).T) / max(logits.shape[1], 1)


def dice_cost(logits: Float[Tensor, "Q P"], truth: Float[Tensor, "N P"]) -> Float[Tensor, "Q N"]:
    """1 - dice of every pair, with 1 added above and below."""
    p = logits.sigmoid()
    overlap = 2 * p @ truth.T
    return 1 - (overlap + 1) / (p.sum(-1, keepdim=True) + truth.sum(-1) + 1)


def non_finite(term: str, where: str, name: str, prediction: Prediction, image: int) -> str:
    """What to say when the matching cost of an image is NaN or infinite."""
    sources = {
        "class logits": prediction.class_logits,
        "mask embeddings": prediction.mask_embeddings,
        "mask features": prediction.mask_features,
    }
    bad = [source for source, x in sources.items() if not x[image].isfinite().all()]
    return (
        f"{name}: the {term} cost of {where} is not finite ({', '.join(bad) or 'overflow'}). "
        "Begin again in another folder with a lower learning rate, more steps of warm-up, or bf16 "
        "or 32-bit precision if it was fp16, and check that the image itself is finite."
    )
