from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

import tiny
from mask2former.modeling import deformable_attention, sampling
from mask2former.modeling.deformable_attention import (
    DeformableAttention,
    linear_of_sum,
    softmax_of_few,
)
from mask2former.modeling.sampling import Grid, sample, sample_plainly

SHAPES = [(2, 3), (4, 6), (7, 11)]
TOKENS = sum(h * w for h, w in SHAPES)
HEADS, POINTS, WIDTH = 4, 3, 5


def inputs(
    batch: int, queries: int, seed: int, dtype: torch.dtype = torch.float32
) -> tuple[Tensor, Tensor, Tensor]:
    """Values, locations (some of them outside the maps) and weights."""
    generator = torch.Generator().manual_seed(seed)
    value = torch.randn(batch, TOKENS, HEADS, WIDTH, generator=generator)
    levels = len(SHAPES)
    places = torch.rand(batch, queries, HEADS, levels, POINTS, 2, generator=generator)
    weights = torch.randn(batch, queries, HEADS, levels * POINTS, generator=generator).softmax(-1)
    weights = weights.view(batch, queries, HEADS, levels, POINTS)
    made = value.to(dtype), (places * 1.6 - 0.3).to(dtype), weights.to(dtype)
    return made[0].requires_grad_(), made[1].requires_grad_(), made[2].requires_grad_()


@pytest.mark.parametrize(("batch", "queries"), [(1, 1), (2, 13), (3, TOKENS)])
def test_fast_path_equals_the_plain_one(batch: int, queries: int) -> None:
    results = []
    for function in (sample, sample_plainly):
        value, locations, weights = inputs(batch, queries, seed=batch)
        out = tiny.sampled(function, value, SHAPES, locations, weights)
        out.backward(torch.linspace(-1, 1, out.numel()).view_as(out))
        results.append((out.detach(), value.grad, locations.grad, weights.grad))
    for fast, plain in zip(*results, strict=True):
        torch.testing.assert_close(fast, plain, rtol=1e-5, atol=1e-5)


def test_the_number_that_is_sampled_for_together_changes_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    value, locations, weights = inputs(2, 13, seed=0)
    at_once = tiny.sampled(sample, value, SHAPES, locations, weights)
    monkeypatch.setattr(sampling, "TOGETHER", 5)
    assert torch.equal(tiny.sampled(sample, value, SHAPES, locations, weights), at_once)


def test_far_outside_is_zero() -> None:
    value, locations, weights = inputs(1, 4, seed=0)
    far = (locations.detach() + 50).requires_grad_()
    out = tiny.sampled(sample, value, SHAPES, far, weights)
    assert not out.any()
    out.sum().backward()
    assert value.grad is not None
    assert not value.grad.any()


def test_corners_of_a_map_are_read_where_they_are() -> None:
    """One head, one level: a point on a cell's centre reads that cell."""
    value = torch.arange(6.0).view(1, 6, 1, 1)
    centres = torch.tensor([[x / 3 + 1 / 6, y / 2 + 1 / 4] for y in range(2) for x in range(3)])
    places = centres.view(1, 6, 1, 1, 1, 2)
    out = tiny.sampled(sample, value, [(2, 3)], places, torch.ones(1, 6, 1, 1, 1))
    torch.testing.assert_close(out.flatten(), torch.arange(6.0))


def test_gradients_in_double_precision() -> None:
    value, locations, weights = inputs(2, 3, seed=1, dtype=torch.float64)
    assert torch.autograd.gradcheck(
        lambda v, x, w: tiny.sampled(sample, v, SHAPES, x, w),
        (value, locations, weights),
        fast_mode=True,
    )


@pytest.fixture
def two_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("two_threads")
def test_backward_gives_the_same_bits_twice() -> None:
    gradients = []
    for _ in range(2):
        value, locations, weights = inputs(2, 400, seed=2)
        tiny.sampled(sample, value, SHAPES, locations, weights).square().sum().backward()
        gradients.append((value.grad, locations.grad, weights.grad))
    for first, second in zip(*gradients, strict=True):
        assert torch.equal(first, second)


def test_gradients_in_half_precision_are_those_of_fp32_rounded() -> None:
    gradients = []
    for dtype in (torch.float32, torch.bfloat16):
        value, locations, weights = (
            x.detach().to(torch.bfloat16) for x in inputs(2, 13, seed=3)
        )  # the same numbers for both
        value, weights = (x.to(dtype).requires_grad_() for x in (value, weights))
        out = tiny.sampled(sample, value, SHAPES, locations.float(), weights)
        assert out.dtype == dtype
        out.backward(torch.linspace(-1, 1, out.numel()).view_as(out).bfloat16().to(dtype))
        assert value.grad is not None
        assert weights.grad is not None
        assert value.grad.dtype == weights.grad.dtype == dtype
        gradients.append((value.grad.float(), weights.grad.float()))
    for exact, rounded in zip(*gradients, strict=True):
        torch.testing.assert_close(rounded, exact, rtol=0.02, atol=0.02)


