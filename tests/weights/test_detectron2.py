from __future__ import annotations

import builtins
import collections
import os
import pickle
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

import tiny
from mask2former.modeling.mask2former import Mask2Former, Mask2FormerConfig
from mask2former.modeling.pixel_decoder import PixelDecoderConfig
from mask2former.modeling.resnet import ResNetConfig
from mask2former.modeling.swin import SwinConfig
from mask2former.weights import load_model, save_model
from mask2former.weights.detectron2 import official_name, read_checkpoint, read_config
from mask2former.weights.files import read_torch

PIXEL_DECODER = PixelDecoderConfig(channels=32, layers=1, heads=4, points=4, feedforward=40)
CONFIG = replace(tiny.CONFIG, backbone=tiny.SWIN, pixel_decoder=PIXEL_DECODER)
STATIC = "sem_seg_head.predictor.static_query.weight"


def yaml_of(config: Mask2FormerConfig) -> dict[str, Any]:
    """The keys of a detectron2 config that matter."""
    decoder, swin = config.decoder, tiny.SWIN
    return {
        "MODEL": {
            "META_ARCHITECTURE": "MaskFormer",
            "BACKBONE": {"NAME": "D2SwinTransformer"},
            "SWIN": {
                "EMBED_DIM": swin.width,
                "DEPTHS": list(swin.depths),
                "NUM_HEADS": list(swin.heads),
                "WINDOW_SIZE": swin.window,
                "MLP_RATIO": 4.0,
                "DROP_PATH_RATE": 0.3,
            },
            "PIXEL_MEAN": [1.0, 2.0, 3.0],
            "PIXEL_STD": [4.0, 5.0, 6.0],
            "SEM_SEG_HEAD": {
                "NUM_CLASSES": len(config.categories),
                "CONVS_DIM": config.pixel_decoder.channels,
                "MASK_DIM": decoder.mask_channels,
                "TRANSFORMER_ENC_LAYERS": config.pixel_decoder.layers,
            },
            "MASK_FORMER": {
                "NHEADS": decoder.heads,
                "DROPOUT": 0.0,
                "HIDDEN_DIM": decoder.channels,
                "DEC_LAYERS": decoder.layers + 1,
                "DIM_FEEDFORWARD": decoder.feedforward,
                "NUM_OBJECT_QUERIES": decoder.queries,
                "SIZE_DIVISIBILITY": 32,
                "TEST": {
                    "SEMANTIC_ON": True,
                    "PANOPTIC_ON": True,
                    "INSTANCE_ON": True,
                    "OBJECT_MASK_THRESHOLD": 0.7,
                    "OVERLAP_THRESHOLD": 0.6,
                },
            },
        },
        "INPUT": {"MIN_SIZE_TEST": 640, "MAX_SIZE_TEST": 1333},
        "TEST": {"DETECTIONS_PER_IMAGE": 77},
    }


def official_tensors(model: Mask2Former) -> dict[str, torch.Tensor]:
    tensors = {official_name(name): tensor for name, tensor in model.state_dict().items()}
    tensors[STATIC] = tensors.pop("sem_seg_head.predictor.query_feat.weight")
    tensors["criterion.empty_weight"] = torch.ones(6)
    if isinstance(model.config.backbone, SwinConfig):
        index = "backbone.layers.0.blocks.0.attn.relative_position_index"
        tensors[index] = torch.zeros(9, 9, dtype=torch.int64)
    return tensors


@pytest.fixture
def official(tmp_path: Path) -> tuple[Path, Mask2Former]:
    """A folder with a model in detectron2's two formats, and the model itself."""
    model = tiny.model(CONFIG)
    tensors = official_tensors(model)
    arrays = collections.OrderedDict((name, t.numpy()) for name, t in tensors.items())
    content = {"model": arrays, "__author__": "test", "matching_heuristics": True}
    (tmp_path / "model.pkl").write_bytes(pickle.dumps(content))
    torch.save({"model": tensors, "iteration": 7}, tmp_path / "model_final.pth")
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(yaml_of(CONFIG)))
    return tmp_path, model


@pytest.mark.parametrize("name", ["model.pkl", "model_final.pth", ""])
def test_official_checkpoint_is_loaded_to_the_bit(
    official: tuple[Path, Mask2Former], name: str
) -> None:
    folder, model = official
    loaded = load_model(folder / name)
    assert loaded.config.decoder == CONFIG.decoder
    assert loaded.config.pixel_decoder == PIXEL_DECODER
    for key, tensor in model.state_dict().items():
        assert torch.equal(loaded.state_dict()[key], tensor), key


