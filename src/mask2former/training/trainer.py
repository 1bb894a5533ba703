"""train(config, folder): the loop, from top to bottom."""

from __future__ import annotations

import time
from contextlib import closing
from math import isfinite
from pathlib import Path
from signal import SIGTERM
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import yaml
from rich.console import Console
from torch import Tensor
from torch.distributed.tensor import DTensor

from mask2former.allocator import keep_freed_memory
from mask2former.data.dataset import Dataset
from mask2former.data.loader import Stream, batches
from mask2former.loss.criterion import Criterion, Losses, mean_over_ranks
from mask2former.modeling.mask2former import Mask2Former
from mask2former.segmenter import Segmenter
from mask2former.serialization import to_dict
from mask2former.structures import Batch
from mask2former.training import checkpoint
from mask2former.training.activations import checkpoint_activations
from mask2former.training.config import TrainConfig
from mask2former.training.devices import make_fabric, synchronise_norms
from mask2former.training.evaluate import check_categories, evaluate
from mask2former.training.examine import Examination
from mask2former.training.freeze import freeze
from mask2former.training.log import Log, progress_bar, replace_text, summary
from mask2former.training.loggers import open_loggers
from mask2former.training.memory import explained, peak_memory
from mask2former.training.optimizer import build_optimizer, rate_factor, set_rates
from mask2former.training.report import report_evaluation
from mask2former.training.signals import Signals, Stopped
from mask2former.training.state import BEST, LAST, State, check_metric
from mask2former.weights import load, load_tensors
from mask2former.weights.native import save_model
from mask2former.weights.pretrained import load_backbone
from mask2former.weights.transfer import transfer

if TYPE_CHECKING:
    from lightning_fabric import Fabric

TERMS = ("loss", "class", "mask", "dice", "cells")  # of a step's log line


