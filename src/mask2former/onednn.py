"""Convolutions and linear layers of oneDNN that write their result once, activated and all.

They are what torch.compile makes of such layers on a CPU; none has a gradient.
"""

from __future__ import annotations

import platform
from functools import lru_cache
from pathlib import Path
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from mask2former.tracing import is_traced

Activation = Literal["none", "relu", "gelu"]
EXACT = "none"  # how GELU is approximated


def fuses(x: Tensor) -> bool:
    """Whether these may be given `x`: on a CPU that knows its type, without a gradient."""
    if not runs(x) or torch.is_grad_enabled():
        return False
    return x.dtype == torch.float32 or (x.dtype == torch.bfloat16 and has_bf16())


def runs(x: Tensor) -> bool:
    """Whether oneDNN is there for `x`, in the type that it has, and nothing looks on."""
    return (
        x.device.type == "cpu"
        and not is_traced()
        and torch.backends.mkldnn.is_available()
        and not torch.is_autocast_enabled("cpu")
    )


@lru_cache(maxsize=1)
def has_bf16() -> bool:
    """Whether oneDNN is there and takes bf16 on this processor."""
    available = torch.backends.mkldnn.is_available()
    return available and bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


@lru_cache(maxsize=1)
def outruns_mkl() -> bool:
    """Whether it multiplies matrices faster than MKL, which torch takes for them in fp32.

    On AMD's processors MKL does without AVX-512: half the speed where these have it in full.
    """
    try:
        processor = Path("/proc/cpuinfo").read_text()
    except OSError:  # not Linux
        processor = platform.processor()
    wide = torch.backends.cpu.get_cpu_capability().startswith("AVX512")
    return "AuthenticAMD" in processor and wide and torch.backends.mkl.is_available()


def convolve(
    x: Float[Tensor, "B C h w"],
    weight: Float[Tensor, "D C k k"],
    bias: Float[Tensor, "D"] | None,
    *,
    stride: tuple[int, ...] = (1, 1),
    padding: tuple[int, ...] = (0, 0),
    groups: int = 1,
    residual: Float[Tensor, "B D h2 w2"] | None = None,
    activation: Activation = "none",
) -> Float[Tensor, "B D h2 w2"]:
    """`activation(conv2d(x) + residual)`, the GELU without a residual alone."""
    shape = (padding, stride, (1, 1), groups)
    operation = torch.ops.mkldnn._convolution_pointwise
    out: Tensor
    if residual is None:
        out = operation(x, weight, bias, *shape, activation, [], EXACT)
    elif x.is_contiguous(memory_format=torch.channels_last) and x.shape[-2:].numel() > 1:
        after = None if activation == "none" else activation
        out = operation.binary(x, residual, weight, bias, *shape, "add", 1.0, after, [], EXACT)
    else:  # torch would not take oneDNN's way, and knows no other in bf16
        out = operation(x, weight, bias, *shape, "none", [], EXACT).add_(residual)
        out = F.relu_(out) if activation == "relu" else out
    return out


def pack(
    weight: Float[Tensor, "D C 1 1"], *, groups: int, columns: int
) -> Float[Tensor, "D C 1 1"]:
    """The kernel of `convolve` as oneDNN wants it for images of one row of so many `columns`.

    It would be brought into this form at every call.
    """
    image = (1, groups * weight.shape[1], 1, columns)
    operation = torch.ops.mkldnn._reorder_convolution_weight
    packed: Tensor = operation(weight, (0, 0), (1, 1), (1, 1), groups, image)
    return packed


def linear(
    x: Float[Tensor, "*N C"],
    weight: Float[Tensor, "D C"],
    bias: Float[Tensor, "D"] | None,
    activation: Activation = "none",
) -> Float[Tensor, "*N D"]:
    """`activation(F.linear(x))`."""
    operation = torch.ops.mkldnn._linear_pointwise
    out: Tensor = operation(x, weight, bias, activation, [], EXACT)
    return out


def gradient_of_kernel(
    gradient: Float[Tensor, "B D h w"], x: Float[Tensor, "B C h w"]
) -> Float[Tensor, "D C 1 1"]:
    """That of the kernel of a 1x1 convolution of `x`."""
    kernel = x.new_empty(gradient.shape[1], x.shape[1], 1, 1)
    options = (None, (1, 1), (0, 0), (1, 1), False, (0, 0), 1, (False, True, False))
    found: Tensor = torch.ops.aten.convolution_backward(gradient, x, kernel, *options)[1]
    return found
