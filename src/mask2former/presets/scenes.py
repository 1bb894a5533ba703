"""Drawn scenes: six classes of things and five of stuff, told apart by shape and texture."""

from __future__ import annotations

from mask2former.data.scenes import CATEGORIES
from mask2former.data.transforms import TrainView
from mask2former.loss.criterion import LossConfig
from mask2former.presets.compact import COMPACT_OPTIMIZER, compact_model
from mask2former.structures import View
from mask2former.training.config import FolderData, ScenesData, TrainConfig


def scenes(folder: str = "") -> TrainConfig:
    """Every step draws new scenes, unless `folder` holds some that were written to disk."""
    view = View(
        shortest_side=384,  # the smallest things are 6 pixels, less than two cells of a mask
        longest_side=768,
        object_threshold=0.5,
        overlap_threshold=0.6,
    )
    return TrainConfig(
        model=compact_model(CATEGORIES, view, queries=8, selected_share=0.06),
        data=FolderData(folder=folder, task="panoptic") if folder else ScenesData(),
        view=TrainView(size=384, scale=(0.7, 1.3), fit="shortest_side", crop=(256, 256), flip=True),
        # With the paper's class weight of 2 the masks were found and the shapes not told apart.
        loss=LossConfig(points=1024, matching_on="masks", class_weight=4.0, cell_weight=10.0),
        optimizer=COMPACT_OPTIMIZER,
        steps=4000,
        batch_size=8,
        ema=0.998,
        evaluate_every=1000,
        checkpoint_every=200,
    )
