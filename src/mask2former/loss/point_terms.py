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
from torch.autograd.function import once_differentiable

from mask2former.loss.points import sample_maps, scatter_points

# Logits at points [M, P] -> the summed mask term and dice term.
Terms = Callable[[Float[Tensor, "M P"]], tuple[Tensor, Tensor]]


@dataclass(frozen=True, kw_only=True)
class Measured:
    """The terms (mask, dice) of one prediction, and their slopes in the logits at the points."""

    terms: Float[Tensor, "2"]
    points: Float[Tensor, "M P 2"]
    slopes: Float[Tensor, "2 M P"] | None  # None where none is recorded

    @classmethod
    def at(
        cls, points: Float[Tensor, "M P 2"], maps: Float[Tensor, "M h w"], terms: Terms
    ) -> Measured:
        """`maps` are what is sampled, without a gradient of their own."""
        wanted = torch.is_grad_enabled()
        logits = sample_maps(maps.unsqueeze(1), points).squeeze(1).requires_grad_(wanted)
        found = terms(logits)
        slopes = None
        if wanted:
            each = [torch.autograd.grad(term, logits, retain_graph=True)[0] for term in found]
            slopes = torch.stack(each)
        return cls(terms=torch.stack(found).detach(), points=points, slopes=slopes)


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
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        pixels, embeddings, *kept = ctx.saved_tensors
        frames, height, width, depth = pixels.shape[1:]
        for_pixels, for_embeddings = ctx.needs_input_grad[:2]
        of_pixels = torch.empty_like(pixels, memory_format=torch.contiguous_format)
        of_embeddings = torch.empty_like(embeddings)
        first = 0
        for image, count in enumerate(ctx.matched):  # one by one: the maps of all would be large
            own = slice(first, first + count)
            its_maps = slice(first * frames, (first + count) * frames)
            first += count
            if not count:
                of_pixels[image] = 0
                continue
            maps = []
            for points, slopes, weight in zip(kept[::2], kept[1::2], gradients[0], strict=True):
                slope = slopes[0, its_maps] * weight[0] + slopes[1, its_maps] * weight[1]
                maps.append(scatter_points(slope, points[its_maps], (height, width)))
            of_maps = torch.stack(maps).view(-1, frames * height * width)  # [L M, T h w]
            if for_embeddings:
                found = of_maps @ pixels[image].reshape(-1, depth)
                of_embeddings[:, own] = found.view(-1, count, depth)
            if for_pixels:
                out = of_pixels[image].view(-1, depth)
                torch.mm(of_maps.T, embeddings[:, own].flatten(0, 1), out=out)
        return (
            of_pixels if for_pixels else None,
            of_embeddings if for_embeddings else None,
            None,
            None,
        )
