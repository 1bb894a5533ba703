"""Fused operations: equal to the plain ones, in every layout and type that they are given."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mask2former import onednn
from mask2former.modeling import winograd
from mask2former.modeling.linear import Linear, feed_forward
from mask2former.modeling.resnet import ConvNorm, FrozenBatchNorm, Norm, ResNet, ResNetConfig
from mask2former.modeling.swin import Perceptron
from mask2former.structures import mask_logits

HALVES = [torch.bfloat16] if onednn.has_bf16() else []
pytestmark = pytest.mark.skipif(
    not torch.backends.mkldnn.is_available(), reason="torch is built without oneDNN"
)
LAYOUTS = [torch.contiguous_format, torch.channels_last]
SMALL = ResNetConfig(depths=(1, 1, 2, 1), stem_channels=8, width=8, channels=32)


def near(a: Tensor, b: Tensor) -> bool:
    limit = 2e-2 if a.dtype == torch.bfloat16 else 1e-5
    return bool((a.double() - b.double()).norm() <= limit * b.double().norm())


def randomize(model: nn.Module) -> None:
    """Norms with statistics of their own."""
    for module in model.modules():
        if isinstance(module, FrozenBatchNorm | nn.BatchNorm2d):
            assert module.running_mean is not None
            assert module.running_var is not None
            with torch.no_grad():
                module.weight.uniform_(0.5, 1.5)
                module.bias.uniform_(-0.5, 0.5)
                module.running_mean.uniform_(-0.5, 0.5)
                module.running_var.uniform_(0.5, 1.5)


@pytest.mark.parametrize("dtype", [torch.float32, *HALVES])
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("side", [1, 6])
@pytest.mark.parametrize("activation", ["none", "relu"])
@torch.no_grad()
def test_convolution_and_residual(
    dtype: torch.dtype, layout: torch.memory_format, side: int, activation: onednn.Activation
) -> None:
    torch.manual_seed(0)
    x = torch.randn(2, 8, side, side, dtype=dtype).contiguous(memory_format=layout)
    residual = torch.randn(2, 16, side, side, dtype=dtype).contiguous(memory_format=layout)
    weight, bias = torch.randn(16, 8, 3, 3, dtype=dtype), torch.randn(16, dtype=dtype)
    weight, before = weight.contiguous(memory_format=layout), residual.clone()
    ours = onednn.convolve(
        x, weight, bias, padding=(1, 1), residual=residual, activation=activation
    )
    plain = F.conv2d(x.double(), weight.double(), bias.double(), padding=1) + residual.double()
    assert near(ours, plain.relu() if activation == "relu" else plain)
    assert torch.equal(residual, before)


@pytest.mark.parametrize("norm", ["frozen_batch_norm", "batch_norm"])
@pytest.mark.parametrize("dtype", [torch.float32, *HALVES])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_resnet(
    norm: Norm, dtype: torch.dtype, layout: torch.memory_format, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    model = ResNet(replace(SMALL, norm=norm)).eval()
    randomize(model)
    images = torch.randn(2, 3, 64, 96)
    expected = [x.detach() for x in model(images)]  # with gradients nothing is fused
    model.to(dtype=dtype, memory_format=layout)  # type: ignore[call-overload]
    monkeypatch.setattr(F, "batch_norm", None)
    with torch.inference_mode():
        found = model(images.to(dtype).contiguous(memory_format=layout))
    assert all(near(a, b) for a, b in zip(found, expected, strict=True))


@torch.no_grad()
def test_wide_ones_go_winograds_way(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    layer = ConvNorm(128, 128, 3, 1, "frozen_batch_norm").to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    randomize(layer)
    x = torch.randn(1, 128, 32, 32).contiguous(memory_format=torch.channels_last)
    expected = F.relu(layer.norm(F.conv2d(x, layer.conv.weight, padding=1)))
    taken = []
    convolve = winograd.convolve
    monkeypatch.setattr(winograd, "MEASURED", True)
    monkeypatch.setattr(winograd, "convolve", lambda *a: taken.append(a) or convolve(*a))  # type: ignore[func-returns-value]
    assert near(layer(x, relu=True), expected)
    assert len(taken) == 1


@torch.no_grad()
def test_other_norms_and_other_convolutions_are_not_fused() -> None:
    x = torch.randn(1, 4, 8, 8)
    for norm in (nn.GroupNorm(2, 8), nn.Identity(), nn.BatchNorm2d(8, affine=False)):
        layer = ConvNorm(4, 8, 3, 1, "batch_norm")
        layer.norm = norm  # type: ignore[assignment]
        assert layer.eval()(x).shape == (1, 8, 8, 8)
    layer = ConvNorm(4, 8, 3, 1, "frozen_batch_norm")
    layer.conv.dilation = layer.conv.padding = (2, 2)
    torch.testing.assert_close(
        layer(x), layer.norm(F.conv2d(x, layer.conv.weight, padding=2, dilation=2))
    )


def test_norms_that_learn_are_not_fused() -> None:
    layer = ConvNorm(4, 8, 3, 1, "batch_norm")
    with torch.no_grad():
        assert not layer.fuses(torch.zeros(1, 4, 8, 8))
        assert layer.eval().fuses(torch.zeros(1, 4, 8, 8))
    assert not layer.fuses(torch.zeros(1, 4, 8, 8))


@torch.no_grad()
def test_convolutions_of_another_kind_are_called() -> None:
    class Doubled(nn.Conv2d):
        def forward(self, x: Tensor) -> Tensor:
            return 2 * super().forward(x)

    layer = ConvNorm(4, 8, 3, 1, "frozen_batch_norm").eval()
    x = torch.randn(1, 4, 8, 8)
    before = layer(x)
    doubled = Doubled(4, 8, 3, padding=1, bias=False)
    doubled.load_state_dict(layer.conv.state_dict())
    layer.conv = doubled
    torch.testing.assert_close(layer(x), 2 * before)


def test_perceptrons_of_other_parts_and_their_hooks() -> None:
    torch.manual_seed(0)
    first, second, x = Linear(8, 32), Linear(32, 8), torch.randn(3000, 8)
    seen: list[int] = []
    first.register_forward_hook(lambda *_: seen.append(1))
    for between in (nn.ReLU(), nn.GELU("tanh"), nn.GELU()):
        assert near(Perceptron(first, between, second)(x), second(between(first(x))))
    assert len(seen) == 6


@pytest.mark.parametrize("rows", [10, 3000])
@pytest.mark.parametrize("dtype", [torch.float32, *HALVES])
def test_perceptron(rows: int, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    model = Perceptron(Linear(8, 32), nn.GELU(), Linear(32, 8))
    x = torch.randn(2, rows // 2, 8)
    expected = model[2](F.gelu(F.linear(x, model[0].weight, model[0].bias)))
    assert near(model(x), expected)
    with torch.no_grad():
        assert near(model.to(dtype)(x.to(dtype)), expected)


@torch.no_grad()
def test_a_trace_holds_plain_operations() -> None:
    layer, x = ConvNorm(4, 8, 3, 1, "frozen_batch_norm").eval(), torch.randn(1, 4, 8, 8)
    perceptron, rows = Perceptron(Linear(8, 32), nn.GELU(), Linear(32, 8)), torch.randn(3000, 8)
    for module, example in ((layer, x), (perceptron, rows)):
        assert "mkldnn" not in str(torch.jit.trace(module, example, check_trace=False).graph)


def calls_of_linear(monkeypatch: pytest.MonkeyPatch, *, outruns: bool) -> list[torch.Size]:
    """The shapes of what oneDNN's linear layer is given from now on."""
    calls = []
    linear = onednn.linear

    def noted(x: Tensor, *others: Any) -> Tensor:
        calls.append(x.shape)
        return linear(x, *others)

    monkeypatch.setattr(onednn, "linear", noted)
    monkeypatch.setattr(onednn, "outruns_mkl", lambda: outruns)
    return calls


