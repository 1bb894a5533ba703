"""The pixel decoder: backbone maps -> three encoded scales and per-pixel mask features."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from mask2former.modeling.convolution import Conv2d
from mask2former.modeling.deformable_attention import DeformableAttention
from mask2former.modeling.linear import feed_forward
from mask2former.modeling.position_encoding import Origin, sine_2d
from mask2former.modeling.resize import enlarge
from mask2former.modeling.sampling import Grid


@dataclass(frozen=True, kw_only=True)
class PixelDecoderConfig:
    """Multi-scale deformable encoder over strides 32, 16 and 8, and one FPN step to stride 4."""

    channels: int = 256
    layers: int = 6
    heads: int = 8
    points: int = 4
    feedforward: int = 1024
    dropout: float = 0.0
    position_period: float | None = None  # pixels; None: relative to the canvas, as in the paper
    mask_positions: bool = False  # add positions to the mask features, for `anchored_masks`

    def __post_init__(self) -> None:
        """ValueError if the heads cannot share the channels."""
        if self.heads < 1 or self.channels % self.heads:
            raise ValueError(
                f"pixel_decoder: {self.heads} heads cannot share {self.channels} channels"
            )


class EncoderLayer(nn.Module):
    """Deformable self-attention over all scales, then a feed-forward network; post-norm."""

    def __init__(self, config: PixelDecoderConfig) -> None:
        super().__init__()
        c = config.channels
        self.attention = DeformableAttention(c, 3, config.heads, config.points)
        self.norm1 = nn.LayerNorm(c)
        self.linear1 = nn.Linear(c, config.feedforward)
        self.linear2 = nn.Linear(config.feedforward, c)
        self.norm2 = nn.LayerNorm(c)
        self.dropout = nn.Dropout(config.dropout)
        for linear in (self.linear1, self.linear2):
            nn.init.xavier_uniform_(linear.weight)

    def forward(
        self,
        tokens: Float[Tensor, "B S C"],
        position: Float[Tensor, "S C"],
        grid: Grid,
        reference: Float[Tensor, "S 2 1"],
    ) -> Float[Tensor, "B S C"]:
        attended = self.attention(tokens, position, grid, reference)
        tokens = self.norm1(tokens + self.dropout(attended))
        fed = feed_forward(tokens, self.linear1, self.linear2, self.dropout)
        normalised: Tensor = self.norm2(tokens + self.dropout(fed))
        return normalised


class PixelDecoder(nn.Module):
    """Deformable encoder and FPN step.

    Returns the mask features at stride 4 and the encoded maps at strides 32, 16, 8 (in this order).
    """

    def __init__(
        self, config: PixelDecoderConfig, inputs: tuple[int, int, int, int], mask_channels: int
    ) -> None:
        super().__init__()
        self.config = config
        c = config.channels
        self.projections = nn.ModuleList(
            nn.Sequential(projection(i, c), nn.GroupNorm(32, c)) for i in inputs[:0:-1]
        )
        self.level_embedding = nn.Parameter(torch.randn(3, c))
        self.layers = nn.ModuleList(EncoderLayer(config) for _ in range(config.layers))
        self.lateral = nn.Conv2d(inputs[0], c, 1, bias=False)
        self.lateral_norm = nn.GroupNorm(32, c)
        self.output = Conv2d(c, c, 3, padding=1, bias=False)
        self.output_norm = nn.GroupNorm(32, c)
        self.mask_features = nn.Conv2d(c, mask_channels, 1)
        for conv in (self.lateral, self.output, self.mask_features):
            nn.init.kaiming_uniform_(conv.weight, a=1)

    def forward(
        self, maps: list[Float[Tensor, "B C h w"]], origin: Origin = (0, 0)
    ) -> tuple[Float[Tensor, "B D h w"], list[Float[Tensor, "B C h w"]]]:
        """`origin` (y, x; in pixels) is where the canvas lies, for absolute positions."""
        finest, *coarser = maps
        scales = [project(x) for project, x in zip(self.projections, coarser[::-1], strict=True)]
        encoded = self.encode(scales, origin)
        x = self.lateral_norm(self.lateral(finest))
        x += enlarge(encoded[-1], finest.shape[-2:])  # in place: a norm has no need of its output
        features = self.mask_features(F.relu_(self.output_norm(self.output(x))))
        if self.config.mask_positions:
            features = features + self.position(features, 4, origin)
        return features, encoded

    def encode(
        self, scales: list[Float[Tensor, "B C h w"]], origin: Origin
    ) -> list[Float[Tensor, "B C h w"]]:
        """The deformable encoder, over the tokens of all scales at once."""
        shapes = [(x.shape[-2], x.shape[-1]) for x in scales]
        position = torch.cat(
            [
                self.position(x, stride, origin).flatten(1).T + level
                for x, stride, level in zip(scales, (32, 16, 8), self.level_embedding, strict=True)
            ]
        )
        grid = Grid.of(shapes, self.config.heads, self.config.points, scales[0].device)
        reference = grid.reference()
        tokens = torch.cat([x.flatten(2).transpose(1, 2) for x in scales], 1)
        for layer in self.layers:
            tokens = layer(tokens, position, grid, reference)
        return [
            level.transpose(1, 2).unflatten(2, shape)
            for level, shape in zip(
                tokens.split([h * w for h, w in shapes], 1), shapes, strict=True
            )
        ]

    def position(
        self, x: Float[Tensor, "B C h w"], stride: int, origin: Origin
    ) -> Float[Tensor, "C h w"]:
        return sine_2d(
            x.shape[-2],
            x.shape[-1],
            x.shape[1],
            stride=stride,
            period=self.config.position_period,
            origin=origin,
            device=x.device,
        ).to(x.dtype)


def projection(inputs: int, outputs: int) -> nn.Conv2d:
    conv = nn.Conv2d(inputs, outputs, 1)
    nn.init.xavier_uniform_(conv.weight)
    if conv.bias is not None:
        nn.init.zeros_(conv.bias)
    return conv
