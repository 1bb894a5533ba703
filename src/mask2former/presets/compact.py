"""A model small enough to be trained from nothing on a CPU: the kind that is embedded."""

from __future__ import annotations

from mask2former.data.dataset import Dataset
from mask2former.modeling.decoder import DecoderConfig
from mask2former.modeling.mask2former import Mask2FormerConfig
from mask2former.modeling.pixel_decoder import PixelDecoderConfig
from mask2former.modeling.resnet import ResNetConfig
from mask2former.structures import Category, View
from mask2former.training.optimizer import OptimizerConfig

# From nothing all parts learn at one rate; gradients are as good as normalised by the clipping.
COMPACT_OPTIMIZER = OptimizerConfig(
    rate=6e-4,
    backbone_multiplier=1.0,
    clip_norm=0.1,
    schedule="cosine",
    warmup_steps=100,
)


def has_regions_alone(dataset: Dataset) -> bool:
    """Whether every class is one region of an image, so that learnt queries do."""
    return dataset.tasks == ("semantic",) or not any(c.is_thing for c in dataset.categories)


def region_queries(dataset: Dataset) -> int:
    """How many learnt queries such a data set is given."""
    return max(16, len(dataset.categories))


def compact_model(
    categories: tuple[Category, ...], view: View, *, queries: int, selected_share: float
) -> Mask2FormerConfig:
    """About 3M parameters.

    It differs from the paper's in three choices, each for the sake of short trainings: most queries
    start from a cell of the image, masks begin around that cell, and positions are absolute. With a
    `selected_share` of 0 (where no class has objects) the last alone.
    """
    from_cells = selected_share > 0
    channels, period = 64, 64.0
    return Mask2FormerConfig(
        categories=categories,
        backbone=ResNetConfig(
            depths=(2, 2, 2, 2),
            block="basic",
            stem_channels=16,
            width=32,
            channels=32,
            norm="batch_norm",
        ),
        pixel_decoder=PixelDecoderConfig(
            channels=channels,
            layers=2,
            heads=4,
            points=2,
            feedforward=128,
            position_period=period,
            mask_positions=from_cells,
        ),
        decoder=DecoderConfig(
            channels=channels,
            mask_channels=channels,
            layers=3,
            heads=4,
            feedforward=256,
            queries=queries,
            selected_share=selected_share,
            anchored_masks=from_cells,
            position_period=period,
        ),
        view=view,
    )
