"""The moving average of a model's weights: better than the last ones, for nothing."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor


class Average:
    """Exponential moving average of a model's parameters and buffers, wherever they are."""

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.decay, self.updates = decay, 0
        self.tensors: dict[str, Tensor] = {
            name: t.detach().clone() for name, t in model.state_dict().items()
        }

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        self.updates += 1
        # Young averages forget faster: the first steps are not worth remembering.
        decay = min(self.decay, (1 + self.updates) / (10 + self.updates))
        current = model.state_dict()
        floating = [name for name, mean in self.tensors.items() if mean.is_floating_point()]
        torch._foreach_lerp_(
            [held(self.tensors[name]) for name in floating],
            [held(current[name]) for name in floating],
            1 - decay,
        )
        for name in self.tensors.keys() - set(floating):
            self.tensors[name].copy_(current[name])


def held(tensor: Tensor) -> Tensor:
    """What this process has of a tensor: under fsdp a part of it."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor
