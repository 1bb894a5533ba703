"""Universal image segmentation with one model: panoptic, instance and semantic."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mask2former.modeling.mask2former import Mask2Former, Mask2FormerConfig
    from mask2former.segmenter import Segmenter
    from mask2former.structures import (
        Category,
        Instances,
        Output,
        Panoptic,
        Segment,
        Segmentation,
        Semantic,
    )

__all__ = [
    "Category",
    "Instances",
    "Mask2Former",
    "Mask2FormerConfig",
    "Output",
    "Panoptic",
    "Segment",
    "Segmentation",
    "Segmenter",
    "Semantic",
]

_STRUCTURES = ("Category", "Instances", "Output", "Panoptic", "Segment", "Segmentation", "Semantic")

_HOMES = {
    "Mask2Former": "mask2former.modeling.mask2former",
    "Mask2FormerConfig": "mask2former.modeling.mask2former",
    "Segmenter": "mask2former.segmenter",
    **dict.fromkeys(_STRUCTURES, "mask2former.structures"),
}


def __getattr__(name: str) -> object:
    # Imported at first use: `mask2former --help` need not wait for torch.
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)
