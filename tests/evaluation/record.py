"""Figures of the reference evaluators that are too heavy to be installed for tests.

    pip install cityscapesScripts==2.3.0 lvis==0.5.3  # into an environment of its own
    PYTHONPATH=src:tests/evaluation python tests/evaluation/record.py

writes recorded.json: what they say of the files that `write_cityscapes` and `lvis_records` make.
Both packages ask numpy for names that it has dropped; these are lent to it.
"""

from __future__ import annotations

import contextlib
import io
import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from test_average_precision import CATEGORIES, coco_records, scenes

RECORDED = Path(__file__).with_name("recorded.json")

CITY_SIZE = (96, 200)
CITY_IMAGES = 5
# Cityscapes' ids: the 19 that are scored, and some that are void.
SCORED = (7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33)
THINGS = (24, 25, 26, 27, 28, 31, 32, 33)
VOID = (0, 4, 9)
LVIS_LIMIT = 20  # detections of an image


def city(seed: int) -> tuple[np.ndarray, np.ndarray, list[tuple[int, float, np.ndarray]]]:
    """The instanceIds map of a drawn city, a predicted labelIds map, predicted instances."""
    rng = np.random.default_rng(seed)
    height, width = CITY_SIZE
    blocks = rng.choice([*SCORED, *VOID], (6, 10)).astype(np.int32)
    truth = blocks.repeat(height // 6, axis=0).repeat(width // 10, axis=1)
    y, x = np.mgrid[:height, :width]
    found = []
    for number in range(24):
        label = int(rng.choice(THINGS[:4]))
        cx, cy = rng.uniform(0, width), rng.uniform(0, height)
        rx, ry = rng.uniform(2, 26, 2)
        group = rng.random() < 0.2  # several objects that nobody told apart: the bare label
        truth[((x - cx) / rx) ** 2 + ((y - cy) / ry) ** 2 <= 1] = (
            label if group else 1000 * label + number
        )
        for _ in range(rng.integers(0, 4)):
            dx, dy = rng.normal(0, 0.1, 2) * (rx, ry)
            sx, sy = rng.uniform(0.8, 1.2, 2) * (rx, ry)
            mask = ((x - cx - dx) / sx) ** 2 + ((y - cy - dy) / sy) ** 2 <= 1
            other = int(rng.choice(THINGS[:5])) if rng.random() < 0.15 else label
            if mask.any():
                found.append((other, float(rng.integers(1, 30)) / 32, mask))
    labels = np.where(truth < 1000, truth, truth // 1000)
    predicted = np.where(np.isin(labels, VOID), 7, labels)
    wrong = rng.random(CITY_SIZE) < 0.2
    predicted[wrong] = rng.choice(SCORED, int(wrong.sum()))
    return truth, predicted.astype(np.uint8), found


def lvis_records() -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """The scenes of the tests of AP, as LVIS would annotate them: no crowds, classes left out."""
    truth, results = coco_records(scenes(8))
    rng = np.random.default_rng(0)
    ids = [category["id"] for category in truth["categories"]]
    for annotation in truth["annotations"]:
        annotation["iscrowd"] = 0
    for category, frequency in zip(truth["categories"], "rcf", strict=True):
        category["frequency"] = frequency
    for image in truth["images"]:
        hidden = ids[image["id"] % 3]
        truth["annotations"] = [
            a
            for a in truth["annotations"]
            if (a["image_id"], a["category_id"]) != (image["id"], hidden)
        ]
        image["neg_category_ids"] = [hidden] if rng.random() < 0.5 else []
        image["not_exhaustive_category_ids"] = [int(rng.choice(ids))]
    return truth, results


def write_cityscapes(folder: Path) -> list[tuple[Path, Path, Path]]:
    """The files of each image: instanceIds, labelIds that were predicted, list of instances."""
    files = []
    for seed in range(CITY_IMAGES):
        truth, predicted, found = city(seed)
        stem = folder / f"town_{seed:06}_000019"
        names = tuple(Path(f"{stem}_{n}") for n in ("gtFine_instanceIds.png", "p.png", "p.txt"))
        Image.fromarray(truth.astype(np.uint16)).save(names[0])
        labels = np.where(truth < 1000, truth, truth // 1000).astype(np.uint8)
        Image.fromarray(labels).save(f"{stem}_gtFine_labelIds.png")
        Image.fromarray(predicted).save(names[1])
        lines = []
        for number, (label, score, mask) in enumerate(found):
            name = f"{stem.name}_{number}.png"
            Image.fromarray(mask.astype(np.uint8) * 255).save(folder / name)
            lines.append(f"{name} {label} {score}\n")
        names[2].write_text("".join(lines))
        files.append((names[0], names[1], names[2]))
    return files


def record_cityscapes() -> dict[str, float]:
    from cityscapesscripts.evaluation import evalInstanceLevelSemanticLabeling as instances
    from cityscapesscripts.evaluation import evalPixelLevelSemanticLabeling as pixels
    from cityscapesscripts.helpers.labels import id2label

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        files = write_cityscapes(folder)
        args = instances.args
        args.quiet, args.JSONOutput = True, False
        args.predictionPath, args.gtInstancesFile = name, str(folder / "gt.json")
        instances.setInstanceLabels(args)
        truth = [str(f[0]) for f in files]
        known = instances.getGtInstances(truth, args)
        matches = instances.matchGtWithPreds([str(f[2]) for f in files], truth, known, args)
        averages = instances.computeAverages(instances.evaluateMatches(matches, args), args)
        figures = {"cityscapes_AP": averages["allAp"], "cityscapes_AP50": averages["allAp50%"]}
        for key, values in averages["classes"].items():
            figures[f"cityscapes_AP/{key}"] = values["ap"]
        args = pixels.args
        args.quiet, args.JSONOutput, args.evalInstLevelScore = True, False, False
        predicted = [str(f[1]) for f in files]
        result = pixels.evaluateImgLists(
            predicted, [t.replace("instanceIds", "labelIds") for t in truth], args
        )
        figures["mIoU"] = result["averageScoreClasses"]
        figures["mIoU_categories"] = result["averageScoreCategories"]
        for id in SCORED:
            figures[f"IoU/{id2label[id].name}"] = result["classScores"][id2label[id].name]
        for key, value in result["categoryScores"].items():
            figures[f"IoU_category/{key}"] = value
    return {key: 100 * value for key, value in figures.items() if not np.isnan(value)}


def record_lvis() -> dict[str, float]:
    from lvis import LVIS, LVISEval, LVISResults

    truth, results = lvis_records()
    with tempfile.TemporaryDirectory() as name:
        path = Path(name) / "truth.json"
        path.write_text(json.dumps(truth))
        ground = LVIS(str(path))
    with contextlib.redirect_stdout(io.StringIO()):
        evaluation = LVISEval(ground, LVISResults(ground, results, max_dets=LVIS_LIMIT))
        evaluation.run()
    assert all(category["id"] in {c.id for c in CATEGORIES} for category in truth["categories"])
    names = {"APs": "AP_small", "APm": "AP_medium", "APl": "AP_large"}
    return {
        names.get(key, key): 100 * float(value)
        for key, value in evaluation.get_results().items()
        if not key.startswith("AR")
    }


if __name__ == "__main__":
    for name, value in (("float", float), ("in1d", np.isin)):
        if not hasattr(np, name):
            setattr(np, name, value)
    figures = {"cityscapes": record_cityscapes(), "lvis": record_lvis()}
    RECORDED.write_text(json.dumps(figures, indent=1) + "\n")
