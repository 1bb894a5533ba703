"""Memory measured, and what to do when it runs out."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from mask2former.training.config import TrainConfig

# How torch's allocators on the CPU and on Apple's GPUs put it, in a plain RuntimeError.
_FULL = ("can't allocate memory", "not enough memory", "Cannot allocate memory", "out of memory")


def peak_memory(device: torch.device) -> float:
    """The most that was in use so far, in GB: on the GPU, else by this process (0: unknown)."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 1e9
    try:
        import resource
    except ImportError:  # Windows
        return 0.0
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak * (1 if sys.platform == "darwin" else 1024) / 1e9  # bytes there, KiB elsewhere


@contextmanager
def explained(config: TrainConfig, ranks: int) -> Iterator[None]:
    """Where memory runs out inside, a ValueError says what may be lowered, and from what."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:  # torch.OutOfMemoryError is a RuntimeError
        known = isinstance(error, MemoryError | torch.OutOfMemoryError)
        if not (known or any(text in str(error) for text in _FULL)):
            raise
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ValueError(f"out of memory ({reason}). {advice(config, ranks)}") from error


def advice(config: TrainConfig, ranks: int) -> str:
    """What a training's memory goes with, as it is now."""
    at_once = config.images_at_once(ranks)
    lower = []
    if at_once > 1:
        lower.append(
            f"accumulate={config.accumulate * 2} (now {config.accumulate}: {at_once} of the"
            f" {config.batch_size} images of a step at once), which changes nothing else"
        )
    if not config.checkpoint_activations:
        lower.append("checkpoint_activations=true, the same for more time")
    if config.precision == "32-true":
        lower.append("precision=bf16-mixed (now 32-true), on a GPU")
    height, width = config.view.crop
    lower += [
        f"batch_size (now {config.batch_size})",
        f"view.crop (now {height} x {width} pixels)",
        f"loss.points (now {config.loss.points})",
        f"model.decoder.queries (now {config.model.decoder.queries})",
        f"workers (now {config.workers}), if it is the computer's own memory",
    ]
    return "What helps, in this order: " + "; ".join(lower)
