"""3x3 convolutions with a quarter of the multiplications (Winograd; Lavin and Gray, CVPR 2016).

F(4x4, 3x3): a tile of 4x4 results is made of 6x6 inputs. Transformed, the convolution of a tile is
36 products of channels, where 4 x 4 x 9 = 144 were. Rounding errors are about three times those of
the plain convolution, a few millionths.
"""

from __future__ import annotations

import platform
from functools import lru_cache

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from mask2former import onednn

TILE = 4
WIDE = 128  # channels; with fewer, the transforms cost what the products save
MANY = 64  # tiles; with fewer, the transform of the kernel does
MEASURED = platform.machine() in ("x86_64", "AMD64")  # elsewhere oneDNN takes other ways
BAND = 256  # tiles that are transformed together, about: what lies between stays in the cache


def gains(
    x: Float[Tensor, "B C h w"],
    weight: Float[Tensor, "D C k k"],
    stride: tuple[int, ...],
    padding: tuple[int, ...],
) -> bool:
    """Whether `convolve` does what such a convolution does, and faster.

    Of models whose channels come last alone, as `Segmenter.from_pretrained` makes them, so that
    others have the rounding errors of a plain convolution.
    """
    batch, _, height, width = x.shape
    return (
        x.dtype == torch.float32
        and onednn.fuses(x)
        and MEASURED
        and torch.get_float32_matmul_precision() == "highest"  # rounded more, it would be far off
        and weight.shape[-2:] == (3, 3)
        and weight.is_contiguous(memory_format=torch.channels_last)
        and set(stride) == set(padding) == {1}
        and height % TILE == width % TILE == 0
        and min(weight.shape[:2]) >= WIDE
        and batch * height * width >= MANY * TILE**2
    )


@lru_cache(maxsize=1)
def transforms() -> tuple[Float[Tensor, "36 36"], Float[Tensor, "36 9"], Float[Tensor, "16 36"]]:
    """Of a tile's inputs, of a kernel, and of a tile's results: both axes at once.

    Those of one axis evaluate polynomials at 0, 1, -1, 2, -2 and infinity and find the product's
    coefficients from its values there.
    """
    inputs = [
        [4, 0, -5, 0, 1, 0],
        [0, -4, -4, 1, 1, 0],
        [0, 4, -4, -1, 1, 0],
        [0, -2, -1, 2, 1, 0],
        [0, 2, -1, -2, 1, 0],
        [0, 4, 0, -5, 0, 1],
    ]
    kernel = [
        [6, 0, 0],
        [-4, -4, -4],
        [-4, 4, -4],
        [1, 2, 4],
        [1, -2, 4],
        [0, 0, 24],
    ]
    results = [
        [1, 1, 1, 1, 1, 0],
        [0, 1, -1, 2, -2, 0],
        [0, 1, 1, 4, 4, 0],
        [0, 1, -1, 8, -8, 1],
    ]
    with torch.inference_mode(False):
        one_axis = (
            torch.tensor(t, dtype=torch.float64, device="cpu") for t in (inputs, kernel, results)
        )
        of_inputs, of_kernel, of_results = (torch.kron(t, t) for t in one_axis)
        return of_inputs.float(), of_kernel.div(24**2).float(), of_results.float()


def convolve(
    x: Float[Tensor, "B C h w"],
    weight: Float[Tensor, "D C 3 3"],
    bias: Float[Tensor, "D"] | None = None,
) -> Float[Tensor, "B D h w"]:
    """`F.conv2d(x, weight, bias, padding=1)` of sides that are multiples of 4, up to rounding."""
    of_inputs, of_kernel, of_results = transforms()
    batch, channels, height, width = x.shape
    padded = F.pad(x.permute(0, 2, 3, 1), (0, 0, 1, 1, 1, 1))
    tiles = padded.unfold(1, TILE + 2, TILE).unfold(2, TILE + 2, TILE).permute(1, 0, 2, 4, 5, 3)
    # Not made as a view, for autograd forbids to work in place on one that a function returns.
    out = torch.empty(
        (batch, len(weight), height, width),
        dtype=x.dtype,
        device=x.device,
        memory_format=torch.channels_last,
    )
    kernel = (of_kernel @ weight.permute(2, 3, 0, 1).reshape(9, -1)).view(-1, channels, 1, 1)
    down = max(1, BAND // (batch * width // TILE))
    packed, packed_for = kernel, 0
    places = out.permute(0, 2, 3, 1).split(down * TILE, 1)
    for band, place in zip(tiles.split(down), places, strict=True):
        inputs = of_inputs @ band.reshape(-1, 36, channels)
        if len(inputs) != packed_for:  # the last band may be smaller
            packed, packed_for = onednn.pack(kernel, groups=36, columns=len(inputs)), len(inputs)
        # One convolution of 36 groups of channels: the 36 products.
        image = inputs.view(1, 1, len(inputs), -1).permute(0, 3, 1, 2)
        products = onednn.convolve(image, packed, None, groups=36).permute(0, 2, 3, 1)
        results = of_results @ products.reshape(-1, 36, len(weight))
        if bias is not None:
            results += bias
        rows = place.view(batch, -1, TILE, width // TILE, TILE, len(weight))
        shape = (-1, batch, width // TILE, TILE, TILE, len(weight))
        rows.copy_(results.view(shape).permute(1, 0, 3, 2, 4, 5))
    return out
