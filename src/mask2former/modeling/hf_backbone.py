"""Any backbone of transformers: ConvNeXt, ConvNeXtV2, SwinV2, PVTv2, DINOv2, DINOv3 and the rest.

Networks with four scales are used as they are; plain vision transformers get the simple feature
pyramid of ViTDet (Li et al., ECCV 2022). Needs the extra `hf`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from mask2former.modeling.backbone import STRIDES, Backbone

_PROBE = 64  # pixels of the image that tells which maps a network gives
_OWN = re.compile(r"hidden_states_norms|mask_token|^(layer)?norm\.|\.layernorm\.")
# Of a config: what says nothing about the network.
_ASIDE = ("architectures", "dtype", "id2label", "label2id", "transformers_version")
_PLAIN_STRIDE = 16  # of a plain transformer's map here, whatever its patches measure


@dataclass(frozen=True, kw_only=True)
class HFBackboneConfig:
    """`model` is the network's `config.json` in transformers, with its `model_type`.

    What it leaves out has the default of transformers. `frozen`: its weights are not trained.
    """

    model: Mapping[str, Any]
    frozen: bool = False

    def __post_init__(self) -> None:
        # As it comes back from a file: tuples as lists, keys as texts.
        object.__setattr__(self, "model", json.loads(json.dumps(dict(self.model))))


def pretrained_backbone(name_or_path: str, *, frozen: bool = False) -> HFBackboneConfig:
    """The config of a network on the Hub or on disk ("facebook/dinov3-vits16-..."); its weights are
    taken by `TrainConfig.backbone_weights`."""
    AutoConfig = _transformers().AutoConfig
    fields = AutoConfig.from_pretrained(name_or_path).to_diff_dict()
    network = {key: value for key, value in fields.items() if key not in _ASIDE}
    return HFBackboneConfig(model=network, frozen=frozen)


class HFBackbone(Backbone):
    """Four maps of a network of transformers, without its pre-trained weights."""

    def __init__(self, config: HFBackboneConfig) -> None:
        """ValueError if transformers has no such backbone, or it does not give such maps."""
        super().__init__()
        self.frozen = config.frozen
        fields = dict(config.model)
        kind = fields.pop("model_type", None)
        transformers = _transformers()
        try:
            theirs = transformers.AutoConfig.for_model(kind, **fields)
            stages = [name for name in theirs.stage_names if name != "stem"]
            theirs.out_features = stages if len(stages) == len(STRIDES) else stages[-1:]
            self.body: nn.Module = transformers.AutoBackbone.from_config(theirs)
        except (ValueError, AttributeError, TypeError) as e:
            reason = str(e).splitlines()[0] if str(e) else type(e).__name__
            raise ValueError(
                f"backbone.model: transformers has no backbone {kind!r} of this kind: {reason}"
            ) from None
        patch = getattr(theirs, "patch_size", 4)
        self.patch: int = patch if isinstance(patch, int) else 4
        self.is_plain = False  # for the probe
        with torch.no_grad():
            sizes = [tuple(x.shape[1:]) for x in self.maps(torch.zeros(1, 3, _PROBE, _PROBE))]
        if [height for _, height, _ in sizes] == [_PROBE // stride for stride in STRIDES]:
            c = [channels for channels, _, _ in sizes]
        elif all(height == _PROBE // self.patch for _, height, _ in sizes):
            self.is_plain = True
            self.pyramid = SimplePyramid(sizes[-1][0])
            c = list(self.pyramid.channels)
        else:
            raise ValueError(
                f"backbone.model: {kind!r} gives maps of {[s[1:] for s in sizes]} cells for"
                f" {_PROBE} pixels; wanted are strides {STRIDES}, or one stride"
            )
        self.channels = (c[0], c[1], c[2], c[3])
        self.body.requires_grad_(not config.frozen)

    def forward(self, images: Float[Tensor, "B 3 H W"]) -> list[Float[Tensor, "B C h w"]]:
        if not self.is_plain:
            return self.maps(images)
        height, width = images.shape[-2:]
        size = [side * self.patch // _PLAIN_STRIDE for side in (height, width)]
        if size != [height, width]:  # patches of 14 pixels: shown smaller, so that cells are 16
            images = F.interpolate(images, size, mode="bilinear", antialias=True)
        pyramid: list[Tensor] = self.pyramid(self.maps(images)[-1])
        return pyramid

    def maps(self, images: Float[Tensor, "B 3 H W"]) -> list[Float[Tensor, "B C h w"]]:
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.frozen):
            return list(self.body(images).feature_maps)

    def load_pretrained(self, name_or_path: str) -> None:
        """Take the weights of a network of the same architecture, on the Hub or on disk.

        ValueError says which tensors do not fit.
        """
        body: Any = self.body
        try:
            source, report = type(body).from_pretrained(
                name_or_path,
                config=body.config,
                output_loading_info=True,
                ignore_mismatched_sizes=True,  # they are in the report
            )
        except (OSError, RuntimeError, ValueError) as e:
            reason = str(e).splitlines()[0] if str(e) else type(e).__name__
            raise ValueError(f"{name_or_path}: no weights of this backbone: {reason}") from None
        # A classifier has no norms for the maps, and not always a token for masked pixels.
        faults = [f"missing: {n}" for n in report["missing_keys"] if not _OWN.search(n)]
        faults += [f"of another shape: {n[0]}" for n in report["mismatched_keys"]]
        if faults:
            shown = "\n  ".join(sorted(faults)[:10])
            raise ValueError(
                f"{name_or_path}: no weights of this backbone ({len(faults)} tensors):\n  {shown}\n"
                "Choose those of the same architecture, or change model.backbone"
            )
        body.load_state_dict(source.state_dict())

    def train(self, mode: bool = True) -> HFBackbone:
        """A frozen network stays in evaluation: no dropout, no new statistics."""
        super().train(mode)
        if self.frozen:
            self.body.eval()
        return self


class SimplePyramid(nn.Module):
    """Maps at strides 4, 8, 16 and 32 from a single one at stride 16."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        half, quarter = max(channels // 2, 1), max(channels // 4, 1)
        self.channels = (quarter, half, channels, channels)
        self.stride4 = nn.Sequential(
            nn.ConvTranspose2d(channels, half, 2, 2),
            nn.GroupNorm(1, half),
            nn.GELU(),
            nn.ConvTranspose2d(half, quarter, 2, 2),
        )
        self.stride8 = nn.ConvTranspose2d(channels, half, 2, 2)

    def forward(self, x: Float[Tensor, "B C h w"]) -> list[Float[Tensor, "B C h w"]]:
        return [self.stride4(x), self.stride8(x), x, F.max_pool2d(x, 2, 2, ceil_mode=True)]


def _transformers() -> Any:
    try:
        import transformers
    except ImportError as e:
        raise ImportError(
            "this backbone comes from transformers, which is not installed: pip install"
            " 'mask2former[hf]'"
        ) from e
    return transformers
