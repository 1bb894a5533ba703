"""Parts of a model that a training leaves as they are."""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence

from mask2former.modeling.mask2former import Mask2Former
from mask2former.modeling.swin import Swin

_STAGE = re.compile(r"backbone\.stage([1-4])")


def freeze(model: Mask2Former, parts: Sequence[str]) -> None:
    """Take no gradients for `parts`, and keep their norms and dropout as in evaluation.

    A part is "backbone", "backbone.stem", "backbone.stage1" .. "backbone.stage4", or the name of
    any module or parameter, as "pixel_decoder" or "decoder.query_features".
    ValueError names a part that the model has not, or says that nothing would be left to train.
    """
    modules, parameters = dict(model.named_modules()), dict(model.named_parameters())
    for part in parts:
        names = _names(part, model)
        for name in names:
            if name in modules:
                modules[name].requires_grad_(False).eval()
            elif name in parameters:
                parameters[name].requires_grad_(False)
            else:
                known = [*modules, *parameters, "backbone.stem", "backbone.stage1"]
                near = difflib.get_close_matches(part, known, n=1)
                raise ValueError(
                    f"freeze: the model has no part {part!r}"
                    + (f"; did you mean {near[0]!r}?" if near else "")
                )
    if parts and not any(parameter.requires_grad for parameter in model.parameters()):
        raise ValueError(f"freeze: {', '.join(parts)} leave nothing to train; name fewer parts")


def _names(part: str, model: Mask2Former) -> list[str]:
    """The modules that a part is made of."""
    swin = isinstance(model.backbone, Swin)
    if part == "backbone.stem" and swin:
        return ["backbone.patch_embed", "backbone.patch_norm"]
    found = _STAGE.fullmatch(part)
    if found is None:
        return [part]
    stage = int(found[1]) - 1
    # A Swin's patches are merged between stages: that belongs to the one that follows.
    merges = [f"backbone.merges.{stage - 1}"] if swin and stage else []
    return [f"backbone.stages.{stage}", *merges]
