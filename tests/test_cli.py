from __future__ import annotations

import json
import pickle
import shlex
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import tyro
from PIL import Image

import tiny
from mask2former import cli
from mask2former.cli import FAULT, main
from mask2former.commands import predict as predicting
from mask2former.commands.loading import class_names
from mask2former.commands.options import (
    Convert,
    Demo,
    Evaluate,
    Finetune,
    Models,
    Predict,
    Train,
    Verify,
)
from mask2former.commands.predict import describe
from mask2former.commands.train import build_config, is_first_process, starts_from_nothing
from mask2former.data.class_lists import class_list
from mask2former.data.scenes import CATEGORIES, Scenes, ScenesConfig, write_coco_panoptic
from mask2former.masks import decode_rle
from mask2former.modeling.mask2former import Mask2Former
from mask2former.presets import OWN
from mask2former.presets.compact import compact_model
from mask2former.segmenter import Segmenter
from mask2former.structures import (
    Instances,
    Panoptic,
    Segment,
    Segmentation,
    Semantic,
    View,
)
from mask2former.training.config import FolderData
from mask2former.training.signals import Stopped
from mask2former.weights import load_model, save_model
from mask2former.weights.detectron2 import official_name
from mask2former.weights.released import released_models

COMMANDS = {
    "predict": Predict,
    "train": Train,
    "finetune": Finetune,
    "evaluate": Evaluate,
    "convert": Convert,
    "models": Models,
    "verify": Verify,
    "demo": Demo,
}
RECORDED = {"PQ": 0.0, "AP": 0.0, "mIoU": 2.95}  # of the miniature of `verify`
SMALL = ["model.view.shortest_side=64", "view.size=64", "view.crop=[64,64]", "workers=0"]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A model that was trained on nothing."""
    torch.manual_seed(0)
    view = View(shortest_side=64, longest_side=128, object_threshold=0.0, overlap_threshold=0.0)
    folder = tmp_path_factory.mktemp("model")
    config = compact_model(CATEGORIES, view, queries=4, selected_share=0.1)
    Mask2Former(config).save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Scenes on disk; those of the split val are of two kinds."""
    folder = tmp_path_factory.mktemp("data")
    config = ScenesConfig(size=64, min_things=2, max_things=4, max_size=24)
    for seed, split in enumerate(("train", "val")):
        write_coco_panoptic(Scenes(length=3, seed=seed, config=config), folder, split)
    file = folder / "annotations" / "panoptic_val.json"
    content = json.loads(file.read_text())
    for image, kind in zip(content["images"], ("dark", "dark", "light"), strict=True):
        image["exposure"] = kind
    file.write_text(json.dumps(content))
    return folder


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Three good images, of two sizes, and one that was cut off."""
    folder = tmp_path / "photos"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for name, size in (("a", (40, 60)), ("b", (40, 60)), ("d", (50, 50))):
        pixels = rng.integers(0, 255, (*size, 3), np.uint8)
        Image.fromarray(pixels).save(folder / f"{name}.png")
    (folder / "c.png").write_bytes((folder / "a.png").read_bytes()[:2000])
    return folder


def read(path: Path) -> Any:
    return json.loads(path.read_text())


# --- help and errors ------------------------------------------------------------------------------


@pytest.mark.parametrize("command", COMMANDS)
def test_help_shows_an_example_that_is_understood(
    command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as exit:
        main([command, "--help"])
    assert exit.value.code == 0
    assert f"Example: mask2former {command} " in capsys.readouterr().out
    documentation = COMMANDS[command].__doc__
    assert documentation is not None
    example = documentation.split("Example: mask2former ")[1].splitlines()[0]
    options = tyro.cli(
        Predict | Train | Finetune | Evaluate | Convert | Models | Verify | Demo,
        args=shlex.split(example),
    )
    assert isinstance(options, COMMANDS[command])


def test_help_does_not_wait_for_torch() -> None:
    words = [sys.executable, "-X", "importtime", "-m", "mask2former"]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "predict" in done.stdout
    imported = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
    assert "tyro" in imported
    assert not imported & {"torch", "numpy", "cv2"}


def test_the_help_names_the_presets(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["train", "--help"])
    printed = capsys.readouterr().out
    assert all(name in printed for name in (*OWN, "coco-panoptic-r50"))


def test_errors_are_told_without_a_traceback_unless_it_is_asked_for(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MASK2FORMER_TRACEBACK", raising=False)
    words = ["predict", str(tmp_path)]
    assert main(words) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"error: {tmp_path}: this folder holds no images")
    assert "Traceback" not in error
    assert main([*words, "--traceback"]) == 2
    assert "Traceback" in capsys.readouterr().err
    monkeypatch.setenv("MASK2FORMER_TRACEBACK", "1")
    assert main(words) == 2
    assert "Traceback" in capsys.readouterr().err


def test_an_error_of_a_loading_process_is_told_without_its_traceback(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_: object) -> int:
        raise ValueError(
            "Caught ValueError in DataLoader worker process 0.\nOriginal Traceback (most recent"
            ' call last):\n  File "x.py", line 1\nValueError: 1.png: is empty; restore it\n'
        )

    monkeypatch.setattr(cli, "run", fail)
    assert main(["train", "--out", "x"]) == 2
    assert capsys.readouterr().err == "error: 1.png: is empty; restore it\n"


def test_a_training_that_was_told_to_stop_says_what_is_saved(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(*arguments: object) -> dict[str, float]:
        raise Stopped(15, "3 of 9 steps are done and saved")

    monkeypatch.setattr("mask2former.commands.train.train", stop)
    assert main(["train", "--preset", "scenes", "--out", str(tmp_path)]) == 143
    assert "interrupted; 3 of 9 steps are done and saved" in capsys.readouterr().err


def test_one_of_several_processes_speaks(monkeypatch: pytest.MonkeyPatch) -> None:
    assert is_first_process()
    for name in ("RANK", "LOCAL_RANK"):
        monkeypatch.setenv(name, "0")
        assert is_first_process()
        monkeypatch.setenv(name, "1")
        assert not is_first_process()
        monkeypatch.delenv(name)


def test_an_unknown_model_is_answered_with_the_nearest_name(
    photos: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in ("scenes", "nuclei"):
        (tmp_path / "models" / name).mkdir(parents=True)
        (tmp_path / "models" / name / "config.json").touch()
    monkeypatch.setattr("mask2former.weights.EMBEDDED", tmp_path / "models")
    assert main(["predict", str(photos), "--model", "nuclie"]) == 2
    error = capsys.readouterr().err
    assert "did you mean 'nuclei'?" in error
    assert "nuclei, scenes" in error


@pytest.mark.parametrize(
    ("words", "option"),
    [
        (["--device", "nowhere"], "--device nowhere"),
        (["--batch-size", "0"], "--batch-size 0"),
        (["--max-detections", "0"], "--max-detections 0"),
    ],
)
def test_an_option_that_cannot_be_is_named(
    photos: Path, model: str, words: list[str], option: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["predict", str(photos), "--model", model, *words]) == 2
    assert capsys.readouterr().err.startswith(f"error: {option}: ")


# --- predict --------------------------------------------------------------------------------------


@pytest.mark.parametrize("batch_size", ["1", "3"])
def test_one_bad_file_does_not_stop_the_others(
    photos: Path,
    model: str,
    batch_size: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    out = tmp_path / "out"
    words = ["predict", str(photos), "--model", model, "--out", str(out)]
    assert main([*words, "--batch-size", batch_size]) == 1
    printed = capsys.readouterr()
    assert printed.err.startswith(f"failed: {photos / 'c.png'}: ")
    assert printed.err.count("\n") == 1
    assert f"{photos / 'a.png'}: " in printed.out
    assert "3 of 4 images" in printed.out
    for kind in ("overlays/{}.jpg", "panoptic/{}.png", "semantic/{}.png"):
        assert all((out / kind.format(name)).exists() for name in "abd")
        assert not (out / kind.format("c")).exists()
    assert [Path(image["file_name"]).name for image in read(out / "images.json")] == [
        *("a.png", "b.png", "d.png"),
    ]
    assert len(read(out / "panoptic.json")["annotations"]) == 3


def test_a_batch_that_fails_is_tried_image_by_image(
    photos: Path,
    model: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (photos / "c.png").unlink()
    whole = Segmenter.segment

    def short_of_memory(self: Segmenter, images: Any, names: Any, tasks: Any) -> Any:
        if any(image.shape[:2] == (50, 50) for image in images):
            raise RuntimeError("out of memory")
        return whole(self, images, names, tasks)

    monkeypatch.setattr(Segmenter, "segment", short_of_memory)
    out = tmp_path / "out"
    words = ["predict", str(photos), "--model", model, "--out", str(out), "--batch-size", "3"]
    assert main(words) == 1
    assert capsys.readouterr().err == f"failed: {photos / 'd.png'}: out of memory\n"
    assert len(read(out / "images.json")) == 2


def test_tasks_and_the_limit_of_detections(photos: Path, model: str, tmp_path: Path) -> None:
    words = ["predict", str(photos / "a.png"), "--model", model, "--task", "instance"]
    assert main([*words, "--out", str(tmp_path / "all")]) == 0
    assert main([*words, "--out", str(tmp_path / "two"), "--max-detections", "2"]) == 0
    assert not (tmp_path / "all" / "panoptic.json").exists()
    assert not (tmp_path / "all" / "semantic").exists()
    assert len(read(tmp_path / "all" / "instances.json")) > 2
    assert 1 <= len(read(tmp_path / "two" / "instances.json")) <= 2


def test_tiles_give_the_same_kinds_of_files(
    photos: Path, model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["predict", str(photos), "--model", model, "--device", "cpu", "--out", str(tmp_path)]
    words += ["--tile", "32", "--overlap", "8", "--outlines", "geojson", "--threshold", "0.1"]
    assert main(words) == 1  # for the one that was cut off
    captured = capsys.readouterr()
    assert "c.png" in captured.err
    assert "3 of 4 images" in captured.out
    for folder in ("overlays", "panoptic", "semantic", "geojson"):
        assert sorted(path.stem for path in (tmp_path / folder).iterdir()) == ["a", "b", "d"]
    images = {image["id"]: image for image in read(tmp_path / "images.json")}
    for result in read(tmp_path / "instances.json"):
        image = images[result["image_id"]]
        assert result["segmentation"]["size"] == [image["height"], image["width"]]
        mask = decode_rle(result["segmentation"])
        x, y, w, h = (round(edge) for edge in result["bbox"])
        assert mask[y : y + h, x : x + w].sum() == mask.sum() > 0
    assert main([*words, "--overlap", "20"]) == 2
    assert "tiles of 32 pixels that overlap by 20" in capsys.readouterr().err


def test_an_interruption_leaves_whole_files(
    photos: Path,
    model: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    whole = predicting.read_image

    def interrupted(path: Path) -> Any:
        if path.name == "b.png":
            raise KeyboardInterrupt
        return whole(path)

    monkeypatch.setattr(predicting, "read_image", interrupted)
    out = tmp_path / "out"
    assert main(["predict", str(photos), "--model", model, "--out", str(out)]) == 130
    assert "1 of 4 images are done" in capsys.readouterr().err
    assert len(read(out / "images.json")) == 1
    assert len(read(out / "panoptic.json")["annotations"]) == 1


def test_describe_counts_things_and_measures_stuff() -> None:
    star, sky = CATEGORIES[3], CATEGORIES[6]
    ids = torch.tensor([[1, 1, 1, 0], [1, 1, 2, 3]])
    segments = tuple(
        Segment(id=id, label=label, category=CATEGORIES[label], score=1.0, area=area)
        for id, label, area in ((1, 6, 5), (2, 3, 1), (3, 3, 1))
    )
    masks = torch.zeros(2, 2, 4, dtype=torch.bool)
    panoptic = Panoptic(ids=ids, segments=segments, categories=CATEGORIES)
    instances = Instances(
        masks=masks,
        scores=torch.tensor([0.9, 0.2]),
        labels=torch.tensor([3, 3]),
        boxes=torch.zeros(2, 4),
        categories=CATEGORIES,
    )
    semantic = Semantic(labels=torch.tensor([[6, 6, 6, 6], [6, 6, 3, 3]]), categories=CATEGORIES)
    assert (star.name, sky.name) == ("star", "sky")
    for parts, text in (
        ({"panoptic": panoptic, "semantic": semantic}, "2 star; sky 62 %"),
        ({"instances": instances}, "1 star"),
        ({"semantic": semantic}, "sky 75 %, star 25 %"),
        ({"instances": instances, "semantic": semantic}, "1 star; sky 75 %"),
        ({}, "nothing found"),
    ):
        assert describe(Segmentation(size=(2, 4), name="", **parts), 0.5) == text


# --- evaluate -------------------------------------------------------------------------------------


def test_evaluate_prints_tables_and_writes_the_figures(
    data: Path, model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["evaluate", "--model", model, "--data", str(data), "--group-by", "exposure"]
    assert main([*words, "--json", str(tmp_path / "new" / "figures.json")]) == 0
    table = capsys.readouterr().out
    for word in ("mIoU", "AP50", "PQ_stuff", "dark (2)", "light (1)", "triangle", "water"):
        assert word in table
    figures = read(tmp_path / "new" / "figures.json")["figures"]
    assert {"PQ", "AP", "mIoU", "dark/PQ", "light/mIoU", "IoU/sky"} <= figures.keys()
    assert f"{figures['pixel_accuracy']:.1f}" in table


def test_evaluate_on_drawn_scenes(
    model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["evaluate", "--model", model, "--data", "scenes", "--count", "2"]
    assert main([*words, "--task", "semantic", "--json", str(tmp_path / "1.json")]) == 0
    assert (
        main([*words, "--task", "semantic", "--json", str(tmp_path / "2.json"), "--seed", "8"]) == 0
    )
    first, second = read(tmp_path / "1.json"), read(tmp_path / "2.json")
    assert first["images"] == 2
    assert "mIoU" in first["figures"]
    assert "PQ" not in first["figures"]
    assert first["figures"] != second["figures"]
    assert "PQ" not in capsys.readouterr().out


def test_evaluate_names_the_fields_that_images_have(
    data: Path, model: str, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["evaluate", "--model", model, "--group-by", "exposition"]
    assert main([*words, "--data", str(data)]) == 2
    assert "exposure" in capsys.readouterr().err
    assert main([*words, "--data", "scenes"]) == 2
    assert "only data sets in COCO's formats" in capsys.readouterr().err


# --- convert --------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def official(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of the paper's kind as an official checkpoint that does not name its classes."""
    folder = tmp_path_factory.mktemp("official")
    pixels = replace(tiny.CONFIG.pixel_decoder, points=4, feedforward=1024)
    config = replace(tiny.CONFIG, backbone=tiny.SWIN, pixel_decoder=pixels)
    save_model(tiny.model(config), folder, "detectron2")
    (folder / "mask2former.json").unlink()
    return folder


