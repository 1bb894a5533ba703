"""Weight files on disk: read without executing anything in them, written whole or not at all."""

from __future__ import annotations

import json
import os
import re
import tempfile
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

UNFINISHED = ".unfinished-"


def read_json(path: Path) -> dict[str, Any]:
    """The mapping in a JSON file. ValueError names the file if it is none."""
    try:
        tree = json.loads(path.read_text())
    except (json.JSONDecodeError, UnicodeDecodeError) as e:
        raise ValueError(f"{path}: not valid JSON: {e}") from None
    if not isinstance(tree, dict):
        raise ValueError(f"{path}: holds a {type(tree).__name__}, not a mapping")
    return tree


def read_safetensors(path: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file, floating point in fp32."""
    try:
        tensors = load_file(path)
    except (SafetensorError, OSError) as e:
        raise ValueError(f"{path}: not a readable safetensors file: {e}") from None
    return {
        name: tensor.float() if tensor.is_floating_point() else tensor
        for name, tensor in tensors.items()
    }


def read_torch(path: Path) -> dict[str, Tensor]:
    """The tensors of a file of `torch.save`, plain or under "model" or "state_dict"."""
    return tensors_of(torch_content(path), path)


class _Inert:
    """Stands for what a checkpoint holds beside its tensors: made of anything, it is nothing."""

    def __new__(cls, *args: object, **more: object) -> _Inert:
        return object.__new__(cls)

    def __init__(self, *args: object, **more: object) -> None:
        pass

    def __setstate__(self, state: object) -> None:
        pass


# mmengine's trainings keep their log in the checkpoint: its own class, and what that is pickled by.
_THEIR_LOG = re.compile(r"mmengine\.logging\.history_buffer\.HistoryBuffer")
_LOGS_PARTS = re.compile(r"numpy\..*|(builtins|__builtin__)\.getattr")
_one_at_a_time = threading.Lock()  # torch's list of what may be loaded is one for all threads


def torch_content(path: Path) -> Any:
    """What `torch.save` wrote, read without executing anything in it.

    ValueError if that cannot be; the log of a training of mmengine is skipped, not read.
    """
    try:
        foreign = torch.serialization.get_unsafe_globals_in_checkpoint(path)
    except Exception:  # an older format, or none: what is wrong shows below
        foreign = []
    inert = []
    if any(map(_THEIR_LOG.fullmatch, foreign)):
        inert = [n for n in foreign if _THEIR_LOG.fullmatch(n) or _LOGS_PARTS.fullmatch(n)]
    try:
        with _one_at_a_time, torch.serialization.safe_globals([(_Inert, n) for n in inert]):
            return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as e:  # torch raises many kinds; each means the same here
        stranger = re.search(r"GLOBAL (\S+)", str(e))
        reason = "it is damaged or none at all; get it again from its origin"
        if stranger:
            reason = f"it holds {stranger[1]}; save its state_dict alone, where that is known"
        raise ValueError(
            f"{path}: not a checkpoint that can be read without executing code: {reason}"
        ) from None


def tensors_of(content: Any, path: Path) -> dict[str, Tensor]:
    """The names and tensors of a checkpoint's content; optimiser state and the like are left."""
    for key in ("model", "state_dict"):
        if isinstance(content, dict) and isinstance(content.get(key), dict):
            content = content[key]
    if not isinstance(content, dict):
        raise ValueError(f"{path}: holds a {type(content).__name__}, no names and tensors")
    tensors = {}
    for name, value in content.items():
        if isinstance(value, np.ndarray) and value.dtype.kind in "fiub":
            value = torch.from_numpy(value.copy())
        if isinstance(value, _Inert):
            raise ValueError(
                f"{path}: entry '{name}' is no tensor; save the weights as tensors of torch"
            )
        if not isinstance(value, Tensor):
            raise ValueError(f"{path}: entry '{name}' is a {type(value).__name__}, not a tensor")
        tensors[name] = value
    return tensors


def write_files(folder: Path, writers: Mapping[str, Callable[[Path], object]]) -> None:
    """Write files to a folder: name -> what writes it to the path that it is given.

    All are written aside and moved at the end: an interruption leaves the old ones whole, and a
    folder that is new appears with all its files. What a killed process was writing stays in a
    folder whose name begins with UNFINISHED.
    """
    is_new = not folder.exists()
    folder.parent.mkdir(parents=True, exist_ok=True)
    place = folder.parent if is_new else folder
    with tempfile.TemporaryDirectory(dir=place, prefix=UNFINISHED) as name_aside:
        aside = Path(name_aside, "files")
        aside.mkdir()
        for name, write in writers.items():
            write(aside / name)
        if is_new:
            os.replace(aside, folder)
        else:
            for name in writers:
                os.replace(aside / name, folder / name)


def json_writer(tree: Any) -> Callable[[Path], object]:
    return lambda path: path.write_text(json.dumps(tree, indent=1) + "\n")


def safetensors_writer(
    tensors: Mapping[str, Tensor], *, format: str, dtype: torch.dtype | None = None
) -> Callable[[Path], object]:
    """`dtype` is how floating-point tensors are stored (default: as they are)."""
    stored = {
        # Cloned, for parts of one tensor may not share their memory in a file, and in plain order.
        name: tensor.detach()
        .to("cpu", dtype if tensor.is_floating_point() else None)
        .clone(memory_format=torch.contiguous_format)
        for name, tensor in tensors.items()
    }

    def write(path: Path) -> None:
        save_file(stored, path, metadata={"format": format})
        # It leaves a file that nobody else may read; what may read the folder may read the weights.
        path.chmod(path.parent.stat().st_mode & 0o666)

    return write
