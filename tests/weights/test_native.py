from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import tiny
from mask2former.modeling.mask2former import Mask2Former
from mask2former.weights import files, load_model, load_tensors
from mask2former.weights.native import save_model


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    tiny.model().save_pretrained(tmp_path / "model")
    return tmp_path / "model"


@pytest.mark.parametrize("backbone", [tiny.RESNET, tiny.SWIN], ids=["resnet", "swin"])
@pytest.mark.parametrize("part", ["", "model.safetensors"])
def test_round_trip_gives_the_same_bits(tmp_path: Path, backbone: Any, part: str) -> None:
    config = replace(tiny.CONFIG, backbone=backbone)
    model = tiny.model(config, selected_share=3 / 96)
    model.save_pretrained(tmp_path / "new" / "folder")
    loaded = Mask2Former.from_pretrained(tmp_path / "new" / "folder" / part)
    assert not loaded.training
    assert loaded.config == model.config
    assert loaded.state_dict().keys() == model.state_dict().keys()
    for name, tensor in model.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], tensor), name
    assert sorted(p.name for p in (tmp_path / "new" / "folder").iterdir()) == [
        "config.json",
        "model.safetensors",
    ]


def test_weights_can_be_stored_in_half(tmp_path: Path, saved: Path) -> None:
    save_model(tiny.model(), tmp_path / "half", dtype=torch.float16)
    full, half = (f / "model.safetensors" for f in (saved, tmp_path / "half"))
    assert half.stat().st_size < 0.6 * full.stat().st_size
    exact, rounded = (load_model(f).state_dict() for f in (saved, tmp_path / "half"))
    for name, tensor in exact.items():
        assert rounded[name].dtype == tensor.dtype
        if tensor.is_floating_point():
            assert torch.equal(rounded[name], tensor.half().float())


def test_who_may_read_the_folder_may_read_the_weights(tmp_path: Path) -> None:
    save_model(tiny.model(), tmp_path / "model")
    modes = {path.name: path.stat().st_mode & 0o044 for path in (tmp_path / "model").iterdir()}
    assert modes["model.safetensors"] == modes["config.json"] != 0


def test_model_is_loaded_in_the_precision_asked_for(saved: Path) -> None:
    model = Mask2Former.from_pretrained(saved, dtype=torch.bfloat16)
    assert {p.dtype for p in model.parameters()} == {torch.bfloat16}


