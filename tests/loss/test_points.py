from __future__ import annotations

import pytest
import torch

import tiny
from mask2former.loss.points import (
    least,
    sample_maps,
    sample_pixels,
    scatter_points,
    uncertain_points,
    uniform_points,
)
from mask2former.loss.truth import PackedMasks


def test_a_cell_is_read_at_its_centre() -> None:
    maps = torch.arange(12.0).view(1, 1, 3, 4)
    points = torch.tensor([[[(x + 0.5) / 4, (y + 0.5) / 3] for y in range(3) for x in range(4)]])
    torch.testing.assert_close(sample_maps(maps, points)[0, 0], torch.arange(12.0))
    between = torch.tensor([[[0.25, 0.5]]])
    torch.testing.assert_close(sample_maps(maps, between), torch.tensor([[[4.5]]]))


def test_outside_is_zero() -> None:
    maps = torch.ones(1, 1, 2, 2)
    corner = sample_maps(maps, torch.tensor([[[0.0, 0.0], [2.0, 2.0]]]))
    torch.testing.assert_close(corner, torch.tensor([[[0.25, 0.0]]]))


def test_masks_are_read_as_maps_of_ones_are() -> None:
    masks = tiny.discs([(10, 10, 8), (60, 30, 20), (90, 60, 30)])[:, 0]
    masks[1, :, -1] = masks[1, -1] = masks[2, 0] = masks[2, :, 0] = True  # at the borders, too
    packed = PackedMasks.of(masks)
    own = torch.rand(3, 400, 2, generator=torch.Generator().manual_seed(0)) * 1.2 - 0.1
    expected = sample_maps(masks.float().unsqueeze(1), own).squeeze(1)
    torch.testing.assert_close(packed.at(own), expected, atol=1e-5, rtol=0)
    order = torch.tensor([2, 0, 2])
    expected = sample_maps(masks[order].float().unsqueeze(1), own).squeeze(1)
    torch.testing.assert_close(packed.at(own, order), expected, atol=1e-5, rtol=0)
    shared = own[:1]
    expected = sample_maps(masks.float().unsqueeze(1), shared.expand(3, -1, -1)).squeeze(1)
    torch.testing.assert_close(packed.at(shared), expected, atol=1e-5, rtol=0)
    assert PackedMasks.of(masks[:0]).at(shared).shape == (0, 400)


def test_pixels_are_read_as_maps_are() -> None:
    pixels = torch.randn(2, 5, 7, 6, generator=torch.Generator().manual_seed(0))
    points = torch.rand(300, 2, generator=torch.Generator().manual_seed(1)) * 1.4 - 0.2
    maps = sample_maps(pixels.movedim(-1, 1), points.expand(2, -1, -1))
    expected = maps.transpose(1, 2).flatten(0, 1)
    torch.testing.assert_close(sample_pixels(pixels, points), expected, atol=1e-5, rtol=1e-5)


def test_scattering_is_the_gradient_of_sampling() -> None:
    maps = torch.randn(3, 5, 7, requires_grad=True)
    points, slope = torch.rand(3, 40, 2), torch.randn(3, 40)
    sample_maps(maps.unsqueeze(1), points).squeeze(1).backward(slope)
    assert maps.grad is not None
    assert torch.equal(scatter_points(slope, points, (5, 7)), maps.grad)


@pytest.mark.parametrize("count", [0, 1, 7, 50])
def test_least_finds_the_least(count: int) -> None:
    x = torch.rand(4, 50, generator=torch.Generator().manual_seed(0))
    found = x.gather(1, least(x, count)).sort(1).values
    assert torch.equal(found, x.sort(1).values[:, :count])


def test_most_points_lie_where_a_map_is_uncertain() -> None:
    """A map that changes its sign in one column: three quarters of the points gather there."""
    ramp = torch.linspace(-8, 8, 64).expand(2, 64, 64).contiguous()
    torch.manual_seed(0)
    points = uncertain_points(ramp, 400, 3.0, 0.75)
    assert points.shape == (2, 400, 2)
    assert (points >= 0).all()
    assert (points < 1).all()
    distance = (points[..., 0] - 0.5).abs()
    chosen, uniform = distance[:, :300], distance[:, 300:]
    assert chosen.max() < 0.2
    assert uniform.max() > 0.4
    assert not torch.equal(points[0], points[1])


def test_points_carry_no_gradient() -> None:
    maps = torch.zeros(1, 4, 4, requires_grad=True)
    assert not uncertain_points(maps, 8, 3.0, 0.75).requires_grad


def test_with_generators_every_image_draws_its_own() -> None:
    """The same points for an image, whatever it is batched with: those of torch.rand."""

    def drawn(rows: tuple[int, ...], seeds: tuple[int, ...]) -> torch.Tensor:
        generators = [torch.Generator().manual_seed(seed) for seed in seeds]
        return uniform_points(rows, 50, torch.device("cpu"), generators)

    both = drawn((2, 3), (7, 8))
    assert torch.equal(both[:2], drawn((2,), (7,)))
    assert torch.equal(both[2:], drawn((3,), (8,)))
    assert not torch.equal(both[0], both[1])
    expected = torch.rand(3, 50, 2, generator=torch.Generator().manual_seed(8))
    assert torch.equal(both[2:], expected)
    assert drawn((0, 1), (7, 8)).shape == (1, 50, 2)
    torch.manual_seed(3)
    plain = uniform_points((2, 3), 50, torch.device("cpu"), None)
    torch.manual_seed(3)
    assert torch.equal(plain, torch.rand(5, 50, 2))
