"""Backbones that others trained, on ImageNet mostly, as what a training starts from."""

from __future__ import annotations

import re
from pathlib import Path

from torch import Tensor

from mask2former.modeling.hf_backbone import HFBackbone
from mask2former.modeling.mask2former import Mask2Former
from mask2former.weights import EMBEDDED, detectron2, files, huggingface, mmdetection, native
from mask2former.weights.names import misfits, with_counters_of

# The classifier, its last norm, and constants.
_SURPLUS = re.compile(r"(?:stem\.)?(fc|head|norm|classifier|layernorm|pooler)\..*|.*\.attn_mask")
_THEIR_PREFIX = re.compile(r"^(swin|resnet|model)\.")
_HUGGING_FACE = ("embeddings.", "embedder.")  # what their names begin with


def load_backbone(model: Mask2Former, path: str | Path) -> None:
    """Give a model the backbone of a classification network, whoever wrote it, or of our models.

    torchvision's ResNet (`.pth`), detectron2's (`.pkl`, those converted from torchvision's), the
    official Swin (`.pth`), folders of transformers (Swin, ResNet); an embedded model's name or a
    folder that this package wrote. Norms that a classifier has
    not (of Swin's maps) stay as they are. A backbone of transformers takes its own, by folder or by
    name on the Hub. ValueError lists what is missing or of another shape.
    """
    if isinstance(model.backbone, HFBackbone):
        model.backbone.load_pretrained(str(path))
        return
    if (EMBEDDED / path).is_dir():
        path = EMBEDDED / path
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"{path}: no such file or folder; backbone_weights names a file")
    expected = {f"backbone.{name}": t for name, t in model.backbone.state_dict().items()}
    found = with_counters_of(expected, read_backbone(path, model))
    optional = {name for name in expected if re.match(r"backbone\.stages\.\d\.norm\.", name)}
    faults = misfits(expected, found, optional=optional, most=10)
    if faults:
        raise ValueError(
            f"{path}: no weights of this backbone {faults}\n"
            "Choose the file of the same architecture, or change model.backbone"
        )
    model.load_state_dict(found, strict=False)


def read_backbone(path: Path, model: Mask2Former) -> dict[str, Tensor]:
    """The tensors of a file or folder under our names."""
    config = path / native.CONFIG
    if config.exists() and "model_type" not in files.read_json(config):
        ours = files.read_safetensors(path / native.WEIGHTS)
        return {name: t.float() for name, t in ours.items() if name.startswith("backbone.")}
    read = huggingface.read_weights if path.is_dir() else detectron2.read_checkpoint
    return converted(read(path), model)


def converted(tensors: dict[str, Tensor], model: Mask2Former) -> dict[str, Tensor]:
    """A classifier's tensors under our names; those without a place keep theirs."""
    bare = {_THEIR_PREFIX.sub("", name): t for name, t in tensors.items()}
    bare = {name: t for name, t in bare.items() if not _SURPLUS.fullmatch(name)}
    if any(name.startswith(_HUGGING_FACE) for name in bare):
        return huggingface.convert({huggingface.ENCODER + n: t for n, t in bare.items()}, model)
    named = {mmdetection.official_name(f"backbone.{name}"): t for name, t in bare.items()}
    ours = [f"backbone.{name}" for name in model.backbone.state_dict()]
    return detectron2.convert(named, ours)
