from __future__ import annotations

import torch
from torch import Tensor

from mask2former.loss.criterion import maps_of, mask_losses
from mask2former.loss.point_terms import Measured, PointTerms
from mask2former.loss.points import sample_maps

MATCHED = [2, 0, 3]  # queries of three images
FRAMES, SIZE, DEPTH, LAYERS, POINTS = 2, (5, 7), 4, 3, 30


def test_gradient_is_that_of_plain_autograd() -> None:
    """Of every term, as each has its own weight in the loss; an image may have no object."""
    generator = torch.Generator().manual_seed(0)

    def drawn(*shape: int) -> Tensor:
        return torch.rand(*shape, generator=generator, dtype=torch.double)

    pixels = (drawn(3, FRAMES, *SIZE, DEPTH) - 0.5).requires_grad_()
    embeddings = (drawn(LAYERS, sum(MATCHED), DEPTH) - 0.5).requires_grad_()
    points = drawn(LAYERS, sum(MATCHED) * FRAMES, POINTS, 2)
    truth = (drawn(*points.shape[:3]) > 0.5).double()
    valid = drawn(*points.shape[:3]) > 0.2
    weights = drawn(LAYERS, 2)

    plain, measured = [], []
    for layer in range(LAYERS):
        parts = zip(embeddings[layer].split(MATCHED), pixels, strict=True)
        maps = torch.cat([maps_of(*part) for part in parts])

        def terms(logits: Tensor, layer: int = layer) -> tuple[Tensor, Tensor]:
            return mask_losses(logits, truth[layer], valid[layer])

        plain.append(torch.stack(terms(sample_maps(maps[:, None], points[layer]).squeeze(1))))
        measured.append(Measured.at(points[layer], maps.detach(), terms))
    expected = torch.stack(plain)
    found = PointTerms.apply(pixels, embeddings, measured, MATCHED)
    torch.testing.assert_close(found, expected)
    wanted = torch.autograd.grad((expected * weights).sum(), (pixels, embeddings))
    for ours, theirs in zip(
        torch.autograd.grad((found * weights).sum(), (pixels, embeddings)), wanted, strict=True
    ):
        torch.testing.assert_close(ours, theirs)
