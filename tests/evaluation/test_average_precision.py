"""AP against pycocotools on random scenes of overlapping masks, with crowds and tied scores."""

from __future__ import annotations

import contextlib
import io
import json
import pickle
import sys
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from mask2former.evaluation.average_precision import AveragePrecision
from mask2former.evaluation.instance_files import score_instance_files
from mask2former.masks import EncodedMasks, decode_rle, encode_rle
from mask2former.structures import Category, Instances, Sample, Segmentation

SIZE = (150, 170)
CATEGORIES = (
    Category(id=3, name="cell", is_thing=True, color=(1, 0, 0)),
    Category(id=5, name="glass", is_thing=False, color=(2, 0, 0)),
    Category(id=7, name="yeast", is_thing=True, color=(3, 0, 0)),
    Category(id=8, name="spore", is_thing=True, color=(4, 0, 0)),
)
THINGS = [label for label, category in enumerate(CATEGORIES) if category.is_thing]


def ellipses(rng: np.random.Generator, count: int) -> np.ndarray:
    """Radii up to 120 pixels, so that all three of COCO's area ranges occur."""
    shapes = rng.uniform([0, 0, 3, 3], [SIZE[1], SIZE[0], 120, 120], (count, 4))
    shapes[rng.random(count) < 0.7, 2:] /= 6
    return shapes


def draw(shapes: np.ndarray) -> np.ndarray:
    y, x = np.mgrid[: SIZE[0], : SIZE[1]]
    masks = [((x - cx) / rx) ** 2 + ((y - cy) / ry) ** 2 <= 1 for cx, cy, rx, ry in shapes]
    return np.array(masks, bool).reshape(-1, *SIZE)


def scene(
    seed: int, image_id: int | str, truth: int = 14, copies: int = 2
) -> tuple[Sample, Segmentation]:
    """Objects, and detections that are jittered copies of them, some with a wrong label."""
    rng = np.random.default_rng(seed)
    shapes = ellipses(rng, truth)
    labels = rng.integers(0, len(CATEGORIES), truth)
    sample = Sample(
        image=np.zeros((*SIZE, 3), np.uint8),
        labels=labels,
        masks=EncodedMasks(SIZE, [encode_rle(mask) for mask in draw(shapes)]),
        is_crowd=rng.random(truth) < 0.15,
        image_id=image_id,
        name=f"image {image_id}",
    )
    found = np.repeat(shapes, copies, axis=0)
    found = found + rng.normal(0, 0.12, found.shape) * found[:, [2, 3, 2, 3]]
    found[:, 2:] = np.maximum(found[:, 2:], 1)
    found_labels = np.repeat(labels, copies)
    wrong = rng.random(len(found)) < 0.1
    found_labels[wrong] = rng.integers(0, len(CATEGORIES), wrong.sum())
    scores = np.sort(rng.integers(1, 40, len(found)) / 40)[::-1].astype(np.float32)
    return sample, make_result(draw(found), found_labels, scores)


def make_result(masks: np.ndarray, labels: np.ndarray, scores: np.ndarray) -> Segmentation:
    instances = Instances(
        masks=torch.from_numpy(masks),
        scores=torch.from_numpy(scores.copy()),
        labels=torch.from_numpy(labels),
        boxes=torch.zeros(len(labels), 4),
        categories=CATEGORIES,
    )
    return Segmentation(size=SIZE, name="result", instances=instances)


def scenes(count: int, **options: int) -> list[tuple[Sample, Segmentation]]:
    return [scene(seed, seed + 1, **options) for seed in range(count)]


def evaluate(pairs: list[tuple[Sample, Segmentation]], max_detections: int) -> dict[str, float]:
    evaluator = AveragePrecision(CATEGORIES, max_detections=max_detections)
    for sample, result in pairs:
        evaluator.update(result, sample)
    return evaluator.compute()


