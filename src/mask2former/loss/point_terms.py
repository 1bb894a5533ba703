"""Mask terms at points, of all predictions together: little is kept, and their gradient is one
product an image.

A term is worked out where it is measured, with its slope in every logit that it was measured at;
plain autograd would keep each step of the way there, and go back over the mask features, which all
predictions share, once for every prediction.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from mask2former.loss.points import sample_maps, scatter_points

# Logits at points [M, P] -> the summed mask term and dice term.
Terms = Callable[[Float[Tensor, "M P"]], tuple[Tensor, Tensor]]


@dataclass(frozen=True, kw_only=True)
class Measured:
    """The terms (mask, dice) of one prediction, and their slopes in the logits at the points."""

    terms: Float[Tensor, "2"]
    points: Float[Tensor, "M P 2"]
    slopes: Float[Tensor, "2 M P"] | None  # None where nobody wants a gradient

    @classmethod
    def at(
        cls, points: Float[Tensor, "M P 2"], maps: Float[Tensor, "M h w"], terms: Terms
    ) -> Measured:
        """`maps` are what is sampled, without a gradient of their own."""
        logits = sample_maps(maps.unsqueeze(1), points).squeeze(1)
        if not torch.is_grad_enabled():
            return cls(terms=torch.stack(terms(logits)), points=points, slopes=None)
        found = terms(logits.requires_grad_())
        slopes = [torch.autograd.grad(term, logits, retain_graph=True)[0] for term in found]
        return cls(terms=torch.stack(found).detach(), points=points, slopes=torch.stack(slopes))


class PointTerms(torch.autograd.Function):
    """Gives the terms that were measured their gradient."""

    @staticmethod
    def forward(
        ctx: Any,
        pixels: Float[Tensor, "B T h w D"],
        embeddings: Float[Tensor, "L M D"],
        measured: Sequence[Measured],
        matched: Sequence[int],
    ) -> Float[Tensor, "L 2"]:
        """`embeddings` are of the matched queries of L predictions, `matched` how many of the M
        belong to each image, in every prediction the same."""
        ctx.matched = list(matched)
        kept = [tensor for m in measured for tensor in (m.points, m.slopes)]
        ctx.save_for_backward(pixels, embeddings, *kept)
        return torch.stack([m.terms for m in measured])

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        pixels, embeddings, *kept = ctx.saved_tensors
        frames, height, width, depth = pixels.shape[1:]
        of_pixels = torch.empty_like(pixels, memory_format=torch.contiguous_format)
        of_embeddings = torch.empty_like(embeddings)
        of_maps = pixels.new_empty(*embeddings.shape[:2], frames * height * width)
        for out, points, slopes, weight in zip(
            of_maps, kept[::2], kept[1::2], gradients[0], strict=True
        ):
            slope = slopes[0] * weight[0] + slopes[1] * weight[1]
            out.copy_(scatter_points(slope, points, (height, width)).view_as(out))
        parts = (x.split(ctx.matched, 1) for x in (of_maps, embeddings, of_embeddings))
        for image, (maps, embedding, out) in enumerate(zip(*parts, strict=True)):
            flat = pixels[image].reshape(-1, depth)
            out.copy_((maps.flatten(0, 1) @ flat).view_as(out))
            torch.mm(
                maps.flatten(0, 1).T, embedding.flatten(0, 1), out=of_pixels[image].view(-1, depth)
            )
        return of_pixels, of_embeddings, None, None
