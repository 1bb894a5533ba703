"""Nuclei in microscope images (BBBC038, Data Science Bowl 2018), and their background as stuff."""

from __future__ import annotations

from mask2former.data.transforms import TrainView
from mask2former.loss.criterion import LossConfig
from mask2former.presets.compact import COMPACT_OPTIMIZER, compact_model
from mask2former.structures import Category, View
from mask2former.training.config import FolderData, TrainConfig

CATEGORIES = (
    Category(id=1, name="nucleus", is_thing=True, color=(220, 60, 60)),
    Category(id=2, name="background", is_thing=False, color=(30, 30, 30)),
)
CONTRAST = (0.5, 99.8)  # microscopes differ in exposure by more than the network could learn


def nuclei(folder: str) -> TrainConfig:
    """`folder` holds the nuclei as COCO panoptic, or as the public archive's folders."""
    view = View(
        shortest_side=448,
        longest_side=1024,
        contrast_percentiles=CONTRAST,
        max_detections=400,
        object_threshold=0.5,
        overlap_threshold=0.6,
    )
    return TrainConfig(
        model=compact_model(CATEGORIES, view, queries=4, selected_share=0.1),
        data=FolderData(folder=folder, task="panoptic"),
        view=TrainView(
            size=384,
            scale=(0.6, 1.6),
            fit="shortest_side",
            crop=(256, 256),
            turn=True,
            color=True,
            contrast_percentiles=CONTRAST,
        ),
        loss=LossConfig(points=1024, matching_on="masks", cell_weight=4.0),
        optimizer=COMPACT_OPTIMIZER,
        steps=4000,
        batch_size=8,
        ema=0.998,
        evaluate_every=1000,
        checkpoint_every=200,
    )
