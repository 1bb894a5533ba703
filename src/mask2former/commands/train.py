"""`mask2former train`: a preset or a file, what the options change in it, and the training."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
import yaml
from rich.console import Console

from mask2former.commands.data import quick_check
from mask2former.commands.loading import require_folder, require_positive
from mask2former.commands.options import Finetune, Train
from mask2former.presets import find_preset
from mask2former.presets.custom import custom
from mask2former.serialization import from_dict, to_dict
from mask2former.training.config import FolderData, TrainConfig
from mask2former.training.log import summary
from mask2former.training.signals import Stopped
from mask2former.training.trainer import train


def run_training(options: Train) -> None:
    """Train, and say where the weights are and what they are worth."""
    prepare(options)
    run(build_config(options), options.out)


def prepare(options: Train | Finetune) -> None:
    """What is looked at and set before all else."""
    require_folder("--out", options.out)
    require_positive("--threads", options.threads)
    if options.threads is not None:
        torch.set_num_threads(options.threads)


def run(config: TrainConfig, out: Path) -> None:
    """Train into a folder, saying what and with which result."""
    console = Console(highlight=False, markup=False, soft_wrap=True, quiet=not is_first_process())
    if starts_from_nothing(config):
        console.print(
            f"warning: the backbone learns at {config.optimizer.backbone_multiplier:g} of the rate,"
            " as one that is pre-trained, but it starts from nothing; give the weights of a"
            " classifier: --set backbone_weights=FILE"
        )
    if isinstance(config.data, FolderData) and config.data.limit is None and is_first_process():
        quick_check(config.data, console)
        if config.data.divided is not None and config.data.train != config.data.val:
            console.print(
                f"no split {config.data.val!r} to validate on: one image in {config.data.holdout}"
                " is held out for it"
            )
    console.print(
        f"training: {config.steps} steps of {config.batch_size} images,"
        f" {len(config.model.categories)} classes, into {out}"
    )
    try:
        figures = train(config, out) or last_evaluation(out / "log.jsonl")
    except Stopped:
        raise
    except KeyboardInterrupt:
        raise KeyboardInterrupt(
            f"the same command goes on from the last checkpoint in {out}, if there is one"
        ) from None
    console.print(f"weights: {out / 'model'}")
    console.print(f"last evaluation: {summary(figures)}")


def build_config(options: Train) -> TrainConfig:
    """The preset's or the file's config, changed as the options say.

    ValueError or FileNotFoundError name the option or the key that is at fault.
    """
    tree, source = _base(options)
    if options.data is not None and options.config is not None:
        set_value(tree, "data.folder", options.data)
    if options.initial_weights is not None:
        tree["initial_weights"] = options.initial_weights
    return changed(tree, source, options)


def changed(tree: dict[str, Any], source: str, options: Train | Finetune) -> TrainConfig:
    """The config of a tree that messages call `source`, changed as the options say."""
    for key, value in assignments(options):
        set_value(tree, key, value)
    return from_dict(TrainConfig, tree, source)


def assignments(options: Train | Finetune) -> Iterator[tuple[str, object]]:
    """The keys that options change, and their values. ValueError names a --set without a value."""
    shortcuts = {
        "steps": options.steps,
        "batch_size": options.batch_size,
        "optimizer.rate": options.rate,
        "seed": options.seed,
        "accumulate": options.accumulate,
        "devices": options.devices,
        "precision": options.precision,
    }
    yield from ((key, value) for key, value in shortcuts.items() if value is not None)
    for override in options.overrides:
        key, equals, text = override.partition("=")
        if not equals:
            raise ValueError(f"--set {override}: expected KEY=VALUE, as in --set ema=0.999")
        yield key, _value(text)


def _base(options: Train) -> tuple[dict[str, Any], str]:
    """The tree to start from, and what messages call it."""
    written = options.out / "config.yaml"
    config = options.config
    if config is None and options.preset is None and options.data is None:
        if not written.exists():
            raise ValueError(
                "nothing to train on: give --data FOLDER, --preset NAME or --config FILE, or as"
                f" --out the folder of a training that was stopped ({written} does not exist)"
            )
        config = written
    if config is not None:
        if options.preset is not None:
            raise ValueError("--preset and --config: give one of them, the other's job is the same")
        return read_config(config), str(config)
    preset = options.preset or "custom"
    make = find_preset(preset)
    draws = preset.startswith("scenes")
    if options.data is not None and draws:
        raise ValueError(
            f"--preset {preset}: draws its own images; leave out --data {options.data}"
        )
    if options.data is None and not draws:
        raise ValueError(f"--preset {preset}: give the data set's folder, too, with --data")
    if make is custom:  # it looks at the data set
        return to_dict(custom(data_of(options))), "config"
    return to_dict(make(options.data or "")), "config"


def data_of(options: Train | Finetune) -> FolderData:
    """The data set as --data and --set data.KEY=VALUE say."""
    tree: dict[str, Any] = {"data": {"folder": options.data}}
    for key, value in assignments(options):
        if key.startswith("data.") and (key, value) != ("data.type", "FolderData"):
            set_value(tree, key, value)
    return from_dict(FolderData, tree["data"], "config.data")


def starts_from_nothing(config: TrainConfig) -> bool:
    """Whether a backbone that is to be spared has nothing that is worth it."""
    from_weights = config.initial_weights or config.backbone_weights
    return not from_weights and config.optimizer.backbone_multiplier < 1


def read_config(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise FileNotFoundError(f"{path}: there is no such file; check the path")
    try:
        tree = yaml.safe_load(path.read_text())
    except yaml.YAMLError as error:
        raise ValueError(f"{path}: not valid YAML: {error}") from None
    if not isinstance(tree, dict):
        raise ValueError(f"{path}: holds no mapping of a training's fields")
    return tree


def place(value: object) -> object:
    """A path that exists in its one full form, however it was written; else the value itself."""
    return Path(value).resolve() if isinstance(value, str) and Path(value).exists() else value


def set_value(tree: dict[str, Any], dotted: str, value: object) -> None:
    """Put a value where `dotted` says. Keys that do not exist are found out by `from_dict`."""
    *parents, last = dotted.split(".")
    for depth, key in enumerate(parents, start=1):
        tree = tree.setdefault(key, {})
        if not isinstance(tree, dict):
            raise ValueError(
                f"--set {dotted}: {'.'.join(parents[:depth])} has no fields, it is a value"
            )
    tree[last] = value


def _value(text: str) -> object:
    """A number, true, false, null or a list, as in JSON; anything else is a text."""
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        return text


def is_first_process() -> bool:
    """Whether this is the one that speaks, of those that torchrun, SLURM or Fabric started."""
    numbers = ("RANK", "SLURM_PROCID", "NODE_RANK", "LOCAL_RANK")
    return all(os.environ.get(name, "0") == "0" for name in numbers)


def last_evaluation(log: Path) -> dict[str, float]:
    """The figures that a training wrote last; none if it was never evaluated."""
    figures: dict[str, float] = {}
    for line in log.read_text().splitlines():
        figures = json.loads(line).get("evaluation", figures)
    return figures
