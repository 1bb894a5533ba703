"""Winograd's way: equal to the plain convolution, and asked only where it may be."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from mask2former.modeling import winograd
from mask2former.modeling.convolution import Conv2d


def channels_last(*shape: int) -> Tensor:
    return torch.randn(shape).contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize(
    ("batch", "inputs", "outputs", "height", "width"),
    [(1, 128, 128, 32, 36), (3, 128, 160, 16, 24), (1, 256, 128, 100, 4), (2, 128, 128, 4, 132)],
)
@pytest.mark.parametrize("with_bias", [True, False])
def test_equal_to_the_plain_convolution(
    batch: int, inputs: int, outputs: int, height: int, width: int, with_bias: bool
) -> None:
    torch.manual_seed(0)
    x, weight = channels_last(batch, inputs, height, width), channels_last(outputs, inputs, 3, 3)
    bias = torch.randn(outputs) if with_bias else None
    ours = winograd.convolve(x, weight, bias)
    exact = F.conv2d(x.double(), weight.double(), None if bias is None else bias.double(), 1, 1)
    assert ours.shape == exact.shape
    assert ours.is_contiguous(memory_format=torch.channels_last)
    assert (ours - exact).norm() < 1e-5 * exact.norm()


@torch.no_grad()
def test_a_layer_takes_it(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    layer = Conv2d(128, 128, 3, padding=1).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    x = channels_last(1, 128, 32, 32)
    assert winograd.gains(x, layer.weight, layer.stride, (1, 1))
    plain = F.conv2d(x, layer.weight, layer.bias, 1, 1)
    found = layer(x)
    assert not torch.equal(found, plain)
    assert (found - plain).norm() < 1e-5 * plain.norm()


def test_what_it_is_not_for() -> None:
    x, weight = channels_last(1, 128, 32, 32), channels_last(128, 128, 3, 3)
    one = (1, 1)
    assert not winograd.gains(x, weight, one, one)  # gradients are wanted
    with torch.no_grad():
        assert winograd.gains(x, weight, one, one)
        assert not winograd.gains(x, weight, (2, 2), one)
        assert not winograd.gains(x, weight, one, (0, 0))
        assert not winograd.gains(x, weight.contiguous(), one, one)
        assert not winograd.gains(x, channels_last(128, 128, 1, 1), one, one)
        assert not winograd.gains(x[:, :64], weight[:, :64], one, one)
        assert not winograd.gains(x[..., :30], weight, one, one)
        assert not winograd.gains(x[..., :28, :32], weight, one, one)  # too few
        assert not winograd.gains(x.double(), weight.double(), one, one)
        with FakeTensorMode():
            fake = torch.empty(1, 128, 32, 32).contiguous(memory_format=torch.channels_last)
            assert not winograd.gains(fake, fake, one, one)
        torch.set_float32_matmul_precision("medium")
        try:
            assert not winograd.gains(x, weight, one, one)
        finally:
            torch.set_float32_matmul_precision("highest")
