"""A training of seconds, and processes of their own to run it in."""

from __future__ import annotations

import json
import multiprocessing
import os
import socket
from collections.abc import Callable
from dataclasses import replace
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import tiny
from mask2former.data.scenes import CATEGORIES
from mask2former.data.scenes_layout import ScenesConfig
from mask2former.data.transforms import TrainView
from mask2former.loss.criterion import LossConfig
from mask2former.modeling.mask2former import Mask2Former
from mask2former.structures import View
from mask2former.training.config import ScenesData, TrainConfig
from mask2former.training.optimizer import OptimizerConfig
from mask2former.training.trainer import train

_fork = multiprocessing.get_context("fork")  # nothing is imported anew
VIEW = View(shortest_side=64, longest_side=64, object_threshold=0.0, overlap_threshold=0.0)
# Norms that do not depend on what is batched together.
FROZEN = replace(tiny.RESNET, norm="frozen_batch_norm")
CONFIG = TrainConfig(
    model=replace(tiny.CONFIG, categories=CATEGORIES, backbone=FROZEN, view=VIEW),
    data=ScenesData(
        length=8,
        val_length=3,
        drawing=ScenesConfig(size=64, min_things=2, max_things=4, max_size=24),
    ),
    view=TrainView(size=64, scale=(0.8, 1.2), crop=(64, 64), color=True),
    loss=LossConfig(points=64),
    optimizer=OptimizerConfig(rate=1e-3, clip_norm=1.0),
    accelerator="cpu",
    steps=4,
    batch_size=4,
    ema=0.9,
    workers=0,
    evaluate_every=0,
    checkpoint_every=2,
)


def with_cells(config: TrainConfig) -> TrainConfig:
    """Queries selected from cells, whose classes are learnt, and absolute positions."""
    model = config.model
    decoder = replace(model.decoder, selected_share=0.1, position_period=64.0)
    pixels = replace(model.pixel_decoder, position_period=64.0)
    model = replace(model, decoder=decoder, pixel_decoder=pixels)
    return replace(config, model=model, loss=replace(config.loss, cell_weight=2.0))


def start(work: Callable[..., None], *arguments: object) -> BaseProcess:
    process = _fork.Process(target=work, args=arguments)
    process.start()
    return process


def train_in_processes(config: TrainConfig, folder: Path, count: int = 2) -> list[dict[str, float]]:
    """What `train` returns in each of `count` processes that torchrun might have started."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    queue = _fork.Queue()
    processes = [
        start(_train_as_rank, rank, count, port, config, folder, queue) for rank in range(count)
    ]
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0] * count
    return [queue.get() for _ in processes]


def _train_as_rank(
    rank: int, count: int, port: int, config: TrainConfig, folder: Path, queue: Any
) -> None:
    os.environ.update(
        TORCHELASTIC_RUN_ID="test",
        MASTER_ADDR="127.0.0.1",
        MASTER_PORT=str(port),
        RANK=str(rank),
        LOCAL_RANK=str(rank),
        GROUP_RANK="0",
        WORLD_SIZE=str(count),
        LOCAL_WORLD_SIZE=str(count),
    )
    queue.put(train(config, folder))


def gradients(folder: Path) -> Tensor:
    """All gradients of a training of one step without clipping, but for a common factor."""
    state = torch.load(folder / "checkpoint.pth", weights_only=True)["optimizer"]["state"]
    return torch.cat([state[i]["exp_avg"].flatten() for i in sorted(state)]).double()


def log_of(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


def weights(folder: Path) -> dict[str, Tensor]:
    return Mask2Former.from_pretrained(folder).state_dict()