@pytest.mark.parametrize("moment", ["weights", "config", "replace"])
def test_interrupted_save_leaves_the_old_files_whole(
    saved: Path, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    before = {p.name: p.read_bytes() for p in saved.iterdir()}

    def stop(*arguments: Any, **options: Any) -> None:
        for path in arguments:
            if isinstance(path, Path) and moment == "weights":
                path.write_bytes(b"half of a f")
        raise KeyboardInterrupt

    if moment == "weights":
        monkeypatch.setattr(files, "save_file", stop)
    elif moment == "config":
        monkeypatch.setattr(files.json, "dumps", stop)
    else:
        monkeypatch.setattr(files.os, "replace", stop)
    other = tiny.model()
    torch.nn.init.zeros_(other.decoder.query_features)
    with pytest.raises(KeyboardInterrupt):
        other.save_pretrained(saved)
    monkeypatch.undo()
    assert {p.name: p.read_bytes() for p in saved.iterdir()} == before


# --- what is wrong with a folder -----------------------------------------------------------------


def test_nothing_there(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"absent: no such file or folder"):
        load_model(tmp_path / "absent")
    with pytest.raises(FileNotFoundError, match=r"holds no model: expected config\.json and"):
        load_model(tmp_path)


def test_the_folder_of_a_training_is_not_its_model(saved: Path) -> None:
    """The likeliest mistake: the weights are one folder further down."""
    run = saved.parent
    torch.save({"model": {}}, run / "checkpoint.pth")
    (run / "config.yaml").write_text("steps: 3\n")
    with pytest.raises(FileNotFoundError, match="is the folder of a training; its weights are in"):
        load_model(run)
    with pytest.raises(ValueError, match="is what a training goes on from; its weights are in"):
        load_model(run / "checkpoint.pth")
    assert load_model(run / "model").config == tiny.CONFIG


def test_a_folder_with_several_checkpoints(tmp_path: Path) -> None:
    for name in ("model_0004999.pth", "model_0009999.pth"):
        torch.save({}, tmp_path / name)
    with pytest.raises(FileNotFoundError, match=r"several checkpoints; .*model_0004999\.pth"):
        load_model(tmp_path)
    torch.save({"a": torch.zeros(1)}, tmp_path / "model_final.pth")
    with pytest.raises(ValueError, match=r"model_final\.pth"):  # that one is tried
        load_model(tmp_path)


def test_weights_missing(saved: Path) -> None:
    (saved / "model.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match=r"model\.safetensors: no such file; config\.json"):
        load_model(saved)


@pytest.mark.parametrize("content", [b"", b"no weights", b"\xff" * 100, b"\x10\0\0\0\0\0\0\0{"])
def test_weights_are_not_safetensors(saved: Path, content: bytes) -> None:
    (saved / "model.safetensors").write_bytes(content)
    with pytest.raises(ValueError, match=r"model\.safetensors: not a readable safetensors file"):
        load_model(saved)


def test_weights_cut_off(saved: Path) -> None:
    path = saved / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(ValueError, match=r"model\.safetensors: not a readable safetensors file"):
        load_model(saved)


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe\xfa", b"depth: 50\n"])
def test_config_is_not_json(saved: Path, content: bytes) -> None:
    (saved / "config.json").write_bytes(content)
    with pytest.raises(ValueError, match=r"config\.json: not valid JSON"):
        load_model(saved)


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (
            "decoder.quries",
            5,
            r"config\.json\.decoder: unknown key 'quries'; did you mean 'queries'",
        ),
        ("decoder.queries", "5", r"config\.json\.decoder\.queries: expected int, got '5'"),
        ("backbone.type", "VGG", r"backbone\.type: expected one of ResNetConfig, SwinConfig"),
        ("view.mean", [1.0, 2.0], r"view\.mean: expected 3 values, got 2"),
        ("categories", None, r"categories: expected a list"),
    ],
)
def test_config_with_a_fault_names_the_key(
    saved: Path, path: str, value: object, message: str
) -> None:
    file = saved / "config.json"
    tree = json.loads(file.read_text())
    *parents, last = path.split(".")
    node = tree
    for parent in parents:
        node = node[parent]
    node[last] = value
    file.write_text(json.dumps(tree))
    with pytest.raises(ValueError, match=message):
        load_model(saved)


# --- weights that do not fit ---------------------------------------------------------------------


def test_misfits_are_listed_by_kind() -> None:
    model = tiny.model()
    tensors = dict(model.state_dict())
    del tensors["decoder.query_features"]
    tensors["decoder.extra"] = torch.zeros(1)
    tensors["decoder.head.class_logits.bias"] = torch.zeros(81)
    before = model.decoder.query_positions.clone()
    with pytest.raises(ValueError, match=r"w\.pkl: the weights do not fit the config") as caught:
        load_tensors(model, tensors, "w.pkl")
    message = str(caught.value)
    assert "(3 tensors)" in message
    assert "missing: decoder.query_features" in message
    assert "unknown: decoder.extra" in message
    assert "shape of decoder.head.class_logits.bias: (81,), expected (6,)" in message
    assert torch.equal(model.decoder.query_positions, before)


def test_long_lists_are_cut() -> None:
    with pytest.raises(ValueError, match=r"and \d+ more") as caught:
        load_tensors(tiny.model(), {}, "empty")
    assert len(str(caught.value).splitlines()) == 22