def test_module_starts_with_points_around_the_query() -> None:
    """Equal weights and a value of one everywhere inside: the mean over the points that are."""
    attention = DeformableAttention(8, 1, 4, 2)
    with torch.no_grad():
        attention.value.weight.zero_()
        attention.value.bias.fill_(1.0)
        attention.output.weight.copy_(torch.eye(8))
    tokens = torch.zeros(1, 49, 8)
    grid = Grid.of([(7, 7)], 4, 2, tokens.device)
    centre = torch.full((49, 2, 1), 0.5)
    out = attention(tokens, torch.zeros(49, 8), grid, centre)
    torch.testing.assert_close(out, torch.ones(1, 49, 8))


@pytest.mark.parametrize("function", [sample, sample_plainly])
def test_module_places_points_in_fp32_in_every_precision(
    function: Callable[..., Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Near the end of a row of 300 cells bf16 knows no place more exactly than to a cell."""
    monkeypatch.setattr(deformable_attention, "sample", function)
    attention = DeformableAttention(32, 1, 4, 4)
    grid = Grid.of([(1, 300)], 4, 4, torch.device("cpu"))
    signs = tiny.wave(300, 1.0).sign().view(1, 300, 1).expand(1, 300, 32)
    with torch.no_grad():
        attention.value.weight.copy_(torch.eye(32))
        attention.output.weight.copy_(torch.eye(32))
        attention.offsets.bias.zero_()  # every point on its own cell's centre
        tokens = signs.bfloat16()
        out = attention.bfloat16()(tokens, torch.zeros_like(tokens), grid, grid.reference())
    torch.testing.assert_close(out.float(), signs, rtol=0, atol=0.02)


@pytest.mark.parametrize("shape", [(5, 4), (2, 5, 4)])
def test_linear_of_a_sum_has_the_gradients_of_its_parts(shape: tuple[int, ...]) -> None:
    generator = torch.Generator().manual_seed(0)
    inputs = [
        torch.randn(*size, dtype=torch.float64, generator=generator).requires_grad_()
        for size in ((2, 5, 4), shape, (3, 4), (3,))
    ]
    assert torch.autograd.gradcheck(linear_of_sum, inputs)
    out = linear_of_sum(*inputs)
    torch.testing.assert_close(out, (inputs[0] + inputs[1]) @ inputs[2].T + inputs[3])


def test_places_of_cells() -> None:
    grid = Grid.of([(1, 2), (2, 4)], 1, 1, torch.device("cpu"))
    places = grid.reference()[:, :, 0]
    assert places[:3].tolist() == [[0.25, 0.5], [0.75, 0.5], [0.125, 0.25]]
    assert places[9].tolist() == [0.875, 0.75]
    # With a border around a level its first cell is at 1.
    assert grid.positions(grid.reference(), torch.zeros(1, 10, 2, 2))[0, 2:4, 0, 1].tolist() == [
        1,
        2,
    ]


def test_positions_that_are_no_numbers_read_no_foreign_memory() -> None:
    grid = Grid.of([(2, 3)], 1, 1, torch.device("cpu"))
    positions = torch.tensor([float("nan"), float("inf"), -float("inf"), 1e30]).view(1, 4, 1, 1)
    out = sample(torch.ones(1, 6, 1, 5), grid, positions.expand(-1, -1, 2, -1), torch.ones(1, 4, 1))
    assert not out[0, 1:].any()


def test_module_in_double_precision() -> None:
    attention = DeformableAttention(8, 1, 4, 2).double()
    grid = Grid.of([(3, 3)], 4, 2, torch.device("cpu"))
    tokens = torch.ones(2, 9, 8, dtype=torch.float64, requires_grad=True)
    position = torch.zeros(9, 8, dtype=torch.float64)
    attention(tokens, position, grid, grid.reference()).sum().backward()
    assert tokens.grad is not None
    assert tokens.grad.isfinite().all()


def test_a_grid_of_fake_tensors_is_not_kept() -> None:
    with FakeTensorMode():
        Grid.of([(5, 7)], 3, 2, torch.device("cpu"))
    assert type(Grid.of([(5, 7)], 3, 2, torch.device("cpu")).limits) is Tensor


@pytest.mark.parametrize("offset", [0.0, 95.0, -95.0, 1e4])
def test_softmax_of_few(offset: float) -> None:
    torch.manual_seed(0)
    x = (3 * torch.randn(5, 4, 12) + offset).requires_grad_()
    weights = torch.randn(5, 4, 12)
    ours, plain = softmax_of_few(x), x.softmax(-1)
    torch.testing.assert_close(ours, plain)
    (found,) = torch.autograd.grad((ours * weights).sum(), x)
    (expected,) = torch.autograd.grad((plain * weights).sum(), x)
    torch.testing.assert_close(found, expected)


def test_softmax_of_few_where_there_are_none_and_where_they_are_no_numbers() -> None:
    assert softmax_of_few(torch.zeros(0, 12)).shape == (0, 12)
    x = torch.tensor([[0.0, torch.nan], [1.0, 2.0]])
    torch.testing.assert_close(softmax_of_few(x), x.softmax(-1), equal_nan=True)
