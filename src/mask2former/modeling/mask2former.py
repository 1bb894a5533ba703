"""Mask2Former (Cheng et al., CVPR 2022): backbone -> pixel decoder -> masked-attention decoder."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from mask2former.modeling.backbone import Backbone
from mask2former.modeling.decoder import Decoder, DecoderConfig
from mask2former.modeling.fpn import FPN, FPNConfig
from mask2former.modeling.hf_backbone import HFBackbone, HFBackboneConfig
from mask2former.modeling.pixel_decoder import PixelDecoder, PixelDecoderConfig
from mask2former.modeling.position_encoding import Origin
from mask2former.modeling.resnet import ResNet, ResNetConfig
from mask2former.modeling.swin import Swin, SwinConfig
from mask2former.structures import Category, Output, View

ORIGINS = 32  # steps of 32 pixels that `canvas_origin` chooses from, on either axis


@dataclass(frozen=True, kw_only=True)
class Mask2FormerConfig:
    """A whole model: its parts, what it tells apart, and how images are shown to it."""

    categories: tuple[Category, ...]
    backbone: ResNetConfig | SwinConfig | HFBackboneConfig = field(default_factory=ResNetConfig)
    pixel_decoder: PixelDecoderConfig | FPNConfig = field(default_factory=PixelDecoderConfig)
    decoder: DecoderConfig = field(default_factory=DecoderConfig)
    view: View = field(default_factory=View)

    def __post_init__(self) -> None:
        """ValueError if parts do not fit together."""
        pixels, decoder = self.pixel_decoder, self.decoder
        if isinstance(pixels, FPNConfig):
            if decoder.anchored_masks:
                raise ValueError("decoder.anchored_masks wants positions, which an FPN knows not")
            return
        if pixels.position_period != decoder.position_period:
            raise ValueError(
                f"pixel_decoder.position_period is {pixels.position_period} and"
                f" decoder.position_period {decoder.position_period}; give both the same"
            )
        if not 0 <= decoder.selected_share <= 1:
            raise ValueError(f"decoder.selected_share is {decoder.selected_share}; choose 0 .. 1")
        if decoder.anchored_masks and not (
            pixels.mask_positions
            and decoder.selected_share
            and decoder.mask_channels == decoder.channels
        ):
            raise ValueError(
                "decoder.anchored_masks wants pixel_decoder.mask_positions, a"
                " decoder.selected_share above 0, and decoder.mask_channels equal to"
                " decoder.channels"
            )


class Mask2Former(nn.Module):
    """Normalised, padded images in; class logits and masks of a fixed number of queries out."""

    def __init__(self, config: Mask2FormerConfig) -> None:
        super().__init__()
        self.config = config
        self.backbone = build_backbone(config.backbone)
        self.pixel_decoder = build_pixel_decoder(
            config.pixel_decoder, self.backbone.channels, config.decoder.mask_channels
        )
        self.decoder = Decoder(
            config.decoder, len(config.categories), config.pixel_decoder.channels
        )

    def forward(self, images: Float[Tensor, "B *T 3 H W"], origin: Origin | None = None) -> Output:
        """Segment images [B, 3, H, W] or clips [B, T, 3, H, W], padded to multiples of 32.

        `origin` is where the canvas lies, as `canvas_origin` chooses it where none is given.
        """
        is_clip = images.ndim == 5
        clips = images if is_clip else images.unsqueeze(1)
        maps = self.backbone(clips.flatten(0, 1))
        origin = self.canvas_origin() if origin is None else origin
        # As in the official code: under autocast the pixel decoder stays in fp32.
        with torch.autocast(images.device.type, enabled=False):
            maps = [x.to(self.pixel_decoder.mask_features.weight.dtype) for x in maps]
            mask_features, scales = self.pixel_decoder(maps, origin)
        mask_features, *scales = (
            x.unflatten(0, clips.shape[:2]).transpose(1, 2) for x in (mask_features, *scales)
        )
        output: Output = self.decoder(mask_features, scales, is_clip, origin)
        return output

    def canvas_origin(self, generator: torch.Generator | None = None) -> Origin:
        """Where the canvas lies, for absolute positions: in training anywhere on a large one.

        Trained at one corner alone, a model is lost on a canvas larger than its training crops.
        """
        if not self.training or self.config.decoder.position_period is None:
            return (0, 0)
        y, x = torch.randint(ORIGINS, (2,), generator=generator).tolist()
        return (32 * y, 32 * x)

    @classmethod
    def from_pretrained(
        cls,
        name_or_path: str | Path,
        *,
        classes: str | tuple[str, ...] | None = None,
        dtype: torch.dtype = torch.float32,
        device: str | torch.device = "cpu",
    ) -> Mask2Former:
        """A model by path or name, in any format that `mask2former.weights.load` knows."""
        from mask2former.weights import load

        return load(name_or_path, classes=classes).to(device=device, dtype=dtype).eval()

    def save_pretrained(self, folder: str | Path) -> None:
        """Write config and weights (safetensors) to a folder."""
        from mask2former.weights.native import save_model

        save_model(self, folder)

    def push_to_hub(self, repository: str, **options: Any) -> str:
        """Publish on the Hugging Face Hub; the options are those of `weights.hub.push_to_hub`."""
        from mask2former.weights.hub import push_to_hub

        return push_to_hub(self, repository, **options)


def build_backbone(config: ResNetConfig | SwinConfig | HFBackboneConfig) -> Backbone:
    if isinstance(config, HFBackboneConfig):
        return HFBackbone(config)
    return ResNet(config) if isinstance(config, ResNetConfig) else Swin(config)


def build_pixel_decoder(
    config: PixelDecoderConfig | FPNConfig, inputs: tuple[int, int, int, int], mask_channels: int
) -> PixelDecoder | FPN:
    if isinstance(config, FPNConfig):
        return FPN(config, inputs, mask_channels)
    return PixelDecoder(config, inputs, mask_channels)
