from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

import tiny
from mask2former.modeling.mask2former import Mask2Former
from mask2former.training import trainer
from mask2former.training.freeze import freeze
from mask2former.training.trainer import train
from trainings import CONFIG, weights


def frozen(model: Mask2Former, *parts: str) -> set[str]:
    freeze(model, parts)
    return {name for name, p in model.named_parameters() if not p.requires_grad}


def of(model: Mask2Former, *prefixes: str) -> set[str]:
    return {name for name, _ in model.named_parameters() if name.startswith(prefixes)}


def test_parts_by_stage_and_by_name() -> None:
    model = tiny.model()
    assert frozen(model, "backbone.stem", "backbone.stage2") == of(
        model, "backbone.stem.", "backbone.stages.1."
    )
    swin = tiny.model(replace(tiny.CONFIG, backbone=tiny.SWIN))
    assert frozen(swin, "backbone.stem", "backbone.stage1", "backbone.stage3") == of(
        swin, "backbone.patch_", "backbone.stages.0.", "backbone.merges.1.", "backbone.stages.2."
    )
    other = tiny.model()
    assert frozen(other, "pixel_decoder", "decoder.query_features") == of(
        other, "pixel_decoder.", "decoder.query_features"
    )
    whole = tiny.model()
    assert frozen(whole, "backbone") == of(whole, "backbone.")


def test_norms_of_frozen_parts_stand_still() -> None:
    model = tiny.model().train()
    freeze(model, ("backbone.stage1",))
    before = {name: b.clone() for name, b in model.named_buffers()}
    model(tiny.images())
    moved = {name for name, b in model.named_buffers() if not torch.equal(b, before[name])}
    assert not any(name.startswith("backbone.stages.0.") for name in moved)
    assert any(name.startswith("backbone.stages.1.") for name in moved)


def test_unknown_part_is_named_with_the_nearest() -> None:
    with pytest.raises(ValueError, match=r"no part 'backbone\.stage5'; did you mean 'backbone\.st"):
        freeze(tiny.model(), ("backbone.stage5",))


def test_something_must_be_left_to_train() -> None:
    with pytest.raises(ValueError, match="freeze: backbone, pixel_decoder, decoder leave nothing"):
        freeze(tiny.model(), ("backbone", "pixel_decoder", "decoder"))


def test_a_training_leaves_frozen_parts_as_they_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(trainer, "evaluate_weights", lambda *arguments: {"PQ": 50.0})
    tiny.model(CONFIG.model).save_pretrained(tmp_path / "start")
    config = replace(
        CONFIG,
        model=replace(CONFIG.model, backbone=tiny.RESNET),
        freeze=("backbone",),
        steps=2,
        checkpoint_every=1,
    )
    tiny.model(config.model).save_pretrained(tmp_path / "start")
    config = replace(config, initial_weights=str(tmp_path / "start"))
    train(replace(config, steps=1), tmp_path / "run")
    assert "that stay as they are" in capsys.readouterr().out
    train(config, tmp_path / "run")  # frozen after a stop, too
    before, after = weights(tmp_path / "start"), weights(tmp_path / "run" / "model")
    same = {name for name in before if torch.equal(before[name], after[name])}
    assert {name for name in before if name.startswith("backbone.")} <= same
    assert "decoder.query_features" not in same
