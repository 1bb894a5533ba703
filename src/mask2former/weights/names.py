"""What the weight formats of others share: tables of names, and what they can hold."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import replace

from torch import Tensor

from mask2former.modeling.decoder import DecoderConfig
from mask2former.modeling.fpn import FPNConfig
from mask2former.modeling.hf_backbone import HFBackboneConfig
from mask2former.modeling.mask2former import Mask2FormerConfig
from mask2former.modeling.pixel_decoder import PixelDecoderConfig

# Regular expressions from our names to theirs; the first that fits is used. `{1+2}` and `{1/2}` are
# group 1 plus 2, and halved; `<a|b>` says that they keep the parts of a joint tensor apart.
Table = tuple[tuple[str, str], ...]


def their_names(name: str, table: Table) -> list[str]:
    """The name, or the names of the parts, that one of our tensors has in another format."""
    for pattern, replacement in table:
        match = re.fullmatch(pattern, name)
        if match:
            theirs = _expand(match, replacement)
            parts = re.search(r"<(.*)>", theirs)
            if parts is None:
                return [theirs]
            return [theirs.replace(parts[0], part) for part in parts[1].split("|")]
    raise KeyError(name)


def _expand(match: re.Match[str], replacement: str) -> str:
    def number(found: re.Match[str]) -> str:
        group, operator, operand = int(match[int(found[1])]), found[2], int(found[3])
        return str(group + operand if operator == "+" else group // operand)

    return match.expand(re.sub(r"\{(\d)([+/])(\d)\}", number, replacement))


def require_official(
    config: Mask2FormerConfig, format: str, *, video: bool = False
) -> PixelDecoderConfig:
    """ValueError, naming the fields, if a model is none that the official code could be.

    `video` says whether `format` knows the video model. Returns the pixel decoder's part, which is
    of the official kind.
    """
    faults = []
    if isinstance(config.backbone, HFBackboneConfig):
        faults.append(
            f"its backbone is {config.backbone.model.get('model_type')!r} of transformers"
        )
    pixels = config.pixel_decoder
    if isinstance(pixels, FPNConfig):
        raise ValueError(f"{format} cannot hold this model: its pixel decoder is an FPN")
    free = {
        "decoder": ("channels", "mask_channels", "layers", "heads", "feedforward", "queries"),
        "pixel_decoder": ("channels", "layers", "heads", "feedforward"),
    }
    temporal = video and config.decoder.temporal_positions
    plain: dict[str, DecoderConfig | PixelDecoderConfig] = {
        "decoder": DecoderConfig(temporal_positions=temporal),
        "pixel_decoder": PixelDecoderConfig(),
    }
    for part, default in plain.items():
        ours = getattr(config, part)
        same = replace(default, **{name: getattr(ours, name) for name in (*free[part], "dropout")})
        faults += [
            f"{part}.{name} is {value!r}, not {getattr(same, name)!r}"
            for name, value in vars(ours).items()
            if value != getattr(same, name)
        ]
    if pixels.heads != config.decoder.heads:
        faults.append("pixel_decoder.heads and decoder.heads differ")
    if pixels.dropout != config.decoder.dropout:
        faults.append("pixel_decoder.dropout and decoder.dropout differ")
    if pixels.channels != config.decoder.channels:
        faults.append("pixel_decoder.channels and decoder.channels differ")
    if faults:
        raise ValueError(f"{format} cannot hold this model: {'; '.join(faults)}")
    return pixels


def with_counters_of(
    expected: Mapping[str, Tensor], tensors: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """`tensors` with just those counts of batches that are expected, if need be the own ones.

    A norm that is trained counts the batches it has seen, a frozen one does not; either way its
    other tensors serve the other kind.
    """
    own = {n: t for n, t in expected.items() if _is_counter(n)}
    return own | {n: t for n, t in tensors.items() if n in expected or not _is_counter(n)}


def _is_counter(name: str) -> bool:
    return name.endswith("num_batches_tracked")


def misfits(
    expected: Mapping[str, Tensor],
    found: Mapping[str, Tensor],
    *,
    optional: Collection[str] = (),
    most: int = 20,
) -> str:
    """What keeps tensors from being those of a model: missing, unknown, of another shape.

    Nothing if they fit; else how many there are and the first `most` of them, a line each.
    """
    faults = [f"missing: {name}" for name in expected if name not in found and name not in optional]
    faults += [f"unknown: {name}" for name in found if name not in expected]
    faults += [
        f"shape of {name}: {tuple(tensor.shape)}, expected {tuple(expected[name].shape)}"
        for name, tensor in found.items()
        if name in expected and tensor.shape != expected[name].shape
    ]
    if not faults:
        return ""
    more = [f"and {len(faults) - most} more"] if len(faults) > most else []
    return "\n  ".join([f"({len(faults)} tensors):", *faults[:most], *more])
