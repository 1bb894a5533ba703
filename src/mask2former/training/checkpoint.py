"""Checkpoints: everything that a training needs to go on as if it had not stopped."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import torch

from mask2former.serialization import from_dict, to_dict
from mask2former.training.config import TrainConfig
from mask2former.weights.files import UNFINISHED

NAME = "checkpoint.pth"


def write(folder: Path, state: dict[str, Any], config: TrainConfig) -> None:
    """Replace the folder's checkpoint; a crash leaves the old or the new one, never half of one."""
    temporary = folder / (NAME + ".tmp")
    with temporary.open("wb") as file:
        torch.save({**state, "config": json.dumps(to_dict(config))}, file)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, folder / NAME)


def tidy(folder: Path) -> None:
    """Remove what a training that was killed left half written in its folder."""
    for left in [*folder.glob(f"{UNFINISHED}*"), *folder.glob(f"*/{UNFINISHED}*")]:
        shutil.rmtree(left)


def read(folder: Path, config: TrainConfig) -> dict[str, Any] | None:
    """The folder's checkpoint, or None. ValueError if it belongs to another configuration."""
    path = folder / NAME
    if not path.exists():
        return None
    try:
        state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as e:  # torch raises many kinds; each means the same here
        raise ValueError(
            f"{path}: cannot be read ({type(e).__name__}); remove it to train from the start"
        ) from None
    # Read as a config first: fields that are younger than the checkpoint have their defaults.
    old = from_dict(TrainConfig, json.loads(state.pop("config")), str(path))
    changed = differences(to_dict(old), to_dict(config))
    changed = [key for key in changed if key.split("[")[0] not in FREE]
    if changed:
        raise ValueError(
            f"{path}: made with another configuration ({', '.join(changed)} differ); "
            "train into another folder, or start it from these weights with initial_weights"
        )
    return state


# Longer, looked at more often, or computed elsewhere and in other parts, it is the same training.
FREE = (
    "accelerator",
    "accumulate",
    "checkpoint_activations",
    "checkpoint_every",
    "devices",
    "evaluate_every",
    "loggers",
    "metric",
    "num_nodes",
    "patience",
    "steps",
    "strategy",
    "workers",
)


def differences(old: Any, new: Any, where: str = "") -> list[str]:
    """The keys in which two config trees differ."""
    if isinstance(old, dict) and isinstance(new, dict):
        keys = sorted(old.keys() | new.keys())
        return [
            found
            for key in keys
            for found in differences(old.get(key), new.get(key), f"{where}.{key}" if where else key)
        ]
    return [] if old == new else [where]
