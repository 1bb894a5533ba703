"""train(config, folder): the loop, from top to bottom."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any, TextIO

import torch
import yaml
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch import Tensor

from mask2former.data.dataset import Dataset
from mask2former.data.loader import Stream, batches
from mask2former.loss.criterion import Criterion, Losses
from mask2former.modeling.mask2former import Mask2Former
from mask2former.segmenter import Segmenter
from mask2former.serialization import to_dict
from mask2former.structures import Batch
from mask2former.training import checkpoint
from mask2former.training.config import TrainConfig
from mask2former.training.evaluate import evaluate
from mask2former.training.memory import keep_freed_memory
from mask2former.training.optimizer import build_optimizer, rate_factor, set_rates
from mask2former.weights import load, load_tensors
from mask2former.weights.native import save_model
from mask2former.weights.pretrained import load_backbone


def train(config: TrainConfig, folder: str | Path) -> dict[str, float]:
    """Train a model, or go on where the folder's checkpoint stopped; returns the last evaluation.

    The folder gets `config.yaml`, `log.jsonl` (every step's losses, every evaluation),
    `checkpoint.pth` and `model/`, the weights that `Segmenter.from_pretrained` reads.
    """
    from lightning_fabric import Fabric

    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    fabric = Fabric(accelerator="auto", devices="auto", precision=config.precision)
    fabric.launch()
    console = Console(quiet=not fabric.is_global_zero)
    if fabric.device.type == "cpu":
        keep_freed_memory()
    torch.manual_seed(config.seed)
    dataset, validation = config.data.open_train(), config.data.open_val()
    stream = Stream(dataset, config.view, config.model.view, config.seed, config.repeat_threshold)
    state = checkpoint.read(folder, config)
    # What it started from is not needed once there is a checkpoint.
    model = build_model(config) if state is None else Mask2Former(config.model).train()
    criterion = Criterion(config.loss, config.model.categories).to(fabric.device)
    # Fabric cannot clip the scaled gradients of fp16 for a fused optimiser.
    optimizer = build_optimizer(model, config.optimizer, fused=config.precision != "16-mixed")
    average = Average(model, config.ema) if config.ema else None
    wrapped, optimizer = fabric.setup(model, optimizer)  # moves the model to its device
    first = 0
    if state is not None:
        first = restore(state, model, optimizer, average)
        console.print(f"resuming at step {first} of {config.steps}")
    if average is not None:
        average.to(fabric.device)

    if fabric.is_global_zero:
        (folder / "config.yaml").write_text(yaml.safe_dump(to_dict(config), sort_keys=False))
    loader = batches(
        stream,
        batch_size=config.batch_size // fabric.world_size,
        first=first,
        last=config.steps,
        workers=config.workers,
        rank=fabric.global_rank,
        ranks=fabric.world_size,
    )
    figures: dict[str, float] = {}
    progress = progress_bar(console)
    log_path = folder / "log.jsonl" if fabric.is_global_zero else Path(os.devnull)
    with open_log(log_path, first) as log, progress:
        bar = progress.add_task("training", total=config.steps, completed=first, note="")
        for step in range(first, config.steps):
            started = time.perf_counter()
            batch = to_device(next(loader), fabric.device)
            waited = time.perf_counter() - started
            # Seeded step by step, so that a resumed training draws what it would have drawn.
            torch.manual_seed(
                config.seed * 1_000_003 + step * fabric.world_size + fabric.global_rank
            )
            set_rates(optimizer, rate_factor(step, config.steps, config.optimizer))
            output = wrapped(batch.images)  # in the precision that Fabric was given
            losses = criterion(output, batch.targets, batch.names)
            fabric.backward(losses.total)
            norm = fabric.clip_gradients(
                wrapped, optimizer, max_norm=config.optimizer.clip_norm, error_if_nonfinite=False
            )
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            if average is not None:
                average.update(model)

            record = record_of(step, losses, norm, optimizer, waited, time.perf_counter() - started)
            write_line(log, record)
            progress.update(bar, advance=1, note=f"loss {record['loss']:.2f}")
            done = step + 1
            if done % config.checkpoint_every == 0 or done == config.steps:
                save(folder, done, config, model, optimizer, average, fabric.is_global_zero)
            every = config.evaluate_every
            if done == config.steps or (every and done % every == 0):
                figures = evaluate_weights(model, average, validation)
                write_line(log, {"step": done, "evaluation": figures})
                progress.print(f"step {done}: {summary(figures)}")
    return figures


def build_model(config: TrainConfig) -> Mask2Former:
    """A new model, or one that starts from `initial_weights` or `backbone_weights`."""
    model = Mask2Former(config.model)
    if config.backbone_weights is not None and config.initial_weights is None:
        load_backbone(model, config.backbone_weights)
    if config.initial_weights is not None:
        source = load(config.initial_weights)
        load_tensors(model, source.state_dict(), config.initial_weights)
    return model.train()


class Average:
    """Exponential moving average of a model's parameters and buffers."""

    def __init__(self, model: Mask2Former, decay: float) -> None:
        self.decay, self.updates = decay, 0
        self.tensors = {name: t.detach().clone() for name, t in model.state_dict().items()}

    def to(self, device: torch.device) -> None:
        self.tensors = {name: tensor.to(device) for name, tensor in self.tensors.items()}

    @torch.no_grad()
    def update(self, model: Mask2Former) -> None:
        self.updates += 1
        # Young averages forget faster: the first steps are not worth remembering.
        decay = min(self.decay, (1 + self.updates) / (10 + self.updates))
        current = model.state_dict()
        floating = [name for name, mean in self.tensors.items() if mean.is_floating_point()]
        torch._foreach_lerp_(
            [self.tensors[name] for name in floating],
            [current[name] for name in floating],
            1 - decay,
        )
        for name in self.tensors.keys() - set(floating):
            self.tensors[name].copy_(current[name])


def restore(
    state: dict[str, Any],
    model: Mask2Former,
    optimizer: torch.optim.Optimizer,
    average: Average | None,
) -> int:
    """Put a checkpoint's state back; returns the step to go on with."""
    model.load_state_dict(state["model"])
    optimizer.load_state_dict(state["optimizer"])
    if average is not None:
        average.tensors, average.updates = state["average"], state["step"]
    step: int = state["step"]
    return step


def save(
    folder: Path,
    step: int,
    config: TrainConfig,
    model: Mask2Former,
    optimizer: torch.optim.Optimizer,
    average: Average | None,
    is_first_rank: bool,
) -> None:
    """The checkpoint, and `model/` with the weights to use."""
    if not is_first_rank:
        return
    state = {
        "step": step,
        "model": model.state_dict(),
        "optimizer": optimizer.state_dict(),
        "average": average.tensors if average is not None else None,
    }
    checkpoint.write(folder, state, config)
    save_model(weights_to_use(model, average), folder / "model")


def weights_to_use(model: Mask2Former, average: Average | None) -> Mask2Former:
    """A copy of the model with its averaged weights, if there is an average."""
    copy = Mask2Former(model.config).to(next(model.parameters()).device)
    copy.load_state_dict(model.state_dict() if average is None else average.tensors)
    return copy.eval()


def evaluate_weights(
    model: Mask2Former, average: Average | None, validation: Dataset
) -> dict[str, float]:
    segmenter = Segmenter(weights_to_use(model, average))
    return evaluate(segmenter, validation, validation.tasks, progress=False)


# --- what is written while it runs --------------------------------------------------------------


def progress_bar(console: Console) -> Progress:
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
        console=console,
        disable=not console.is_terminal,
    )