@pytest.mark.parametrize("protocol", [0, 2, 4, 5])
def test_every_pickle_protocol(tmp_path: Path, protocol: int) -> None:
    arrays = {"a": np.arange(6.0).reshape(2, 3), "b": np.array(3), "c": np.eye(3)[:, ::2].T}
    path = tmp_path / "model.pkl"
    path.write_bytes(pickle.dumps({"model": arrays}, protocol=protocol))
    tensors = read_checkpoint(path)
    for name, array in arrays.items():
        np.testing.assert_array_equal(tensors[name].numpy(), array)


def test_view_and_heads_are_read_off_the_yaml(official: tuple[Path, Mask2Former]) -> None:
    config = read_config(official[0] / "config.yaml", {})
    assert config.view.mean == (1.0, 2.0, 3.0)
    assert (config.view.shortest_side, config.view.longest_side) == (640, 1333)
    assert (config.view.object_threshold, config.view.overlap_threshold) == (0.7, 0.6)
    assert config.view.max_detections == 77
    assert config.view.instances_of_things_only
    assert not config.decoder.temporal_positions
    assert config.pixel_decoder.feedforward == 1024  # the official code's, without tensors to ask


@pytest.mark.parametrize(
    ("switched_on", "resized"),
    [
        ((), True),
        (("PANOPTIC_ON",), False),
        (("INSTANCE_ON",), False),
        (("SEM_SEG_POSTPROCESSING_BEFORE_INFERENCE",), False),
    ],
)
def test_models_that_are_semantic_only_resize_scores(
    tmp_path: Path, switched_on: tuple[str, ...], resized: bool
) -> None:
    tree = yaml_of(CONFIG)
    test = tree["MODEL"]["MASK_FORMER"]["TEST"]
    for key in ("PANOPTIC_ON", "INSTANCE_ON", "SEM_SEG_POSTPROCESSING_BEFORE_INFERENCE"):
        test[key] = key in switched_on
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(tree))
    view = read_config(tmp_path / "config.yaml", {}).view
    assert view.resize_semantic_scores == resized


@pytest.mark.parametrize("depth", [50, 101])
def test_resnet_is_read_off_the_yaml(tmp_path: Path, depth: int) -> None:
    tree = yaml_of(CONFIG)
    tree["MODEL"]["META_ARCHITECTURE"] = "VideoMaskFormer"
    tree["MODEL"]["BACKBONE"]["NAME"] = "build_resnet_backbone"
    tree["MODEL"]["RESNETS"] = {
        "DEPTH": depth,
        "STEM_OUT_CHANNELS": 64,
        "WIDTH_PER_GROUP": 64,
        "NUM_GROUPS": 1,
        "RES2_OUT_CHANNELS": 256,
        "NORM": "FrozenBN",
    }
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump(tree))
    config = read_config(path, {})
    assert config.backbone == ResNetConfig(depths=(3, 4, 6 if depth == 50 else 23, 3))
    assert config.decoder.temporal_positions
    tree["MODEL"]["RESNETS"]["DEPTH"] = 18
    path.write_text(yaml.safe_dump(tree))
    with pytest.raises(ValueError, match="DEPTH 18: only 50 and 101"):
        read_config(path, {})


def test_resnet_whose_norms_were_trained(tmp_path: Path) -> None:
    backbone = ResNetConfig(stem_channels=8, width=4, channels=16, norm="batch_norm")
    model = tiny.model(replace(CONFIG, backbone=backbone))
    tree = yaml_of(CONFIG)
    tree["MODEL"]["BACKBONE"]["NAME"] = "build_resnet_backbone"
    tree["MODEL"]["RESNETS"] = {
        "DEPTH": 50,
        "STEM_OUT_CHANNELS": 8,
        "WIDTH_PER_GROUP": 4,
        "NUM_GROUPS": 1,
        "RES2_OUT_CHANNELS": 16,
        "NORM": "SyncBN",
    }
    model.backbone.stem.norm.num_batches_tracked += 7
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(tree))
    torch.save(official_tensors(model), tmp_path / "model.pth")
    loaded = load_model(tmp_path)
    for key, tensor in model.state_dict().items():
        assert torch.equal(loaded.state_dict()[key], tensor), key


RESNET50 = ResNetConfig(depths=(3, 4, 6, 3), stem_channels=8, width=4, channels=16)


@pytest.mark.parametrize("backbone", [tiny.SWIN, RESNET50], ids=["swin", "resnet"])
@pytest.mark.parametrize("video", [False, True])
def test_what_went_out_comes_back(tmp_path: Path, backbone: Any, video: bool) -> None:
    pixels = replace(PIXEL_DECODER, feedforward=1024)
    config = replace(tiny.CONFIG, backbone=backbone, pixel_decoder=pixels)
    model = tiny.model(config, temporal_positions=video)
    save_model(model, tmp_path, "detectron2")
    loaded = load_model(tmp_path)
    assert loaded.config == model.config
    for key, tensor in model.state_dict().items():
        assert torch.equal(loaded.state_dict()[key], tensor), key

    # Without our own file beside it, as the official code sees it.
    (tmp_path / "mask2former.json").unlink()
    seen = load_model(tmp_path / "model.pth")
    assert seen.config.decoder == model.config.decoder
    assert seen.config.pixel_decoder == pixels
    assert seen.config.backbone == backbone
    assert seen.config.view == replace(model.config.view, instances_of_things_only=True)
    for key, tensor in model.state_dict().items():
        assert torch.equal(seen.state_dict()[key], tensor), key


