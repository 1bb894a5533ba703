"""COCO 2017, panoptic and instance: 50 epochs, 100 for Swin-L (paper, 4.1)."""

from __future__ import annotations

from mask2former.data.transforms import TrainView
from mask2former.presets.zoo import recipe
from mask2former.structures import Task
from mask2former.training.config import TrainConfig
from mask2former.training.optimizer import OptimizerConfig

STEPS = 368_750  # 50 epochs; the rate falls to a tenth at the same shares of 50 and of 100
OPTIMIZER = OptimizerConfig(schedule="step", milestones=(327_778 / STEPS, 355_092 / STEPS))
# Large-scale jitter (Ghiasi et al., CVPR 2021), without colours.
VIEW = TrainView(size=1024, scale=(0.1, 2.0), fit="inside", crop=(1024, 1024), flip=True)


def panoptic(folder: str, backbone: str = "r50") -> TrainConfig:
    """All 133 classes; `folder` holds COCO panoptic."""
    return _coco("panoptic", backbone, folder)


def instance(folder: str, backbone: str = "r50") -> TrainConfig:
    """The 80 things; `folder` holds COCO instance annotation."""
    return _coco("instance", backbone, folder)


def _coco(task: Task, backbone: str, folder: str) -> TrainConfig:
    return recipe(
        "coco",
        task,
        backbone,
        folder,
        view=VIEW,
        steps=2 * STEPS if backbone == "swin-l" else STEPS,
        optimizer=OPTIMIZER,
    )
