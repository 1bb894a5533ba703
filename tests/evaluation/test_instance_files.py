"""Truth of which boxes alone are known: it counts neither way, as where its images are read."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mask2former.data.coco_exports import brushed_are_objects
from mask2former.evaluation.instance_files import score_instance_files
from mask2former.masks import encode_rle

TRIANGLE = [2, 2, 12, 2, 2, 12]
OTHER = [20, 20, 30, 20, 20, 30]


def record(polygon: list[int], **fields: Any) -> dict[str, Any]:
    x, y = polygon[:2]
    common = {"image_id": 1, "category_id": 1, "bbox": [x, y, 10, 10], "area": 50, "score": 0.9}
    return {**common, "segmentation": [polygon], **fields}


def test_truth_is_mended_first(tmp_path: Path) -> None:
    """What CVAT's brush drew is marked as a crowd in its file, and is an object."""
    encoding = encode_rle(np.eye(40, dtype=bool))
    truth = record(TRIANGLE, segmentation=encoding, iscrowd=1, attributes={"occluded": False})
    del truth["score"]
    content = {
        "images": [{"id": 1, "height": 40, "width": 40}],
        "categories": [{"id": 1, "name": "tile"}],
        "annotations": [truth],  # without an id, which readers do not ask for either
    }
    files = tmp_path / "truth.json", tmp_path / "results.json"
    files[0].write_text(json.dumps(content))
    files[1].write_text(json.dumps([record(TRIANGLE, segmentation=encoding)]))
    assert "AP" not in score_instance_files(*files)
    assert score_instance_files(*files, mend=brushed_are_objects)["AP"] == pytest.approx(100)


def scored(folder: Path, *truth: dict[str, Any]) -> dict[str, float]:
    """What is found is both shapes, the surer of them `OTHER`."""
    content = {
        "images": [{"id": 1, "height": 40, "width": 40}],
        "categories": [{"id": 1, "name": "tile"}],
        "annotations": [{**annotation, "id": i} for i, annotation in enumerate(truth)],
    }
    files = folder / "truth.json", folder / "results.json"
    files[0].write_text(json.dumps(content), encoding="utf-8-sig")
    files[1].write_text(json.dumps([record(OTHER, score=1.0), record(TRIANGLE)]))
    return score_instance_files(*files)


@pytest.mark.parametrize(
    "lacking",
    [
        {"segmentation": []},
        {"segmentation": [[]]},
        {"segmentation": [[20, 20, 30, 30]]},
        {"segmentation": None},
    ],
)
def test_an_object_known_by_its_box_is_a_crowd(tmp_path: Path, lacking: dict[str, Any]) -> None:
    truth = record(TRIANGLE), record(OTHER, **lacking)
    assert scored(tmp_path, *truth)["AP"] == pytest.approx(100)
    truth[1]["bbox"] = None  # without any area it is not there, so what is found there is wrong
    assert scored(tmp_path, *truth)["AP"] == pytest.approx(50)
    assert scored(tmp_path, truth[0])["AP"] == pytest.approx(50)


def test_malformed_truth_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"truth\.json: annotation 0: .*polygon 0 holds 5"):
        scored(tmp_path, record(OTHER, segmentation=[[1, 2, 3, 4, 5]]))
