"""The official checkpoints: detectron2's `.pkl` and `.pth` with the `config.yaml` beside them."""

from __future__ import annotations

import io
import pickle
import re
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from torch import Tensor

from mask2former.modeling.decoder import DecoderConfig
from mask2former.modeling.mask2former import Mask2FormerConfig
from mask2former.modeling.pixel_decoder import PixelDecoderConfig
from mask2former.modeling.resnet import ResNetConfig
from mask2former.modeling.swin import SwinConfig
from mask2former.structures import Category, View
from mask2former.weights.files import tensors_of, torch_content
from mask2former.weights.infer import categories_for, numbered
from mask2former.weights.names import Table, their_names

EXACT = "mask2former.json"  # what we write beside a checkpoint of ours: all that a yaml cannot say
RESNET_DEPTHS = {50: (3, 4, 6, 3), 101: (3, 4, 23, 3)}

_NAMES: Table = (
    (r"backbone\.stem\.conv\.(.*)", r"backbone.stem.conv1.\1"),
    (r"backbone\.stem\.norm\.(.*)", r"backbone.stem.conv1.norm.\1"),
    (
        r"backbone\.stages\.(\d+)\.(\d+)\.convs\.(\d+)\.conv\.(.*)",
        r"backbone.res{1+2}.\2.conv{3+1}.\4",
    ),
    (
        r"backbone\.stages\.(\d+)\.(\d+)\.convs\.(\d+)\.norm\.(.*)",
        r"backbone.res{1+2}.\2.conv{3+1}.norm.\4",
    ),
    (r"backbone\.stages\.(\d+)\.(\d+)\.shortcut\.conv\.(.*)", r"backbone.res{1+2}.\2.shortcut.\3"),
    (
        r"backbone\.stages\.(\d+)\.(\d+)\.shortcut\.norm\.(.*)",
        r"backbone.res{1+2}.\2.shortcut.norm.\3",
    ),
    (r"backbone\.patch_embed\.(.*)", r"backbone.patch_embed.proj.\1"),
    (r"backbone\.patch_norm\.(.*)", r"backbone.patch_embed.norm.\1"),
    (r"backbone\.stages\.(\d+)\.norm\.(.*)", r"backbone.norm\1.\2"),
    (
        r"backbone\.stages\.(\d+)\.blocks\.(\d+)\.attention\.(.*)",
        r"backbone.layers.\1.blocks.\2.attn.\3",
    ),
    (
        r"backbone\.stages\.(\d+)\.blocks\.(\d+)\.mlp\.0\.(.*)",
        r"backbone.layers.\1.blocks.\2.mlp.fc1.\3",
    ),
    (
        r"backbone\.stages\.(\d+)\.blocks\.(\d+)\.mlp\.2\.(.*)",
        r"backbone.layers.\1.blocks.\2.mlp.fc2.\3",
    ),
    (r"backbone\.stages\.(\d+)\.blocks\.(.*)", r"backbone.layers.\1.blocks.\2"),
    (r"backbone\.merges\.(\d+)\.(.*)", r"backbone.layers.\1.downsample.\2"),
    (r"pixel_decoder\.projections\.(.*)", r"sem_seg_head.pixel_decoder.input_proj.\1"),
    (r"pixel_decoder\.level_embedding", r"sem_seg_head.pixel_decoder.transformer.level_embed"),
    (
        r"pixel_decoder\.layers\.(\d+)\.attention\.offsets\.(.*)",
        r"sem_seg_head.pixel_decoder.transformer.encoder.layers.\1.self_attn.sampling_offsets.\2",
    ),
    (
        r"pixel_decoder\.layers\.(\d+)\.attention\.weights\.(.*)",
        r"sem_seg_head.pixel_decoder.transformer.encoder.layers.\1.self_attn.attention_weights.\2",
    ),
    (
        r"pixel_decoder\.layers\.(\d+)\.attention\.(value|output)\.(.*)",
        r"sem_seg_head.pixel_decoder.transformer.encoder.layers.\1.self_attn.\2_proj.\3",
    ),
    (r"pixel_decoder\.layers\.(.*)", r"sem_seg_head.pixel_decoder.transformer.encoder.layers.\1"),
    (r"pixel_decoder\.lateral\.(.*)", r"sem_seg_head.pixel_decoder.adapter_1.\1"),
    (r"pixel_decoder\.lateral_norm\.(.*)", r"sem_seg_head.pixel_decoder.adapter_1.norm.\1"),
    (r"pixel_decoder\.output\.(.*)", r"sem_seg_head.pixel_decoder.layer_1.\1"),
    (r"pixel_decoder\.output_norm\.(.*)", r"sem_seg_head.pixel_decoder.layer_1.norm.\1"),
    (r"pixel_decoder\.mask_features\.(.*)", r"sem_seg_head.pixel_decoder.mask_features.\1"),
    (r"decoder\.query_features", r"sem_seg_head.predictor.query_feat.weight"),
    (r"decoder\.query_positions", r"sem_seg_head.predictor.query_embed.weight"),
    (r"decoder\.level_embedding", r"sem_seg_head.predictor.level_embed.weight"),
    (
        r"decoder\.layers\.(\d+)\.cross_attention\.norm\.(.*)",
        r"sem_seg_head.predictor.transformer_cross_attention_layers.\1.norm.\2",
    ),
    (
        r"decoder\.layers\.(\d+)\.cross_attention\.(.*)",
        r"sem_seg_head.predictor.transformer_cross_attention_layers.\1.multihead_attn.\2",
    ),
    (
        r"decoder\.layers\.(\d+)\.self_attention\.norm\.(.*)",
        r"sem_seg_head.predictor.transformer_self_attention_layers.\1.norm.\2",
    ),
    (
        r"decoder\.layers\.(\d+)\.self_attention\.(.*)",
        r"sem_seg_head.predictor.transformer_self_attention_layers.\1.self_attn.\2",
    ),
    (
        r"decoder\.layers\.(\d+)\.feedforward\.(.*)",
        r"sem_seg_head.predictor.transformer_ffn_layers.\1.\2",
    ),
    (r"decoder\.head\.norm\.(.*)", r"sem_seg_head.predictor.decoder_norm.\1"),
    (r"decoder\.head\.class_logits\.(.*)", r"sem_seg_head.predictor.class_embed.\1"),
    (
        r"decoder\.head\.mask_embedding\.(\d+)\.(.*)",
        r"sem_seg_head.predictor.mask_embed.layers.{1/2}.\2",
    ),
    (r"decoder\.projection\.(.*)", r"sem_seg_head.predictor.input_proj.0.\1"),
)
# Found in checkpoints and not needed: recomputed, or a constant of the loss.
_SURPLUS = re.compile(
    r"criterion\.empty_weight|.*\.relative_position_index|.*\.num_batches_tracked"
)


