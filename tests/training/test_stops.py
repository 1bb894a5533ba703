"""Trainings that are killed, told to stop, or end early, and go on as if nothing had been."""

from __future__ import annotations

import os
import random
import signal
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from lightning_fabric.plugins.precision.amp import MixedPrecision

import tiny
from mask2former.commands.train import read_config
from mask2former.modeling.mask2former import Mask2Former
from mask2former.training import checkpoint, trainer
from mask2former.training.config import TrainConfig
from mask2former.training.log import Log
from mask2former.training.optimizer import build_optimizer
from mask2former.training.signals import Signals, Stopped
from mask2former.training.state import Best, State, check_metric
from mask2former.training.trainer import train
from trainings import CONFIG, log_of, start, weights

EXACT = ("step", "loss", "class", "mask", "dice", "cells", "gradient_norm", "rate", "evaluation")
WRITTEN = [
    *("best", "checkpoint.pth", "config.yaml", "evaluation.json", "log.jsonl", "model"),
    "report.html",
]


def figures_of(model: Mask2Former, *arguments: object) -> dict[str, float]:
    """In place of an evaluation, which takes longer than all steps: any number of the weights."""
    return {"PQ": float(model.decoder.query_features.detach().double().sum() * 1000 % 100)}


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trainer, "evaluate_weights", figures_of)


def assert_equal_to_the_bit(folder: Path, expected: Path) -> None:
    """Weights, optimizer, average, what evaluations found, and every line of the log but times."""
    assert sorted(p.name for p in folder.iterdir()) == WRITTEN
    for name in ("model", "best"):
        assert sorted(p.name for p in (folder / name).iterdir()) == [
            "config.json",
            "model.safetensors",
        ]
        found, whole = weights(folder / name), weights(expected / name)
        assert all(torch.equal(found[key], whole[key]) for key in whole)
    states = [torch.load(path / "checkpoint.pth", weights_only=True) for path in (folder, expected)]
    assert_same(*states)
    lines = [
        [{key: line[key] for key in EXACT if key in line} for line in log_of(path)]
        for path in (folder, expected)
    ]
    assert lines[0] == lines[1]


def assert_same(a: Any, b: Any) -> None:
    if isinstance(a, dict):
        assert a.keys() == b.keys()
        for key in a:
            assert_same(a[key], b[key])
    elif isinstance(a, torch.Tensor):
        assert torch.equal(a, b)
    else:
        assert a == b


def die_at(config: TrainConfig, folder: Path, number: int, before: bool) -> None:
    """Train, until the `number`-th time that a file takes its place: die right before or after."""
    move, moves = os.replace, 0

    def counted(*paths: Any) -> None:
        nonlocal moves
        moves += 1
        if before and moves == number:
            os.kill(os.getpid(), signal.SIGKILL)
        move(*paths)
        if moves == number:
            os.kill(os.getpid(), signal.SIGKILL)

    os.replace = counted  # type: ignore[assignment]
    train(config, folder)


@pytest.mark.usefixtures("quick")
def test_killed_while_it_writes(tmp_path: Path) -> None:
    """Between any two of the files that belong together, it goes on to the same end."""
    config = replace(CONFIG, steps=4, batch_size=1, checkpoint_every=2, evaluate_every=2)
    train(config, tmp_path / "whole")
    folder = tmp_path / "killed"
    for number in range(1, 12):
        process = start(die_at, config, folder, number, number % 2 == 0)
        process.join()
        if process.exitcode == 0:  # it had fewer files to write than that
            break
        assert process.exitcode == -signal.SIGKILL
    assert number > 7
    train(config, folder)
    assert_equal_to_the_bit(folder, tmp_path / "whole")


