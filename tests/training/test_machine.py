from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from mask2former.training.machine import Machine

GIB = 2**30
GPU = Machine(kind="cuda", memory=32 * GIB, precision="16-mixed")
COMPACT, R50, SWIN_L = 3_100_000, 44_000_000, 216_000_000


def test_this_machine() -> None:
    machine = Machine.here()
    assert machine.kind in ("cpu", "cuda", "mps")
    assert 2**28 < machine.memory < 2**44
    if not torch.cuda.is_available():
        assert (machine.devices, machine.precision) == (1, "32-true")


@pytest.mark.parametrize(
    ("parameters", "pixels", "gigabytes"),
    [
        (COMPACT, 2 * 384**2, 0.206),  # "scenes", forward and backward: measured
        (R50, 512**2, 1.9),  # measured with the official code, its model set aside
    ],
)
def test_memory_is_near_what_was_measured(parameters: int, pixels: int, gigabytes: float) -> None:
    machine = Machine(kind="cpu", memory=2**40)
    crops = machine.fitting(parameters, pixels)
    assert 0.8 * 2**40 / crops == pytest.approx(gigabytes * GIB, rel=0.15)


def test_the_paper_trained_swin_l_on_two_crops_in_32_gib() -> None:
    assert GPU.fitting(SWIN_L, 1024**2) in (1, 2)
    assert GPU.fitting(R50, 1024**2) >= 2


def test_larger_crops_models_and_full_precision_need_more() -> None:
    few = GPU.fitting(R50, 1024**2)
    assert GPU.fitting(R50, 512**2) > few > GPU.fitting(SWIN_L, 1024**2)
    assert replace(GPU, precision="32-true").fitting(R50, 1024**2) < few
    assert replace(GPU, memory=GIB // 2).fitting(R50, 1024**2) < 1