def official_name(name: str) -> str:
    """The official checkpoints' name of one of our parameters or buffers."""
    (theirs,) = their_names(name, _NAMES)
    return theirs


def renamed(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The same under the latest names: the published image checkpoints have an older one."""
    static = "sem_seg_head.predictor.static_query.weight"
    return {
        "sem_seg_head.predictor.query_feat.weight" if name == static else name: tensor
        for name, tensor in tensors.items()
    }


def convert(tensors: dict[str, Tensor], names: list[str]) -> dict[str, Tensor]:
    """Official tensors under our `names`; those that have no place here keep their own name, so
    that loading can list them."""
    wanted = {official_name(name) for name in names}
    tensors = {
        name: tensor
        for name, tensor in renamed(tensors).items()
        if name in wanted or not _SURPLUS.fullmatch(name)
    }
    ours = {}
    for name in names:
        theirs = official_name(name)
        if theirs in tensors:
            ours[name] = tensors.pop(theirs)
    return ours | tensors


# --- reading files without executing anything in them ---------------------------------------------


def _ndarray(subtype: Any, shape: tuple[int, ...], kind: bytes) -> Any:
    """What pickled arrays start from, for true arrays only."""
    if subtype is not np.ndarray:
        raise pickle.UnpicklingError("an array of another class than numpy's own")
    return np.empty(shape, dtype=kind)


def _from_buffer(buffer: bytes, dtype: Any, shape: tuple[int, ...], order: Any) -> Any:
    """What protocol 5 makes arrays with."""
    return np.frombuffer(buffer, dtype).reshape(shape, order=order)


class _StateDict(dict[str, Any]):
    """Stands for OrderedDict: it may carry `_metadata`, which is of no use here."""

    def __setstate__(self, state: Any) -> None:
        pass


def _encode(text: str, encoding: str) -> bytes:
    """How protocol 2 writes bytes."""
    if encoding != "latin1":
        raise pickle.UnpicklingError(f"bytes in encoding {encoding!r}")
    return text.encode(encoding)


# numpy's function that pickled numbers are made with; its home moved from numpy 1 to 2.
_scalar = np.float64(0).__reduce__()[0]
_ALLOWED: dict[tuple[str, str], Any] = {
    ("collections", "OrderedDict"): _StateDict,
    ("numpy", "ndarray"): np.ndarray,
    ("numpy", "dtype"): np.dtype,
    ("_codecs", "encode"): _encode,
}
for _core in ("numpy.core", "numpy._core"):  # numpy 1 and 2
    _ALLOWED[_core + ".multiarray", "_reconstruct"] = _ndarray
    _ALLOWED[_core + ".multiarray", "scalar"] = _scalar
    _ALLOWED[_core + ".numeric", "_frombuffer"] = _from_buffer


class _Unpickler(pickle.Unpickler):
    """Knows arrays, dictionaries and numbers, and nothing that could run."""

    def find_class(self, module: str, name: str) -> Any:
        try:
            return _ALLOWED[module, name]
        except KeyError:
            if module.startswith("torch"):
                raise pickle.UnpicklingError(
                    "it holds torch's tensors, which are not read from a .pkl; load the .pth that"
                    " it was made from"
                ) from None
            raise pickle.UnpicklingError(
                f"it wants to load '{module}.{name}', which no checkpoint needs; "
                "nothing of it was run. Do not trust this file"
            ) from None


def read_checkpoint(path: Path) -> dict[str, Tensor]:
    """The tensors of a `.pkl` of detectron2, or of any file of `torch.save`."""
    return tensors_of(checkpoint_content(path), path)


def checkpoint_content(path: Path) -> Any:
    """All that such a file holds, read without executing anything in it, or a ValueError."""
    if path.suffix != ".pkl":
        return torch_content(path)
    try:
        return _Unpickler(io.BytesIO(path.read_bytes()), encoding="latin1").load()
    except Exception as e:  # damaged pickles raise nearly anything
        raise ValueError(f"{path}: not a detectron2 checkpoint: {e}") from None


# --- detectron2's yaml -> our config --------------------------------------------------------------


def read_config(
    path: Path, tensors: dict[str, Tensor], classes: str | tuple[str, ...] | None = None
) -> Mask2FormerConfig:
    """The model that a detectron2 `config.yaml` describes; `classes` as for `load_model`.

    The yaml leaves three things to the code or the data set, which are read off the tensors: the
    encoder's feed-forward width, whether it is the video model's, and what the classes are.
    """
    try:
        tree = yaml.safe_load(path.read_text())
        model = tree["MODEL"]
        former, head = model["MASK_FORMER"], model["SEM_SEG_HEAD"]
        test = former["TEST"]
        return Mask2FormerConfig(
            categories=_categories(head["NUM_CLASSES"], test, classes, path),
            backbone=_backbone(model),
            pixel_decoder=PixelDecoderConfig(
                channels=head["CONVS_DIM"],
                layers=head["TRANSFORMER_ENC_LAYERS"],
                heads=former["NHEADS"],
                feedforward=_encoder_width(tensors),
                dropout=former["DROPOUT"],
            ),
            decoder=DecoderConfig(
                channels=former["HIDDEN_DIM"],
                mask_channels=head["MASK_DIM"],
                layers=former["DEC_LAYERS"] - 1,
                heads=former["NHEADS"],
                feedforward=former["DIM_FEEDFORWARD"],
                queries=former["NUM_OBJECT_QUERIES"],
                temporal_positions=model["META_ARCHITECTURE"] == "VideoMaskFormer",
            ),
            view=View(
                shortest_side=_single(tree["INPUT"]["MIN_SIZE_TEST"]),
                longest_side=tree["INPUT"]["MAX_SIZE_TEST"],
                mean=tuple(model["PIXEL_MEAN"]),
                std=tuple(model["PIXEL_STD"]),
                size_divisor=former["SIZE_DIVISIBILITY"],
                object_threshold=test["OBJECT_MASK_THRESHOLD"],
                overlap_threshold=test["OVERLAP_THRESHOLD"],
                max_detections=tree["TEST"]["DETECTIONS_PER_IMAGE"],
                instances_of_things_only=test["PANOPTIC_ON"],
                resize_semantic_scores=not (
                    test.get("SEM_SEG_POSTPROCESSING_BEFORE_INFERENCE", False)
                    or test["PANOPTIC_ON"]
                    or test["INSTANCE_ON"]
                ),
            ),
        )
    except (yaml.YAMLError, UnicodeDecodeError) as e:
        raise ValueError(f"{path}: not valid YAML: {e}") from None
    except KeyError as e:
        raise ValueError(
            f"{path}: not a detectron2 config of a Mask2Former: key {e} is missing"
        ) from None
    except TypeError as e:
        raise ValueError(f"{path}: not a detectron2 config of a Mask2Former: {e}") from None


def _single(value: int | list[int]) -> int:
    return value if isinstance(value, int) else value[0]


def _encoder_width(tensors: dict[str, Tensor]) -> int:
    for name, tensor in tensors.items():
        if re.search(r"pixel_decoder\.transformer\.encoder\.layers\.0\.linear1\.weight$", name):
            return len(tensor)
    return 1024


def _backbone(model: dict[str, Any]) -> ResNetConfig | SwinConfig:
    if "Swin" in model["BACKBONE"]["NAME"]:
        swin = model["SWIN"]
        return SwinConfig(
            width=swin["EMBED_DIM"],
            depths=tuple(swin["DEPTHS"]),
            heads=tuple(swin["NUM_HEADS"]),
            window=swin["WINDOW_SIZE"],
            mlp_ratio=float(swin["MLP_RATIO"]),
            drop_path=swin["DROP_PATH_RATE"],
        )
    resnet = model["RESNETS"]
    if resnet["DEPTH"] not in RESNET_DEPTHS:
        raise ValueError(f"MODEL.RESNETS.DEPTH {resnet['DEPTH']}: only 50 and 101 are released")
    return ResNetConfig(
        depths=RESNET_DEPTHS[resnet["DEPTH"]],
        stem_channels=resnet["STEM_OUT_CHANNELS"],
        width=resnet["WIDTH_PER_GROUP"] * resnet["NUM_GROUPS"],
        channels=resnet["RES2_OUT_CHANNELS"],
        norm="frozen_batch_norm" if resnet["NORM"] == "FrozenBN" else "batch_norm",
    )


def _categories(
    count: int, test: dict[str, Any], classes: str | tuple[str, ...] | None, path: Path
) -> tuple[Category, ...]:
    """The classes that are named, or stand-ins: the yaml names the data set, not its classes."""
    if classes is not None:
        return categories_for(count, classes, path)
    semantic_only = test["SEMANTIC_ON"] and not test["PANOPTIC_ON"] and not test["INSTANCE_ON"]
    return numbered(count, is_thing=not semantic_only)
