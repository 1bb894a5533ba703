"""What a training may use of this machine, and what a model needs of it."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Literal

import torch

from mask2former.segmenter import pick_device

Precision = Literal["32-true", "bf16-mixed", "16-mixed"]
# Bytes a pixel of a training crop in fp32, of R50 with its 44M parameters: measured at 512x512.
PIXEL = 7_500
REFERENCE = 44e6
STATE = 20  # bytes a parameter: weight, gradient, AdamW's two moments, average
USED = 0.8  # share of the free memory that is planned with


@dataclass(frozen=True, kw_only=True)
class Machine:
    """The devices that Fabric will choose: all of the best kind."""

    kind: str  # as torch calls it: cpu, cuda, mps
    memory: int  # bytes that are free, of each device
    devices: int = 1
    precision: Precision = "32-true"

    @classmethod
    def here(cls) -> Machine:
        kind = pick_device("auto").type
        if kind != "cuda":
            pages = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
            return cls(kind=kind, memory=pages // 2)  # others are at home here, too
        free, _ = torch.cuda.mem_get_info()
        precision: Precision = "bf16-mixed" if torch.cuda.is_bf16_supported() else "16-mixed"
        count = torch.cuda.device_count()
        return cls(kind=kind, memory=free, devices=count, precision=precision)

    def fitting(self, parameters: int, pixels: int) -> int:
        """How many crops of so many pixels a device can train a model on at once."""
        # The wider a model the more it keeps of a pixel, but part of that is masks and points.
        pixel = PIXEL * (parameters / REFERENCE) ** 0.4
        if self.precision != "32-true":
            pixel *= 0.7  # the pixel decoder and the loss stay in fp32
        return int((USED * self.memory - STATE * parameters) // (pixel * pixels))
