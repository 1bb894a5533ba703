"""Weights in and out. `load_model` finds out which format a path is."""

from __future__ import annotations

import difflib
import logging
import re
from dataclasses import replace
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from mask2former.modeling.mask2former import Mask2Former, Mask2FormerConfig
from mask2former.serialization import from_dict
from mask2former.weights import (
    detectron2,
    detectron2_writer,
    files,
    huggingface,
    infer,
    mmdetection,
    native,
)
from mask2former.weights.hub import fetch_repository
from mask2former.weights.names import misfits
from mask2former.weights.released import Released, released_models

Format = Literal["mask2former", "transformers", "detectron2"]
EMBEDDED = Path(__file__).parents[1] / "models"
CHECKPOINTS = (".pkl", ".pth", ".pt")
log = logging.getLogger("mask2former")


def load_model(path: str | Path, *, classes: str | tuple[str, ...] | None = None) -> Mask2Former:
    """A model from a folder or a weights file, whoever wrote it.

    - our own folder: `config.json`, `model.safetensors`
    - transformers': `config.json`, `model.safetensors` or `pytorch_model.bin`
    - the official `.pkl` or `.pth`, with its `config.yaml` beside it or without
    - mmdetection's or mmsegmentation's `.pth`, which mostly names its classes

    `classes` says what a checkpoint without class names tells apart: a benchmark ("coco", "ade20k",
    ...; see `data.class_lists`) or the names. FileNotFoundError or ValueError say what is missing
    and where it was looked for. Which format it was is logged (logger "mask2former", INFO).
    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"{path}: no such file or folder")
    folder = path if path.is_dir() else path.parent
    if path.suffix in CHECKPOINTS:
        return _load_checkpoint(path, classes)
    config = folder / native.CONFIG
    if not config.exists():
        return _load_checkpoint(_checkpoint_in(path), classes)
    if classes is not None:
        raise ValueError(f"{config}: names the classes already; leave 'classes' out")
    tree = files.read_json(config)
    if "model_type" in tree:
        log.info("%s: a model of transformers", folder)
        model = Mask2Former(huggingface.read_config(folder, tree))
        tensors = huggingface.convert(huggingface.read_weights(folder), model)
        load_tensors(model, tensors, str(folder))
        return model
    weights = folder / native.WEIGHTS if path.is_dir() else path
    if not weights.exists():
        raise FileNotFoundError(f"{weights}: no such file; {native.CONFIG} lies there without it")
    log.info("%s: a model of this package", folder)
    model = Mask2Former(native.read_config(config))
    load_tensors(model, files.read_safetensors(weights), str(weights))
    return model


def _checkpoint_in(path: Path) -> Path:
    """The one checkpoint of a folder, or detectron2's last; FileNotFoundError if none is meant."""
    trained = path if path.is_dir() else path.parent
    if (trained / "model" / native.CONFIG).exists():
        raise FileNotFoundError(
            f"{path}: is the folder of a training; its weights are in {trained / 'model'}"
        )
    found = sorted(path.glob("*")) if path.is_dir() else []
    found = [p for p in found if p.suffix in CHECKPOINTS]
    last = [p for p in found if p.stem == "model_final"] or found
    if len(last) == 1:
        return last[0]
    if last:
        names = ", ".join(p.name for p in last)
        raise FileNotFoundError(f"{path}: holds several checkpoints; name one of them: {names}")
    raise FileNotFoundError(
        f"{path}: holds no model: expected {native.CONFIG} and {native.WEIGHTS}, or a .pkl or .pth"
    )