@pytest.mark.parametrize("format", ["detectron2", "transformers"])
@pytest.mark.parametrize(
    ("decoder", "pixels", "said"),
    [
        ({"masked_attention": False}, {}, "decoder.masked_attention is False, not True"),
        ({"strides": (8,)}, {}, r"decoder.strides is \(8,\)"),
        ({"selected_share": 0.1}, {}, "decoder.selected_share"),
        ({}, {"points": 2}, "pixel_decoder.points is 2, not 4"),
        ({"heads": 2}, {}, "heads differ"),
        ({"dropout": 0.1}, {}, "dropout differ"),
        ({"channels": 64, "mask_channels": 64}, {}, "channels differ"),
    ],
)
def test_what_others_cannot_hold_is_said(
    tmp_path: Path, format: Any, decoder: dict[str, Any], pixels: dict[str, Any], said: str
) -> None:
    held = replace(PIXEL_DECODER, feedforward=1024, **pixels)
    model = tiny.model(replace(CONFIG, pixel_decoder=held), **decoder)
    with pytest.raises(ValueError, match=f"{format} cannot hold this model: .*{said}"):
        save_model(model, tmp_path / "out", format)
    assert not (tmp_path / "out").exists()


def test_detectron2_fixes_widths_and_depths(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"feedforward is 40, and the official code fixes 1024"):
        save_model(tiny.model(CONFIG), tmp_path, "detectron2")
    pixels = replace(PIXEL_DECODER, feedforward=1024)
    with pytest.raises(ValueError, match=r"official models are ResNet-50 and ResNet-101"):
        save_model(tiny.model(replace(tiny.CONFIG, pixel_decoder=pixels)), tmp_path, "detectron2")
    assert not list(tmp_path.iterdir())


# --- what is wrong with a file -------------------------------------------------------------------


def test_without_the_yaml_the_model_is_read_off_the_shapes(
    official: tuple[Path, Mask2Former],
) -> None:
    folder, model = official
    (folder / "config.yaml").unlink()
    loaded = load_model(folder / "model.pkl")
    assert loaded.config.backbone == replace(tiny.SWIN, drop_path=0.3)
    assert loaded.config.pixel_decoder == PIXEL_DECODER
    assert loaded.config.decoder == CONFIG.decoder
    assert [c.name for c in loaded.config.categories] == [f"class {i}" for i in range(5)]
    for key, tensor in model.state_dict().items():
        assert torch.equal(loaded.state_dict()[key], tensor), key
    names = ("a", "b", "c", "d", "e")
    named = load_model(folder / "model.pkl", classes=names)
    assert tuple(category.name for category in named.config.categories) == names
    with pytest.raises(ValueError, match=r"model\.pkl: tells 5 classes apart, but coco has 133"):
        load_model(folder / "model.pkl", classes="coco")
    with pytest.raises(ValueError, match="tells 5 classes apart, but 2 were named"):
        load_model(folder / "model.pkl", classes=("a", "b"))
    with pytest.raises(ValueError, match="'kitti' is no list of classes; there are: ade20k"):
        load_model(folder / "model.pkl", classes="kitti")


def test_neither_a_yaml_nor_the_shapes_of_a_mask2former(tmp_path: Path) -> None:
    torch.save({"backbone.weight": torch.zeros(3)}, tmp_path / "model.pth")
    with pytest.raises(ValueError, match=r"model\.pth: no Mask2Former of the official code"):
        load_model(tmp_path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "not a detectron2 config"),
        (b"a: [", "not valid YAML"),
        (b"\xff\xfe\xfa", "not valid YAML"),
        (b"MODEL: {BACKBONE: {NAME: R}}", "key 'MASK_FORMER' is missing"),
    ],
)
def test_config_with_a_fault(
    official: tuple[Path, Mask2Former], content: bytes, message: str
) -> None:
    (official[0] / "config.yaml").write_bytes(content)
    with pytest.raises(ValueError, match=rf"config\.yaml: .*{message}"):
        load_model(official[0])


