"""Weights in and out. `load_model` finds out which format a path is."""

from __future__ import annotations

import difflib
from pathlib import Path

from torch import Tensor

from mask2former.modeling.mask2former import Mask2Former
from mask2former.weights import detectron2, native

EMBEDDED = Path(__file__).parents[1] / "models"


def load_model(path: str | Path) -> Mask2Former:
    """A model from our own folder, or from an official `.pkl` / `.pth` with its `config.yaml`.

    `path` is a folder or the weights file in it. FileNotFoundError or ValueError say what is
    missing and where it was looked for.
    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"{path}: no such file or folder")
    folder = path if path.is_dir() else path.parent
    if path.suffix in (".pkl", ".pth"):
        return _load_official(path)
    if path.is_dir() and not (folder / native.CONFIG).exists():
        official = sorted(path.glob("*.pkl")) + sorted(path.glob("*.pth"))
        if official:
            return _load_official(official[0])
    if not (folder / native.CONFIG).exists():
        raise FileNotFoundError(
            f"{folder}: holds no model: expected {native.CONFIG} and {native.WEIGHTS}, or an "
            "official .pkl or .pth with its config.yaml"
        )
    weights = folder / native.WEIGHTS if path.is_dir() else path
    if not weights.exists():
        raise FileNotFoundError(f"{weights}: no such file; {native.CONFIG} lies there without it")
    model = Mask2Former(native.read_config(folder / native.CONFIG))
    load_tensors(model, native.read_weights(weights), str(weights))
    return model


def _load_official(path: Path) -> Mask2Former:
    config = path.parent / "config.yaml"
    if not config.exists():
        raise FileNotFoundError(
            f"{config}: no such file; put the detectron2 config.yaml of {path.name} beside it"
        )
    tensors = detectron2.read_pkl(path) if path.suffix == ".pkl" else detectron2.read_pth(path)
    model = Mask2Former(detectron2.read_config(config, tensors))
    names = list(model.state_dict())
    load_tensors(model, detectron2.convert(tensors, names), str(path))
    return model


def load_tensors(model: Mask2Former, tensors: dict[str, Tensor], source: str) -> None:
    """Copy tensors into a model. ValueError lists what is missing, unknown or of another shape."""
    expected = model.state_dict()
    faults = [f"missing: {name}" for name in expected if name not in tensors]
    faults += [f"unknown: {name}" for name in tensors if name not in expected]
    faults += [
        f"shape of {name}: {tuple(tensor.shape)}, expected {tuple(expected[name].shape)}"
        for name, tensor in tensors.items()
        if name in expected and tensor.shape != expected[name].shape
    ]
    if faults:
        shown = "\n  ".join(faults[:20])
        more = f"\n  and {len(faults) - 20} more" if len(faults) > 20 else ""
        raise ValueError(
            f"{source}: the weights do not fit the config ({len(faults)} tensors):\n  {shown}{more}"
        )
    model.load_state_dict(tensors)


def find_model(name_or_path: str | Path) -> Path:
    """The path of a model: an embedded one by its name, any other as it is.

    A path wins over a name. FileNotFoundError lists the names, nearest first.
    """
    if Path(name_or_path).exists():
        return Path(name_or_path)
    names = embedded_models()
    if str(name_or_path) in names:
        return EMBEDDED / str(name_or_path)
    near = difflib.get_close_matches(str(name_or_path), names, n=1)
    hint = f"did you mean '{near[0]}'? " if near else ""
    raise FileNotFoundError(
        f"{name_or_path}: neither a file or folder nor the name of a model; {hint}"
        f"embedded models: {', '.join(names) or 'none'}"
    )


def embedded_models() -> list[str]:
    """The names of the models that are part of the package."""
    return sorted(config.parent.name for config in EMBEDDED.glob(f"*/{native.CONFIG}"))
