from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

import tiny
from mask2former.data.scenes import CATEGORIES
from mask2former.data.transforms import TrainView
from mask2former.loss.criterion import LossConfig
from mask2former.modeling.mask2former import Mask2Former
from mask2former.serialization import from_dict
from mask2former.structures import View
from mask2former.training import trainer
from mask2former.training.average import Average
from mask2former.training.config import FolderData, ScenesData, TrainConfig
from mask2former.training.evaluate import check_categories
from mask2former.training.log import Log
from mask2former.training.optimizer import OptimizerConfig
from mask2former.training.trainer import build_model, train

CONFIG = TrainConfig(
    model=replace(tiny.CONFIG, categories=CATEGORIES, view=View(shortest_side=64, longest_side=64)),
    data=ScenesData(length=5, val_length=1),
    view=TrainView(size=64, scale=(0.8, 1.2), crop=(64, 64), color=True),
    loss=LossConfig(points=64),
    optimizer=OptimizerConfig(rate=1e-3, clip_norm=1.0),
    steps=4,
    batch_size=2,
    ema=0.9,
    workers=0,
    evaluate_every=0,
    checkpoint_every=2,
)
LOSSES = ("loss", "class", "mask", "dice", "cells", "gradient_norm", "rate")


@pytest.fixture
def unevaluated(monkeypatch: pytest.MonkeyPatch) -> None:
    """Evaluation takes longer than all steps, and has tests of its own."""
    monkeypatch.setattr(trainer, "evaluate_weights", lambda *arguments: {"PQ": 50.0})


def test_cells_are_judged_only_where_queries_come_from_cells() -> None:
    loss = replace(CONFIG.loss, cell_weight=1.0)
    with pytest.raises(
        ValueError, match=r"loss\.cell_weight .* model\.decoder\.selected_share is 0"
    ):
        replace(CONFIG, loss=loss)
    decoder = replace(CONFIG.model.decoder, selected_share=0.1)
    replace(CONFIG, loss=loss, model=replace(CONFIG.model, decoder=decoder))


def log_of(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


def curve(folder: Path) -> list[tuple[float, ...]]:
    """Every step's losses, which must be equal to the bit."""
    lines = [line for line in log_of(folder) if "loss" in line]
    assert [line["step"] for line in lines] == list(range(len(lines)))
    return [tuple(line[key] for key in LOSSES) for line in lines]


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return Mask2Former.from_pretrained(folder / "model").state_dict()


def test_a_training_leaves_everything_in_its_folder(tmp_path: Path) -> None:
    folder = tmp_path / "runs" / "first"
    figures = train(replace(CONFIG, steps=2), folder)
    assert sorted(p.name for p in folder.iterdir()) == [
        "best",
        "checkpoint.pth",
        "config.yaml",
        "evaluation.json",
        "log.jsonl",
        "model",
        "report.html",
    ]
    assert {"PQ", "AP", "mIoU"} <= figures.keys()
    lines = log_of(folder)
    assert len(lines) == 3
    assert lines[-1] == {"step": 2, "evaluation": figures}
    assert all(line["loss"] > 0 and line["seconds"] >= 0 for line in lines[:2])
    tree = yaml.safe_load((folder / "config.yaml").read_text())
    assert from_dict(TrainConfig, tree) == replace(CONFIG, steps=2)
    model = Mask2Former.from_pretrained(folder / "model")
    assert model.config == CONFIG.model


@pytest.mark.usefixtures("unevaluated")
def test_two_trainings_are_equal_to_the_bit(tmp_path: Path) -> None:
    for name in ("a", "b"):
        train(CONFIG, tmp_path / name)
    assert len(curve(tmp_path / "a")) == 4
    assert curve(tmp_path / "a") == curve(tmp_path / "b")
    a, b = weights(tmp_path / "a"), weights(tmp_path / "b")
    assert all(torch.equal(a[name], b[name]) for name in a)
    train(replace(CONFIG, seed=1), tmp_path / "c")
    assert curve(tmp_path / "c") != curve(tmp_path / "a")


@pytest.mark.usefixtures("unevaluated")
@pytest.mark.parametrize("stop_at", [1, 3])
def test_resumed_training_goes_on_to_the_bit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stop_at: int
) -> None:
    """Stopped before the first checkpoint it starts anew, after it it goes on from there."""
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    train(CONFIG, whole)
    write = Log.write

    def interrupt(log: Log, record: dict[str, Any]) -> None:
        write(log, record)
        if record["step"] == stop_at:
            log.file.write('{"step": ')  # as if killed in the middle of a line
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Log, "write", interrupt)
        with pytest.raises(KeyboardInterrupt):
            train(CONFIG, broken)
    assert (broken / "checkpoint.pth").exists() == (stop_at == 3)
    train(CONFIG, broken)
    assert curve(broken) == curve(whole)
    a, b = weights(whole), weights(broken)
    assert all(torch.equal(a[name], b[name]) for name in a)


