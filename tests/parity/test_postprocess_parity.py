"""Results made from the recorded logits of the official code, against its recorded results."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from mask2former.inference.postprocess import Sizes, instance, panoptic, segment, semantic
from mask2former.structures import TASKS, Category, Instances, View

REFERENCE = Path(__file__).parents[3] / "shared" / "reference"
pytestmark = pytest.mark.skipif(
    not REFERENCE.is_dir(), reason=f"the official code's recorded results are not at {REFERENCE}"
)
CASES = [
    (model, case, image)
    for model in ("r50_tiny", "swin_tiny_nano")
    for case, image in (("A", 0), ("B", 0), ("B", 1))
]
every_image = pytest.mark.parametrize(("model", "case", "image"), CASES)


class Recorded:
    """One image of one recorded run."""

    def __init__(self, model: str, case: str, image: int) -> None:
        self.arrays = load_file(REFERENCE / model / f"eval_{case}.safetensors")
        self.facts: dict[str, Any] = json.loads(
            (REFERENCE / model / f"eval_{case}.json").read_text()
        )
        metadata = json.loads((REFERENCE / model / "metadata.json").read_text())
        things = metadata["thing_contiguous_ids"]
        self.image = image
        self.class_logits = self.arrays["pred_logits"][image]
        self.mask_logits = self.arrays["pred_masks"][image]
        self.categories = tuple(
            Category(id=i + 1, name=f"class {i}", is_thing=i in things, color=(0, 0, 0))
            for i in range(metadata["num_classes"])
        )
        self.sizes = Sizes(
            padded=tuple(self.facts["padded_size"]),
            image=tuple(self.facts["input_sizes"][image]),
            output=tuple(self.facts["output_sizes"][image]),
        )
        self.ties = self.facts["panoptic_decisions"][image]["pixels_with_argmax_gap_below_1e-5"]

    def view(self, *, things_only: bool = True) -> View:
        return View(
            object_threshold=self.facts["object_mask_threshold"],
            overlap_threshold=self.facts["overlap_threshold"],
            max_detections=self.facts["topk_per_image"],
            instances_of_things_only=things_only,
        )

    def instances(self, kind: str) -> list[tuple[int, float, Tensor]]:
        """Label, score and mask of each that is not empty."""
        key = f"{kind}.{self.image}.instances."
        height, width = self.sizes.output
        bits = np.unpackbits(self.arrays[key + "masks_packed"].numpy(), axis=1)
        masks = torch.from_numpy(bits[:, : height * width]).bool().view(-1, height, width)
        labels, scores = self.arrays[key + "labels"].tolist(), self.arrays[key + "scores"].tolist()
        rows = zip(labels, scores, masks, strict=True)
        return [row for row in rows if row[2].any()]


def check_instances(found: Instances, recorded: list[tuple[int, float, Tensor]]) -> None:
    """Each recorded instance is found once: same label, same bits, score within 1e-6."""
    assert len(found) == len(recorded)
    left = list(range(len(found)))
    for label, score, mask in recorded:
        same = [
            i
            for i in left
            if found.labels[i] == label and abs(found.scores[i].item() - score) <= 1e-6
            if torch.equal(found.masks[i], mask)
        ]
        assert same, f"no instance of class {label} with score {score:.4f} and the recorded mask"
        left.remove(same[0])
    assert (found.scores.diff() <= 0).all()


@every_image
def test_panoptic_result_equals_the_official_one(model: str, case: str, image: int) -> None:
    run = Recorded(model, case, image)
    result = panoptic(run.class_logits, run.mask_logits, run.sizes, run.categories, run.view())
    different = result.ids != run.arrays[f"result.{image}.panoptic_seg"]
    assert different.sum() <= run.ties
    assert [
        {"id": s.id, "isthing": s.category.is_thing, "category_id": s.label}
        for s in result.segments
    ] == run.facts["results"][image]["segments_info"]
    for s in result.segments:
        assert s.area == (result.ids == s.id).sum()


@every_image
def test_instances_equal_the_official_ones(model: str, case: str, image: int) -> None:
    run = Recorded(model, case, image)
    found = instance(run.class_logits, run.mask_logits, run.sizes, run.categories, run.view())
    check_instances(found, run.instances("result"))


@every_image
def test_semantic_scores_equal_the_official_ones(model: str, case: str, image: int) -> None:
    run = Recorded(model, case, image)
    result = semantic(
        run.class_logits, run.mask_logits, run.sizes, run.categories, keep_scores=True
    )
    recorded = run.arrays[f"result.{image}.sem_seg"]
    torch.testing.assert_close(result.scores, recorded, rtol=0, atol=2e-6)
    assert (result.labels != recorded.argmax(0)).sum() <= 1


@pytest.mark.parametrize("model", ["r50_tiny", "swin_tiny_nano"])
@pytest.mark.parametrize("image", [0, 1])
def test_instance_only_model_keeps_stuff(model: str, image: int) -> None:
    run = Recorded(model, "B", image)
    view = run.view(things_only=False)
    found = instance(run.class_logits, run.mask_logits, run.sizes, run.categories, view)
    check_instances(found, run.instances("instance_only"))


@pytest.mark.parametrize("model", ["r50_tiny", "swin_tiny_nano"])
def test_semantic_only_model_resizes_scores(model: str) -> None:
    run = Recorded(model, "B", 1)
    result = semantic(
        run.class_logits,
        run.mask_logits,
        run.sizes,
        run.categories,
        keep_scores=True,
        resize_scores=True,
    )
    recorded = run.arrays["semantic_only_resize_last.1.sem_seg"]
    torch.testing.assert_close(result.scores, recorded, rtol=0, atol=2e-6)


@every_image
def test_tasks_together_give_what_each_gives_alone(model: str, case: str, image: int) -> None:
    run = Recorded(model, case, image)
    result = segment(
        run.class_logits, run.mask_logits, run.sizes, run.categories, run.view(), TASKS
    )
    assert result.panoptic is not None
    assert result.instances is not None
    assert result.semantic is not None
    different = result.panoptic.ids != run.arrays[f"result.{image}.panoptic_seg"]
    assert different.sum() <= run.ties
    check_instances(result.instances, run.instances("result"))
    official = run.arrays[f"result.{image}.sem_seg"].argmax(0)
    assert (result.semantic.labels != official).sum() <= 1