def coco_records(
    pairs: list[tuple[Sample, Segmentation]],
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """The same scenes, things only, in COCO's format with the data set's category ids."""
    annotations: list[dict[str, Any]] = []
    results: list[dict[str, Any]] = []
    for sample, result in pairs:
        masks = sample.masks.render((0, 0, SIZE[1], SIZE[0]), SIZE)
        for label, mask, crowd in zip(sample.labels, masks, sample.is_crowd, strict=True):
            if label in THINGS:
                record = {
                    "id": len(annotations) + 1,
                    "image_id": sample.image_id,
                    "category_id": CATEGORIES[label].id,
                    "segmentation": encode_rle(mask),
                    "area": int(mask.sum()),
                    "iscrowd": int(crowd),
                }
                annotations.append(record)
        instances = result.instances
        assert instances is not None
        found = zip(instances.labels, instances.scores, instances.rles(), strict=True)
        for label, score, rle in found:
            if label in THINGS:
                record = {
                    "image_id": sample.image_id,
                    "category_id": CATEGORIES[label].id,
                    "segmentation": rle,
                    "score": float(score),
                }
                results.append(record)
    truth = {
        "images": [{"id": s.image_id, "height": SIZE[0], "width": SIZE[1]} for s, _ in pairs],
        "annotations": annotations,
        "categories": [{"id": CATEGORIES[i].id, "name": CATEGORIES[i].name} for i in THINGS],
    }
    return truth, results


def pycocotools_figures(
    truth: dict[str, Any], results: list[dict[str, Any]], max_detections: int
) -> dict[str, float]:
    truth, results = json.loads(json.dumps([truth, results]))  # it writes into what it is given
    with contextlib.redirect_stdout(io.StringIO()):
        ground = COCO()
        ground.dataset = truth
        ground.createIndex()
        evaluation = COCOeval(ground, ground.loadRes(results), "segm")
        evaluation.params.maxDets = [max_detections]
        evaluation.evaluate()
        evaluation.accumulate()
    precision = evaluation.eval["precision"][..., 0]  # IoU, recall, class, area

    def mean(values: np.ndarray) -> float:
        return 100 * float(values[values > -1].mean())

    figures = {
        "AP": mean(precision[..., 0]),
        "AP50": mean(precision[0, ..., 0]),
        "AP75": mean(precision[5, ..., 0]),
        "AP_small": mean(precision[..., 1]),
        "AP_medium": mean(precision[..., 2]),
        "AP_large": mean(precision[..., 3]),
    }
    for index, category in enumerate(sorted(truth["categories"], key=lambda c: c["id"])):
        figures[f"AP/{category['name']}"] = mean(precision[:, :, index, 0])
    return figures


def test_equals_pycocotools() -> None:
    pairs = scenes(12)
    expected = pycocotools_figures(*coco_records(pairs), 100)
    assert 5 < expected["AP"] < 95
    assert evaluate(pairs, 100) == pytest.approx(expected, abs=1e-6)


def test_equals_pycocotools_with_many_detections() -> None:
    """400 detections of each image: 1000 keeps them all, 100 and 7 cut."""
    pairs = scenes(2, truth=50, copies=8)
    figures = {}
    for limit in (7, 100, 1000):
        figures[limit] = evaluate(pairs, limit)
        expected = pycocotools_figures(*coco_records(pairs), limit)
        assert figures[limit] == pytest.approx(expected, abs=1e-6)
    assert figures[7]["AP"] < figures[100]["AP"] < figures[1000]["AP"]


def polygon_files(folder: Path) -> tuple[dict[str, Any], list[dict[str, Any]], tuple[Path, Path]]:
    """Polygons whose stated area differs from their pixels, an id 0, boxes in the results."""
    truth, results = coco_records(scenes(6))
    for record in truth["annotations"]:
        mask = np.ascontiguousarray(decode_rle(record["segmentation"]), np.uint8)
        contours, _ = cv2.findContours(mask, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
        polygons = [c.reshape(-1).tolist() for c in contours if len(c) > 2]
        if polygons and not record["iscrowd"]:
            record["segmentation"] = polygons
        record["area"] = record["area"] * 1.3
    files = folder / "truth.json", folder / "results.json"
    expected_truth, expected_results = json.loads(json.dumps([truth, results]))
    for record in truth["annotations"]:
        record["id"] -= 1
    for record in results:
        record["bbox"] = [0, 0, 1, 1]
    files[0].write_text(json.dumps(truth))
    files[1].write_text(json.dumps(results))
    return expected_truth, expected_results, files


def test_files_equal_pycocotools(tmp_path: Path) -> None:
    truth, results, files = polygon_files(tmp_path)
    expected = pycocotools_figures(truth, results, 100)
    assert score_instance_files(*files) == pytest.approx(expected, abs=1e-6)


def test_errors_of_files_name_the_record(tmp_path: Path) -> None:
    truth, results, files = polygon_files(tmp_path)
    known = results[3]["category_id"]
    results[3]["category_id"] = 91
    files[1].write_text(json.dumps(results))
    with pytest.raises(ValueError, match=r"results.json: result 3: category_id 91"):
        score_instance_files(*files)
    results[3]["category_id"] = known
    results[3]["segmentation"] = encode_rle(np.ones((7, 9), bool))
    files[1].write_text(json.dumps(results))
    with pytest.raises(ValueError, match=r"result 3: its mask measures \[7, 9\], its image \["):
        score_instance_files(*files)
    del truth["annotations"][2]["area"]
    files[0].write_text(json.dumps(truth))
    with pytest.raises(ValueError, match=r"truth.json: annotation 3: 'area' is missing"):
        score_instance_files(*files)


def test_two_halves_merge_to_the_whole() -> None:
    """Tied scores rank by image, so the order in which images came must not show."""
    pairs = scenes(9)
    whole, *halves = (AveragePrecision(CATEGORIES) for _ in range(3))
    for index, (sample, result) in enumerate(pairs):
        whole.update(result, sample)
        halves[index % 2].update(result, sample)
    merged = halves[1]
    merged.merge(pickle.loads(pickle.dumps(halves[0])))
    assert merged.compute() == whole.compute()
    assert merged.compute() == merged.compute()


def test_image_ids_may_be_names() -> None:
    named = [scene(0, "b"), scene(1, "a"), scene(2, 5)]
    numbered = [scene(2, 1), scene(1, 2), scene(0, 3)]
    assert evaluate(named, 100) == evaluate(numbered, 100)


def test_perfect_and_empty() -> None:
    sample, _ = scene(0, 1)
    masks = sample.masks.render((0, 0, SIZE[1], SIZE[0]), SIZE)
    perfect = make_result(masks, sample.labels, np.ones(len(masks), np.float32))
    assert evaluate([(sample, perfect)], 100)["AP"] == pytest.approx(100)
    nothing = make_result(masks[:0], sample.labels[:0], np.zeros(0, np.float32))
    assert evaluate([(sample, nothing)], 100)["AP"] == 0
    assert AveragePrecision(CATEGORIES).compute() == {}
    assert AveragePrecision(CATEGORIES[1:2]).compute() == {}


def test_prints_nothing(capfd: pytest.CaptureFixture[str]) -> None:
    evaluate(scenes(1), 100)
    assert capfd.readouterr() == ("", "")


def test_holds_no_maps() -> None:
    evaluator = AveragePrecision(CATEGORIES)
    for sample, result in scenes(4):
        evaluator.update(result, sample)
    assert len(pickle.dumps(evaluator)) < SIZE[0] * SIZE[1] * 4


def test_errors_name_the_image() -> None:
    sample, result = scene(0, 1)
    evaluator = AveragePrecision(CATEGORIES)
    with pytest.raises(ValueError, match="image 1: the result has no instances part"):
        evaluator.update(Segmentation(size=SIZE, name="x"), sample)
    assert result.instances is not None
    small = make_result(np.zeros((0, 3, 4), bool), np.zeros(0, np.int64), np.zeros(0, np.float32))
    with pytest.raises(ValueError, match="image 1: the result has 4 x 3 pixels"):
        evaluator.update(small, sample)
    with pytest.raises(ValueError, match=r"image 1: the result knows 4 categories .* has 3"):
        AveragePrecision(CATEGORIES[:3]).update(result, sample)
    evaluator.update(result, sample)
    with pytest.raises(ValueError, match="image 1 was scored twice"):
        evaluator.merge(pickle.loads(pickle.dumps(evaluator)))


def test_says_how_to_get_faster_coco_eval(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "faster_coco_eval.core", None)
    with pytest.raises(ImportError, match=r'pip install "mask2former\[train\]"'):
        AveragePrecision(CATEGORIES).compute()
