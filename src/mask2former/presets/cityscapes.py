"""Cityscapes with its 19 classes, of which 8 are things: all three tasks, 90,000 steps.

The norms of ResNets are trained, synchronised over all images of a step (`norm="batch_norm"`).
"""

from __future__ import annotations

from mask2former.presets.zoo import POLY, crop_view, recipe
from mask2former.structures import Task
from mask2former.training.config import TrainConfig


def panoptic(folder: str, backbone: str = "r50") -> TrainConfig:
    return _cityscapes("panoptic", backbone, folder)


def instance(folder: str, backbone: str = "r50") -> TrainConfig:
    """The 8 things."""
    return _cityscapes("instance", backbone, folder)


def semantic(folder: str, backbone: str = "r50") -> TrainConfig:
    return _cityscapes("semantic", backbone, folder)


def _cityscapes(task: Task, backbone: str, folder: str) -> TrainConfig:
    return recipe(
        "cityscapes",
        task,
        backbone,
        folder,
        view=crop_view(1024, (512, 1024)),
        steps=90_000,
        optimizer=POLY,
        resnet_norm="batch_norm",
    )
