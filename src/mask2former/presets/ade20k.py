"""ADE20K with its 150 classes, of which 100 are things: all three tasks, 160,000 steps."""

from __future__ import annotations

from mask2former.presets.zoo import POLY, crop_view, recipe
from mask2former.structures import Task
from mask2former.training.config import TrainConfig


def semantic(folder: str, backbone: str = "r50") -> TrainConfig:
    """Crops of 512 pixels; of 640 with Swin-B and Swin-L. Of ResNets only the 101 thaws its norms.

    The official file of R101 is called "90k", but trains for 160,000 steps, too.
    """
    large = backbone.startswith(("swin-b", "swin-l"))
    return _ade20k("semantic", backbone, folder, 640 if large else 512)


def panoptic(folder: str, backbone: str = "r50") -> TrainConfig:
    return _ade20k("panoptic", backbone, folder, 640)


def instance(folder: str, backbone: str = "r50") -> TrainConfig:
    """The 100 things."""
    return _ade20k("instance", backbone, folder, 640)


def _ade20k(task: Task, backbone: str, folder: str, side: int) -> TrainConfig:
    return recipe(
        "ade20k",
        task,
        backbone,
        folder,
        view=crop_view(side, (side, side)),
        steps=160_000,
        optimizer=POLY,
        resnet_norm="batch_norm" if backbone == "r101" else "frozen_batch_norm",
    )
