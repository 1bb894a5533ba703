"""Eight images learnt by heart: shows that a data set, the model and the loss fit together.

    mask2former train --preset memorise --data COCO_FOLDER --out runs/memorise

On eight images of COCO panoptic PQ rises above 60 in 500 steps, on a CPU.
"""

from __future__ import annotations

from dataclasses import replace

from mask2former.data.detect import open_dataset
from mask2former.data.transforms import TrainView
from mask2former.loss.criterion import LossConfig
from mask2former.presets.compact import COMPACT_OPTIMIZER, compact_model
from mask2former.structures import View
from mask2former.training.config import FolderData, TrainConfig


def memorise(folder: str) -> TrainConfig:
    """`folder` holds any panoptic data set with a split whose name begins with "train"."""
    view = View(shortest_side=256, longest_side=384, object_threshold=0.5, overlap_threshold=0.6)
    categories = open_dataset(folder, "train", task="panoptic").categories
    return TrainConfig(
        model=compact_model(categories, view, queries=10, selected_share=0.02),
        data=FolderData(folder=folder, val="train", task="panoptic", limit=8),
        view=TrainView(
            size=256, scale=(1.0, 1.0), fit="shortest_side", crop=(352, 352), flip=False
        ),
        loss=LossConfig(matching_on="masks", loss_on="masks"),
        optimizer=replace(COMPACT_OPTIMIZER, warmup_steps=50),
        steps=500,
        batch_size=4,
        evaluate_every=100,
        checkpoint_every=50,
    )
