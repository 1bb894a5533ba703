"""Groups of images, and evaluators that gather the images of several processes."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed
import torch.multiprocessing

from mask2former.evaluation.evaluator import Grouped, merge_across_ranks
from mask2former.evaluation.mean_iou import MeanIoU
from mask2former.masks import IdMapMasks
from mask2former.structures import Category, Sample, Segmentation, Semantic

CATEGORIES = tuple(
    Category(id=i, name=name, is_thing=False, color=(i, 0, 0)) for i, name in enumerate("ab")
)
GROUPS = {0: "day", 1: "night", 2: "day"}


def make_pair(image_id: int) -> tuple[Segmentation, Sample]:
    """All pixels are "a"; `image_id` of four are predicted wrongly."""
    predicted = torch.zeros(2, 2, dtype=torch.int64)
    predicted.view(-1)[:image_id] = 1
    sample = Sample(
        image=np.zeros((2, 2, 3), np.uint8),
        labels=np.array([0]),
        masks=IdMapMasks(np.ones((2, 2), np.int64), [1]),
        is_crowd=np.array([False]),
        image_id=image_id,
        name=f"image {image_id}",
    )
    semantic = Semantic(labels=predicted, categories=CATEGORIES)
    return Segmentation(size=(2, 2), name=sample.name, semantic=semantic), sample


def test_groups_and_total() -> None:
    evaluator = Grouped(MeanIoU(CATEGORIES), GROUPS)
    for image_id in range(4):
        evaluator.update(*make_pair(image_id))
    figures = evaluator.compute()
    assert figures["pixel_accuracy"] == pytest.approx(100 * (4 + 3 + 2 + 1) / 16)
    assert figures["day/pixel_accuracy"] == pytest.approx(100 * (4 + 2) / 8)
    assert figures["night/pixel_accuracy"] == pytest.approx(75)
    assert evaluator.compute() == figures
    assert not any(key.startswith("None") for key in figures)


def test_groups_merge() -> None:
    whole, *halves = (Grouped(MeanIoU(CATEGORIES), GROUPS) for _ in range(3))
    for image_id in range(4):
        whole.update(*make_pair(image_id))
        halves[image_id % 2].update(*make_pair(image_id))
    before = halves[1].compute()
    halves[0].merge(pickle.loads(pickle.dumps(halves[1])))
    assert halves[0].compute() == whole.compute()
    assert halves[1].compute() == before
    with pytest.raises(ValueError, match="image 1 was scored twice"):
        halves[0].merge(halves[1])


def test_one_process_needs_no_merging() -> None:
    evaluator = MeanIoU(CATEGORIES)
    assert merge_across_ranks(evaluator) is evaluator


def work(rank: int, folder: str) -> None:
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=2
    )
    evaluator = MeanIoU(CATEGORIES)
    for image_id in range(rank, 4, 2):
        evaluator.update(*make_pair(image_id))
    merged = merge_across_ranks(evaluator)
    (Path(folder) / str(rank)).write_bytes(pickle.dumps(merged.compute()))
    torch.distributed.destroy_process_group()


@pytest.mark.slow
def test_two_processes_agree_with_one(tmp_path: Path) -> None:
    torch.multiprocessing.spawn(work, (str(tmp_path),), nprocs=2)
    whole = MeanIoU(CATEGORIES)
    for image_id in range(4):
        whole.update(*make_pair(image_id))
    for rank in range(2):
        assert pickle.loads((tmp_path / str(rank)).read_bytes()) == whole.compute()