def _load_checkpoint(path: Path, classes: str | tuple[str, ...] | None) -> Mask2Former:
    """The official format, or one that is turned into it by renaming."""
    if path.name == "checkpoint.pth" and (path.parent / "model" / native.CONFIG).exists():
        raise ValueError(
            f"{path}: is what a training goes on from; its weights are in {path.parent / 'model'}"
        )
    content = detectron2.checkpoint_content(path)
    tensors = files.tensors_of(content, path)
    yaml, exact = path.with_name("config.yaml"), path.with_name(detectron2.EXACT)
    if mmdetection.is_mmdetection(tensors):
        log.info("%s: a checkpoint of mmdetection", path)
        tensors = mmdetection.official_tensors(tensors)
        config = infer.config_of(tensors, path, classes=classes)
        named = None if classes else mmdetection.class_names(content)
        if named is not None:
            categories = infer.categories_of_meta(len(config.categories), *named, path)
            config = replace(config, categories=categories)
    elif exact.exists():
        if classes is not None:
            raise ValueError(f"{exact}: names the classes already; leave 'classes' out")
        log.info("%s: an official checkpoint that this package wrote", path)
        config = from_dict(Mask2FormerConfig, files.read_json(exact), str(exact))
    elif yaml.exists():
        log.info("%s: an official checkpoint with %s", path, yaml.name)
        config = detectron2.read_config(yaml, tensors, classes)
    else:
        log.info("%s: an official checkpoint; its model is read off the shapes", path)
        config = infer.config_of(detectron2.renamed(tensors), path, classes=classes)
    return _of_official(config, tensors, path)


def _of_official(config: Mask2FormerConfig, tensors: dict[str, Tensor], path: Path) -> Mask2Former:
    model = Mask2Former(config)
    load_tensors(model, detectron2.convert(tensors, list(model.state_dict())), str(path))
    return model


def save_model(
    model: Mask2Former, folder: str | Path, format: Format, *, dtype: torch.dtype | None = None
) -> None:
    """Write a model as a folder of the named format; ValueError says why it has no place there.

    `dtype` is how floating-point weights are stored (default: as they are).
    """
    if format == "mask2former":
        native.save_model(model, folder, dtype=dtype)
    elif format == "transformers":
        huggingface.save_model(model, Path(folder), dtype=dtype)
    else:
        detectron2_writer.save_model(model, Path(folder), dtype=dtype)


def load_tensors(model: Mask2Former, tensors: dict[str, Tensor], source: str) -> None:
    """Copy tensors into a model. ValueError lists what is missing, unknown or of another shape."""
    faults = misfits(model.state_dict(), tensors)
    if faults:
        raise ValueError(f"{source}: the weights do not fit the config {faults}")
    model.load_state_dict(tensors)


def load(name_or_path: str | Path, *, classes: str | tuple[str, ...] | None = None) -> Mask2Former:
    """A model by path or by name; a path wins over a name.

    Names are those of embedded models ("scenes"), of released checkpoints ("coco-panoptic-swin-t",
    downloaded on first use) and of repositories on the Hugging Face Hub ("facebook/...").
    FileNotFoundError lists the nearest names, ConnectionError says which file to put where.
    """
    name = str(name_or_path)
    if Path(name_or_path).exists():
        return load_model(name_or_path, classes=classes)
    if name in embedded_models():
        return load_model(EMBEDDED / name, classes=classes)
    if name in released_models():
        return _load_released(released_models()[name])
    if re.fullmatch(r"[\w-][\w.-]*/[\w.-]+", name) and not name.startswith("."):
        return load_model(fetch_repository(name), classes=classes)
    names = [*embedded_models(), *released_models()]
    near = difflib.get_close_matches(name, names, n=3, cutoff=0.5)
    hint = f"did you mean {' or '.join(repr(n) for n in near)}? " if near else ""
    raise FileNotFoundError(
        f"{name}: neither a file or folder nor the name of a model; {hint}"
        f"embedded models: {', '.join(embedded_models()) or 'none'}; `mask2former models` lists all"
    )


def _load_released(released: Released) -> Mask2Former:
    path = released.fetch()
    tensors = detectron2.renamed(detectron2.read_checkpoint(path))
    config = infer.config_of(tensors, path, view=released.view)
    if len(config.categories) != len(released.categories):
        raise ValueError(
            f"{path}: tells {len(config.categories)} classes apart, but {released.name}"
            f" {len(released.categories)}; it is another checkpoint"
        )
    decoder = replace(config.decoder, temporal_positions=released.task == "video-instance")
    config = replace(config, categories=released.categories, decoder=decoder)
    return _of_official(config, tensors, path)


def embedded_models() -> list[str]:
    """The names of the models that are part of the package."""
    return sorted(config.parent.name for config in EMBEDDED.glob(f"*/{native.CONFIG}"))
