"""`mask2former evaluate` on a model whose answers are written, and on these files."""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

import mask2former
import tiny
from mask2former.cli import FAULT, main
from mask2former.data.scenes import Scenes, ScenesConfig, write_coco_panoptic
from mask2former.evaluation.panoptic_quality import score_panoptic_files
from mask2former.modeling.mask2former import Mask2Former
from mask2former.segmenter import Augmentation
from mask2former.serialization import to_dict
from mask2former.training.config import FolderData, TrainConfig
from mask2former.weights import save_model


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    config = ScenesConfig(size=128, min_things=2, max_things=4, max_size=48)
    write_coco_panoptic(Scenes(length=3, seed=1, config=config), folder, "val")
    return folder


@pytest.fixture(scope="module")
def answers(data: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, float]]:
    """The results of the embedded model in files, and its figures."""
    out = tmp_path_factory.mktemp("out")
    figures = measured(out, "--model", "scenes", "--data", str(data), "--out", str(out))
    assert figures["PQ"] > 50
    return out, figures


def measured(folder: Path, *words: str) -> dict[str, float]:
    main(["evaluate", *words, "--json", str(folder / "figures.json")])
    figures: dict[str, float] = json.loads((folder / "figures.json").read_text())["figures"]
    return figures


@pytest.mark.parametrize(
    ("path", "kinds", "options"),
    [
        (".", ("PQ", "AP", "mIoU"), []),
        ("panoptic.json", ("PQ",), []),
        ("instances.json", ("AP",), []),
        ("semantic", ("mIoU",), ["--values", "labels"]),
    ],
)
def test_files_have_the_figures_of_the_model_that_made_them(
    path: str,
    kinds: tuple[str, ...],
    options: list[str],
    answers: tuple[Path, dict[str, float]],
    data: Path,
    tmp_path: Path,
) -> None:
    out, figures = answers
    found = measured(tmp_path, "--predictions", str(out / path), "--data", str(data), *options)
    for kind in ("PQ", "AP", "mIoU"):
        assert (kind in found) == (kind in kinds)
    for key, value in found.items():  # scores are written with five digits
        assert value == pytest.approx(figures[key], abs=0.2 if key.startswith("AP") else 1e-9)


def test_panoptic_files_are_scored_as_panopticapi_scores_them(
    answers: tuple[Path, dict[str, float]], data: Path
) -> None:
    out, figures = answers
    truth = data / "annotations" / "panoptic_val.json"
    found = score_panoptic_files(
        truth, data / "panoptic" / "val", out / "panoptic.json", out / "panoptic"
    )
    assert found == pytest.approx({key: figures[key] for key in found}, abs=1e-9)