def test_tensors_that_do_not_fit_are_listed(official: tuple[Path, Mask2Former]) -> None:
    folder, model = official
    tensors = official_tensors(model)
    del tensors["sem_seg_head.predictor.level_embed.weight"]
    tensors["sem_seg_head.predictor.class_embed.bias"] = torch.zeros(81)
    tensors["roi_heads.box_head.fc1.weight"] = torch.zeros(2, 2)
    torch.save(tensors, folder / "model_final.pth")
    with pytest.raises(ValueError, match=r"model_final\.pth: the weights do not fit") as caught:
        load_model(folder / "model_final.pth")
    for line in (
        "missing: decoder.level_embedding",
        "unknown: roi_heads.box_head.fc1.weight",
        "shape of decoder.head.class_logits.bias: (81,), expected (6,)",
    ):
        assert line in str(caught.value)


@pytest.mark.parametrize("name", ["model.pkl", "model_final.pth"])
@pytest.mark.parametrize("kind", ["empty", "text", "truncated", "html", "pointer", "picture"])
def test_file_that_is_no_checkpoint(
    official: tuple[Path, Mask2Former], name: str, kind: str
) -> None:
    path = official[0] / name
    whole = path.read_bytes()
    path.write_bytes(
        {
            "empty": b"",
            "text": b"hello, I am a text\n",
            "truncated": whole[: len(whole) // 2],
            "html": b"<!DOCTYPE html><html><body>404</body></html>",
            "pointer": b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n",
            "picture": b"\x89PNG\r\n\x1a\n" + bytes(100),
        }[kind]
    )
    with pytest.raises(ValueError, match=rf"{name}: "):
        load_model(path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([1, 2], "holds a list, no names and tensors"),
        ({"model": {"a": "text"}}, "entry 'a' is a str, not a tensor"),
        ({"model": {"a": np.array(["text"])}}, "entry 'a' is a ndarray, not a tensor"),
    ],
)
def test_pickle_without_tensors(tmp_path: Path, content: object, message: str) -> None:
    path = tmp_path / "model.pkl"
    path.write_bytes(pickle.dumps(content))
    with pytest.raises(ValueError, match=rf"model\.pkl: {message}"):
        read_checkpoint(path)


# --- files that would run something --------------------------------------------------------------


class Call:
    """Pickles as a call of `function`."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.call = (function, arguments)

    def __call__(self) -> None:
        """Pickle wants to see a callable where one is returned by a call."""

    def __reduce__(self) -> Any:
        return self.call


def attacks(marker: Path) -> dict[str, bytes]:
    touch = f"touch {marker}"
    python = f"__import__('pathlib').Path({str(marker)!r}).touch()"
    array = np.zeros(3)
    objects = {
        "os.system": Call(os.system, touch),
        "eval": Call(builtins.eval, python),
        "exec": Call(builtins.exec, python),
        "Popen": Call(subprocess.Popen, ["touch", str(marker)]),
        "nested among tensors": {
            "model": {"a": array, "b": [array, {"c": Call(os.system, touch)}]}
        },
        "getattr": Call(Call(getattr, Call(builtins.__import__, "os"), "system"), touch),
    }
    pickles = {name: pickle.dumps(content) for name, content in objects.items()}
    pickles["dotted name"] = (  # protocol 4 reads a.b from a module: numpy is allowed, this is not
        b"\x80\x04\x8c\x05numpy\x94\x8c\x0endarray.tofile\x94\x93\x94N\x85R."
    )
    pickles["import of a module"] = b"cantigravity\nfly\n."
    return pickles


NAMES = list(attacks(Path("x")))


@pytest.mark.parametrize("name", NAMES)
def test_nothing_in_a_pkl_is_run(tmp_path: Path, name: str) -> None:
    marker, path = tmp_path / "it-ran", tmp_path / "model.pkl"
    content = attacks(marker)[name]
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"model\.pkl: not a detectron2 checkpoint: it wants to"):
        read_checkpoint(path)
    assert not marker.exists()


def test_the_attacks_are_real(tmp_path: Path) -> None:
    """Or the test above could not fail."""
    marker = tmp_path / "it-ran"
    for name in ("os.system", "eval", "exec", "nested among tensors", "getattr"):
        pickle.loads(attacks(marker)[name])
        assert marker.exists(), name
        marker.unlink()


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
def test_nothing_in_a_pth_is_run(tmp_path: Path, zipped: bool) -> None:
    marker, path = tmp_path / "it-ran", tmp_path / "model_final.pth"
    content = {"model": {"a": torch.zeros(2), "b": Call(os.system, f"touch {marker}")}}
    torch.save(content, path, _use_new_zipfile_serialization=zipped)
    with pytest.raises(ValueError, match=r"model_final\.pth: .*without executing code"):
        read_torch(path)
    assert not marker.exists()


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
def test_raw_pickle_named_pth_is_not_run(tmp_path: Path) -> None:
    marker, path = tmp_path / "it-ran", tmp_path / "model_final.pth"
    path.write_bytes(attacks(marker)["os.system"])
    with pytest.raises(ValueError, match=r"model_final\.pth"):
        read_torch(path)
    assert not marker.exists()
