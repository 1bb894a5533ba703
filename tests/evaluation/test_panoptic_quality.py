"""PQ against numbers worked out by hand, and against recorded results of panopticapi."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from mask2former.evaluation.panoptic_quality import (
    PanopticQuality,
    PanopticTally,
    TrueSegment,
    score_panoptic_files,
    summarize,
    tally_image,
    tally_panoptic_files,
)
from mask2former.masks import IdMapMasks
from mask2former.structures import Category, Panoptic, Sample, Segment, Segmentation

SHARED = Path(__file__).parents[3] / "shared"
REFERENCE = SHARED / "reference"
COCO_SAMPLE = SHARED / "data" / "panopticapi_sample" / "sample_data"

CATEGORIES = (
    Category(id=1, name="cat", is_thing=True, color=(1, 0, 0)),
    Category(id=2, name="dog", is_thing=True, color=(2, 0, 0)),
    Category(id=9, name="sky", is_thing=False, color=(3, 0, 0)),
)

# Truth: id 1 cat (12 pixels), 2 dog crowd (6), 3 sky (14), 0 void (8).
TRUE_IDS = np.array(
    [
        [1, 1, 1, 1, 0, 0, 0, 0, 2, 2],
        [1, 1, 1, 1, 0, 0, 0, 0, 2, 2],
        [1, 1, 1, 1, 3, 3, 3, 3, 2, 2],
        [3, 3, 3, 3, 3, 3, 3, 3, 3, 3],
    ]
)
TRUE_SEGMENTS = (
    TrueSegment(id=1, label=0, area=12),
    TrueSegment(id=2, label=1, area=6, is_crowd=True),
    TrueSegment(id=3, label=2, area=14),
)
# Prediction: 5 cat, 6 cat, 7 dog, 8 sky, 4 sky.
PREDICTED_IDS = np.array(
    [
        [5, 5, 5, 5, 5, 6, 6, 6, 7, 7],
        [5, 5, 5, 5, 5, 6, 6, 6, 7, 7],
        [0, 0, 0, 0, 4, 6, 6, 8, 8, 8],
        [4, 4, 4, 4, 4, 4, 4, 4, 8, 8],
    ]
)
PREDICTED_LABELS = {4: 2, 5: 0, 6: 0, 7: 1, 8: 2}
# 5 (10 pixels, 2 of them void) meets cat 1 on 8: IoU 8 / (12 + 10 - 8 - 2) = 2/3, a match.
# 6 is 8 pixels, 6 of them void: forgiven. 7 lies on the dog crowd: forgiven.
# 4 (9 pixels) meets sky 3 on 9: IoU 9 / 14, a match. 8 (5 pixels) is a false alarm of sky.


def tally_by_hand() -> PanopticTally:
    return tally_image(
        TRUE_IDS, TRUE_SEGMENTS, PREDICTED_IDS, PREDICTED_LABELS, num_classes=3, name="hand"
    )


def make_sample(ids: np.ndarray = TRUE_IDS, image_id: int = 1, void: bool = True) -> Sample:
    return Sample(
        image=np.zeros((*ids.shape, 3), np.uint8),
        labels=np.array([segment.label for segment in TRUE_SEGMENTS]),
        masks=IdMapMasks(ids, [1, 2, 3]),
        is_crowd=np.array([segment.is_crowd for segment in TRUE_SEGMENTS]),
        image_id=image_id,
        name=f"image {image_id}",
        void=IdMapMasks(ids, [0]) if void else None,
    )


def make_result(
    ids: np.ndarray = PREDICTED_IDS, labels: dict[int, int] = PREDICTED_LABELS
) -> Segmentation:
    segments = tuple(
        Segment(
            id=id_,
            label=label,
            category=CATEGORIES[label],
            score=1.0,
            area=int((ids == id_).sum()),
        )
        for id_, label in labels.items()
    )
    panoptic = Panoptic(ids=torch.from_numpy(ids), segments=segments, categories=CATEGORIES)
    return Segmentation(size=ids.shape, name="result", panoptic=panoptic)


def random_pair(seed: int) -> tuple[Sample, Segmentation]:
    rng = np.random.default_rng(seed)
    truth = np.kron(rng.integers(0, 4, (4, 5)), np.ones((6, 6), int))
    ids = np.where(rng.random(truth.shape) < 0.8, truth, 0)
    labels = {id_: int(rng.integers(3)) for id_ in np.unique(ids).tolist() if id_}
    return make_sample(truth, seed), make_result(ids, labels)


def test_tallies_by_hand() -> None:
    tally = tally_by_hand()
    assert tally.tp.sum(0).tolist() == [1, 0, 1]
    assert tally.fp.sum(0).tolist() == [0, 0, 1]
    assert tally.fn.sum(0).tolist() == [0, 0, 0]
    np.testing.assert_allclose(tally.iou_sum.sum(0), [2 / 3, 0, 9 / 14], rtol=1e-15)


def test_figures_by_hand() -> None:
    figures = summarize(tally_by_hand(), CATEGORIES)
    cat, sky = 100 * 2 / 3, 100 * 9 / 14 / 1.5
    assert figures == pytest.approx(
        {
            "PQ": (cat + sky) / 2,
            "SQ": 100 * (2 / 3 + 9 / 14) / 2,
            "RQ": 100 * (1 + 1 / 1.5) / 2,
            "PQ_things": cat,
            "SQ_things": cat,
            "RQ_things": 100.0,
            "PQ_stuff": sky,
            "SQ_stuff": 100 * 9 / 14,
            "RQ_stuff": 100 / 1.5,
            "PQ_small": (cat + sky) / 2,
            "PQ/cat": cat,
            "PQ/sky": sky,
        }
    )


def test_evaluator_equals_the_core() -> None:
    evaluator = PanopticQuality(CATEGORIES)
    evaluator.update(make_result(), make_sample())
    assert evaluator.compute() == summarize(tally_by_hand(), CATEGORIES)


def test_pixels_without_mask_are_background_where_no_void_is_named() -> None:
    evaluator = PanopticQuality(CATEGORIES)
    evaluator.update(make_result(), make_sample(void=False))
    # 5 now has IoU 8 / 14, still a match; 6 is no longer forgiven.
    assert evaluator.tally.iou_sum.sum(0)[0] == pytest.approx(8 / 14)
    assert evaluator.tally.fp.sum(0).tolist() == [1, 0, 1]


def test_iou_of_exactly_one_half_is_no_match() -> None:
    true, predicted = np.array([[1, 1, 2, 2]]), np.array([[7, 0, 0, 0]])
    tally = tally_image(
        true, [TrueSegment(id=1, label=0, area=2)], predicted, {7: 0}, num_classes=1, name="half"
    )
    assert (tally.tp.sum(), tally.fp.sum(), tally.fn.sum()) == (0, 1, 1)


def test_area_of_the_truth_is_the_recorded_one() -> None:
    ids = np.ones((2, 2), int)
    tally = tally_image(
        ids, [TrueSegment(id=1, label=0, area=5)], ids, {1: 0}, num_classes=1, name="area"
    )
    assert tally.iou_sum.sum() == 4 / 5


def test_only_the_last_crowd_of_a_class_forgives() -> None:
    crowds = [TrueSegment(id=i, label=0, area=2, is_crowd=True) for i in (1, 2)]
    ids = np.array([[1, 1, 2, 2]])
    tally = tally_image(ids, crowds, ids, {1: 0, 2: 0}, num_classes=1, name="crowds")
    assert (tally.fp.sum(), tally.fn.sum()) == (1, 0)


def test_object_sizes() -> None:
    # Truth: a medium cat (40 x 40); found at 36 x 40. A small false cat (10 x 10) elsewhere.
    truth, ids = np.full((120, 120), 3), np.zeros((120, 120), int)
    truth[:40, :40] = 1
    ids[:36, :40] = 1
    ids[100:110, :10] = 2
    sample, result = make_sample(truth), make_result(ids, {1: 0, 2: 0})
    evaluator = PanopticQuality(CATEGORIES)
    evaluator.update(result, sample)
    figures = evaluator.compute()
    assert figures["PQ_medium"] == pytest.approx(90)
    assert figures["PQ_small"] == 0  # the false alarm only
    assert figures["PQ_large"] == 0  # the missed sky
    assert figures["PQ/cat"] == pytest.approx(60)  # 0.9 / 1.5


@pytest.mark.parametrize(("sides", "size"), [((31, 33), 0), ((32, 32), 1), ((96, 96), 2)])
def test_size_edges(sides: tuple[int, int], size: int) -> None:
    ids = np.ones(sides, int)
    segment = TrueSegment(id=1, label=0, area=ids.size)
    tally = tally_image(ids, [segment], ids, {1: 0}, num_classes=1, name="edge")
    assert np.flatnonzero(tally.tp[:, 0]).tolist() == [size]


def test_two_halves_merge_to_the_whole() -> None:
    whole, *halves = (PanopticQuality(CATEGORIES) for _ in range(3))
    for seed in range(8):
        sample, result = random_pair(seed)
        whole.update(result, sample)
        halves[seed % 2].update(result, sample)
    merged = halves[0]
    merged.merge(pickle.loads(pickle.dumps(halves[1])))
    assert whole.tally.tp.sum() > 0
    assert merged.tally.tp.tolist() == whole.tally.tp.tolist()
    assert merged.compute() == pytest.approx(whole.compute(), rel=1e-13)


def test_nothing_seen_gives_no_figures() -> None:
    assert PanopticQuality(CATEGORIES).compute() == {}


def test_errors_name_the_image() -> None:
    evaluator = PanopticQuality(CATEGORIES)
    with pytest.raises(ValueError, match="image 1: the result has no panoptic part"):
        evaluator.update(Segmentation(size=(4, 10), name="x"), make_sample())
    with pytest.raises(ValueError, match="image 1: the result has 5 x 4 pixels"):
        evaluator.update(make_result(PREDICTED_IDS[:, :5], {5: 0, 4: 2}), make_sample())
    with pytest.raises(ValueError, match=r"image 1: segment 6 .* not in its list"):
        evaluator.update(make_result(labels={4: 2, 5: 0, 7: 1, 8: 2}), make_sample())
    with pytest.raises(ValueError, match=r"image 1: segment 11 .* its list only"):
        evaluator.update(make_result(labels=PREDICTED_LABELS | {11: 0}), make_sample())
    evaluator.update(make_result(), make_sample())
    with pytest.raises(ValueError, match="image 1 was scored twice"):
        evaluator.update(make_result(), make_sample())


# --- files ------------------------------------------------------------------------------------


def write_ids(path: Path, ids: np.ndarray) -> None:
    rgb = np.stack([ids % 256, ids // 256 % 256, ids // 65536], axis=-1)
    Image.fromarray(rgb.astype(np.uint8)).save(path)


def write_case(folder: Path) -> tuple[Path, Path]:
    """The case by hand, as files; ids are spread so that all three channels count."""
    write_ids(folder / "true.png", TRUE_IDS * 70000)
    write_ids(folder / "predicted.png", PREDICTED_IDS * 300)
    category_id = [category.id for category in CATEGORIES]
    truth = {
        "categories": [
            {"id": c.id, "name": c.name, "isthing": int(c.is_thing), "color": list(c.color)}
            for c in CATEGORIES
        ],
        "annotations": [
            {
                "image_id": 1,
                "file_name": "true.png",
                "segments_info": [
                    {
                        "id": s.id * 70000,
                        "category_id": category_id[s.label],
                        "area": s.area,
                        "iscrowd": int(s.is_crowd),
                    }
                    for s in TRUE_SEGMENTS
                ],
            }
        ],
    }
    prediction = {
        "annotations": [
            {
                "image_id": 1,
                "file_name": "predicted.png",
                "segments_info": [
                    {"id": id_ * 300, "category_id": category_id[label]}
                    for id_, label in PREDICTED_LABELS.items()
                ],
            }
        ]
    }
    (folder / "true.json").write_text(json.dumps(truth))
    (folder / "predicted.json").write_text(json.dumps(prediction))
    return folder / "true.json", folder / "predicted.json"


def test_files_equal_the_core(tmp_path: Path) -> None:
    gt_json, pred_json = write_case(tmp_path)
    figures = score_panoptic_files(gt_json, tmp_path, pred_json, tmp_path)
    assert figures == summarize(tally_by_hand(), CATEGORIES)


def test_errors_of_files_name_file_and_record(tmp_path: Path) -> None:
    gt_json, pred_json = write_case(tmp_path)
    prediction = json.loads(pred_json.read_text())
    prediction["annotations"][0]["segments_info"][0]["category_id"] = 91
    pred_json.write_text(json.dumps(prediction))
    with pytest.raises(ValueError, match=r"predicted.json: image 1: segment 1200: category_id 91"):
        score_panoptic_files(gt_json, tmp_path, pred_json, tmp_path)
    pred_json.write_text(json.dumps({"annotations": []}))
    with pytest.raises(ValueError, match=r"predicted.json: image 1: no annotation"):
        score_panoptic_files(gt_json, tmp_path, pred_json, tmp_path)


def damage(folder: Path, down: int, right: int) -> Path:
    """The damaged copy of the truth that `prediction_recipe` of the recording describes."""
    truth = json.loads((COCO_SAMPLE / "panoptic_examples.json").read_text())
    annotations = []
    for annotation in truth["annotations"]:
        file_name = annotation["file_name"]
        image = Image.open(COCO_SAMPLE / "panoptic_examples" / file_name).convert("RGB")
        old = np.asarray(image).astype(np.int64) @ [1, 256, 65536]
        new = np.zeros_like(old)
        height, width = old.shape
        new[down:, right:] = old[: height - down, : width - right]
        records = sorted(annotation["segments_info"], key=lambda record: record["id"])
        kept = []
        for rank, record in enumerate(records):
            if rank % 7 == 3:
                new[new == record["id"]] = 0
            elif (new == record["id"]).any():
                source = records[(rank + 1) % len(records)] if rank % 5 == 4 else record
                kept.append({"id": record["id"], "category_id": source["category_id"]})
        write_ids(folder / file_name, new)
        annotations.append(annotation | {"segments_info": kept})
    (folder / "pred.json").write_text(json.dumps({"annotations": annotations}))
    return folder / "pred.json"


@pytest.mark.data
@pytest.mark.skipif(not REFERENCE.is_dir(), reason="no ../shared: recordings are absent")
@pytest.mark.parametrize(
    "case",
    [
        "sample_data_against_itself",
        "sample_data_against_shift_6_9",
        "sample_data_against_shift_2_1",
        "sample_data_against_shift_25_0",
        "synthetic",
    ],
)
def test_equals_panopticapi(case: str, tmp_path: Path) -> None:
    recorded = json.loads((REFERENCE / "panoptic_eval.json").read_text())["cases"][case]
    if case == "synthetic":
        synth = REFERENCE / "panoptic_synth"
        files = (synth / "gt.json", synth / "gt", synth / "pred.json", synth / "pred")
    else:
        truth = (COCO_SAMPLE / "panoptic_examples.json", COCO_SAMPLE / "panoptic_examples")
        recipe = recorded.get("prediction_recipe")
        if recipe is None:
            files = (*truth, *truth)
        else:
            pred_json = damage(tmp_path, recipe["shift_down"], recipe["shift_right"])
            files = (*truth, pred_json, tmp_path)
    tally, categories = tally_panoptic_files(*files)
    figures = summarize(tally, categories)
    compare(recorded, tally, categories, figures)


def compare(
    recorded: dict[str, Any],
    tally: PanopticTally,
    categories: tuple[Category, ...],
    figures: dict[str, float],
) -> None:
    for group, suffix in (("all", ""), ("things", "_things"), ("stuff", "_stuff")):
        for key in ("pq", "sq", "rq"):
            want = 100 * recorded["result"][group][key]
            assert figures[key.upper() + suffix] == pytest.approx(want, abs=1e-10)
    occurring = [c for c in categories if f"PQ/{c.name}" in figures]
    assert len(occurring) == recorded["result"]["all"]["n"]
    assert {str(c.id) for c in occurring} == set(recorded["tallies"])
    for label, category in enumerate(categories):
        want = recorded["result"]["per_class"][str(category.id)]
        assert figures.get(f"PQ/{category.name}", 0.0) == pytest.approx(100 * want["pq"], abs=1e-10)
        counts = recorded["tallies"].get(str(category.id), {})
        for name in ("tp", "fp", "fn"):
            assert getattr(tally, name)[:, label].sum() == counts.get(name, 0)
        iou_sum = counts.get("iou_sum", 0.0)
        assert tally.iou_sum[:, label].sum() == pytest.approx(iou_sum, abs=1e-12)
