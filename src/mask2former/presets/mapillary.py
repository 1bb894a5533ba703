"""Mapillary Vistas 1.2 with its 65 classes: panoptic and semantic, 300,000 steps.

Unlabelled pixels are no class. The panoptic result drops no query for its score (threshold 0).
"""

from __future__ import annotations

from mask2former.presets.zoo import POLY, crop_view, recipe
from mask2former.structures import Task
from mask2former.training.config import TrainConfig


def panoptic(folder: str, backbone: str = "r50") -> TrainConfig:
    return _mapillary("panoptic", backbone, folder)


def semantic(folder: str, backbone: str = "r50") -> TrainConfig:
    return _mapillary("semantic", backbone, folder)


def _mapillary(task: Task, backbone: str, folder: str) -> TrainConfig:
    return recipe(
        "mapillary",
        task,
        backbone,
        folder,
        view=crop_view(2048, (1024, 1024)),
        steps=300_000,
        optimizer=POLY,
        evaluate_every=0,  # at the end only
    )