def test_what_does_not_count_is_told(
    answers: tuple[Path, dict[str, float]],
    data: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    out, _ = answers
    results = json.loads((out / "instances.json").read_text())
    many = tmp_path / "many.json"
    many.write_text(json.dumps(results + 101 * results[:1]))
    words = ("--predictions", str(many), "--data", str(data))
    measured(tmp_path, *words)
    printed = " ".join(capsys.readouterr().out.split())
    assert re.search(r"an image has 1\d\d results of one class: the best 100 count", printed)
    measured(tmp_path, *words, "--max-detections", "300")
    assert "the best" not in capsys.readouterr().out
    other = next(r for r in results if r["category_id"] != results[0]["category_id"])
    other = {**other, "image_id": results[0]["image_id"]}
    many.write_text(json.dumps(80 * results[:1] + 80 * [other]))
    measured(tmp_path, *words)  # that is 160, but of each class no more than 80
    assert "the best" not in capsys.readouterr().out


def test_more_measures(answers: tuple[Path, dict[str, float]], data: Path, tmp_path: Path) -> None:
    out, _ = answers
    words = ("--predictions", str(out / "instances.json"), "--data", str(data), "--boundary")
    assert "boundary_AP" in measured(tmp_path, *words)


def test_without_a_split_to_validate_on_it_is_what_trainings_hold_out(
    answers: tuple[Path, dict[str, float]],
    data: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    shutil.copytree(data, tmp_path / "lone")
    (tmp_path / "lone" / "images" / "val").rename(tmp_path / "lone" / "images" / "whole")
    (tmp_path / "lone" / "panoptic" / "val").rename(tmp_path / "lone" / "panoptic" / "whole")
    for file in (tmp_path / "lone" / "annotations").iterdir():
        file.rename(file.with_name(file.name.replace("val", "whole")))
    words = ["--model", "scenes", "--data", str(tmp_path / "lone")]
    held_out = measured(tmp_path, *words)
    assert "no split 'val': measured on one image in 5" in capsys.readouterr().out
    assert json.loads((tmp_path / "figures.json").read_text())["images"] == 1
    _, figures = answers
    assert held_out["PQ"] != figures["PQ"]
    for every in ("all", "whole"):
        assert measured(tmp_path, *words, "--split", every) == figures
        assert "measured on one image" not in capsys.readouterr().out
    # A model's own training may have held out others.
    model = tmp_path / "run" / "model"
    shutil.copytree(Path(mask2former.__file__).parent / "models" / "scenes", model)
    trained_on = FolderData(folder=str(tmp_path / "lone"), holdout=2)
    config = to_dict(TrainConfig(model=tiny.CONFIG, data=trained_on))
    (tmp_path / "run" / "config.yaml").write_text(json.dumps(config))
    others = measured(tmp_path, "--model", str(model), *words[2:])
    printed = " ".join(capsys.readouterr().out.split())
    assert "one image in 2, which a training with data.holdout=2 holds out, as this" in printed
    assert others["PQ"] != held_out["PQ"]
    # One that was validated on others is measured on these.
    config = to_dict(TrainConfig(model=tiny.CONFIG, data=replace(trained_on, val="train")))
    (tmp_path / "run" / "config.yaml").write_text(json.dumps(config))
    assert measured(tmp_path, "--model", str(model), *words[2:]) == figures
    assert "measured on 'train', which this model's training" in capsys.readouterr().out
    # Of another program's file beside it nothing is made.
    (tmp_path / "run" / "config.yaml").write_text("- 1")
    assert measured(tmp_path, "--model", str(model), *words[2:]) == held_out
    # Files that others made are scored whole.
    results = ["--predictions", str(answers[0]), "--data", str(tmp_path / "lone")]
    assert measured(tmp_path, *results)["PQ"] == pytest.approx(figures["PQ"])


def test_models_of_things_are_measured_as_the_annotation_allows(tmp_path: Path) -> None:
    """Label maps of things have no objects to tell apart, so it is their mIoU."""
    for folder in ("images", "masks"):
        (tmp_path / "maps" / folder).mkdir(parents=True)
    Image.new("RGB", (64, 64), (200, 30, 30)).save(tmp_path / "maps" / "images" / "a.png")
    Image.new("L", (64, 64), 1).save(tmp_path / "maps" / "masks" / "a.png")
    source = Mask2Former.from_pretrained("scenes")
    things = tuple(replace(c, is_thing=True) for c in source.config.categories)
    names = "\n".join(category.name for category in things)
    (tmp_path / "maps" / "classes.txt").write_text(names)
    model = Mask2Former(replace(source.config, categories=things))
    model.load_state_dict(source.state_dict())
    save_model(model, tmp_path / "things", "mask2former")
    words = ["--model", str(tmp_path / "things"), "--data", str(tmp_path / "maps")]
    for task in ([], ["--task", "semantic"]):
        assert "mIoU" in measured(tmp_path, *words, "--split", "all", *task)


def test_what_does_not_fit_is_told(
    answers: tuple[Path, dict[str, float]], data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, _ = answers
    for words, message in (
        (["--predictions", str(out / "panoptic.json"), "--task", "semantic"], "choose --task"),
        (["--predictions", str(out), "--tta"], "--tta: files hold one answer"),
        (["--predictions", str(out / "semantic")], "categories' ids"),
        (["--model", "never loaded", "--tta", "--task", "instance"], "--task semantic"),
        (["--model", "scenes", "--submission", "ade20k"], "say with --out where"),
    ):
        assert main(["evaluate", *words, "--data", str(data)]) == FAULT
        assert message in capsys.readouterr().err


def test_results_of_other_images_are_no_results(
    answers: tuple[Path, dict[str, float]],
    data: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    records = json.loads((answers[0] / "instances.json").read_text())
    records[-1]["image_id"] = 999
    (tmp_path / "other.json").write_text(json.dumps(records))
    words = ["evaluate", "--predictions", str(tmp_path / "other.json"), "--data", str(data)]
    for more in ([], ["--boundary"]):
        assert main([*words, *more]) == FAULT
        assert "image_id 999 is" in capsys.readouterr().err
    assert main([*words, "--max-detections", "0"]) == FAULT
    assert "must be at least 1" in capsys.readouterr().err


def test_augmentation_changes_semantic_figures_alone(
    answers: tuple[Path, dict[str, float]],
    data: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    mirrored = Augmentation(scales=(1.0,))  # six scales take a minute
    monkeypatch.setattr("mask2former.commands.evaluate.Augmentation", lambda: mirrored)
    _, plain = answers
    augmented = measured(tmp_path, "--model", "scenes", "--data", str(data), "--tta")
    assert augmented["PQ"] == plain["PQ"]
    assert augmented["AP"] == plain["AP"]
    assert augmented["mIoU"] != plain["mIoU"]
    assert augmented["mIoU"] == pytest.approx(plain["mIoU"], abs=10)