@pytest.mark.parametrize("outruns", [True, False])
@torch.no_grad()
def test_few_rows_go_where_they_are_quick(outruns: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    calls = calls_of_linear(monkeypatch, outruns=outruns)
    first, second = nn.Linear(128, 512), nn.Linear(512, 128)
    x = torch.randn(1, 100, 128)
    layer = Linear(128, 512)
    assert near(layer(x), F.linear(x, layer.weight, layer.bias))
    fed = feed_forward(x, first, second, nn.Dropout(0.0))
    assert fed.shape == x.shape
    assert near(fed, second(first(x).relu()))
    small = layer(x[:, :10])
    assert small.shape == (1, 10, 512)
    assert calls == ([(1, 100, 128), (1, 100, 128), (1, 100, 512)] if outruns else [])
    with torch.enable_grad():
        assert layer(x).requires_grad


@pytest.mark.parametrize("outruns", [True, False])
@pytest.mark.parametrize("layout", ["channels last", "plain"])
@pytest.mark.parametrize(("batch", "frames"), [(1, 1), (2, 1), (1, 3), (2, 3)])
def test_mask_logits(
    outruns: bool, layout: str, batch: int, frames: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    calls = calls_of_linear(monkeypatch, outruns=outruns)
    embeddings = torch.randn(batch, 7, 16)
    features = torch.randn(batch, 16, frames, 6, 10)
    if layout == "channels last":
        features = features.permute(0, 2, 3, 4, 1).contiguous().permute(0, 4, 1, 2, 3)
    expected = torch.einsum("bqc,bcthw->bqthw", embeddings, features)
    with torch.no_grad():
        found = mask_logits(embeddings, features)
    assert found.shape == expected.shape
    assert near(found, expected)
    assert found.is_contiguous()
    assert len(calls) == (batch if outruns and layout == "channels last" else 0)
    features.requires_grad_()
    (gradient,) = torch.autograd.grad(mask_logits(embeddings, features).sum(), features)
    assert near(gradient, embeddings.sum(1)[..., None, None, None].expand_as(features))
