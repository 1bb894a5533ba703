"""Where a run takes place: versions, device, memory. Label to text, as a report shows it."""

from __future__ import annotations

import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch

from mask2former.modeling.mask2former import Mask2Former
from mask2former.training.evaluate import ranks
from mask2former.training.memory import peak_memory

PACKAGES = ("mask2former", "torch", "numpy", "lightning-fabric", "faster-coco-eval", "triton")


def environment(device: torch.device) -> dict[str, str]:
    """Of this process, now."""
    facts = {"device": device_name(device)}
    if device.type == "cpu":
        facts["threads"] = str(torch.get_num_threads())
    facts["processes"] = str(ranks())
    peak = peak_memory(device)
    if peak:
        facts["peak memory"] = f"{peak * 1e9 / 2**30:.2f} GiB"
    facts["system"] = platform.platform(terse=True)
    facts["Python"] = platform.python_version()
    for package in PACKAGES:
        try:
            facts[package] = version(package)
        except PackageNotFoundError:  # an optional one, or a source tree that is not installed
            continue
    return facts


def model_facts(model: Mask2Former) -> dict[str, str]:
    """Its size and shape."""
    parameters = sum(p.numel() for p in model.parameters())
    learnt = sum(p.numel() for p in model.parameters() if p.requires_grad)
    config = model.config
    backbone = type(config.backbone).__name__.removesuffix("Config")
    of_backbone = sum(p.numel() for p in model.backbone.parameters())
    facts = {
        "parameters": f"{parameters / 1e6:.2f} M",
        "backbone": f"{backbone}, {of_backbone / 1e6:.2f} M",
        "decoder": f"{config.decoder.layers} layers, {config.decoder.queries} queries",
        "image size": f"{config.view.shortest_side} to {config.view.longest_side} pixels",
        "weights": f"{parameters * 4 / 1e6:.1f} MB in float32",
    }
    if learnt not in (0, parameters):
        facts["trained"] = f"{learnt / 1e6:.2f} M"
    return facts


def device_name(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    if device.type != "cpu":
        return device.type
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        for line in cpuinfo.read_text(errors="replace").splitlines():
            if line.startswith("model name"):
                return f"CPU, {line.partition(':')[2].strip()}"
    return f"CPU, {platform.processor() or platform.machine()}"