def open_log(path: Path, first: int) -> TextIO:
    """Append to the log; lines of steps that will be repeated are dropped first."""
    kept = []
    if first and path.exists():
        for line in path.read_text().splitlines():
            try:
                entry = json.loads(line)
            except json.JSONDecodeError:  # a crash tore the last line
                break
            if entry["step"] < first or (entry["step"] == first and "evaluation" in entry):
                kept.append(line + "\n")
    path.write_text("".join(kept))
    return path.open("a")


def write_line(log: TextIO, record: dict[str, Any]) -> None:
    log.write(json.dumps(record) + "\n")
    log.flush()


def record_of(
    step: int,
    losses: Losses,
    norm: Tensor | None,
    optimizer: torch.optim.Optimizer,
    waited: float,
    seconds: float,
) -> dict[str, Any]:
    """A line of the log: the weighted total, the last prediction's terms, rate and time."""
    return {
        "step": step,
        "loss": losses.total.item(),
        "class": losses.classification[-1].item(),
        "mask": losses.mask[-1].item(),
        "dice": losses.dice[-1].item(),
        "cells": losses.cells.item(),
        "gradient_norm": None if norm is None else norm.item(),
        "rate": max(group["lr"] for group in optimizer.param_groups),
        "seconds": round(seconds, 4),
        "waited": round(waited, 4),
    }


def summary(figures: dict[str, float]) -> str:
    shown = ("PQ", "PQ_things", "PQ_stuff", "AP", "AP50", "mIoU")
    return "  ".join(f"{key} {figures[key]:.1f}" for key in shown if key in figures)


def to_device(batch: Batch, device: torch.device) -> Batch:
    return Batch(
        images=batch.images.to(device, non_blocking=True),
        targets=tuple(target.to(device) for target in batch.targets),
        names=batch.names,
    )
