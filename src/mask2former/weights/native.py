"""Our own format: a folder with `config.json` and `model.safetensors`."""

from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from mask2former.modeling.mask2former import Mask2Former, Mask2FormerConfig
from mask2former.serialization import from_dict, to_dict

CONFIG, WEIGHTS = "config.json", "model.safetensors"


def save_model(model: Mask2Former, folder: str | Path, *, dtype: torch.dtype | None = None) -> None:
    """Write config and weights; each file is whole or absent, whatever happens meanwhile.

    `dtype` is how floating-point weights are stored (default: as they are).
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {
        name: tensor.detach().to("cpu", dtype if tensor.is_floating_point() else None).contiguous()
        for name, tensor in model.state_dict().items()
    }
    with tempfile.TemporaryDirectory(dir=folder) as temporary:
        weights, config = Path(temporary, WEIGHTS), Path(temporary, CONFIG)
        save_file(tensors, weights, metadata={"format": "mask2former"})
        config.write_text(json.dumps(to_dict(model.config), indent=1) + "\n")
        for file in (weights, config):
            os.replace(file, folder / file.name)


def read_config(path: Path) -> Mask2FormerConfig:
    """The model that a `config.json` of ours describes. ValueError names file and key."""
    try:
        tree = json.loads(path.read_text())
    except (json.JSONDecodeError, UnicodeDecodeError) as e:
        raise ValueError(f"{path}: not valid JSON: {e}") from None
    return from_dict(Mask2FormerConfig, tree, str(path))


def read_weights(path: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file, floating point in fp32."""
    try:
        tensors = load_file(path)
    except (SafetensorError, OSError) as e:
        raise ValueError(f"{path}: not a readable safetensors file: {e}") from None
    return {
        name: tensor.float() if tensor.is_floating_point() else tensor
        for name, tensor in tensors.items()
    }
