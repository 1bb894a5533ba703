"""The contract of a backbone."""

from __future__ import annotations

from abc import ABC, abstractmethod

from jaxtyping import Float
from torch import Tensor, nn

STRIDES = (4, 8, 16, 32)


class Backbone(nn.Module, ABC):
    """Turns images into feature maps at strides 4, 8, 16 and 32 with `channels` channels each."""

    channels: tuple[int, int, int, int]

    @abstractmethod
    def forward(self, images: Float[Tensor, "B 3 H W"]) -> list[Float[Tensor, "B C h w"]]:
        """Finest map first; sides are rounded up where a stride does not divide them."""
