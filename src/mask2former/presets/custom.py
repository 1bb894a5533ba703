"""Any data set: a compact model of its own classes, trained from nothing."""

from __future__ import annotations

from mask2former.data.transforms import TrainView
from mask2former.loss.criterion import LossConfig
from mask2former.presets.compact import (
    COMPACT_OPTIMIZER,
    compact_model,
    has_regions_alone,
    region_queries,
)
from mask2former.structures import View
from mask2former.training.config import FolderData, TrainConfig


def custom(folder: str | FolderData) -> TrainConfig:
    """`folder` is in any format that `open_dataset` knows; see `FolderData` on splits.

    Things are found by queries from cells. Where there are none, or the annotation is semantic,
    every class is one region of an image, and learnt queries do.
    """
    data = FolderData(folder=folder) if isinstance(folder, str) else folder
    dataset = data.open_train()
    categories = dataset.categories
    stuff = sum(not category.is_thing for category in categories)
    if has_regions_alone(dataset):
        queries, selected_share, cell_weight = region_queries(dataset), 0.0, 0.0
    else:
        queries, selected_share, cell_weight = max(8, stuff), 0.1, 4.0
    view = View(
        shortest_side=384,
        longest_side=768,
        object_threshold=0.5,
        overlap_threshold=0.6,
    )
    return TrainConfig(
        model=compact_model(categories, view, queries=queries, selected_share=selected_share),
        data=data,
        view=TrainView(
            size=384,
            scale=(0.5, 2.0),
            fit="shortest_side",
            crop=(384, 384),
            flip=True,
            color=True,
        ),
        loss=LossConfig(points=2048, matching_on="masks", cell_weight=cell_weight),
        optimizer=COMPACT_OPTIMIZER,
        steps=5000,
        batch_size=8,
        ema=0.998,
        evaluate_every=1000,
        checkpoint_every=200,
    )
