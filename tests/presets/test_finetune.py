from __future__ import annotations

import json
import shutil
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import tiny
from mask2former.cli import main
from mask2former.data.scenes import CATEGORIES, Scenes, ScenesConfig, write_coco_panoptic
from mask2former.data.survey import Survey
from mask2former.data.transforms import TrainView
from mask2former.loss.criterion import LossConfig
from mask2former.modeling.mask2former import Mask2Former, Mask2FormerConfig
from mask2former.presets.compact import compact_model
from mask2former.presets.finetune import (
    Plan,
    Wishes,
    crop_and_batch,
    evaluations,
    finetune,
    optimizer_for,
    plan_of,
    size_for,
    steps_for,
    view_for,
)
from mask2former.structures import Category, Sample, Task, View
from mask2former.training.config import FolderData
from mask2former.training.machine import Machine
from mask2former.training.trainer import build_model, train

GIB = 2**30
CPU = Machine(kind="cpu", memory=8 * GIB)
GPU = Machine(kind="cuda", memory=24 * GIB, precision="bf16-mixed")
R50, SWIN_L, TINY = 44_000_000, 216_000_000, 3_000_000
PHOTOS = Survey(
    images=200,
    looked_at=100,
    shortest_side=768,
    aspect=1.5,
    most_objects=12,
    things=900,
    median_size=140.0,
    small_size=60.0,
)


@dataclass
class Named:
    """A data set of which nothing but its classes and tasks is asked."""

    categories: tuple[Category, ...]
    tasks: tuple[Task, ...] = ("panoptic", "instance", "semantic")

    def __len__(self) -> int:
        return 200

    def __getitem__(self, index: int) -> Sample:
        raise AssertionError("it was looked at already")


def planned(
    dataset: Named,
    model: Mask2FormerConfig = tiny.CONFIG,
    seen: Survey = PHOTOS,
    machine: Machine = GPU,
    wishes: Wishes | None = None,
) -> Plan:
    source, data = Mask2Former(model), FolderData(folder="x")
    return plan_of(source, "source", data, dataset, 50, seen, wishes or Wishes(), machine)


def chosen(plan: Plan, what: str) -> str:
    (value,) = [choice.value for choice in plan.choices if choice.what == what]
    return value


# --- size, crop, batch, steps ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("side", "median", "small", "expected"),
    [
        (768, 140.0, 60.0, 768),  # as large as the images
        (2000, 400.0, 200.0, 800),  # the model's own
        (2000, 100.0, 50.0, 960),  # 50 pixels of 2000 are 24 of 960
        (4000, 20.0, 8.0, 1024),  # there is an end to it
        (256, 18.0, 12.0, 512),
        (100, 18.0, 2.0, 256),  # the least; no more than twice its pixels
    ],
)
def test_small_objects_are_shown_larger(
    side: int, median: float, small: float, expected: int
) -> None:
    seen = replace(PHOTOS, shortest_side=side, median_size=median, small_size=small)
    size, reason = size_for(seen, View(shortest_side=800), GPU, semantic=False)
    assert size == expected
    assert f"median object is {median:.0f} px" in reason


def test_size_where_nothing_is_an_object() -> None:
    seen = replace(PHOTOS, things=0, median_size=None, small_size=None)
    assert size_for(seen, View(shortest_side=640), GPU, semantic=False) == (640, "the model's own")
    sized = replace(PHOTOS, shortest_side=500, small_size=2.0)
    assert size_for(sized, View(), GPU, semantic=True)[0] == 512


def test_a_cpu_is_given_less() -> None:
    size, reason = size_for(PHOTOS, View(), CPU, semantic=False)
    assert size == 512
    assert "most that is quick on cpu" in reason


def test_memory_bounds_crop_and_batch() -> None:
    full = Machine(kind="cuda", memory=80 * GIB, precision="bf16-mixed")
    assert crop_and_batch(1024, R50, 200, full)[:2] == (1024, 8)
    assert crop_and_batch(512, R50, 200, full)[:2] == (512, 16)
    small = replace(GPU, memory=6 * GIB)
    assert crop_and_batch(1024, R50, 200, small)[:2] == (896, 1)
    crop, batch, _ = crop_and_batch(1024, SWIN_L, 200, small)
    assert (crop, batch) == (256, 1)  # as little as possible, though it may not fit
    assert crop_and_batch(512, TINY, 200, CPU)[:2] == (512, 4)


def test_devices_share_a_step() -> None:
    four = replace(GPU, memory=80 * GIB, devices=4)
    crop, batch, reason = crop_and_batch(512, R50, 200, four)
    assert (crop, batch) == (512, 16)
    assert "4 x cuda" in reason
    assert crop_and_batch(512, R50, 5, four)[1] == 4  # a step holds an image but once