def test_convert_says_what_it_found_and_that_it_reads_back(
    official: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    there, back = tmp_path / "there", tmp_path / "back"
    names = "road,car,sky,dog,cat"
    words = [str(official), "--to", "transformers", "--classes", names, "--out", str(there)]
    assert main(["convert", *words]) == 0
    said = capsys.readouterr().out
    assert "an official checkpoint with config.yaml" in said
    assert "tensors and the config read back equal" in said
    assert read(there / "config.json")["id2label"]["1"] == "car"
    assert main(["convert", str(there), "--to", "detectron2", "--out", str(back)]) == 0
    assert "a model of transformers" in capsys.readouterr().out
    first = torch.load(official / "model.pth", weights_only=True)["model"]
    second = torch.load(back / "model.pth", weights_only=True)["model"]
    assert first.keys() == second.keys()
    assert all(torch.equal(second[name], tensor) for name, tensor in first.items())


@pytest.mark.parametrize("format", ["mask2former", "transformers", "detectron2"])
def test_convert_to_half_the_size(official: Path, tmp_path: Path, format: str) -> None:
    out = tmp_path / "half"
    assert main(["convert", str(official), "--to", format, "--half", "--out", str(out)]) == 0
    first, second = load_model(official).state_dict(), load_model(out).state_dict()
    for name, tensor in first.items():
        assert torch.equal(second[name], tensor.half().float()), name
    weights = [p for p in out.iterdir() if p.suffix in (".pth", ".safetensors")]
    assert weights[0].stat().st_size < 0.6 * (official / "model.pth").stat().st_size


def test_a_single_class_can_be_named() -> None:
    assert class_names("bolt,") == ("bolt",)
    assert class_names("bolt, nut") == ("bolt", "nut")
    assert class_names("coco") == "coco"
    assert class_names(None) is None


def test_convert_writes_into_new_folders_alone(
    official: Path, model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["convert", str(official), "--out", str(official)]) == 2
    assert "holds files already; choose a new folder" in capsys.readouterr().err
    out = tmp_path / "out"
    assert main(["convert", model, "--to", "transformers", "--out", str(out)]) == 2
    said = capsys.readouterr().err
    assert "transformers cannot hold this model" in said
    assert "decoder.selected_share is 0.1, not 0.0" in said
    assert not out.exists()


def test_models_lists_names_figures_and_licences(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["models"]) == 0
    said = capsys.readouterr().out
    for part in ("scenes", "nuclei", "coco-panoptic-swin-t", "PQ 53.2, AP 43.3", "CC BY-NC 4.0"):
        assert part in said
    assert main(["models", "--only", "ade20k-instance"]) == 0
    said = capsys.readouterr().out
    assert "100 classes of ade20k" in said
    assert "coco" not in said
    assert main(["models", "--only", "kitti"]) == 2
    assert "--only kitti: no model's name holds this text" in capsys.readouterr().err


def miniature(folder: Path) -> None:
    """Two of the drawn scenes as if they were Cityscapes': its classes, in COCO panoptic format."""
    write_coco_panoptic(Scenes(length=2, seed=5), folder, "val")
    path = folder / "annotations" / "panoptic_val.json"
    content = read(path)
    theirs = class_list("cityscapes")
    content["categories"] = [
        {"id": c.id, "name": c.name, "isthing": int(c.is_thing), "color": list(c.color)}
        for c in theirs
    ]
    names = [category.name for category in CATEGORIES if not category.is_thing]
    for annotation in content["annotations"]:
        for segment in annotation["segments_info"]:
            own = CATEGORIES[segment["category_id"] - 1]
            place = len(theirs) - 8 + own.id % 8 if own.is_thing else names.index(own.name)
            segment["category_id"] = theirs[place].id
    path.write_text(json.dumps(content))


def test_verify_puts_our_figures_beside_the_published_ones(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """End to end on a miniature; its figures were recorded once and must not move."""
    name = "cityscapes-panoptic-r50"
    miniature(tmp_path / "data")
    pixels = replace(tiny.CONFIG.pixel_decoder, points=4)
    config = replace(tiny.CONFIG, backbone=tiny.SWIN, pixel_decoder=pixels)
    model = tiny.model(replace(config, categories=class_list("cityscapes")))
    arrays = {official_name(k): v.numpy() for k, v in model.state_dict().items()}
    monkeypatch.setenv("MASK2FORMER_CACHE", str(tmp_path / "cache"))
    entry = replace(released_models()[name], shortest_side=128, longest_side=256)
    entry.path.parent.mkdir(parents=True)
    entry.path.write_bytes(pickle.dumps({"model": arrays}))
    monkeypatch.setitem(released_models(), name, replace(entry, metrics=RECORDED))
    words = ["verify", name, "--data", str(tmp_path / "data"), "--device", "cpu"]
    assert main(words) == 0
    said = capsys.readouterr().out
    assert "2 images: agrees within 0.1" in said
    monkeypatch.setitem(released_models(), name, replace(entry, metrics={"mIoU": 77.5}))
    assert main(words) == 1
    assert "2 images: does not agree within 0.1" in capsys.readouterr().out


def test_verify_names_the_nearest_checkpoints(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["verify", "coco-panoptic-r5", "--data", str(tmp_path)]) == 2
    assert "nearest: coco-panoptic-r50" in capsys.readouterr().err
    assert main(["verify", "youtube-vis-2019-r50", "--data", str(tmp_path)]) == 2
    assert "not the name of a released checkpoint for images" in capsys.readouterr().err


# --- train ----------------------------------------------------------------------------------------


def test_train_then_go_on(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "run"
    words = ["train", "--data", str(data), "--out", str(out), "--batch-size", "1"]
    words += [word for override in SMALL for word in ("--set", override)]
    assert main([*words, "--steps", "2", "--set", "checkpoint_every=1"]) == 0
    printed = capsys.readouterr().out
    assert "2 steps of 1 images, 11 classes" in printed
    assert f"weights: {out / 'model'}" in printed
    assert "last evaluation: PQ" in printed
    assert main([*words, "--steps", "3"]) == 0
    assert "resuming at step 2 of 3" in capsys.readouterr().out
    assert main(["train", "--out", str(out)]) == 0  # by the config in the folder: all is done
    printed = capsys.readouterr().out
    assert "resuming at step 3 of 3" in printed
    assert "last evaluation: PQ" in printed
    assert Mask2Former.from_pretrained(out / "model").config.categories == CATEGORIES
    assert main([*words, "--steps", "3", "--rate", "0.5"]) == 2
    assert "optimizer.rate differ" in capsys.readouterr().err


def test_options_change_the_preset(tmp_path: Path, model: str) -> None:
    options = Train(
        out=tmp_path,
        preset="scenes",
        steps=7,
        batch_size=3,
        rate=0.25,
        seed=5,
        initial_weights=model,
        accumulate=3,
        devices=2,
        precision="bf16-mixed",
        overrides=("optimizer.schedule=poly", "view.crop=[64, 96]", "view.flip=false", "ema=0"),
    )
    config = build_config(options)
    assert (config.steps, config.batch_size, config.seed) == (7, 3, 5)
    assert (config.optimizer.rate, config.optimizer.schedule) == (0.25, "poly")
    assert (config.view.crop, config.view.flip, config.ema) == ((64, 96), False, 0.0)
    assert config.initial_weights == model
    assert (config.accumulate, config.devices, config.precision) == (3, 2, "bf16-mixed")


def test_a_config_file_takes_the_place_of_a_preset(tmp_path: Path, data: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text("model: {categories: []}\ndata: {type: FolderData, folder: x}\nsteps: 9\n")
    options = Train(out=tmp_path / "out", config=file, data=str(data), seed=2)
    config = build_config(options)
    assert (config.steps, config.seed) == (9, 2)
    assert getattr(config.data, "folder", None) == str(data)


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({"preset": "scenes", "overrides": ("optimizr.rate=1",)}, "did you mean 'optimizer'"),
        ({"preset": "scenes", "overrides": ("optimizer.rate=fast",)}, "optimizer.rate: expected"),
        ({"preset": "scenes", "overrides": ("steps.all=1",)}, "steps has no fields"),
        ({"preset": "scenes", "overrides": ("steps",)}, "expected KEY=VALUE"),
        ({"preset": "nuclei"}, "--preset nuclei: give the data set's folder"),
        ({"preset": "coco_panoptic_r5"}, "did you mean coco-panoptic-r50"),
        ({"preset": "scenes", "config": Path("x.yaml")}, "--preset and --config"),
        ({"preset": "scenes", "data": "photos"}, "leave out --data photos"),
        ({}, "nothing to train on"),
    ],
)
def test_faulty_training_options_are_named(
    tmp_path: Path, fields: dict[str, Any], text: str
) -> None:
    with pytest.raises(ValueError, match=text):
        build_config(Train(out=tmp_path, **fields))


def test_the_preset_looks_at_the_data_as_it_is_set(tmp_path: Path, data: Path) -> None:
    panoptic = build_config(Train(out=tmp_path, data=str(data)))
    assert panoptic.model.decoder.selected_share > 0
    options = Train(out=tmp_path, data=str(data), overrides=("data.task=semantic",))
    semantic = build_config(options)
    assert semantic.data == FolderData(folder=str(data), task="semantic")
    assert semantic.model.decoder.selected_share == semantic.loss.cell_weight == 0
    options = Train(out=tmp_path, data=str(data), overrides=("data.train=tests",))
    with pytest.raises(ValueError, match="has no split 'tests'"):
        build_config(options)


@pytest.mark.parametrize("command", [["train"], ["finetune", "--model", "scenes"]])
def test_no_threads_and_files_for_folders(
    command: list[str], tmp_path: Path, data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [*command, "--data", str(data), "--out"]
    assert main([*words, str(tmp_path / "run"), "--threads", "0"]) == FAULT
    assert "--threads 0: must be at least 1" in capsys.readouterr().err
    (tmp_path / "file").write_text("mine")
    assert main([*words, str(tmp_path / "file")]) == FAULT
    assert "file: is a file; name a folder" in capsys.readouterr().err
    assert (tmp_path / "file").read_text() == "mine"


def test_a_recipe_of_the_zoo_wants_a_pretrained_backbone(tmp_path: Path) -> None:
    options = Train(out=tmp_path, preset="coco_panoptic_r50", data="x")
    assert starts_from_nothing(build_config(options))
    given = replace(options, overrides=("backbone_weights=resnet50.pth",))
    assert not starts_from_nothing(build_config(given))
    assert not starts_from_nothing(build_config(replace(options, preset="scenes", data=None)))


# --- finetune -------------------------------------------------------------------------------------


def test_finetune_says_what_it_chose_and_goes_on(
    data: Path, tmp_path: Path, model: str, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    words = ["finetune", "--data", str(data), "--model", model, "--out", str(out)]
    assert main([*words, "--plan-only"]) == 0
    printed = capsys.readouterr().out
    assert "11, 0 new" in printed
    assert "3 images" in printed
    assert not out.exists()
    words += ["--batch-size", "1"]
    words += [word for override in SMALL for word in ("--set", override)]
    assert main([*words, "--steps", "1"]) == 0
    capsys.readouterr()
    assert main([*words, "--steps", "2"]) == 0
    printed = capsys.readouterr().out
    assert "resuming at step 1 of 2" in printed
    assert "chosen" not in printed  # that was settled when it began
    other_words = [*words[:2], f"{data}/../{data.name}", *words[3:]]  # the same folder
    assert main([*other_words, "--steps", "2"]) == 0
    assert Mask2Former.from_pretrained(out / "model").config.categories == CATEGORIES
    assert main([*words[:3], "--model", "scenes", "--out", str(out)]) == 2
    assert f"begun with --data {data}, --model {model}, --size 64" in capsys.readouterr().err
    assert main([*words, "--size", "96"]) == 2
    assert "--size 64" in capsys.readouterr().err


def test_finetune_plans_for_what_is_set(
    data: Path, tmp_path: Path, model: str, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["finetune", "--data", str(data), "--model", model, "--out", str(tmp_path / "run")]
    for option in (["--steps", "70"], ["--set", "steps=70"]):
        assert main([*words, "--plan-only", *option]) == 0
        rows = [line.split("│") for line in capsys.readouterr().out.splitlines()]
        (steps,) = (
            [cell.strip() for cell in row] for row in rows if row[1:2] == [" steps          "]
        )
        assert steps[2:4] == ["70", "it was given"]
    assert main([*words, "--plan-only", "--set", "steps=many"]) == FAULT
    assert "steps: expected int" in capsys.readouterr().err


def test_finetune_looks_at_the_splits_that_are_set(
    data: Path, tmp_path: Path, model: str, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["finetune", "--data", str(data), "--model", model, "--out", str(tmp_path / "run")]
    words += ["--plan-only", "--size", "96"]
    assert main([*words, "--set", "data.train=val", "--set", "data.limit=2"]) == 0
    printed = capsys.readouterr().out
    assert "2 images" in printed
    assert "96" in printed
    assert "data.limit" in printed  # what is given is part of the plan
    assert main([*words, "--set", "data.val=test"]) == 2
    assert "has no split 'test', only train, val" in capsys.readouterr().err
    assert main([*words, "--set", "data.vall=test"]) == 2
    assert "did you mean 'val'" in capsys.readouterr().err


def test_a_config_file_that_is_missing_or_broken_is_named(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    with pytest.raises(FileNotFoundError, match=r"mine\.yaml"):
        build_config(Train(out=tmp_path, config=file))
    file.write_text("a: [")
    with pytest.raises(ValueError, match=r"mine\.yaml: not valid YAML"):
        build_config(Train(out=tmp_path, config=file))
