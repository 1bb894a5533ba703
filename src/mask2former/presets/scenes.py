"""Drawn scenes: six classes of things and five of stuff, told apart by shape and texture.

Trained in two parts (what the embedded model saw besides, its card says):

    mask2former train --preset scenes-cells --out runs/cells
    mask2former train --preset scenes --initial-weights runs/cells/model --out runs/scenes
"""

from __future__ import annotations

from dataclasses import replace

from mask2former.data.scenes import CATEGORIES
from mask2former.data.scenes_layout import ScenesConfig
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
        view=TrainView(size=384, scale=(0.7, 1.2), fit="shortest_side", crop=(320, 320), flip=True),
        loss=LossConfig(points=1024, matching_on="masks", class_weight=4.0, cell_weight=10.0),
        optimizer=replace(COMPACT_OPTIMIZER, rate=1e-3, backbone_multiplier=2.0),
        steps=2500,
        batch_size=5,
        ema=0.998,
        evaluate_every=1000,
        checkpoint_every=200,
    )


def scenes_cells(folder: str = "") -> TrainConfig:
    """The first part: shapes alone, from scenes that are full of things.

    Every cell learns what it is the middle of; nothing after the cells is run backwards. 450 steps
    tell the shapes apart (of 93 % of the things of 20 to 40 pixels), where 2,300 steps of the whole
    loss had not.
    """
    whole = scenes(folder)
    crowded = ScenesConfig(min_things=18, max_things=30, min_size=12, max_size=96)
    return replace(
        whole,
        data=whole.data if folder else ScenesData(drawing=crowded),
        view=TrainView(size=256, scale=(0.8, 1.5), fit="shortest_side", crop=(256, 256), flip=True),
        loss=replace(
            whole.loss, class_weight=0.0, mask_weight=0.0, dice_weight=0.0, cell_weight=1.0
        ),
        optimizer=replace(
            whole.optimizer, backbone_multiplier=4.0, schedule="constant", warmup_steps=50
        ),
        steps=450,
        batch_size=8,
        ema=0.99,
        evaluate_every=0,
    )
