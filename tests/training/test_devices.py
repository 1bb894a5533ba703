from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

import tiny
from mask2former.modeling.hf_backbone import HFBackboneConfig
from mask2former.modeling.mask2former import Mask2Former
from mask2former.training.config import TrainConfig
from mask2former.training.devices import (
    as_held,
    has_unused_parameters,
    make_fabric,
    synchronise_norms,
    whole,
)
from mask2former.training.optimizer import OptimizerConfig
from mask2former.training.trainer import train
from trainings import CONFIG, gradients, log_of, train_in_processes, weights, with_cells

# One step that moves nothing: gradients of the same weights, and figures of the same weights.
# With seed 5 the untrained model is right here and there.
STILL = replace(CONFIG, steps=1, seed=5, optimizer=OptimizerConfig(rate=0.0, clip_norm=1e9))


def assert_same_step(folder: Path, expected: Path) -> None:
    ours, theirs = gradients(folder), gradients(expected)
    assert theirs.norm() > 0
    assert (ours - theirs).norm() / theirs.norm() < 1e-5
    (line, _), (other, _) = log_of(folder), log_of(expected)
    for key in ("loss", "class", "mask", "dice", "cells", "gradient_norm"):
        assert line[key] == pytest.approx(other[key], rel=1e-5), key


@pytest.mark.parametrize("config", [STILL, with_cells(STILL)], ids=["paper", "cells"])
def test_two_processes_and_two_parts_are_one(config: TrainConfig, tmp_path: Path) -> None:
    """Gradients, losses and the figures of an evaluation, on points that are drawn at random."""
    figures = train(config, tmp_path / "one")
    if not config.loss.cell_weight:  # its mean is over the parts' means
        train(replace(config, accumulate=2), tmp_path / "parts")
        assert_same_step(tmp_path / "parts", tmp_path / "one")
    both = train_in_processes(config, tmp_path / "both")
    assert_same_step(tmp_path / "both", tmp_path / "one")
    assert both == [figures, figures]
    if config is STILL:
        assert figures["mIoU"] > 0


def test_draws_of_two_processes_differ(tmp_path: Path) -> None:
    """They would be equal if both had the same points: one image, twice."""
    config = replace(STILL, data=replace(STILL.data, length=1), batch_size=2)
    config = replace(config, view=replace(config.view, scale=(1.0, 1.0), flip=False, color=False))
    train(config, tmp_path / "two")
    train(replace(config, batch_size=1), tmp_path / "one")
    (two, _), (one, _) = log_of(tmp_path / "two"), log_of(tmp_path / "one")
    assert two["mask"] != one["mask"]
    assert two["mask"] == pytest.approx(one["mask"], rel=0.2)


def test_parameters_may_be_unused_in_two_processes(tmp_path: Path) -> None:
    """Of the cells' loss alone nothing after the cells has a gradient."""
    loss = replace(CONFIG.loss, class_weight=0.0, mask_weight=0.0, dice_weight=0.0, cell_weight=1.0)
    config = replace(with_cells(STILL), loss=loss, batch_size=2)
    train_in_processes(config, tmp_path)
    assert log_of(tmp_path)[0]["cells"] > 0


@pytest.mark.slow
def test_fsdp_is_one_process_too_and_goes_on(tmp_path: Path) -> None:
    config = replace(STILL, accumulate=2)
    figures = train(config, tmp_path / "one")
    shared = replace(config, strategy="fsdp", accumulate=1, checkpoint_activations=True)
    assert train_in_processes(shared, tmp_path / "shared") == [figures, figures]
    assert_same_step(tmp_path / "shared", tmp_path / "one")
    # What fsdp began one process ends, and the other way round.
    moving = replace(CONFIG, optimizer=replace(CONFIG.optimizer, schedule="constant"))
    train(moving, tmp_path / "whole")
    for first, then in (("auto", "fsdp"), ("fsdp", "auto")):
        folder = tmp_path / first
        for steps, strategy in ((2, first), (4, then)):
            config = replace(moving, steps=steps, strategy=strategy)
            if strategy == "fsdp":
                train_in_processes(config, folder)
            else:
                train(config, folder)
        expected, found = weights(tmp_path / "whole" / "model"), weights(folder / "model")
        for name, tensor in expected.items():
            torch.testing.assert_close(found[name], tensor, atol=2e-4, rtol=0)
        assert [line["step"] for line in log_of(folder) if "loss" in line] == [0, 1, 2, 3]


def test_a_batch_must_be_shared_out_evenly() -> None:
    assert replace(CONFIG, batch_size=12, accumulate=3).images_at_once(2) == 2
    with pytest.raises(ValueError, match=r"batch_size: 4 images .* 3 processes .* multiple of 3"):
        CONFIG.images_at_once(3)


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({"accumulate": 0}, "accumulate: 0; choose at least 1"),
        ({"devices": 0}, "devices: 0"),
        ({"strategy": "fsdp", "precision": "16-mixed"}, "precision: 16-mixed scales"),
        ({"optimizer": OptimizerConfig(layer_decay=0.0)}, r"optimizer\.layer_decay: 0\.0"),
    ],
)
def test_fields_that_contradict_each_other(fields: dict[str, Any], text: str) -> None:
    with pytest.raises(ValueError, match=text):
        replace(CONFIG, **fields)


def test_torchrun_says_how_many(monkeypatch: pytest.MonkeyPatch) -> None:
    alone = make_fabric(CONFIG)
    assert (alone.world_size, type(alone.strategy).__name__) == (1, "SingleDeviceStrategy")
    for name, value in {
        "TORCHELASTIC_RUN_ID": "x",
        "LOCAL_WORLD_SIZE": "2",
        "WORLD_SIZE": "4",
        "RANK": "3",
        "LOCAL_RANK": "1",
        "GROUP_RANK": "1",
    }.items():
        monkeypatch.setenv(name, value)
    many = make_fabric(CONFIG)
    assert type(many.strategy).__name__ == "DDPStrategy"
    assert (many.strategy.num_nodes, many.strategy.num_processes) == (2, 2)  # type: ignore[attr-defined]


def test_where_parameters_may_be_unused() -> None:
    assert not has_unused_parameters(CONFIG)
    theirs = HFBackboneConfig(model={"model_type": "convnext"})
    assert has_unused_parameters(replace(CONFIG, model=replace(CONFIG.model, backbone=theirs)))


def test_batch_norms_are_synchronised_on_several_gpus_alone() -> None:
    config = replace(CONFIG.model, backbone=tiny.RESNET)
    for kind, count, expected in (("cuda", 2, True), ("cuda", 1, False), ("cpu", 2, False)):
        model = Mask2Former(config)
        fabric: Any = SimpleNamespace(device=torch.device(kind), world_size=count)
        synchronise_norms(model, fabric)
        found = [isinstance(m, nn.SyncBatchNorm) for m in model.modules()]
        assert any(found) == expected
        assert model.state_dict().keys() == Mask2Former(config).state_dict().keys()


def test_whole_tensors_stay_whole() -> None:
    tree = {"a": [torch.ones(2), 3], "b": (None,)}
    found = whole(tree)
    assert torch.equal(found["a"][0], torch.ones(2))
    assert (found["a"][1], found["b"]) == (3, (None,))
    assert torch.equal(as_held(torch.ones(2), torch.zeros(2)), torch.ones(2))