def train(config: TrainConfig, folder: str | Path) -> dict[str, float]:
    """Train a model, or go on where the folder's checkpoint stopped; returns the last evaluation
    of this call (empty if all had been done before).

    The folder gets `config.yaml`, `log.jsonl` (every step's losses, every evaluation),
    `checkpoint.pth`, weights that `Segmenter.from_pretrained` reads, the last in `model/`, the best
    in `best/`, and after every evaluation `evaluation.json` and the page `report.html`. Told to
    stop by a signal, it saves and raises `Stopped`.
    """
    folder = Path(folder)
    fabric = make_fabric(config)
    fabric.launch()
    ranks, rank = fabric.world_size, fabric.global_rank
    at_once, parts = config.images_at_once(ranks), config.accumulate
    console = Console(quiet=not fabric.is_global_zero, highlight=False, soft_wrap=True)
    if fabric.device.type == "cpu":
        keep_freed_memory()

    torch.manual_seed(config.seed)
    dataset, validation = config.data.open_train(), config.data.open_val()
    for opened in (dataset, validation):
        check_categories(config.model.categories, opened.categories)
    check_metric(config.metric, validation.tasks)
    stream = Stream(dataset, config.view, config.model.view, config.seed, config.repeat_threshold)
    saved = checkpoint.read(folder, config)
    # What it started from is not needed once there is a checkpoint.
    model = build_model(config) if saved is None else Mask2Former(config.model).train()
    freeze(model, config.freeze)
    if saved is not None:
        model.load_state_dict(saved["model"])
    if config.checkpoint_activations:
        checkpoint_activations(model)
    synchronise_norms(model, fabric)
    if config.strategy != "fsdp":  # which wants parameters in the plain layout
        model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    wrapped = fabric.setup_module(model)
    # Fabric cannot clip the scaled gradients of fp16 for a fused optimiser.
    fused = config.precision != "16-mixed"
    optimizer: Any = fabric.setup_optimizers(build_optimizer(model, config.optimizer, fused=fused))
    criterion = Criterion(config.loss, config.model.categories).to(fabric.device)
    state = State(fabric, config, model, optimizer)
    if saved is not None:
        state.restore(saved)
        if state.step > config.steps:
            raise ValueError(
                f"{folder}: {state.step} steps are done, more than the {config.steps} that are"
                " asked for; give as many steps or more, or train into another folder"
            )
        console.print(f"resuming at step {state.step} of {config.steps}")
    console.print(description(config, fabric, model, dataset, validation))

    if fabric.is_global_zero:
        folder.mkdir(parents=True, exist_ok=True)
        checkpoint.tidy(folder)
        replace_text(folder / "config.yaml", yaml.safe_dump(to_dict(config), sort_keys=False))
    loader = batches(
        stream,
        batch_size=at_once,
        first=state.step * parts,
        last=config.steps * parts,
        workers=config.workers,
        rank=rank,
        ranks=ranks,
    )
    figures: dict[str, float] = {}
    log = Log(folder if fabric.is_global_zero else None, state.step, state.evaluated)
    with (
        closing(loader),
        log,
        Signals() as signals,
        progress_bar(console) as progress,
        explained(config, ranks),
    ):
        if fabric.is_global_zero:
            log.loggers = open_loggers(config, folder, state.step)
        bar = progress.add_task("training", total=config.steps, completed=state.step, note="")
        while True:
            if evaluation_is_due(config, state):
                if ranks == 1:  # of several processes the others would wait for this one
                    signals.idle = f"the {state.step} steps that are done are saved in {folder}"
                weights = state.weights_to_use()
                examination = Examination(config.model.categories)
                figures = evaluate_weights(weights, validation, examination)
                signals.idle = ""
                log.write({"step": state.step, "evaluation": figures})
                is_best = state.best.update(figures, state.step, config.metric)
                report_evaluation(
                    *(folder, examination, figures, state.step, weights),
                    train_images=len(dataset),
                    gave_up=state.gives_up,
                    is_first_rank=rank == 0,
                )
                progress.print(f"step {state.step}: {summary(figures)}")
                state.evaluated = state.step
                if is_best and rank == 0:
                    save_model(weights, folder / BEST)
                state.save(folder)
            if state.step >= config.steps:
                break
            if state.gives_up:
                progress.print(
                    f"ended after step {state.step}: {state.best.since} evaluations without a"
                    f" better {state.best.metric} (patience)"
                )
                break

            step, started = state.step, time.perf_counter()
            pieces = [next(loader) for _ in range(parts)]
            waited = time.perf_counter() - started
            counts = [len(target.labels) for piece in pieces for target in piece.targets]
            # What is drawn is a function of seed and step, or of seed and view: the same after a
            # stop, on other devices, and in other parts.
            origin = model.canvas_origin(torch.Generator().manual_seed(seed_of(config, 3, step)))
            set_rates(optimizer, rate_factor(step, config.steps, config.optimizer))
            terms = torch.zeros(len(TERMS), device=fabric.device)
            for i, piece in enumerate(pieces):
                piece = to_device(piece, fabric.device)
                view = ((step * parts + i) * ranks + rank) * at_once  # its first one
                torch.manual_seed(seed_of(config, 4, view))  # for dropout
                seeds = [seed_of(config, 5, view + j) for j in range(at_once)]
                with fabric.no_backward_sync(wrapped, enabled=i < parts - 1):
                    output = wrapped(piece.images, origin)  # in the precision that Fabric was given
                    losses = criterion(
                        output, piece.targets, piece.names, counts=counts, seeds=seeds
                    )
                    fabric.backward(losses.total)
                terms += terms_of(losses)
            if not terms.isfinite().all():
                raise ValueError(not_finite(step, terms, pieces))
            norm = fabric.clip_gradients(
                wrapped, optimizer, max_norm=config.optimizer.clip_norm, error_if_nonfinite=False
            )
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            if state.average is not None:
                state.average.update(model)
            state.step += 1

            told = terms.new_tensor([float(signals.received)])
            *values, stop = mean_over_ranks(torch.cat((terms, told))).tolist()
            seconds = time.perf_counter() - started
            log.write(
                {
                    "step": step,
                    **dict(zip(TERMS, values, strict=True)),
                    "gradient_norm": value_of(norm),
                    "rate": max(group["lr"] for group in optimizer.param_groups),
                    "seconds": round(seconds, 4),
                    "waited": round(waited, 4),
                    "images_per_second": round(config.batch_size / seconds, 2),
                    "memory_gb": round(peak_memory(fabric.device), 3),
                }
            )
            progress.update(bar, advance=1, note=f"loss {values[0]:.2f}")
            due = evaluation_is_due(config, state)  # takes long: what is done is kept first
            if stop or due or state.step % config.checkpoint_every == 0:
                state.save(folder)
            if stop:
                raise Stopped(
                    signals.received or SIGTERM,
                    f"{state.step} of {config.steps} steps are done and saved in {folder};"
                    " the same command goes on from there",
                )
    if state.best.value is not None:
        console.print(
            f"best {state.best.metric}: {state.best.value:.1f} after step {state.best.step}, in"
            f" {folder / BEST}; the last weights are in {folder / LAST}"
        )
    return figures


