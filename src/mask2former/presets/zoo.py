"""What the recipes of the official model zoo share; each benchmark's own is in its module.

A recipe trains the released checkpoint of its row, so what that says (classes, test view) is said
there, in `weights.released`. Its backbone is to start from ImageNet: `backbone_weights` is left
for the user to fill in, with the file that docs/training.md names.

All of them: AdamW at 1e-4, the backbone at a tenth of it, weight decay 0.05, all gradients clipped
to a norm of 0.01 together, fp16 mixed precision, 16 images a step, 12,544 points (paper, 4.1). Void
and crowd pixels count as background. The crop rule of MaskFormer, that no class may fill more than
0.75 of a crop, is switched off by every official config (its limit is 1.0): there is none here.
"""

from __future__ import annotations

from dataclasses import replace

from mask2former.data.transforms import TrainView
from mask2former.modeling.decoder import DecoderConfig
from mask2former.modeling.mask2former import Mask2FormerConfig
from mask2former.modeling.resnet import RESNET50, RESNET101, Norm, ResNetConfig
from mask2former.modeling.swin import SWIN_B, SWIN_L, SWIN_S, SWIN_T, SwinConfig
from mask2former.structures import Task
from mask2former.training.config import FolderData, TrainConfig
from mask2former.training.optimizer import OptimizerConfig
from mask2former.weights.released import released_models

BACKBONES: dict[str, ResNetConfig | SwinConfig] = {
    "r50": RESNET50,
    "r101": RESNET101,
    "swin-t": SWIN_T,
    "swin-s": SWIN_S,
    "swin-b": SWIN_B,
    "swin-b-in21k": SWIN_B,
    "swin-l": SWIN_L,  # there is but one, and it saw ImageNet-21k
}
POLY = OptimizerConfig(schedule="poly", power=0.9)


def recipe(
    benchmark: str,
    task: Task,
    backbone: str,
    folder: str,
    *,
    view: TrainView,
    steps: int,
    optimizer: OptimizerConfig,
    resnet_norm: Norm = "frozen_batch_norm",
    evaluate_every: int = 5_000,
) -> TrainConfig:
    """The training of one row of the zoo. ValueError if the zoo has none of this name."""
    name = f"{benchmark}-{task}-{backbone}"
    if name not in released_models() or backbone not in BACKBONES:
        raise ValueError(f"{name}: the model zoo has no such row; `mask2former models` lists it")
    released = released_models()[name]
    network = BACKBONES[backbone]
    if isinstance(network, ResNetConfig):
        network = replace(network, norm=resnet_norm)
    queries = 200 if backbone == "swin-l" and task != "semantic" else 100
    return TrainConfig(
        model=Mask2FormerConfig(
            categories=released.categories,
            backbone=network,
            decoder=DecoderConfig(queries=queries),
            view=released.view,
        ),
        data=FolderData(folder=folder, task=task),
        view=view,
        optimizer=optimizer,
        steps=steps,
        batch_size=16,
        precision="16-mixed",
        workers=4,
        evaluate_every=evaluate_every,
    )


def crop_view(side: int, crop: tuple[int, int]) -> TrainView:
    """The view of all benchmarks but COCO: half to twice the `side`, in tenths; a crop; colours.

    Crops (H, W) are padded where the image is smaller; elongated images stay below 4 times `side`.
    """
    return TrainView(
        size=side,
        sizes=tuple(int(tenths * 0.1 * side) for tenths in range(5, 21)),
        longest_side=4 * side,
        fit="shortest_side",
        crop=crop,
        flip=True,
        color=True,
    )
