from __future__ import annotations

import pickle
from pathlib import Path

import pytest
import torch

from mask2former.data.dataset import Dataset, First
from mask2former.data.scenes import CATEGORIES, Scenes, ScenesConfig
from mask2former.modeling.mask2former import Mask2Former
from mask2former.presets.compact import compact_model
from mask2former.segmenter import Segmenter
from mask2former.structures import TASKS, Sample, Segmentation, View
from mask2former.training.evaluate import OnImage, evaluate

DATA = Scenes(length=5, config=ScenesConfig(size=64, min_things=2, max_things=4, max_size=24))


def figures(data: Dataset = DATA, on_image: OnImage | None = None) -> dict[str, float]:
    torch.manual_seed(0)
    torch.set_num_threads(1)
    view = View(shortest_side=64, longest_side=64, object_threshold=0.0, overlap_threshold=0.0)
    model = Mask2Former(compact_model(CATEGORIES, view, queries=4, selected_share=0.1))
    groups = {0: "dark", 1: "dark", 2: "light"}
    return evaluate(Segmenter(model), data, TASKS, groups=groups, progress=False, on_image=on_image)


def work(rank: int, folder: str) -> None:
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=2
    )
    (Path(folder) / str(rank)).write_bytes(pickle.dumps(figures()))
    torch.distributed.destroy_process_group()


@pytest.mark.slow
def test_processes_share_the_images_and_agree_with_one(tmp_path: Path) -> None:
    torch.multiprocessing.spawn(work, (str(tmp_path),), nprocs=2)
    alone = figures()
    assert {"PQ", "AP", "mIoU", "dark/PQ", "light/mIoU"} <= alone.keys()
    for rank in range(2):
        assert pickle.loads((tmp_path / str(rank)).read_bytes()) == pytest.approx(alone)


def test_every_image_is_counted_by_one_process(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[list[str]] = [[], []]
    segment = Segmenter.segment
    for rank in range(2):
        names = seen[rank]

        def noted(self, images, found, tasks, names=names):  # type: ignore[no-untyped-def]
            names.extend(found)
            return segment(self, images, found, tasks)

        monkeypatch.setattr("mask2former.training.evaluate.rank", lambda rank=rank: rank)
        monkeypatch.setattr("mask2former.training.evaluate.ranks", lambda: 2)
        monkeypatch.setattr(Segmenter, "segment", noted)
        figures()
    assert [len(names) for names in seen] == [3, 2]
    assert not set(seen[0]) & set(seen[1])


def test_the_hook_sees_each_image_with_its_own_figures() -> None:
    seen: list[tuple[str, dict[str, float]]] = []

    def note(sample: Sample, result: Segmentation, of_image: dict[str, float]) -> None:
        assert result.size == sample.masks.size
        seen.append((sample.name, of_image))

    assert figures(on_image=note) == figures()
    assert [name for name, _ in seen] == [DATA[i].name for i in range(len(DATA))]
    alone = figures(First(DATA, 1))
    assert seen[0][1] == {key: v for key, v in alone.items() if not key.startswith("dark/")}
    assert {"PQ", "AP", "mIoU"} <= seen[0][1].keys()
    assert seen[0][1] != seen[1][1]
