"""What a training may use of this machine, and what a model needs of it."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Literal

import torch

from mask2former.segmenter import pick_device

Precision = Literal["32-true", "bf16-mixed", "16-mixed"]
# Bytes a pixel of a training crop in fp32: measured for R50 (44M parameters) at 512x512 pixels.
PIXEL, REFERENCE = 7_500, 44e6
# How they grow with the parameters: 730 bytes were measured at 3.1M, and Swin-L (216M) was trained
# by the paper on two crops of 1024x1024 in 32 GB, in mixed precision.
GROWTH_BELOW, GROWTH_ABOVE = 0.85, 0.6
MIXED = 0.7  # of that in mixed precision, where pixel decoder and loss stay in fp32
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
            memory = 2**34  # where the system does not say
            if hasattr(os, "sysconf"):
                memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
            return cls(kind=kind, memory=memory // 2)  # others are at home here, too
        free, _ = torch.cuda.mem_get_info()
        precision: Precision = "bf16-mixed" if torch.cuda.is_bf16_supported() else "16-mixed"
        count = torch.cuda.device_count()
        return cls(kind=kind, memory=free, devices=count, precision=precision)

    def fitting(self, parameters: int, pixels: int) -> int:
        """How many crops of so many pixels a device can train a model on at once."""
        ratio = parameters / REFERENCE
        pixel = PIXEL * ratio ** (GROWTH_ABOVE if ratio > 1 else GROWTH_BELOW)
        if self.precision != "32-true":
            pixel *= MIXED
        return int((USED * self.memory - STATE * parameters) // (pixel * pixels))