@pytest.mark.parametrize(
    ("images", "batch", "expected"), [(20, 4, 500), (200, 8, 1500), (100_000, 16, 20_000)]
)
def test_steps_follow_the_images_within_bounds(images: int, batch: int, expected: int) -> None:
    assert steps_for(images, batch)[0] == expected


@pytest.mark.parametrize(
    ("steps", "validation", "expected"), [(1000, 50, 100), (1000, 5000, 1000), (1000, 1500, 250)]
)
def test_evaluations_take_no_longer_than_half_the_training(
    steps: int, validation: int, expected: int
) -> None:
    assert evaluations(steps, 4, validation)[0] == expected


def test_small_models_are_trained_as_a_whole() -> None:
    assert optimizer_for(R50, 2000)[0].backbone_multiplier == 0.1
    assert optimizer_for(R50, 2000)[0].rate == 1e-4
    assert optimizer_for(TINY, 2000)[0].backbone_multiplier == 1


def test_view_holds_elongated_images_and_many_objects() -> None:
    view = view_for(View(), 640, replace(PHOTOS, aspect=2.5, most_objects=200))
    assert (view.shortest_side, view.longest_side, view.max_detections) == (640, 1600, 300)
    assert view_for(View(), 800, PHOTOS).longest_side == 1344  # 1333, rounded up
    assert view_for(View(), 640, replace(PHOTOS, aspect=9.0)).longest_side == 1920


# --- the whole plan -------------------------------------------------------------------------------


def test_plan_of_a_model_as_the_paper_s() -> None:
    known, new = tiny.categories(4)[1], replace(tiny.categories(1)[0], name="new")
    plan = planned(Named((known, new)))
    config = plan.config
    assert config.model.categories == (known, new)
    assert config.model.decoder == tiny.CONFIG.decoder
    assert (config.initial_weights, config.initial_classes) == ("source", "by_name")
    assert config.loss == LossConfig()
    assert config.view.size == config.model.view.shortest_side
    assert config.precision == "bf16-mixed"
    assert chosen(plan, "classes") == "2, 1 new"
    assert 0.95 <= config.ema < 1
    assert build_model(replace(config, initial_weights=None))  # its parts fit together


def test_the_rest_follows_what_is_given() -> None:
    wishes = Wishes(size=480, batch_size=2)
    config = planned(Named(tiny.categories(2)), wishes=wishes).config
    assert (config.view.size, config.view.crop) == (480, (480, 480))
    assert config.model.view.shortest_side == 480
    assert (config.batch_size, config.steps) == (2, 6000)  # 200 images, 60 times over
    config = planned(Named(tiny.categories(2)), wishes=Wishes(steps=40)).config
    assert (config.steps, config.evaluate_every, config.optimizer.warmup_steps) == (40, 4, 2)
    assert config.ema == 0.9
    plan = planned(Named(tiny.categories(2)), wishes=Wishes(rate=0.002))
    assert plan.config.optimizer.rate == 0.002
    assert chosen(plan, "rate").startswith("0.002, ")


@pytest.mark.parametrize("name", ["size", "batch_size", "steps"])
def test_nothing_is_no_wish(name: str) -> None:
    with pytest.raises(ValueError, match=f"{name}: 0; choose at least 1"):
        Wishes(**{name: 0})


def test_contrast_is_what_the_model_was_trained_with() -> None:
    view = View(contrast_percentiles=(0.5, 99.8))
    config = planned(Named(tiny.categories(2)), replace(tiny.CONFIG, view=view)).config
    assert config.view.contrast_percentiles == config.model.view.contrast_percentiles
    assert config.view.contrast_percentiles == (0.5, 99.8)


def test_sides_are_not_mirrored() -> None:
    left = replace(tiny.categories(1)[0], name="left_lung")
    assert planned(Named((left,))).config.view.flip
    plan = planned(Named((replace(left, name="Left lung"),)))
    assert not plan.config.view.flip
    assert chosen(plan, "flip") == "no"


def test_norms_are_kept_where_a_step_shows_too_little() -> None:
    alone = replace(GPU, memory=1)
    backbone = planned(Named(tiny.categories(2)), machine=alone).config.model.backbone
    assert backbone == replace(tiny.RESNET, norm="frozen_batch_norm")
    assert planned(Named(tiny.categories(2))).config.model.backbone == tiny.RESNET


def test_more_objects_than_queries_are_told() -> None:
    plan = planned(Named(tiny.categories(2)), seen=replace(PHOTOS, most_objects=300))
    assert chosen(plan, "queries") == "6, too few"


COMPACT = compact_model(CATEGORIES, View(), queries=4, selected_share=0.1)


