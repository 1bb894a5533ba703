"""The CUDA kernels: without a GPU under Triton's interpreter, with one on it."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from mask2former.modeling.sampling import Grid, sample_plainly

triton = pytest.importorskip("triton", reason="triton is not installed")
DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
SHAPES = [(2, 3), (4, 6), (7, 11)]
TOKENS = sum(h * w for h, w in SHAPES)


def inputs(
    batch: int, queries: int, heads: int, width: int, points: int
) -> tuple[Grid, Tensor, Tensor, Tensor]:
    """Positions inside, beyond every side, and in the border."""
    generator = torch.Generator().manual_seed(batch * queries)
    grid = Grid.of(SHAPES, heads, points, DEVICE)
    count = heads * len(SHAPES) * points
    value = torch.randn(batch, TOKENS, heads, width, generator=generator).to(DEVICE)
    shares = torch.rand(batch, queries, 2, count, generator=generator).to(DEVICE)
    positions = (shares * 1.6 - 0.3) * grid.limits
    weights = torch.rand(batch, queries, count, generator=generator).to(DEVICE)
    return grid, value, positions, weights


CASES = [(1, 1, 1, 8, 1), (2, 37, 4, 5, 3), (1, 70, 2, 32, 4)]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_kernels_equal_the_plain_way(case: tuple[int, int, int, int, int]) -> None:
    from mask2former.modeling.sampling_triton import FusedSample

    results = []
    for function in (FusedSample.apply, sample_plainly):
        grid, *tensors = inputs(*case)
        leaves = [tensor.requires_grad_() for tensor in tensors]
        out = function(leaves[0], grid, *leaves[1:])
        out.backward(torch.linspace(-1, 1, out.numel(), device=DEVICE).view_as(out))
        results.append((out.detach(), *(leaf.grad for leaf in leaves)))
    for fused, plain in zip(*results, strict=True):
        torch.testing.assert_close(fused, plain, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_kernels_in_half_precision(dtype: torch.dtype) -> None:
    """Places and weights stay in fp32; values and what comes out are half as precise."""
    from mask2former.modeling.sampling_triton import FusedSample

    grid, value, positions, weights = inputs(2, 37, 4, 8, 3)
    value = value.to(dtype).requires_grad_()
    positions.requires_grad_()
    weights.requires_grad_()
    out = FusedSample.apply(value, grid, positions, weights)
    assert out.dtype == dtype
    plain = sample_plainly(value.detach().float(), grid, positions.detach(), weights)
    torch.testing.assert_close(out.float(), plain.detach(), rtol=2e-2, atol=2e-2)
    out.float().sum().backward()
    for leaf in (value, positions, weights):
        assert leaf.grad is not None
        assert leaf.grad.dtype == leaf.dtype
        assert leaf.grad.isfinite().all()


def test_positions_that_are_no_numbers() -> None:
    from mask2former.modeling.sampling_triton import FusedSample

    grid, value, positions, weights = inputs(1, 4, 1, 8, 1)
    positions[0, 0], positions[0, 1], positions[0, 2] = float("nan"), float("inf"), -float("inf")
    positions.requires_grad_()
    out = FusedSample.apply(value, grid, positions, weights)
    assert not out[0, :3].any()
    out.sum().backward()
    assert positions.grad is not None
    assert not positions.grad[0, :3].any()