@pytest.mark.slow
def test_killed_at_five_moments(tmp_path: Path) -> None:
    """`kill -9`, whatever it is doing, with a loading process and real evaluations."""
    config = replace(CONFIG, steps=40, workers=1, checkpoint_every=3, evaluate_every=9)
    config = replace(config, data=replace(config.data, val_length=1))
    process = start(train, config, tmp_path / "whole")
    process.join()
    assert process.exitcode == 0
    folder = tmp_path / "killed"
    moments = sorted(random.sample(range(1, 37), 5))
    print("killed in the steps", moments)
    for moment in moments:
        process = start(train, config, folder)
        wait_for(lambda moment=moment: lines_in(folder) >= moment)  # type: ignore[misc]
        time.sleep(random.uniform(0, 0.05))
        process.kill()
        process.join()
        assert process.exitcode == -signal.SIGKILL
    process = start(train, config, folder)
    process.join()
    assert process.exitcode == 0
    assert_equal_to_the_bit(folder, tmp_path / "whole")


def lines_in(folder: Path) -> int:
    path = folder / "log.jsonl"
    return path.read_text().count("\n") if path.exists() else 0


def wait_for(happened: Callable[[], bool]) -> None:
    limit = time.monotonic() + 300
    while not happened():
        assert time.monotonic() < limit
        time.sleep(0.002)


# --- told to stop ---------------------------------------------------------------------------------


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGUSR1])
def test_a_signal_saves_and_leaves(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: signal.Signals
) -> None:
    config = replace(CONFIG, batch_size=1)
    train(config, tmp_path / "whole")
    write = Log.write
    handlers = [signal.getsignal(n) for n in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)]

    def told(log: Log, entry: dict[str, Any]) -> None:
        if entry["step"] == 0:  # in the middle of the second step's work
            os.kill(os.getpid(), number)
        write(log, entry)

    with monkeypatch.context() as patch:
        patch.setattr(Log, "write", told)
        with pytest.raises(Stopped, match="2 of 4 steps are done and saved") as caught:
            train(config, tmp_path / "told")
    assert caught.value.status == 128 + number
    assert [signal.getsignal(n) for n in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)] == (
        handlers
    )
    assert len(log_of(tmp_path / "told")) == 2
    train(config, tmp_path / "told")
    assert_equal_to_the_bit(tmp_path / "told", tmp_path / "whole")


def test_a_signal_while_it_evaluates_ends_at_once_and_evaluates_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = replace(CONFIG, batch_size=1, evaluate_every=2)

    def told(*arguments: Any) -> dict[str, float]:
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(60)
        raise AssertionError("not reached")

    monkeypatch.setattr(trainer, "evaluate_weights", told)
    with pytest.raises(Stopped, match="the 2 steps that are done are saved"):
        train(config, tmp_path / "told")
    monkeypatch.setattr(trainer, "evaluate_weights", figures_of)
    train(config, tmp_path / "told")
    train(config, tmp_path / "whole")
    assert_equal_to_the_bit(tmp_path / "told", tmp_path / "whole")


def test_a_second_interrupt_does_not_wait() -> None:
    with Signals() as signals:
        os.kill(os.getpid(), signal.SIGINT)
        assert signals.received == signal.SIGINT
        os.kill(os.getpid(), signal.SIGTERM)
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)


def test_the_scaler_of_fp16_goes_on_where_it_was(tmp_path: Path) -> None:
    """Fabric takes fp16 for GPUs alone; its scaler is the same on a CPU."""

    def state() -> tuple[State, MixedPrecision]:
        precision = MixedPrecision("16-mixed", "cpu")
        fabric: Any = SimpleNamespace(
            strategy=SimpleNamespace(precision=precision), is_global_zero=True
        )
        model = tiny.model(CONFIG.model)
        optimizer = build_optimizer(model, CONFIG.optimizer, fused=False)
        return State(fabric, CONFIG, model, optimizer), precision

    one, precision = state()
    assert precision.scaler is not None
    loss = precision.scaler.scale(one.model.decoder.query_features.sum() * torch.inf)
    loss.backward()
    precision.optimizer_step(one.optimizer)  # skipped, and the scale is halved
    scale = precision.scaler.get_scale()
    one.save(tmp_path)
    other, restored = state()
    assert restored.scaler is not None
    assert restored.scaler.get_scale() == 2 * scale
    saved = checkpoint.read(tmp_path, CONFIG)
    assert saved is not None
    other.restore(saved)
    assert restored.scaler.get_scale() == scale


