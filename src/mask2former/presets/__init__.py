"""Trainings by name: functions from the folder of a data set to a whole `TrainConfig`."""

from __future__ import annotations

import difflib
from collections.abc import Callable
from functools import partial

from mask2former.presets import ade20k, cityscapes, coco, mapillary
from mask2former.presets.custom import custom
from mask2former.presets.memorise import memorise
from mask2former.presets.nuclei import nuclei
from mask2former.presets.scenes import scenes, scenes_cells
from mask2former.training.config import TrainConfig

Preset = Callable[[str], TrainConfig]
OWN: dict[str, Preset] = {
    "custom": custom,
    "memorise": memorise,
    "nuclei": nuclei,
    "scenes": scenes,
    "scenes-cells": scenes_cells,
}
# The rows of the official model zoo; each preset has the name of its released checkpoint.
COCO = ("r50", "r101", "swin-t", "swin-s", "swin-b", "swin-b-in21k", "swin-l")
CITYSCAPES = ("r50", "r101", "swin-t", "swin-s", "swin-b-in21k", "swin-l")
ZOO: dict[str, Preset] = {
    **{f"coco-panoptic-{b}": partial(coco.panoptic, backbone=b) for b in COCO},
    **{f"coco-instance-{b}": partial(coco.instance, backbone=b) for b in COCO},
    **{f"cityscapes-panoptic-{b}": partial(cityscapes.panoptic, backbone=b) for b in CITYSCAPES},
    **{f"cityscapes-instance-{b}": partial(cityscapes.instance, backbone=b) for b in CITYSCAPES},
    **{f"cityscapes-semantic-{b}": partial(cityscapes.semantic, backbone=b) for b in CITYSCAPES},
    **{f"ade20k-panoptic-{b}": partial(ade20k.panoptic, backbone=b) for b in ("r50", "swin-l")},
    **{f"ade20k-instance-{b}": partial(ade20k.instance, backbone=b) for b in ("r50", "swin-l")},
    **{f"ade20k-semantic-{b}": partial(ade20k.semantic, backbone=b) for b in COCO},
    **{
        f"mapillary-panoptic-{b}": partial(mapillary.panoptic, backbone=b)
        for b in ("r50", "swin-l")
    },
    **{
        f"mapillary-semantic-{b}": partial(mapillary.semantic, backbone=b)
        for b in ("r50", "swin-l")
    },
}
PRESETS: dict[str, Preset] = {**OWN, **ZOO}


def find_preset(name: str) -> Preset:
    """A preset by name, "_" or "-" alike. ValueError lists the nearest names."""
    wanted = name.lower().replace("_", "-")
    if wanted in PRESETS:
        return PRESETS[wanted]
    near = difflib.get_close_matches(wanted, PRESETS, n=3, cutoff=0.6)
    hint = f"did you mean {' or '.join(near)}? " if near else ""
    raise ValueError(
        f"--preset {name}: there is none of this name; {hint}"
        f"presets: {', '.join(OWN)}, and every image model that `mask2former models` lists as"
        " released, as in coco-panoptic-r50"
    )