def build_model(config: TrainConfig) -> Mask2Former:
    """A new model, or one that starts from `initial_weights` or `backbone_weights`."""
    model = Mask2Former(config.model)
    if config.backbone_weights is not None and config.initial_weights is None:
        load_backbone(model, config.backbone_weights)
    if config.initial_weights is not None:
        source = load(config.initial_weights)
        if config.initial_classes == "by_name":
            transfer(model, source, config.initial_weights)
        else:
            load_tensors(model, source.state_dict(), config.initial_weights)
    return model.train()


def evaluation_is_due(config: TrainConfig, state: State) -> bool:
    """At the end, and every so many steps; not again where it was done before a stop."""
    if state.step == 0 or state.evaluated == state.step:
        return False
    every = config.evaluate_every
    return state.step >= config.steps or (every > 0 and state.step % every == 0)


def evaluate_weights(
    weights: Mask2Former, validation: Dataset, examination: Examination
) -> dict[str, float]:
    tasks, hook = validation.tasks, examination.update
    return evaluate(Segmenter(weights), validation, tasks, progress=False, on_image=hook)


def description(
    config: TrainConfig,
    fabric: Fabric,
    model: Mask2Former,
    dataset: Dataset,
    validation: Dataset,
) -> str:
    """One line: how large the model is, what it runs on and what it is shown."""
    sizes = [(p.numel(), p.requires_grad) for p in model.parameters()]
    trained = sum(size for size, is_trained in sizes if is_trained)
    frozen = sum(size for size, _ in sizes) - trained
    kinds = f"{fabric.world_size} x {fabric.device.type}" + (
        f" with {torch.get_num_threads()} threads" if fabric.device.type == "cpu" else ""
    )
    return (
        f"{trained / 1e6:.1f}M parameters"
        + (f" and {frozen / 1e6:.1f}M that stay as they are" if frozen else "")
        + f", on {kinds}, {config.precision}; {len(dataset)} images to train on,"
        f" {len(validation)} to validate on; {config.images_at_once(fabric.world_size)} of the"
        f" {config.batch_size} images of a step at once"
    )


def seed_of(config: TrainConfig, kind: int, number: int) -> int:
    """The seed for one kind of draw (`Stream` has kinds 1 and 2) of one step or view."""
    state = np.random.SeedSequence([config.seed, kind, number]).generate_state(1, np.uint64)
    return int(state[0]) >> 1  # what torch takes


def terms_of(losses: Losses) -> Tensor:
    """The weighted total and the last prediction's terms, in the order of TERMS."""
    last = (losses.classification[-1], losses.mask[-1], losses.dice[-1])
    return torch.stack((losses.total, *last, losses.cells)).detach()


def not_finite(step: int, terms: Tensor, pieces: list[Batch]) -> str:
    """What to say of a loss that is NaN or infinite, before it reaches the weights."""
    bad = [name for name, value in zip(TERMS, terms.tolist(), strict=True) if not isfinite(value)]
    names = ", ".join(name for piece in pieces for name in piece.names)
    return (
        f"step {step}: {', '.join(bad)} not finite, with the images {names}; begin again in another"
        " folder, with a lower optimizer.rate, with more optimizer.warmup_steps, or with precision"
        " bf16-mixed or 32-true if it was 16-mixed"
    )


def value_of(norm: Tensor | None) -> float | None:
    if isinstance(norm, DTensor):  # under fsdp
        norm = norm.full_tensor()
    return None if norm is None else norm.item()


def to_device(batch: Batch, device: torch.device) -> Batch:
    return Batch(
        images=batch.images.to(device, non_blocking=True),
        targets=tuple(target.to(device) for target in batch.targets),
        names=batch.names,
    )
