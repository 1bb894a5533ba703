"""Our own format: a folder with `config.json` and `model.safetensors`."""

from __future__ import annotations

from pathlib import Path

import torch

from mask2former.modeling.mask2former import Mask2Former, Mask2FormerConfig
from mask2former.serialization import from_dict, to_dict
from mask2former.weights.files import json_writer, read_json, safetensors_writer, write_files

CONFIG, WEIGHTS = "config.json", "model.safetensors"


def save_model(model: Mask2Former, folder: str | Path, *, dtype: torch.dtype | None = None) -> None:
    """Write config and weights; each file is whole or absent, whatever happens meanwhile.

    `dtype` is how floating-point weights are stored (default: as they are).
    """
    write_files(
        Path(folder),
        {
            WEIGHTS: safetensors_writer(model.state_dict(), format="mask2former", dtype=dtype),
            CONFIG: json_writer(to_dict(model.config)),
        },
    )


def read_config(path: Path) -> Mask2FormerConfig:
    """The model that a `config.json` of ours describes. ValueError names file and key."""
    return from_dict(Mask2FormerConfig, read_json(path), str(path))