@pytest.mark.usefixtures("unevaluated")
def test_training_is_prolonged(tmp_path: Path) -> None:
    config = replace(CONFIG, optimizer=replace(CONFIG.optimizer, schedule="constant"))
    train(config, tmp_path / "whole")
    train(replace(config, steps=2), tmp_path / "short")
    assert train(config, tmp_path / "short") == {"PQ": 50.0}
    assert curve(tmp_path / "short") == curve(tmp_path / "whole")


@pytest.mark.usefixtures("unevaluated")
def test_changed_configuration_is_not_resumed(tmp_path: Path) -> None:
    train(replace(CONFIG, steps=2), tmp_path)
    before = (tmp_path / "config.yaml").read_text()
    changed = replace(CONFIG, optimizer=replace(CONFIG.optimizer, rate=1.0))
    with pytest.raises(ValueError, match=r"another configuration \(optimizer\.rate differ\)"):
        train(changed, tmp_path)
    assert (tmp_path / "config.yaml").read_text() == before


@pytest.mark.usefixtures("unevaluated")
def test_bf16(tmp_path: Path) -> None:
    config = replace(CONFIG, precision="bf16-mixed", steps=2)
    train(config, tmp_path / "half")
    train(replace(config, precision="32-true"), tmp_path / "full")
    half, full = curve(tmp_path / "half")[0][0], curve(tmp_path / "full")[0][0]
    assert half != full
    assert half == pytest.approx(full, rel=0.1)


@pytest.mark.usefixtures("unevaluated")
def test_weights_learn(tmp_path: Path) -> None:
    """One image, seen over and over: the loss falls."""
    config = replace(
        CONFIG,
        data=ScenesData(length=1),
        view=TrainView(size=64, scale=(1.0, 1.0), crop=(64, 64), flip=False),
        optimizer=OptimizerConfig(
            rate=3e-3, clip_norm=1.0, schedule="constant", backbone_multiplier=1.0
        ),
        steps=30,
        batch_size=1,
        checkpoint_every=1000,
    )
    train(config, tmp_path)
    losses = [line[0] for line in curve(tmp_path)]
    assert sum(losses[-5:]) < 0.8 * sum(losses[:5])


# --- parts ---------------------------------------------------------------------------------------


@pytest.mark.usefixtures("unevaluated")
def test_a_training_goes_on_without_what_it_started_from(tmp_path: Path) -> None:
    tiny.model(CONFIG.model).save_pretrained(tmp_path / "start")
    config = replace(CONFIG, initial_weights=str(tmp_path / "start"))
    train(config, tmp_path / "run")
    shutil.rmtree(tmp_path / "start")
    train(replace(config, steps=6), tmp_path / "run")
    assert len(curve(tmp_path / "run")) == 6


def test_training_starts_from_initial_weights(tmp_path: Path) -> None:
    tiny.model(CONFIG.model).save_pretrained(tmp_path / "start")
    config = replace(CONFIG, initial_weights=str(tmp_path / "start"))
    expected = tiny.model(CONFIG.model).state_dict()
    found = build_model(config)
    assert found.training
    assert all(torch.equal(found.state_dict()[name], expected[name]) for name in expected)
    other = replace(config, model=replace(CONFIG.model, categories=tiny.categories(3)))
    with pytest.raises(ValueError, match=r"start: the weights do not fit the config"):
        build_model(other)


def test_training_starts_from_a_model_of_other_classes(tmp_path: Path) -> None:
    tiny.model(CONFIG.model).save_pretrained(tmp_path / "start")
    known = CONFIG.model.categories[2]
    config = replace(
        CONFIG,
        initial_weights=str(tmp_path / "start"),
        initial_classes="by_name",
        model=replace(CONFIG.model, categories=(*tiny.categories(3), known)),
    )
    head, source = build_model(config).decoder.head, tiny.model(CONFIG.model).decoder.head
    assert len(head.class_logits.weight) == 5
    assert torch.equal(head.class_logits.weight[[3, 4]], source.class_logits.weight[[2, -1]])


