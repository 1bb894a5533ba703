"""A segmenter as the options of a command describe it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch

from mask2former.commands.options import Dtype
from mask2former.segmenter import Segmenter, pick_device


def load_segmenter(
    model: str,
    *,
    classes: str | None = None,
    device: str,
    dtype: Dtype = "float32",
    max_detections: int | None = None,
    batch_size: int = 1,
    compile: bool = False,
    canvas_step: int | None = None,
) -> Segmenter:
    """ValueError names the option that is at fault."""
    for option, value in (
        ("--max-detections", max_detections),
        ("--batch-size", batch_size),
        ("--canvas-step", canvas_step),
    ):
        require_positive(option, value)
    segmenter = Segmenter.from_pretrained(
        model,
        classes=class_names(classes),
        device=_device(device),
        dtype=getattr(torch, dtype),
        batch_size=batch_size,
        compile=compile,
        canvas_step=canvas_step,
    )
    if max_detections is not None:
        config = segmenter.model.config
        view = replace(config.view, max_detections=max_detections)
        segmenter.model.config = replace(config, view=view)
    return segmenter


def require_positive(option: str, value: int | None) -> None:
    """ValueError if an option that was given is below 1."""
    if value is not None and value < 1:
        raise ValueError(f"{option} {value}: must be at least 1")


def require_folder(option: str, path: Path | None) -> None:
    """ValueError if an option that names a folder to write to was given a file."""
    if path is not None and path.exists() and not path.is_dir():
        raise ValueError(f"{option} {path}: is a file; name a folder, which need not exist")


def class_names(text: str | None) -> str | tuple[str, ...] | None:
    """The option --classes: a benchmark's name, or names with commas; of one class "bolt,"."""
    if text is None or "," not in text:
        return text
    return tuple(name.strip() for name in text.split(",") if name.strip())


def _device(name: str) -> torch.device:
    try:
        device = pick_device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:  # torch raises either
        cause = str(error).splitlines()[0].rstrip(".")
        raise ValueError(f"--device {name}: {cause}; choose auto or cpu") from None
    return device
