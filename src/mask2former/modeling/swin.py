"""Swin Transformer (Liu et al., ICCV 2021), padding and shifting in the official order.

Maps are padded to whole windows first and shifted after, the padded tokens take part in attention,
and window and shift keep their size where the map is smaller: other orders give other numbers at
sizes that are not multiples of the window.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn

from mask2former.modeling.backbone import Backbone
from mask2former.modeling.linear import Linear


@dataclass(frozen=True, kw_only=True)
class SwinConfig:
    """The default is Swin-T."""

    width: int = 96  # channels of the first stage; doubles with each stage
    depths: tuple[int, int, int, int] = (2, 2, 6, 2)
    heads: tuple[int, int, int, int] = (3, 6, 12, 24)
    window: int = 7  # tokens
    mlp_ratio: float = 4.0
    drop_path: float = 0.3  # stochastic depth of the last block; grows linearly from 0


SWIN_T = SwinConfig()
SWIN_S = SwinConfig(depths=(2, 2, 18, 2))
SWIN_B = SwinConfig(width=128, depths=(2, 2, 18, 2), heads=(4, 8, 16, 32), window=12)
SWIN_L = SwinConfig(width=192, depths=(2, 2, 18, 2), heads=(6, 12, 24, 48), window=12)


class DropPath(nn.Module):
    """Stochastic depth: drops a residual branch for whole images, scales the others up."""

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate

    def forward(self, x: Float[Tensor, "B *rest"]) -> Float[Tensor, "B *rest"]:
        if self.rate == 0.0 or not self.training:
            return x
        keep = torch.rand(x.shape[0], *[1] * (x.ndim - 1), device=x.device) >= self.rate
        return x * keep.to(x.dtype) / (1 - self.rate)


def relative_position_index(window: int) -> Int64[Tensor, "N N"]:
    """Row of the bias table for each pair of tokens of a window."""
    y, x = torch.meshgrid(torch.arange(window), torch.arange(window), indexing="ij")
    y, x = y.flatten(), x.flatten()
    dy = y[:, None] - y[None, :] + window - 1
    dx = x[:, None] - x[None, :] + window - 1
    return dy * (2 * window - 1) + dx


def shift_mask(
    height: int, width: int, window: int, device: torch.device
) -> Bool[Tensor, "nW N N"]:
    """True where two tokens of a shifted window do not come from one neighbourhood."""
    shift = window // 2

    def bands(length: int) -> Int64[Tensor, "length"]:
        i = torch.arange(length, device=device)
        return (i >= length - window).long() + (i >= length - shift).long()

    region = 3 * bands(height)[:, None] + bands(width)[None, :]
    windows = to_windows(region[None, :, :, None], window).squeeze(-1)
    return windows[:, :, None] != windows[:, None, :]


def to_windows(x: Float[Tensor, "B H W C"], window: int) -> Float[Tensor, "BnW N C"]:
    b, h, w, c = x.shape
    x = x.view(b, h // window, window, w // window, window, c)
    return x.transpose(2, 3).reshape(-1, window * window, c)


def from_windows(
    windows: Float[Tensor, "BnW N C"], window: int, height: int, width: int
) -> Float[Tensor, "B H W C"]:
    c = windows.shape[-1]
    x = windows.view(-1, height // window, width // window, window, window, c)
    return x.transpose(2, 3).reshape(-1, height, width, c)


class WindowAttention(nn.Module):
    """Self-attention inside windows, with a learnt bias for each relative position and head."""

    relative_position_index: Tensor

    def __init__(self, channels: int, heads: int, window: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = Linear(channels, 3 * channels)
        self.proj = Linear(channels, channels)
        self.relative_position_bias_table = nn.Parameter(torch.zeros((2 * window - 1) ** 2, heads))
        nn.init.trunc_normal_(self.relative_position_bias_table, std=0.02)
        self.register_buffer(
            "relative_position_index", relative_position_index(window), persistent=False
        )

    def forward(
        self, x: Float[Tensor, "BnW N C"], mask: Bool[Tensor, "nW N N"] | None
    ) -> Float[Tensor, "BnW N C"]:
        n_windows, n, c = x.shape
        q, k, v = self.qkv(x).view(n_windows, n, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        bias = self.relative_position_bias_table[self.relative_position_index].permute(2, 0, 1)
        bias = bias.unsqueeze(0)  # [1, heads, N, N]
        if mask is not None:  # -100, not -inf, as in the official code
            bias = bias + mask.unsqueeze(1) * -100.0
            bias = bias.repeat(n_windows // len(mask), 1, 1, 1)
        out = F.scaled_dot_product_attention(q, k, v, attn_mask=bias.to(q.dtype))
        projected: Tensor = self.proj(out.transpose(1, 2).reshape(n_windows, n, c))
        return projected


class Perceptron(nn.Sequential):
    """Linear, GELU, linear."""

    def forward(self, x: Float[Tensor, "*N C"]) -> Float[Tensor, "*N C"]:
        first, gelu, second = self
        # Whoever puts layers of another kind in their place, as LoRA does, means them to be called.
        known = type(first) is Linear and type(gelu) is nn.GELU and gelu.approximate == "none"
        hidden = first(x, "gelu") if known else gelu(first(x))
        out: Tensor = second(hidden)
        return out


class SwinBlock(nn.Module):
    """Pre-norm block: (shifted) window attention, then a two-layer perceptron."""

    def __init__(
        self, channels: int, heads: int, shifted: bool, drop_path: float, config: SwinConfig
    ) -> None:
        super().__init__()
        self.window, self.shift = config.window, config.window // 2 if shifted else 0
        hidden = int(channels * config.mlp_ratio)
        self.norm1 = nn.LayerNorm(channels)
        self.attention = WindowAttention(channels, heads, config.window)
        self.norm2 = nn.LayerNorm(channels)
        self.mlp = Perceptron(Linear(channels, hidden), nn.GELU(), Linear(hidden, channels))
        self.drop_path = DropPath(drop_path)

    def forward(
        self, x: Float[Tensor, "B H W C"], mask: Bool[Tensor, "nW N N"]
    ) -> Float[Tensor, "B H W C"]:
        x = x + self.drop_path(self.attend(self.norm1(x), mask))
        out: Tensor = x + self.drop_path(self.mlp(self.norm2(x)))
        return out

    def attend(
        self, x: Float[Tensor, "B H W C"], mask: Bool[Tensor, "nW N N"]
    ) -> Float[Tensor, "B H W C"]:
        h, w = x.shape[1:3]
        x = F.pad(x, (0, 0, 0, -w % self.window, 0, -h % self.window))
        padded_h, padded_w = x.shape[1:3]
        if self.shift:
            x = x.roll((-self.shift, -self.shift), (1, 2))
        windows = self.attention(to_windows(x, self.window), mask if self.shift else None)
        x = from_windows(windows, self.window, padded_h, padded_w)
        if self.shift:
            x = x.roll((self.shift, self.shift), (1, 2))
        return x[:, :h, :w]


class PatchMerging(nn.Module):
    """Halves the resolution: four neighbours are concatenated, normalised and projected."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(4 * channels)
        self.reduction = Linear(4 * channels, 2 * channels, bias=False)

    def forward(self, x: Float[Tensor, "B H W C"]) -> Float[Tensor, "B h w D"]:
        h, w = x.shape[1:3]
        x = F.pad(x, (0, 0, 0, w % 2, 0, h % 2))
        x = torch.cat([x[:, 0::2, 0::2], x[:, 1::2, 0::2], x[:, 0::2, 1::2], x[:, 1::2, 1::2]], -1)
        merged: Tensor = self.reduction(self.norm(x))
        return merged