def test_average_moves_by_its_decay_and_faster_when_young() -> None:
    model = tiny.model()
    average = Average(model, 0.9)
    name = "decoder.query_features"
    start = average.tensors[name].clone()
    with torch.no_grad():
        model.decoder.query_features += 1
        model.backbone.stem.norm.num_batches_tracked += 5
    average.update(model)
    decay = 2 / 11
    torch.testing.assert_close(average.tensors[name], start + (1 - decay))
    assert average.tensors["backbone.stem.norm.num_batches_tracked"] == 5
    assert torch.equal(average.tensors["decoder.query_positions"], model.decoder.query_positions)
    average.updates = 1000
    average.update(model)
    expected = (start + (1 - decay)) * 0.9 + model.decoder.query_features.detach() * 0.1
    torch.testing.assert_close(average.tensors[name], expected)


@pytest.mark.usefixtures("unevaluated")
def test_averaged_weights_are_the_ones_to_use(tmp_path: Path) -> None:
    train(CONFIG, tmp_path / "with")
    train(replace(CONFIG, ema=0.0), tmp_path / "without")
    assert curve(tmp_path / "with") == curve(tmp_path / "without")
    state = torch.load(tmp_path / "with" / "checkpoint.pth", weights_only=True)
    name = "decoder.query_features"
    assert torch.equal(weights(tmp_path / "with")[name], state["average"][name])
    assert torch.equal(weights(tmp_path / "without")[name], state["model"][name])
    assert not torch.equal(state["average"][name], state["model"][name])


def test_classes_must_be_the_same() -> None:
    check_categories(CATEGORIES, CATEGORIES)
    with pytest.raises(ValueError, match=r"knows 3 classes, the data set has 11; only in the data"):
        check_categories(tiny.categories(3), CATEGORIES)
    with pytest.raises(ValueError, match="none; only in the model: none"):
        check_categories(CATEGORIES, CATEGORIES[::-1])


def test_rare_classes_are_not_repeated_where_nobody_knows_them(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="Scenes data sets do not tell"):
        train(replace(CONFIG, repeat_threshold=0.001), tmp_path)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"ema": 1.5}, r"ema: 1\.5; choose a number of at least 0 and at most 0\.99"),
        ({"ema": 1.0}, r"ema: 1\.0; choose"),
        ({"workers": -1}, "workers: -1"),
        ({"loss": LossConfig(points=0)}, r"loss\.points: 0; choose a number of at least 1"),
        ({"loss": LossConfig(class_weight=-2.0)}, r"loss\.class_weight: -2\.0"),
        ({"optimizer": OptimizerConfig(rate=float("inf"))}, r"optimizer\.rate: inf"),
        ({"optimizer": OptimizerConfig(rate=float("nan"))}, r"optimizer\.rate: nan"),
        ({"optimizer": OptimizerConfig(weight_decay=-1.0)}, r"optimizer\.weight_decay: -1\.0"),
        ({"view": TrainView(crop=(0, 64))}, r"view\.crop: 0"),
        ({"data": FolderData(folder="any", limit=0)}, r"data\.limit: 0"),
        ({"optimizer": OptimizerConfig(clip_norm=0.0)}, r"optimizer\.clip_norm: 0\.0"),
        ({"view": TrainView(scale=(2.0, 0.5))}, r"view\.scale: \(2\.0, 0\.5\)"),
    ],
)
def test_values_without_meaning_are_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        replace(CONFIG, **fields)


def test_a_loss_that_is_not_finite_stops_before_the_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        trainer, "terms_of", lambda losses: torch.tensor([1.0, 1, float("nan"), 1, 0])
    )
    with pytest.raises(ValueError, match=r"step 0: mask not finite, with the images scene"):
        train(replace(CONFIG, steps=1, workers=0), tmp_path)
    assert not (tmp_path / "model").exists()


def test_what_an_evaluation_measures_is_saved_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: Any) -> dict[str, float]:
        raise KeyboardInterrupt

    monkeypatch.setattr(trainer, "evaluate_weights", broken)
    with pytest.raises(KeyboardInterrupt):
        train(replace(CONFIG, steps=4, workers=0, evaluate_every=1, checkpoint_every=100), tmp_path)
    assert (tmp_path / "checkpoint.pth").exists()