def test_queries_from_cells_stay_where_there_are_things() -> None:
    stuff = [replace(c, is_thing=i == 0) for i, c in enumerate(tiny.categories(7))]
    config = planned(Named(tuple(stuff)), COMPACT).config
    assert config.model.decoder == replace(COMPACT.decoder, queries=6)  # as many as stuff
    assert config.loss.cell_weight > 0


@pytest.mark.parametrize("things", [False, True])
def test_semantic_annotation_needs_no_queries_from_cells(things: bool) -> None:
    """Whether its classes are called things or not: all of a class is one region."""
    classes = tuple(replace(c, is_thing=things) for c in tiny.categories(20))
    plan = planned(Named(classes, tasks=("semantic",)), COMPACT)
    decoder, loss = plan.config.model.decoder, plan.config.loss
    assert (decoder.selected_share, decoder.anchored_masks, decoder.queries) == (0, False, 20)
    assert loss.cell_weight == 0
    assert chosen(plan, "queries from cells") == "none"


# --- training -------------------------------------------------------------------------------------


@pytest.fixture
def objects(tmp_path: Path) -> Path:
    """Drawn scenes in COCO's instance format, with one class under another name."""
    folder = tmp_path / "data"
    drawing = ScenesConfig(size=128, min_things=2, max_things=5, min_size=24, max_size=56)
    for seed, (split, length) in enumerate({"train": 8, "val": 4}.items(), start=7):
        write_coco_panoptic(Scenes(length=length, seed=seed, config=drawing), folder, split)
        (folder / "annotations" / f"panoptic_{split}.json").unlink()
        file = folder / "annotations" / f"instances_{split}.json"
        content = json.loads(file.read_text())
        content["categories"][0]["name"] = "another"
        file.write_text(json.dumps(content))
    shutil.rmtree(folder / "panoptic")
    return folder


def test_plan_of_a_folder(objects: Path) -> None:
    config = finetune(str(objects), "scenes")
    assert config.model.categories[0].name == "another"
    assert config.model.view.shortest_side == 256
    model, source = build_model(config), Mask2Former.from_pretrained("scenes")
    ours, theirs = model.decoder.head.class_logits, source.decoder.head.class_logits
    things = [i for i, c in enumerate(CATEGORIES) if c.is_thing]
    assert torch.equal(ours.weight[1:-1], theirs.weight[things[1:]])
    assert not torch.equal(ours.weight[0], theirs.weight[things[0]])
    assert torch.equal(ours.weight[-1], theirs.weight[-1])
    assert torch.equal(ours.bias[1:-1], theirs.bias[things[1:]])


def test_a_model_of_things_learns_label_maps(tmp_path: Path) -> None:
    """From the embedded model, whose queries from cells have no use for regions, to a figure."""
    for folder in ("images", "masks"):
        (tmp_path / "maps" / folder).mkdir(parents=True)
    for index in range(3):
        pixels = np.random.default_rng(index).integers(0, 256, (64, 64, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / "maps" / "images" / f"{index}.png")
        mask = np.where(np.arange(64) < 20 * (index + 1), 0, 1)[None].repeat(64, 0)
        Image.fromarray(mask.astype(np.uint8)).save(tmp_path / "maps" / "masks" / f"{index}.png")
    (tmp_path / "maps" / "classes.txt").write_text("left\nright\n")
    data, out = str(tmp_path / "maps"), str(tmp_path / "run")
    sizes = ["--size", "64", "--steps", "2", "--batch-size", "1", "--set", "view.crop=[64,64]"]
    words = ["finetune", "--data", data, "--model", "scenes", "--out", out, *sizes]
    assert main([*words, "--set", "workers=0", "--set", "evaluate_every=0"]) == 0
    report = str(tmp_path / "figures.json")
    assert main(["evaluate", "--model", f"{out}/model", "--data", data, "--json", report]) == 0
    document = json.loads(Path(report).read_text())
    assert document["images"] == 1  # of three, which the training held out
    logged = json.loads((tmp_path / "run" / "log.jsonl").read_text().splitlines()[-1])
    assert document["figures"]["mIoU"] == pytest.approx(logged["evaluation"]["mIoU"], abs=1e-6)


@pytest.mark.slow
def test_what_a_model_knows_helps(objects: Path, tmp_path: Path) -> None:
    """A few steps from a model that knows the shapes, and as many from nothing."""
    config = finetune(str(objects), "scenes")
    config = replace(
        config,
        model=replace(config.model, view=replace(config.model.view, shortest_side=128)),
        view=TrainView(size=128, scale=(0.9, 1.1), fit="shortest_side", crop=(128, 128)),
        steps=8,
        workers=0,
        ema=0.0,
        evaluate_every=0,
    )
    tuned = train(config, tmp_path / "tuned")
    scratch = train(replace(config, initial_weights=None), tmp_path / "scratch")
    assert tuned["AP"] > 20
    assert scratch["AP"] < 5
