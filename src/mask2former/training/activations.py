"""Activation checkpointing: memory for time, at the same gradients."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from typing import Any

from torch import nn
from torch.utils.checkpoint import checkpoint

from mask2former.modeling.decoder import DecoderLayer
from mask2former.modeling.hf_backbone import HFBackbone
from mask2former.modeling.mask2former import Mask2Former
from mask2former.modeling.pixel_decoder import EncoderLayer
from mask2former.modeling.resnet import ResNet
from mask2former.modeling.swin import SwinStage


def checkpoint_activations(model: Mask2Former) -> None:
    """Let each stage and each layer keep its input alone and compute the rest again backwards.

    Names of weights stay as they are. A backbone of transformers does it in its own way, if it can.
    """
    backbone = model.backbone
    if isinstance(backbone, HFBackbone) and not backbone.frozen:
        body: Any = backbone.body
        if body.supports_gradient_checkpointing:
            body.gradient_checkpointing_enable({"use_reentrant": False})
    stages = list(backbone.stages) if isinstance(backbone, ResNet) else []
    for module in model.modules():
        if isinstance(module, SwinStage | EncoderLayer | DecoderLayer) or module in stages:
            module.forward = _checkpointed(module, module.forward)


def _checkpointed(module: nn.Module, forward: Callable[..., Any]) -> Callable[..., Any]:
    def contexts() -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
        return nullcontext(), _statistics_kept(module)

    return partial(checkpoint, forward, use_reentrant=False, context_fn=contexts)


@contextmanager
def _statistics_kept(module: nn.Module) -> Iterator[None]:
    """The second forward pass must not count a batch twice in the running statistics."""
    norms = [m for m in module.modules() if isinstance(m, nn.BatchNorm2d) and m.training]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.momentum = 0.0
    try:
        yield
    finally:
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum
            if norm.num_batches_tracked is not None:
                norm.num_batches_tracked -= 1
