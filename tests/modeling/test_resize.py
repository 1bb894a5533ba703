"""Resizing by whole factors: equal to `F.interpolate`."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from mask2former.modeling import resize
from mask2former.modeling.resize import enlarge, shrink


def plainly(x: Tensor, size: torch.Size) -> Tensor:
    return F.interpolate(x, size=tuple(size), mode="bilinear", align_corners=False)


@pytest.mark.parametrize("size", [(10, 14), (10, 15), (5, 7), (11, 21)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_enlarge(size: tuple[int, int], dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    x = torch.randn(2, 6, 5, 7, dtype=dtype).contiguous(memory_format=torch.channels_last)
    with torch.no_grad():
        torch.testing.assert_close(enlarge(x, torch.Size(size)), plainly(x, torch.Size(size)))
    x.requires_grad_()
    found = enlarge(x, torch.Size(size))
    (ours,) = torch.autograd.grad(found.square().sum(), x)
    (theirs,) = torch.autograd.grad(plainly(x, torch.Size(size)).square().sum(), x)
    torch.testing.assert_close(ours, theirs)


@torch.no_grad()
def test_enlarge_a_single_row() -> None:
    x = torch.randn(1, 3, 1, 4)
    torch.testing.assert_close(enlarge(x, torch.Size((2, 8))), plainly(x, torch.Size((2, 8))))


@torch.no_grad()
def test_the_double_of_tokens_has_its_channels_last(monkeypatch: pytest.MonkeyPatch) -> None:
    tokens = torch.randn(2, 20, 6)[:, 8:]  # the last level of several
    x = tokens.transpose(1, 2).unflatten(2, (3, 4))
    expected = plainly(x.contiguous(), torch.Size((6, 8)))
    monkeypatch.setattr(resize.F, "interpolate", None)
    found = enlarge(x, torch.Size((6, 8)))
    torch.testing.assert_close(found, expected)
    assert found.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("size", [(8, 12), (4, 6), (2, 3), (16, 24), (8, 6), (6, 12), (5, 7)])
def test_shrink(size: tuple[int, int]) -> None:
    torch.manual_seed(0)
    x = torch.randn(2, 6, 16, 24).contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(shrink(x, torch.Size(size)), plainly(x, torch.Size(size)))
