from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from mask2former.modeling import convolution
from mask2former.modeling.convolution import Conv2d, convolve


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize(("kernel", "stride", "bias"), [(3, 1, True), (3, 2, False), (7, 2, True)])
@pytest.mark.parametrize("quick", [True, False])
def test_gradients_are_those_of_conv2d(
    layout: torch.memory_format,
    kernel: int,
    stride: int,
    bias: bool,
    quick: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(convolution, "channels_last_are_quick", lambda: quick)
    conv = Conv2d(5, 4, kernel, stride, padding=kernel // 2, bias=bias).double()
    x = torch.randn(2, 5, 11, 9, dtype=torch.double).to(memory_format=layout).requires_grad_()
    ours = conv(x)
    theirs = F.conv2d(x, conv.weight, conv.bias, stride, kernel // 2)
    assert torch.equal(ours, theirs)
    slope = torch.randn_like(ours)
    wanted = torch.autograd.grad(theirs, (x, *conv.parameters()), slope)
    for found, expected in zip(
        torch.autograd.grad(ours, (x, *conv.parameters()), slope), wanted, strict=True
    ):
        torch.testing.assert_close(found, expected)


def test_wide_ones_go_winograds_way_forward_and_backward() -> None:
    torch.manual_seed(0)
    layout = {"memory_format": torch.channels_last}
    conv = Conv2d(128, 160, 3, padding=1).to(**layout)  # type: ignore[call-overload]
    x = torch.randn(1, 128, 32, 36).to(**layout).requires_grad_()  # type: ignore[call-overload]
    ours, theirs = conv(x), F.conv2d(x, conv.weight, conv.bias, 1, 1)
    assert not torch.equal(ours, theirs)
    slope, arguments = torch.randn_like(ours), (x, *conv.parameters())
    found = torch.autograd.grad(ours, arguments, slope)
    wanted = torch.autograd.grad(theirs, arguments, slope)
    assert not torch.equal(found[0], wanted[0])
    for a, b in zip((ours, *found), (theirs, *wanted), strict=True):
        assert (a - b).norm() < 1e-5 * b.norm()


def test_gradients_of_gradients() -> None:
    conv = Conv2d(2, 3, 3, padding=1).double()
    x = torch.randn(1, 2, 4, 4, dtype=torch.double, requires_grad=True)
    assert torch.autograd.gradgradcheck(conv, (x,))


def test_only_what_is_trained_on_a_cpu_takes_the_other_path(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    taken: list[int] = []
    original = convolution.QuickConvolution.apply

    def noted(*arguments: object) -> object:
        taken.append(1)
        return original(*arguments)

    monkeypatch.setattr(convolution.QuickConvolution, "apply", noted)
    x, weight = torch.randn(1, 3, 8, 8), torch.randn(4, 3, 3, 3)
    convolve(x, weight, None, (1, 1), (1, 1))  # frozen
    pointwise = weight[:, :, :1, :1].clone().requires_grad_()
    convolve(x, pointwise, None, (1, 1), (0, 0))
    weight.requires_grad_()
    with torch.no_grad():
        convolve(x, weight, None, (1, 1), (1, 1))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert convolve(x, weight, None, (1, 1), (1, 1)).dtype == torch.bfloat16
    assert not taken
    convolve(x, weight, None, (1, 1), (1, 1))
    assert taken == [1]
