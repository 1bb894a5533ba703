"""The pixel decoder that the paper compares its own with: a feature pyramid, without attention."""

from __future__ import annotations

from dataclasses import dataclass

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from mask2former.modeling.convolution import Conv2d
from mask2former.modeling.position_encoding import Origin


@dataclass(frozen=True, kw_only=True)
class FPNConfig:
    """Lin et al., CVPR 2017, as MaskFormer uses it (paper, table 4e: "FPN")."""

    channels: int = 256


class FPN(nn.Module):
    """Coarse maps are added to finer ones, a 3x3 convolution at every scale.

    Input and output are those of `PixelDecoder`.
    """

    def __init__(
        self, config: FPNConfig, inputs: tuple[int, int, int, int], mask_channels: int
    ) -> None:
        super().__init__()
        c = config.channels
        self.laterals = nn.ModuleList(conv_norm(i, c, 1) for i in inputs[-2::-1])  # strides 16 8 4
        self.outputs = nn.ModuleList(conv_norm(i, c, 3) for i in (inputs[-1], c, c, c))
        self.mask_features = Conv2d(c, mask_channels, 3, padding=1)
        nn.init.kaiming_uniform_(self.mask_features.weight, a=1)

    def forward(
        self, maps: list[Float[Tensor, "B C h w"]], origin: Origin = (0, 0)
    ) -> tuple[Float[Tensor, "B D h w"], list[Float[Tensor, "B C h w"]]]:
        """`origin` is nothing to it, as it knows no positions."""
        *finer, coarsest = maps
        pyramid = [F.relu_(self.outputs[0](coarsest))]
        for x, lateral, output in zip(finer[::-1], self.laterals, self.outputs[1:], strict=True):
            up = F.interpolate(pyramid[-1], size=x.shape[-2:], mode="nearest")
            pyramid.append(F.relu_(output(lateral(x) + up)))
        return self.mask_features(pyramid[-1]), pyramid[:3]


def conv_norm(inputs: int, outputs: int, size: int) -> nn.Sequential:
    conv = Conv2d(inputs, outputs, size, padding=size // 2, bias=False)
    nn.init.kaiming_uniform_(conv.weight, a=1)
    return nn.Sequential(conv, nn.GroupNorm(32, outputs))
