from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import tiny
from mask2former.serialization import to_dict
from mask2former.training import checkpoint
from mask2former.training.config import FolderData, ScenesData, TrainConfig
from mask2former.training.optimizer import OptimizerConfig

CONFIG = TrainConfig(model=tiny.CONFIG, data=ScenesData(), steps=10)
STATE = {"step": 3, "model": {"a": torch.arange(3.0)}, "optimizer": {"state": {}}, "average": None}


def test_there_is_none_at_first(tmp_path: Path) -> None:
    assert checkpoint.read(tmp_path, CONFIG) is None


def test_what_is_written_is_read(tmp_path: Path) -> None:
    checkpoint.write(tmp_path, STATE, CONFIG)
    state = checkpoint.read(tmp_path, CONFIG)
    assert state is not None
    assert state["step"] == 3
    assert torch.equal(state["model"]["a"], torch.arange(3.0))
    assert [p.name for p in tmp_path.iterdir()] == ["checkpoint.pth"]


@pytest.mark.parametrize(
    ("changed", "key"),
    [
        (replace(CONFIG, optimizer=OptimizerConfig(rate=1.0)), "optimizer.rate"),
        (replace(CONFIG, batch_size=2, seed=5), "batch_size, seed"),
        (replace(CONFIG, data=FolderData(folder="x")), "data.folder"),
        (replace(CONFIG, model=replace(tiny.CONFIG, backbone=tiny.SWIN)), "model.backbone"),
        (
            replace(CONFIG, model=replace(tiny.CONFIG, categories=tiny.categories(6))),
            "model.categories",
        ),
    ],
)
def test_another_configuration_is_refused_by_key(
    tmp_path: Path, changed: TrainConfig, key: str
) -> None:
    checkpoint.write(tmp_path, STATE, CONFIG)
    with pytest.raises(ValueError, match=r"checkpoint\.pth: made with another") as caught:
        checkpoint.read(tmp_path, changed)
    assert key in str(caught.value)


def test_length_and_rhythm_may_change(tmp_path: Path) -> None:
    checkpoint.write(tmp_path, STATE, CONFIG)
    other = replace(CONFIG, steps=20, workers=3, evaluate_every=1, checkpoint_every=1)
    assert checkpoint.read(tmp_path, other) is not None


def test_a_checkpoint_may_be_older_than_a_field(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def without_cell_weight(config: TrainConfig) -> Any:
        tree = to_dict(config)
        del tree["loss"]["cell_weight"]
        return tree

    monkeypatch.setattr(checkpoint, "to_dict", without_cell_weight)
    checkpoint.write(tmp_path, STATE, CONFIG)
    monkeypatch.undo()
    assert checkpoint.read(tmp_path, CONFIG) is not None
    decoder = replace(CONFIG.model.decoder, selected_share=0.5)
    model = replace(CONFIG.model, decoder=decoder)
    weighted = replace(CONFIG, model=model, loss=replace(CONFIG.loss, cell_weight=1.0))
    with pytest.raises(ValueError, match=r"loss\.cell_weight"):
        checkpoint.read(tmp_path, weighted)


def test_interrupted_write_leaves_the_old_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoint.write(tmp_path, STATE, CONFIG)

    def stop(state: object, file: Any) -> None:
        file.write(b"half of a checkpoint")
        raise KeyboardInterrupt

    monkeypatch.setattr(torch, "save", stop)
    with pytest.raises(KeyboardInterrupt):
        checkpoint.write(tmp_path, {**STATE, "step": 4}, CONFIG)
    state = checkpoint.read(tmp_path, CONFIG)
    assert state is not None
    assert state["step"] == 3


def test_damaged_checkpoint(tmp_path: Path) -> None:
    (tmp_path / "checkpoint.pth").write_bytes(b"half")
    with pytest.raises(ValueError, match=r"checkpoint\.pth: cannot be read .*; remove it"):
        checkpoint.read(tmp_path, CONFIG)


def test_differences_are_named_by_their_paths() -> None:
    old = {"a": {"b": 1, "c": [1, 2]}, "d": 3}
    new = {"a": {"b": 2, "c": [1, 3]}, "e": 4}
    assert checkpoint.differences(old, new) == ["a.b", "a.c", "d", "e"]
    assert checkpoint.differences(old, old) == []
