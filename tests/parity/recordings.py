"""How the recorded runs of the official code are read; see ../shared/reference/README.md."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor

from mask2former.imaging import normalize
from mask2former.modeling.mask2former import Mask2Former
from mask2former.structures import Targets
from mask2former.weights.detectron2 import official_name

REFERENCE = Path(__file__).parents[3] / "shared" / "reference"
needs_recordings = pytest.mark.skipif(
    not REFERENCE.is_dir(), reason=f"the official code's recorded results are not at {REFERENCE}"
)


class Recorded:
    """Tensors and facts of one recorded run, such as ("r50_tiny", "eval_A")."""

    def __init__(self, folder: str, name: str) -> None:
        self.tensors: dict[str, Tensor] = load_file(REFERENCE / folder / f"{name}.safetensors")
        self.facts: dict[str, Any] = json.loads((REFERENCE / folder / f"{name}.json").read_text())

    def __getitem__(self, key: str) -> Tensor:
        return self.tensors[key]

    def __contains__(self, key: str) -> bool:
        return key in self.tensors

    @property
    def frames(self) -> list[list[Tensor]]:
        """The frames of every image or clip, uint8 [3, H, W]."""
        if "image.0" in self:
            return [[self[key]] for key in self.numbered("image.{}")]
        if "frame.0" in self:
            return [[self[key] for key in self.numbered("frame.{}")]]
        clips = []
        while f"frame.{len(clips)}.0" in self:
            clips.append([self[key] for key in self.numbered(f"frame.{len(clips)}." + "{}")])
        return clips

    def numbered(self, pattern: str) -> list[str]:
        keys = []
        while pattern.format(len(keys)) in self:
            keys.append(pattern.format(len(keys)))
        return keys

    def masks(self, key: str, shape: tuple[int, ...]) -> Tensor:
        """Packed bits as booleans of `shape`, whose last part is packed together."""
        bits = np.unpackbits(self[key].numpy(), axis=-1)
        length = int(np.prod(shape[self[key].ndim - 1 :]))
        return torch.from_numpy(bits[..., :length].astype(bool).reshape(shape))


@cache
def recorded(folder: str, name: str) -> Recorded:
    return Recorded(folder, name)


@cache
def official_model(folder: str) -> Mask2Former:
    return Mask2Former.from_pretrained(REFERENCE / folder / "model.pkl")


def prepared(run: Recorded, model: Mask2Former, canvas: tuple[int, int]) -> Tensor:
    """Normalised and padded: [B, 3, H, W], or [B, T, 3, H, W] for clips."""
    view = model.config.view
    clips = []
    for frames in run.frames:
        normal = [normalize(f.permute(1, 2, 0).numpy(), view.mean, view.std) for f in frames]
        clips.append(torch.stack([pad(x, canvas) for x in normal]))
    batch = torch.stack(clips)
    return batch if model.config.decoder.temporal_positions else batch.squeeze(1)


def pad(x: Tensor, canvas: tuple[int, int]) -> Tensor:
    return F.pad(x, (0, canvas[1] - x.shape[-1], 0, canvas[0] - x.shape[-2]))


def targets(run: Recorded, canvas: tuple[int, int]) -> tuple[Targets, ...]:
    """Targets of the images, padded; of clips as the official code prepared them."""
    made = []
    for i, frames in enumerate(run.frames):
        if f"target.{i}.prepared.labels" in run:
            labels = run[f"target.{i}.prepared.labels"]
            shape = (len(labels), len(frames), *canvas)
            masks = run.masks(f"target.{i}.prepared.masks_packed", shape)
        else:
            labels = run[f"target.{i}.labels"]
            masks = pad(run[f"target.{i}.masks"].bool(), canvas).unsqueeze(1)
            shape = (len(labels), *canvas)
            packed = run.masks(f"target.{i}.masks_padded_packed", shape)
            assert torch.equal(masks[:, 0], packed)
        made.append(Targets(labels=labels, masks=masks))
    return tuple(made)


def recorded_value(table: dict[str, Any], ours: str) -> Any:
    """What a table by official names holds for one of our parameters."""
    name = official_name(ours)
    old = name.replace("query_feat", "static_query")  # its name in published checkpoints
    return table[name] if name in table else table[old]


def check(ours: Tensor, theirs: Tensor, tolerance: float, what: str) -> None:
    """Equal shapes, and no element further away than `tolerance`."""
    assert ours.shape == theirs.shape, f"{what}: {tuple(ours.shape)} and {tuple(theirs.shape)}"
    deviation = (ours - theirs).abs().max().item() if ours.numel() else 0.0
    assert deviation <= tolerance, f"{what}: {deviation:.2e} away, {tolerance:.0e} allowed"


def in_order(points: Tensor) -> Tensor:
    """Points [N, P, 2] of each mask from left to right: their own order means nothing."""
    order = points[..., :1].argsort(1)
    return points.gather(1, order.expand_as(points))