class SwinStage(nn.Module):
    """Blocks that take turns in shifting their windows; the norm is for the output alone."""

    def __init__(
        self, channels: int, heads: int, drop_paths: list[float], config: SwinConfig
    ) -> None:
        super().__init__()
        self.window = config.window
        self.blocks = nn.ModuleList(
            SwinBlock(channels, heads, i % 2 == 1, rate, config)
            for i, rate in enumerate(drop_paths)
        )
        self.norm = nn.LayerNorm(channels)

    def forward(self, x: Float[Tensor, "B H W C"]) -> Float[Tensor, "B H W C"]:
        h, w = x.shape[1:3]
        mask = shift_mask(h + -h % self.window, w + -w % self.window, self.window, x.device)
        for block in self.blocks:
            x = block(x, mask)
        return x


class Swin(Backbone):
    """Patch embedding (stride 4) and four stages with patch merging between them."""

    def __init__(self, config: SwinConfig) -> None:
        super().__init__()
        widths = [config.width << i for i in range(4)]
        self.channels = (widths[0], widths[1], widths[2], widths[3])
        self.patch_embed = nn.Conv2d(3, config.width, 4, 4)
        self.patch_norm = nn.LayerNorm(config.width)
        blocks = sum(config.depths)
        rates = [config.drop_path * i / (blocks - 1) for i in range(blocks)]
        stages = []
        for i, (width, depth, heads) in enumerate(
            zip(widths, config.depths, config.heads, strict=True)
        ):
            first = sum(config.depths[:i])
            stages.append(SwinStage(width, heads, rates[first : first + depth], config))
        self.stages = nn.ModuleList(stages)
        self.merges = nn.ModuleList(PatchMerging(width) for width in widths[:-1])
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    def forward(self, images: Float[Tensor, "B 3 H W"]) -> list[Float[Tensor, "B C h w"]]:
        h, w = images.shape[-2:]
        x = self.patch_embed(F.pad(images, (0, -w % 4, 0, -h % 4)))
        x = self.patch_norm(x.permute(0, 2, 3, 1))
        maps = []
        for i, stage in enumerate(self.stages):
            assert isinstance(stage, SwinStage)
            if i > 0:
                x = self.merges[i - 1](x)
            x = stage(x)
            maps.append(stage.norm(x).permute(0, 3, 1, 2))
        # Their channels are last; they come first where those of the weights do.
        if self.patch_embed.weight.is_contiguous():
            return [x.contiguous() for x in maps]
        return maps
