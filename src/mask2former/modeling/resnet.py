"""ResNet (He et al., CVPR 2016) with the stride in the 3x3 convolution, as Mask2Former uses it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from mask2former import onednn
from mask2former.modeling import winograd
from mask2former.modeling.backbone import Backbone
from mask2former.modeling.convolution import Conv2d

Norm = Literal["frozen_batch_norm", "batch_norm"]


@dataclass(frozen=True, kw_only=True)
class ResNetConfig:
    """The default is ResNet-50."""

    depths: tuple[int, int, int, int] = (3, 4, 6, 3)
    block: Literal["bottleneck", "basic"] = "bottleneck"
    stem_channels: int = 64
    width: int = 64  # channels of the first stage's 3x3 convolutions; doubles with each stage
    channels: int = 256  # channels that the first stage returns; doubles with each stage
    norm: Norm = "frozen_batch_norm"  # "batch_norm" where training starts from nothing


RESNET50 = ResNetConfig()
RESNET101 = ResNetConfig(depths=(3, 4, 23, 3))


class FrozenBatchNorm(nn.Module):
    """Batch normalisation whose statistics and affine are constants of the pre-trained weights.

    What it is given is overwritten: it is meant for what a convolution returns.
    """

    weight: Tensor
    bias: Tensor
    running_mean: Tensor
    running_var: Tensor
    eps = 1e-5

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.register_buffer("weight", torch.ones(channels))
        self.register_buffer("bias", torch.zeros(channels))
        self.register_buffer("running_mean", torch.zeros(channels))
        self.register_buffer("running_var", torch.ones(channels) - self.eps)

    def forward(self, x: Float[Tensor, "B C h w"]) -> Float[Tensor, "B C h w"]:
        # In half precision scale and shift would be rounded before they are used.
        in_place = x.dtype == torch.float32 and not torch.compiler.is_compiling()
        if not x.requires_grad and not in_place:
            return F.batch_norm(
                x, self.running_mean, self.running_var, self.weight, self.bias, eps=self.eps
            )
        scale, shift = (c.to(x.dtype)[:, None, None] for c in scale_and_shift(self))
        normalised: Tensor = ScaleAndShift.apply(x, scale, shift)  # type: ignore[no-untyped-call]
        return normalised


class ScaleAndShift(torch.autograd.Function):
    """In one pass and in place, for `x` is a convolution's, which needs it no more."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Float[Tensor, "B C h w"],
        scale: Float[Tensor, "C 1 1"],
        shift: Float[Tensor, "C 1 1"],
    ) -> Float[Tensor, "B C h w"]:
        ctx.mark_dirty(x)
        ctx.save_for_backward(scale)
        return torch.addcmul(shift, x, scale, out=x)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        return gradients[0] * ctx.saved_tensors[0], None, None


def scale_and_shift(norm: FrozenBatchNorm | nn.BatchNorm2d) -> tuple[Tensor, Tensor]:
    """What a norm of fixed statistics does to each channel, [C] and [C] in fp32 at least."""
    assert norm.running_mean is not None
    assert norm.running_var is not None
    wide = torch.promote_types(norm.weight.dtype, torch.float32)
    scale = norm.weight.to(wide) * (norm.running_var.to(wide) + norm.eps).rsqrt()
    return scale, norm.bias.to(wide) - norm.running_mean.to(wide) * scale


