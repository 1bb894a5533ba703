"""`mask2former data` and what a training says of its data, in process on generated folders."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from rich.console import Console

import sick_data
from mask2former.cli import FAULT, main
from mask2former.commands.data import quick_check
from mask2former.training.config import FolderData
from sick_data import Content, change

Say = Callable[[], str]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Sound panoptic data of few images, the current directory beside it."""
    monkeypatch.setattr(sick_data, "COUNTS", {"train": 8, "val": 4})
    sick_data.write_panoptic(tmp_path / "bench")
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    return tmp_path / "bench"


def unknown_categories(content: Content) -> None:
    for annotation in content["annotations"]:
        annotation["segments_info"][0]["category_id"] = 77


def test_a_split_that_cannot_be_opened_does_not_hide_the_others(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "annotations" / "panoptic_val.json").write_text("{")
    assert main(["data", "inspect", str(folder)]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "val cannot be opened" in said
    assert "3 classes" in said
    (folder / "annotations" / "panoptic_train.json").write_text("{")
    assert main(["data", "inspect", str(folder)]) == FAULT
    assert "panoptic_train.json" in capsys.readouterr().err


def test_inspect_counts_and_draws(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files = sorted(folder.rglob("*"))
    assert main(["data", "inspect", str(folder), "--json", "figures.json"]) == 0
    said = capsys.readouterr().out
    for part in ("COCO panoptic (coco-panoptic): train, val", "3 classes", "64 x 48", "bolt"):
        assert part in said
    assert sorted(folder.rglob("*")) == files  # nothing is written into the data
    train = json.loads(Path("figures.json").read_text())["splits"]["train"]
    assert (train["images"], train["images_read"], train["objects"]) == (8, 8, 24)
    assert (train["objects_median"], train["objects_max"], train["crowds"]) == (3.0, 3, 0)
    assert (train["width"], train["height"]) == ([64.0] * 3, [48.0] * 3)
    content = json.loads((folder / "annotations" / "panoptic_train.json").read_text())
    areas = [a["segments_info"][0]["area"] for a in content["annotations"]]
    bolt = train["classes"][0]
    assert (bolt["name"], bolt["objects"], bolt["images"]) == ("bolt", 8, 8)
    assert bolt["pixel_share"] == pytest.approx(sum(areas) / (8 * 48 * 64))
    labelled = sum(s["area"] for a in content["annotations"] for s in a["segments_info"])
    assert train["void_share"] == pytest.approx(1 - labelled / (8 * 48 * 64))
    assert 0 < train["void_share"] < 1
    sheet = np.asarray(Image.open("bench-samples.png"))
    assert sheet.shape[1] > 4 * 480
    assert len(np.unique(sheet.reshape(-1, 3), axis=0)) > 1000


def test_inspect_lists_the_classes_of_every_split(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def rename(content: Content) -> None:
        content["categories"][0]["name"] = "screw"

    change(folder, "panoptic_val", rename)
    assert main(["data", "inspect", str(folder)]) == 0
    said = capsys.readouterr().out
    assert "4 classes" in said
    rows = {name: next(x for x in said.splitlines() if name in x) for name in ("bolt", "screw")}
    assert rows["bolt"].count(" - ") == rows["screw"].count(" - ") == 3


def test_inspect_says_what_it_left_out(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "images" / "train" / "0000.png").write_bytes(b"")
    words = ["data", "inspect", str(folder), "--images", "4", "--out", "out/sheet.png"]
    assert main(words) == 0
    said = capsys.readouterr().out
    assert "train: figures of 3 of 8 images" in said
    assert "train: 1 images could not be read" in said
    assert Path("out/sheet.png").is_file()
    assert main([*words, "--images", "0"]) == 2
    assert "--images 0: must be at least 1" in capsys.readouterr().err


def test_check_of_a_sound_folder(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["data", "check", str(folder)]) == 0
    assert f"{folder}: nothing is wrong" in capsys.readouterr().out


def test_check_tells_errors_in_table_file_and_status(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    change(folder, "panoptic_train", unknown_categories)
    (folder / "images" / "val" / "0001.png").write_bytes(b"torn")
    assert main(["data", "check", str(folder), "--json", "out/findings.json"]) == 1
    said = capsys.readouterr().out
    for part in ("error: unknown category", "... and 3 more", "9 errors", "error: unreadable"):
        assert part in said
    document = json.loads(Path("out/findings.json").read_text())
    assert (document["errors"], document["warnings"], document["deep"]) == (9, 0, True)
    assert sum(f["kind"] == "unknown category" for f in document["findings"]) == 8
    assert main(["data", "check", str(folder), "--split", "val", "--fast"]) == 0
    assert main(["data", "check", str(folder), "--split", "test"]) == 2
    assert "has no split 'test'" in capsys.readouterr().err
    assert main(["data", "check", str(folder / "absent")]) == 2
    assert "there is no such folder" in capsys.readouterr().err


def test_warnings_leave_the_status_at_0(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    change(folder, "panoptic_train", lambda content: content["annotations"].pop())
    assert main(["data", "check", str(folder)]) == 0
    assert "1 warning" in capsys.readouterr().out


def test_a_training_stops_at_errors_and_tells_warnings(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = FolderData(folder=str(folder))
    console = Console(highlight=False, markup=False, soft_wrap=True)
    quick_check(data, console)
    assert capsys.readouterr().out == ""
    change(folder, "panoptic_train", lambda content: content["annotations"].pop())
    quick_check(data, console)
    assert "image without annotation (1); `mask2former data check" in capsys.readouterr().out
    for path in (folder / "images" / "val").iterdir():
        path.unlink()
    words = ["train", "--data", str(folder), "--out", "run", "--steps", "1"]
    assert main(words) == 2
    said = capsys.readouterr().err
    assert "panoptic_val.json: image 1: its file" in said
    assert f"`mask2former data check {folder}` shows all" in said
    assert not Path("run").exists()