# --- the best, and the end ------------------------------------------------------------------------


def test_best_goes_by_the_first_metric_that_is_measured() -> None:
    best = Best()
    assert best.update({"mIoU": 1.0, "AP": 5.0}, 10, None)
    assert not best.update({"mIoU": 9.0, "AP": 5.0}, 20, None)
    assert (best.metric, best.value, best.step, best.since) == ("AP", 5.0, 10, 1)
    assert best.update({"mIoU": 9.0, "AP": 6.0}, 30, None)
    assert (best.step, best.since) == (30, 0)
    assert Best().update({"mIoU": 1.0, "AP": 5.0}, 1, "mIoU")
    with pytest.raises(ValueError, match=r"'PQ' was not measured, only mIoU;.*--set metric="):
        Best().update({"mIoU": 1.0, "IoU/cat": 5.0}, 1, "PQ")
    with pytest.raises(ValueError, match="'PQ' was not measured, only nothing"):
        Best().update({}, 1, "PQ")
    assert not Best().update({}, 1, None)


def test_a_metric_that_nobody_measures_is_named_first(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"metric: 'foo' is none of what is measured .*\(PQ, SQ,"):
        train(replace(CONFIG, metric="foo"), tmp_path)
    assert not list(tmp_path.iterdir())
    check_metric("AP50", ("instance",))
    check_metric(None, ("semantic",))
    with pytest.raises(ValueError, match="'AP50'"):
        check_metric("AP50", ("semantic",))


def test_it_ends_when_nothing_gets_better(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    found = iter([10.0, 30.0, 20.0, 30.0, 99.0])
    monkeypatch.setattr(trainer, "evaluate_weights", lambda *a: {"PQ": next(found)})
    config = replace(CONFIG, steps=10, batch_size=1, evaluate_every=1, patience=2)
    config = replace(config, optimizer=replace(config.optimizer, schedule="constant"))
    assert train(config, tmp_path) == {"PQ": 30.0}
    assert len([line for line in log_of(tmp_path) if "loss" in line]) == 4
    printed = capsys.readouterr().out
    assert "ended after step 4: 2 evaluations without a better PQ (patience)" in printed
    assert "best PQ: 30.0 after step 2" in printed
    page = (tmp_path / "report.html").read_text()
    assert "ended early, after 2 evaluations without a better one" in page
    assert " to go" not in page
    assert train(config, tmp_path) == {}  # it has ended
    with pytest.raises(ValueError, match="4 steps are done, more than the 3 that are asked for"):
        train(replace(config, steps=3), tmp_path)
    assert read_config(tmp_path / "config.yaml")["steps"] == 10
    train(replace(config, patience=3, steps=5), tmp_path)  # with more patience it goes on
    assert "ended early" not in (tmp_path / "report.html").read_text()
    assert log_of(tmp_path)[-1] == {"step": 5, "evaluation": {"PQ": 99.0}}
    best, last = weights(tmp_path / "best"), weights(tmp_path / "model")
    assert all(torch.equal(best[name], last[name]) for name in best)


@pytest.mark.usefixtures("quick")
def test_checkpoints_of_the_first_version_go_on(tmp_path: Path) -> None:
    config = replace(CONFIG, batch_size=1)
    config = replace(config, optimizer=replace(config.optimizer, schedule="constant"))
    train(replace(config, steps=2), tmp_path)
    path = tmp_path / "checkpoint.pth"
    state = torch.load(path, weights_only=True)
    for key in ("best", "evaluated", "scaler"):
        del state[key]
    torch.save(state, path)
    train(config, tmp_path)
    assert [line["step"] for line in log_of(tmp_path) if "loss" in line] == [0, 1, 2, 3]
