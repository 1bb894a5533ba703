from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from mask2former.loss.criterion import Criterion
from mask2former.training.memory import explained, peak_memory
from mask2former.training.trainer import train
from trainings import CONFIG


def allocate() -> None:
    torch.empty(10**15)


def gpu() -> None:
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.\nmore")


def worker() -> None:
    raise MemoryError


@pytest.mark.parametrize("fault", [allocate, gpu, worker])
def test_what_runs_out_of_memory_says_what_to_lower(fault: Any) -> None:
    with pytest.raises(ValueError, match="out of memory") as caught, explained(CONFIG, 2):
        fault()
    text = str(caught.value)
    for part in (
        "accumulate=2 (now 1: 2 of the 4 images of a step at once)",
        "checkpoint_activations=true",
        "precision=bf16-mixed (now 32-true)",
        "view.crop (now 64 x 64 pixels)",
        "loss.points (now 64)",
    ):
        assert part in text
    assert text.count("\n") == 0
    lowered = replace(CONFIG, accumulate=4, checkpoint_activations=True, precision="bf16-mixed")
    with pytest.raises(ValueError, match="in this order: batch_size"), explained(lowered, 1):
        fault()


def test_other_errors_stay_as_they_are() -> None:
    with pytest.raises(RuntimeError, match="else"), explained(CONFIG, 1):
        raise RuntimeError("else")


def test_a_training_explains(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Criterion, "forward", lambda *given, **named: gpu())
    with pytest.raises(ValueError, match=re.escape("accumulate=2 (now 1: 4 of the 4 images")):
        train(CONFIG, tmp_path)


def test_peak_is_what_this_process_needed() -> None:
    before = peak_memory(torch.device("cpu"))
    assert 0.05 < before < 100
    block = torch.ones(100_000_000)
    assert peak_memory(torch.device("cpu")) >= max(before, 0.4)
    del block
