"""The recipes beside the facts of paper and model zoo, which are typed here a second time."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from mask2former.modeling.mask2former import Mask2Former
from mask2former.modeling.resnet import ResNetConfig
from mask2former.modeling.swin import SwinConfig
from mask2former.presets import OWN, PRESETS, ZOO, coco, find_preset
from mask2former.serialization import from_dict, to_dict
from mask2former.structures import View
from mask2former.training.config import FolderData, TrainConfig
from mask2former.training.optimizer import rate_factor
from mask2former.weights.released import released_models

ALL = ("r50", "r101", "swin-t", "swin-s", "swin-b", "swin-b-in21k", "swin-l")
NO_B = tuple(b for b in ALL if b != "swin-b")
ENDS = ("r50", "swin-l")
# Benchmark and task: its backbones, classes, steps, shortest side at test, longest, crop (H, W).
FACTS: dict[str, tuple[tuple[str, ...], int, int, int, int, tuple[int, int]]] = {
    "coco-panoptic": (ALL, 133, 368_750, 800, 1333, (1024, 1024)),
    "coco-instance": (ALL, 80, 368_750, 800, 1333, (1024, 1024)),
    "cityscapes-panoptic": (NO_B, 19, 90_000, 1024, 2048, (512, 1024)),
    "cityscapes-instance": (NO_B, 8, 90_000, 1024, 2048, (512, 1024)),
    "cityscapes-semantic": (NO_B, 19, 90_000, 1024, 2048, (512, 1024)),
    "ade20k-panoptic": (ENDS, 150, 160_000, 640, 2560, (640, 640)),
    "ade20k-instance": (ENDS, 100, 160_000, 640, 2560, (640, 640)),
    "ade20k-semantic": (ALL, 150, 160_000, 512, 2048, (512, 512)),
    "mapillary-panoptic": (ENDS, 65, 300_000, 2048, 2048, (1024, 1024)),
    "mapillary-semantic": (ENDS, 65, 300_000, 2048, 2048, (1024, 1024)),
}
ROWS = [(group, b) for group, (backbones, *_) in FACTS.items() for b in backbones]
RESNETS = {"r50": (3, 4, 6, 3), "r101": (3, 4, 23, 3)}
SWINS: dict[str, tuple[int, tuple[int, ...], tuple[int, ...], int]] = {
    "swin-t": (96, (2, 2, 6, 2), (3, 6, 12, 24), 7),
    "swin-s": (96, (2, 2, 18, 2), (3, 6, 12, 24), 7),
    "swin-b": (128, (2, 2, 18, 2), (4, 8, 16, 32), 12),
    "swin-b-in21k": (128, (2, 2, 18, 2), (4, 8, 16, 32), 12),
    "swin-l": (192, (2, 2, 18, 2), (6, 12, 24, 48), 12),
}
# Rows whose ResNet's norms are trained.
THAWED = {
    *(f"cityscapes-{task}-{b}" for task in ("panoptic", "instance", "semantic") for b in RESNETS),
    "ade20k-semantic-r101",
}


def config_of(name: str) -> TrainConfig:
    return PRESETS[name]("somewhere")


def test_there_is_a_preset_for_every_image_model_of_the_zoo() -> None:
    names = [f"{group}-{b}" for group, b in ROWS]
    assert len(names) == 47
    assert sorted(ZOO) == sorted(names)
    images = [m.name for m in released_models().values() if m.task != "video-instance"]
    assert sorted(ZOO) == sorted(images)


@pytest.mark.parametrize("name", sorted(ZOO))
def test_a_recipe_is_written_and_read_back(name: str) -> None:
    config = config_of(name)
    assert from_dict(TrainConfig, json.loads(json.dumps(to_dict(config)))) == config


@pytest.mark.parametrize(("group", "backbone"), ROWS)
def test_facts(group: str, backbone: str) -> None:
    _, classes, steps, shortest, longest, crop = FACTS[group]
    name, (benchmark, task) = f"{group}-{backbone}", group.split("-")
    config = config_of(name)
    model, view, optimizer = config.model, config.view, config.optimizer
    if group == "ade20k-semantic" and backbone in ("swin-b", "swin-b-in21k", "swin-l"):
        shortest, longest, crop = 640, 2560, (640, 640)
    if benchmark == "coco" and backbone == "swin-l":
        steps = 737_500
    # The model.
    assert len(model.categories) == classes
    if task == "instance":
        assert all(category.is_thing for category in model.categories)
    large = backbone == "swin-l" and task != "semantic"
    assert model.decoder.queries == (200 if large else 100)
    network = model.backbone
    if isinstance(network, ResNetConfig):
        assert network.depths == RESNETS[backbone]
        assert (network.norm == "batch_norm") == (name in THAWED)
    else:
        assert isinstance(network, SwinConfig)
        found = (network.width, network.depths, network.heads, network.window)
        assert found == SWINS[backbone]
        assert network.drop_path == 0.3
    assert model.view == View(
        shortest_side=shortest,
        longest_side=longest,
        object_threshold=0.0 if benchmark == "mapillary" else 0.8,
        overlap_threshold=0.8,
        max_detections=100,
        instances_of_things_only=task == "panoptic",
        resize_semantic_scores=task == "semantic",
    )
    # The training.
    assert (config.steps, config.batch_size, config.precision) == (steps, 16, "16-mixed")
    assert (optimizer.rate, optimizer.backbone_multiplier) == (1e-4, 0.1)
    assert (optimizer.weight_decay, optimizer.clip_norm, optimizer.warmup_steps) == (0.05, 0.01, 0)
    assert config.data == FolderData(folder="somewhere", task=config.data.task)  # type: ignore[union-attr]
    assert getattr(config.data, "task", None) == task
    assert config.ema == 0
    loss = config.loss
    assert (loss.class_weight, loss.mask_weight, loss.dice_weight) == (2, 5, 5)
    assert (loss.no_object_weight, loss.points, loss.oversample) == (0.1, 12_544, 3)
    assert (loss.importance, loss.cell_weight) == (0.75, 0)
    # What it is shown.
    assert (view.crop, view.flip, view.turn, view.ignore_void) == (crop, True, False, False)
    if benchmark == "coco":
        assert (view.size, view.scale, view.fit) == (1024, (0.1, 2.0), "inside")
        assert (view.color, view.sizes, view.longest_side) == (False, (), None)
    else:
        side = {"ade20k": shortest, "cityscapes": 1024, "mapillary": 2048}[benchmark]
        assert (view.fit, view.color, view.longest_side) == ("shortest_side", True, 4 * side)
        assert len(view.sizes) == 16
        assert (view.sizes[0], view.sizes[-1]) == (side // 2, 2 * side)
        assert all(
            abs(found - side * (0.5 + 0.1 * i)) < 1 + 1e-6 for i, found in enumerate(view.sizes)
        )


def test_sides_of_ade20k_are_rounded_down() -> None:
    assert config_of("ade20k-semantic-r50").view.sizes[:5] == (256, 307, 358, 409, 460)


@pytest.mark.parametrize(
    ("backbone", "drops", "steps"),
    [("r50", (327_778, 355_092), 368_750), ("swin-l", (655_556, 710_184), 737_500)],
)
def test_rate_of_coco_falls_at_the_official_steps(
    backbone: str, drops: tuple[int, int], steps: int
) -> None:
    optimizer = coco.panoptic("x", backbone).optimizer
    factors = [1.0, 1.0, 0.1, 0.1, 0.01, 0.01]
    places = [0, drops[0] - 1, drops[0], drops[1] - 1, drops[1], steps - 1]
    found = [rate_factor(step, steps, optimizer) for step in places]
    assert found == pytest.approx(factors)


def test_rate_elsewhere_falls_as_a_power() -> None:
    optimizer = config_of("cityscapes-panoptic-r50").optimizer
    assert rate_factor(0, 90_000, optimizer) == 1
    assert rate_factor(45_000, 90_000, optimizer) == pytest.approx(0.5**0.9)


# --- shapes ---------------------------------------------------------------------------------------

OFFICIAL = {  # our names of the official configs that were measured
    "coco_panoptic_R50": "coco-panoptic-r50",
    "coco_panoptic_R101": "coco-panoptic-r101",
    "coco_panoptic_swin_tiny": "coco-panoptic-swin-t",
    "coco_panoptic_swin_small": "coco-panoptic-swin-s",
    "coco_panoptic_swin_base_384": "coco-panoptic-swin-b",
    "coco_panoptic_swin_base_IN21k_384": "coco-panoptic-swin-b-in21k",
    "coco_panoptic_swin_large_IN21k_384": "coco-panoptic-swin-l",
    "ade20k_semantic_R50": "ade20k-semantic-r50",
    "coco_instance_R50": "coco-instance-r50",
}


@pytest.mark.data
@pytest.mark.parametrize(("official", "name"), OFFICIAL.items())
def test_parameters_are_as_many_as_in_the_official_code(
    shared: Path, official: str, name: str
) -> None:
    file = shared / "reference" / "official_measurements.json"
    expected: dict[str, Any] = json.loads(file.read_text())["parameter_counts"][official]
    config = config_of(name).model
    with torch.device("meta"):
        model = Mask2Former(config)

    def count(*parts: torch.nn.Module) -> int:
        return sum(p.numel() for part in parts for p in part.parameters())

    assert count(model) == expected["parameters"]
    assert count(model.backbone) == expected["parameters_backbone"]
    assert count(model.pixel_decoder) == expected["parameters_pixel_decoder"]
    assert count(model.decoder) == expected["parameters_transformer_decoder"]
    assert (config.decoder.queries, len(config.categories)) == (
        expected["num_queries"],
        expected["num_classes"],
    )


@pytest.mark.parametrize("name", sorted(set(ZOO) - set(OFFICIAL.values())))
def test_other_rows_differ_from_those_in_classes_queries_and_norms_alone(name: str) -> None:
    config = config_of(name).model
    measured = config_of("coco-panoptic-" + name.split("-", 2)[2]).model
    backbone = config.backbone
    if isinstance(backbone, ResNetConfig):
        backbone = replace(backbone, norm="frozen_batch_norm")
    decoder = replace(config.decoder, queries=measured.decoder.queries)
    assert (
        replace(
            config,
            categories=measured.categories,
            view=measured.view,
            decoder=decoder,
            backbone=backbone,
        )
        == measured
    )


# --- names ----------------------------------------------------------------------------------------


def test_names_are_found_with_hyphens_and_underscores() -> None:
    assert find_preset("coco_panoptic_r50") is PRESETS["coco-panoptic-r50"]
    assert find_preset("scenes_cells") is OWN["scenes-cells"]


def test_a_name_that_is_none_is_answered_with_the_nearest() -> None:
    with pytest.raises(ValueError, match=r"did you mean .*coco-panoptic-swin-l"):
        find_preset("coco_panoptic_swin_l_in21k")
    with pytest.raises(ValueError, match=r"presets: custom, memorise"):
        find_preset("qqq")


def test_a_row_that_the_zoo_has_not_is_an_error() -> None:
    with pytest.raises(ValueError, match="coco-panoptic-r18: the model zoo has no such row"):
        coco.panoptic("x", "r18")
