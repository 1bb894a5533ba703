"""Linear layers by convolution: equal to `F.linear`, forward and backward."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mask2former import onednn
from mask2former.modeling import linear as module
from mask2former.modeling.linear import MANY, Linear, feed_forward, gains, linear


def close(a: Tensor | None, b: Tensor | None) -> bool:
    assert a is not None
    assert b is not None
    return bool((a - b).norm() <= 1e-5 * b.norm())


@pytest.mark.parametrize("shape", [(2, MANY // 2, 24), (MANY, 24), (3, 5, 24), (4, 300, 2, 24)])
@pytest.mark.parametrize("with_bias", [True, False])
@pytest.mark.parametrize("outruns", [True, False])
def test_equal_to_the_plain_product(
    shape: tuple[int, ...], with_bias: bool, outruns: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(onednn, "outruns_mkl", lambda: outruns)
    torch.manual_seed(0)
    x = torch.randn(shape, requires_grad=True)
    layer = Linear(24, 40, bias=with_bias)
    arguments = [x, *layer.parameters()]
    weights = torch.randn(*shape[:-1], 40)
    ours = torch.autograd.grad((layer(x) * weights).sum(), arguments)
    with torch.no_grad():
        alone = layer(x)
    plain = F.linear(x, layer.weight, layer.bias)
    theirs = torch.autograd.grad((plain * weights).sum(), arguments)
    assert alone.shape == plain.shape
    assert close(alone, plain)
    assert all(close(a, b) for a, b in zip(ours, theirs, strict=True))


def test_rows_that_are_not_contiguous() -> None:
    torch.manual_seed(0)
    x = torch.randn(24, 2 * MANY).T[::2]
    layer = Linear(24, 8)
    assert close(layer(x), F.linear(x, layer.weight, layer.bias))


@pytest.mark.parametrize(
    "trained", [{"x"}, {"1.weight"}, {"2.bias"}, {"x", "1.weight", "2.weight"}]
)
@pytest.mark.parametrize("outruns", [True, False])
def test_feed_forward(trained: set[str], outruns: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onednn, "outruns_mkl", lambda: outruns)
    torch.manual_seed(0)
    first, second, dropout = nn.Linear(16, 48), nn.Linear(48, 16), nn.Dropout(0.5).eval()
    x = torch.randn(2, MANY, 16)
    named = {
        "x": x,
        **{f"1.{name}": p for name, p in first.named_parameters()},
        **{f"2.{name}": p for name, p in second.named_parameters()},
    }
    for name, tensor in named.items():
        tensor.requires_grad_(name in trained)
    wanted = [named[name] for name in sorted(trained)]
    weights = torch.randn_like(x)
    assert gains(x)
    ours = feed_forward(x, first, second, dropout)
    plain = second(F.relu(first(x)))
    assert ours.shape == x.shape
    assert close(ours, plain)
    ours_of = torch.autograd.grad((ours * weights).sum(), wanted)
    plain_of = torch.autograd.grad((plain * weights).sum(), wanted)
    assert all(close(a, b) for a, b in zip(ours_of, plain_of, strict=True))
    with torch.no_grad():
        assert close(feed_forward(x, first, second, dropout), plain)


def test_dropout_is_between_the_layers() -> None:
    torch.manual_seed(0)
    first, second, dropout = nn.Linear(16, 48), nn.Linear(48, 16), nn.Dropout(1.0)
    out = feed_forward(torch.randn(1, MANY, 16), first, second, dropout)
    assert torch.equal(out, second.bias.expand_as(out))


def test_what_it_is_not_for() -> None:
    many = torch.zeros(MANY, 4)
    assert gains(many)
    assert not gains(many[1:])
    assert not gains(many.bfloat16())
    assert not gains(many.to("meta"))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert not gains(many)
        assert linear(many, torch.zeros(4, 4), None).dtype == torch.bfloat16


def test_without_onednn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: False)

    def fail(*_: Tensor) -> Tensor:
        raise AssertionError("a convolution without oneDNN is slow")

    monkeypatch.setattr(module, "convolved", fail)
    assert linear(torch.ones(MANY, 4), torch.ones(2, 4), None).eq(4).all()


def test_in_place_on_what_it_returns() -> None:
    x = torch.randn(MANY, 4, requires_grad=True)
    layer = Linear(4, 4)
    F.relu_(layer(x)).sum().backward()
    assert x.grad is not None
    expected = (F.linear(x, layer.weight, layer.bias) > 0).float() @ layer.weight
    assert close(x.grad, expected)


def test_layers_of_another_kind_are_called() -> None:
    class Doubled(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            return 2 * super().forward(x)

    first, second = nn.Linear(4, 8), Doubled(8, 4)
    x = torch.randn(MANY, 4)
    out = feed_forward(x, first, second, nn.Dropout(0.0))
    assert close(out, 2 * F.linear(F.relu(first(x)), second.weight, second.bias))


def test_a_compiler_sees_one_graph() -> None:
    layer, x = Linear(4, 8), torch.randn(MANY, 4)
    for graded in (True, False):
        torch._dynamo.reset()
        with torch.set_grad_enabled(graded):
            compiled = torch.compile(layer, backend="eager", fullgraph=True)
            assert close(compiled(x), layer(x))
    torch._dynamo.reset()