class ConvNorm(nn.Module):
    """A convolution without bias and its normalisation, and what a block does to it."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int, norm: Norm) -> None:
        super().__init__()
        self.conv = Conv2d(inputs, outputs, kernel, stride, padding=kernel // 2, bias=False)
        nn.init.kaiming_normal_(self.conv.weight, mode="fan_out", nonlinearity="relu")
        self.norm: FrozenBatchNorm | nn.BatchNorm2d = (
            FrozenBatchNorm(outputs) if norm == "frozen_batch_norm" else nn.BatchNorm2d(outputs)
        )

    def forward(
        self,
        x: Float[Tensor, "B C h w"],
        residual: Float[Tensor, "B D h w"] | None = None,
        *,
        relu: bool = False,
    ) -> Float[Tensor, "B D h w"]:
        """`norm(conv(x))`, of which a block adds its `residual` and takes the `relu`."""
        if self.fuses(x):
            return self.fused(x, residual, relu=relu)
        x = self.norm(self.conv(x))
        if residual is not None:
            x = x.add_(residual)
        return F.relu_(x) if relu else x  # in place, for no norm needs its own output again

    def fuses(self, x: Float[Tensor, "B C h w"]) -> bool:
        conv, norm = self.conv, self.norm
        # Whoever puts a layer of another kind in its place, as LoRA does, means it to be called.
        if type(conv) is not Conv2d or type(norm) not in (FrozenBatchNorm, nn.BatchNorm2d):
            return False
        plain = conv.bias is None and conv.known_padding() is not None
        fixed = isinstance(norm, FrozenBatchNorm) or (
            not norm.training and norm.affine and norm.track_running_stats
        )
        return plain and fixed and onednn.fuses(x)

    def fused(
        self, x: Float[Tensor, "B C h w"], residual: Float[Tensor, "B D h w"] | None, *, relu: bool
    ) -> Float[Tensor, "B D h w"]:
        """The norm goes into the weights, anew each time: that costs less than a pass over `x`."""
        scale, shift = scale_and_shift(self.norm)
        weight = self.conv.weight * scale[:, None, None, None].to(x.dtype)
        shift, stride, padding = shift.to(x.dtype), self.conv.stride, self.conv.known_padding()
        assert padding is not None
        if residual is None and winograd.gains(x, weight, stride, padding):
            out = winograd.convolve(x, weight, shift)
            return F.relu_(out) if relu else out
        return onednn.convolve(
            x,
            weight,
            shift,
            stride=stride,
            padding=padding,
            residual=residual,
            activation="relu" if relu else "none",
        )


class Block(nn.Module):
    """Residual block: 1x1, 3x3, 1x1 ("bottleneck") or two 3x3 ("basic") convolutions."""

    def __init__(
        self, inputs: int, width: int, outputs: int, stride: int, config: ResNetConfig
    ) -> None:
        super().__init__()
        norm = config.norm
        if config.block == "bottleneck":
            convs = [
                ConvNorm(inputs, width, 1, 1, norm),
                ConvNorm(width, width, 3, stride, norm),
                ConvNorm(width, outputs, 1, 1, norm),
            ]
        else:
            convs = [
                ConvNorm(inputs, outputs, 3, stride, norm),
                ConvNorm(outputs, outputs, 3, 1, norm),
            ]
        self.convs = nn.ModuleList(convs)
        self.shortcut = (
            ConvNorm(inputs, outputs, 1, stride, norm) if inputs != outputs else nn.Identity()
        )

    def forward(self, x: Float[Tensor, "B C h w"]) -> Float[Tensor, "B D h w"]:
        residual = x
        for conv in self.convs[:-1]:
            x = conv(x, relu=True)
        last: Tensor = self.convs[-1](x, self.shortcut(residual), relu=True)
        return last


class ResNet(Backbone):
    """Stem (stride 4) and four stages; returns what each stage returns."""

    def __init__(self, config: ResNetConfig) -> None:
        super().__init__()
        self.stem = ConvNorm(3, config.stem_channels, 7, 2, config.norm)
        inputs, stages = config.stem_channels, []
        for i, depth in enumerate(config.depths):
            width, outputs = config.width << i, config.channels << i
            blocks = []
            for j in range(depth):
                stride = 2 if i > 0 and j == 0 else 1
                blocks.append(Block(inputs, width, outputs, stride, config))
                inputs = outputs
            stages.append(nn.Sequential(*blocks))
        self.stages = nn.ModuleList(stages)
        c = config.channels
        self.channels = (c, 2 * c, 4 * c, 8 * c)

    def forward(self, images: Float[Tensor, "B 3 H W"]) -> list[Float[Tensor, "B C h w"]]:
        x = F.max_pool2d(self.stem(images, relu=True), 3, 2, 1)
        maps = []
        for stage in self.stages:
            x = stage(x)
            maps.append(x)
        return maps
