from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mask2former.data.scenes import CATEGORIES, Scenes, ScenesConfig, write_coco_panoptic
from mask2former.data.transforms import TrainView
from mask2former.modeling.mask2former import Mask2Former
from mask2former.presets.custom import custom
from mask2former.training.config import FolderData
from mask2former.training.trainer import train


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    config = ScenesConfig(size=64, min_things=2, max_things=4, max_size=24)
    write_coco_panoptic(Scenes(length=2, config=config), tmp_path, "train")
    return tmp_path


def test_things_are_found_by_queries_from_cells(folder: Path) -> None:
    config = custom(str(folder))
    decoder = config.model.decoder
    assert (decoder.selected_share, decoder.anchored_masks) == (0.1, True)
    assert config.loss.cell_weight > 0
    assert Mask2Former(config.model)


def write_label_maps(folder: Path) -> None:
    """One scene twice, a value a class."""
    scene = Scenes(length=1, config=ScenesConfig(size=64, max_size=24))[0]
    masks = scene.masks.render((0, 0, 64, 64), (64, 64))
    values = np.full((64, 64), 255, np.uint8)
    for mask, label in zip(masks, scene.labels, strict=True):
        values[mask] = label
    for part, pixels in (("images", scene.image), ("masks", values)):
        (folder / "train" / part).mkdir(parents=True)
        for name in ("a", "b"):
            Image.fromarray(pixels).save(folder / "train" / part / f"{name}.png")
    (folder / "classes.txt").write_text("\n".join(c.name for c in CATEGORIES))


@pytest.mark.slow
def test_semantic_annotation_is_learnt_by_learnt_queries(tmp_path: Path) -> None:
    """One image by heart: most of it after a few steps."""
    write_label_maps(tmp_path)
    config = custom(str(tmp_path))
    decoder = config.model.decoder
    assert (decoder.selected_share, decoder.anchored_masks, decoder.queries) == (0.0, False, 16)
    assert config.loss.cell_weight == 0
    figures = train(
        replace(
            config,
            model=replace(config.model, view=replace(config.model.view, shortest_side=64)),
            data=FolderData(folder=str(tmp_path), val="train"),
            view=TrainView(
                size=64, scale=(1.0, 1.0), fit="shortest_side", crop=(64, 64), flip=False
            ),
            optimizer=replace(config.optimizer, warmup_steps=10),
            steps=60,
            batch_size=1,
            workers=0,
            ema=0.0,
            evaluate_every=0,
        ),
        tmp_path / "run",
    )
    assert figures["mIoU"] > 45
