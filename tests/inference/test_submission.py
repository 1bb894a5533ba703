"""What is written for benchmarks' servers, read back as they describe it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mask2former.inference.predictions import open_predictions
from mask2former.inference.submission import open_submission
from mask2former.inference.writers import ResultWriter
from mask2former.structures import Category
from some_results import CATEGORIES, made_up

NAME = "town/town_000001_000019_leftImg8bit.png"
STEM = "town_000001_000019_leftImg8bit"


def test_coco(tmp_path: Path) -> None:
    with open_submission("coco", tmp_path, CATEGORIES) as submission:
        submission.write(made_up(), "a/000000000139.jpg", 139)
    results = json.loads((tmp_path / "instances.json").read_text())
    assert {(r["image_id"], r["category_id"]) for r in results} == {(139, 7), (139, 9)}
    (annotation,) = json.loads((tmp_path / "panoptic.json").read_text())["annotations"]
    assert annotation["image_id"] == 139
    assert [s["category_id"] for s in annotation["segments_info"]] == [11, 7, 9]
    png = np.asarray(Image.open(tmp_path / "panoptic" / annotation["file_name"])).astype(int)
    ids = png @ [1, 256, 65536]
    assert set(np.unique(ids)) == {0, *(s["id"] for s in annotation["segments_info"])}
    assert not (tmp_path / "overlays").exists()


def test_ade20k(tmp_path: Path) -> None:
    result = made_up()
    with open_submission("ade20k", tmp_path, CATEGORIES) as submission:
        submission.write(result, "validation/ADE_val_00000001.jpg", 1)
    (path,) = tmp_path.iterdir()
    assert path.name == "ADE_val_00000001.png"
    written = np.asarray(Image.open(path))
    assert result.semantic is not None
    assert written.dtype == np.uint8
    assert np.array_equal(written, result.semantic.labels.numpy() + 1)
    many = tuple(Category(id=i, name=str(i), is_thing=False, color=(0, 0, 0)) for i in range(256))
    with pytest.raises(ValueError, match="255 classes at most"):
        open_submission("ade20k", tmp_path, many)


def test_cityscapes(tmp_path: Path) -> None:
    """Lines are "file id score" with a file beside them; maps hold ids and are read back."""
    result = made_up()
    with open_submission("cityscapes", tmp_path, CATEGORIES) as submission:
        submission.write(result, NAME, 1)
    assert result.instances is not None
    lines = (tmp_path / "instances" / f"{STEM}.txt").read_text().splitlines()
    assert len(lines) == len(result.instances)
    for line, mask, label, score in zip(
        lines, result.instances.masks, result.instances.labels, result.instances.scores, strict=True
    ):
        file, id, confidence = line.split(" ")
        assert int(id) == CATEGORIES[label].id
        assert float(confidence) == pytest.approx(float(score), abs=1e-6)
        written = np.asarray(Image.open(tmp_path / "instances" / file))
        assert np.array_equal(written != 0, mask.numpy())
    maps = open_predictions(tmp_path / "semantic", CATEGORIES)
    read = maps.result(1, NAME, result.size).semantic
    assert read is not None
    assert result.semantic is not None
    assert read.labels.equal(result.semantic.labels)


def test_coco_submission_is_what_the_writer_writes(tmp_path: Path) -> None:
    with open_submission("coco", tmp_path / "a", CATEGORIES) as submission:
        submission.write(made_up(), "folder/0.jpg", 1)
    with ResultWriter(tmp_path / "b", CATEGORIES) as writer:
        writer.add(made_up())
    for path in sorted((tmp_path / "b").rglob("*.*")):
        assert path.read_bytes() == (tmp_path / "a" / path.relative_to(tmp_path / "b")).read_bytes()
