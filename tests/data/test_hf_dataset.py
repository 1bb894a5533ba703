"""Hugging Face datasets that datasets itself wrote to disk."""

from __future__ import annotations

import json
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path

import datasets
import numpy as np
import pytest
import torch
from PIL import Image

from mask2former.data.detect import find_formats, find_splits, open_dataset
from mask2former.data.hf_dataset import HfInstances, HfPanoptic, HfSemantic
from mask2former.inference.exchange import to_datasets
from mask2former.structures import (
    Category,
    Instances,
    Panoptic,
    Segment,
    Segmentation,
    Semantic,
)

SIZE = (6, 8)
NAMES = {"0": "road", "2": "car", "5": "sky"}
MAP = np.full(SIZE, 255, np.uint8)
MAP[:3], MAP[3, :4] = 5, 2
CATEGORIES = tuple(
    Category(id=10 * i, name=name, is_thing=name == "cat", color=(i, i, i))
    for i, name in enumerate(("sky", "cat", "grass"))
)


def picture(value: int = 100) -> Image.Image:
    return Image.fromarray(np.full((*SIZE, 3), value, np.uint8))


def semantic_table(image: str = "image", label: str = "label") -> datasets.Dataset:
    features = datasets.Features({image: datasets.Image(), label: datasets.Image()})
    columns = {image: [picture(), picture(9)], label: [Image.fromarray(MAP), Image.fromarray(MAP)]}
    return datasets.Dataset.from_dict(columns, features=features)


def full(sample_masks: object) -> np.ndarray:
    masks: np.ndarray = sample_masks.render((0, 0, SIZE[1], SIZE[0]), SIZE)  # type: ignore[attr-defined]
    return masks


@pytest.mark.parametrize(
    ("image", "label"),
    [("image", "label"), ("pixel_values", "labels"), ("image", "annotation")],
)
def test_label_maps(tmp_path: Path, image: str, label: str) -> None:
    table = semantic_table(image, label)
    datasets.DatasetDict({"train": table, "validation": table}).save_to_disk(tmp_path)
    (tmp_path / "id2label.json").write_text(json.dumps(NAMES))
    assert find_splits(tmp_path) == ("train", "validation")
    dataset = open_dataset(tmp_path, "val")
    assert isinstance(dataset, HfSemantic)
    assert [(c.id, c.name) for c in dataset.categories] == [(0, "road"), (2, "car"), (5, "sky")]
    assert (len(dataset), dataset.tasks) == (2, ("semantic",))
    assert not any(category.is_thing for category in dataset.categories)
    sample = dataset[1]
    assert (sample.image == 9).all()
    assert sample.labels.tolist() == [1, 2]
    np.testing.assert_array_equal(full(sample.masks), [MAP == 2, MAP == 5])
    np.testing.assert_array_equal(full(sample.void), [MAP == 255])


def test_one_split_without_a_name(tmp_path: Path) -> None:
    semantic_table().save_to_disk(tmp_path / "set")
    (tmp_path / "set" / "id2label.json").write_text(json.dumps(NAMES))
    assert isinstance(open_dataset(tmp_path / "set"), HfSemantic)
    with pytest.raises(ValueError, match="cannot serve the task 'panoptic'"):
        open_dataset(tmp_path / "set", task="panoptic")


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (None, "nothing names its classes; put id2label.json there"),
        ("[]", "id2label.json: must be an object"),
        ('{"0": "road", "2": "car"}', "row 0: 'label' has pixels of 5, which names no class"),
    ],
)
def test_classes_without_names(tmp_path: Path, names: str | None, message: str) -> None:
    semantic_table().save_to_disk(tmp_path / "set")
    if names is not None:
        (tmp_path / "set" / "id2label.json").write_text(names)
    with pytest.raises(ValueError, match=message):
        open_dataset(tmp_path / "set")[0]


def test_maps_that_are_none(tmp_path: Path) -> None:
    colored = Image.fromarray(np.stack([MAP, MAP // 2, MAP], -1))
    small = Image.fromarray(MAP[:4])
    features = datasets.Features({"image": datasets.Image(), "label": datasets.Image()})
    columns = {"image": [picture()] * 3, "label": [colored, small, None]}
    datasets.Dataset.from_dict(columns, features=features).save_to_disk(tmp_path / "set")
    (tmp_path / "set" / "id2label.json").write_text(json.dumps(NAMES))
    dataset = open_dataset(tmp_path / "set")
    for row, message in enumerate(("picture in colours", "has height 4, width 8", "no label map")):
        with pytest.raises(ValueError, match=f"row {row}, 'label': .*{message}"):
            dataset[row]


def results() -> Iterator[Segmentation]:
    """An image with a cat on grass below a sky, and one of which only the map is known."""
    ids = torch.zeros(SIZE, dtype=torch.int32)
    ids[:2], ids[4:], ids[4:, 6:] = 1, 2, 70_000
    segments = tuple(
        Segment(id=id, label=label, category=CATEGORIES[label], score=0.9, area=1)
        for id, label in ((1, 0), (2, 2), (70_000, 1))
    )
    mask = ids[None] == 70_000
    instances = Instances(
        masks=mask,
        scores=torch.tensor([0.9]),
        labels=torch.tensor([1]),
        boxes=torch.tensor([[6.0, 4, 8, 6]]),
        categories=CATEGORIES,
    )
    labels = torch.ones(SIZE, dtype=torch.int64)
    yield Segmentation(
        size=SIZE,
        name="a.jpg",
        instances=instances,
        panoptic=Panoptic(ids=ids, segments=segments, categories=CATEGORIES),
        semantic=Semantic(labels=labels, categories=CATEGORIES),
    )
    yield Segmentation(
        size=SIZE, name="b.jpg", semantic=Semantic(labels=labels, categories=CATEGORIES)
    )


@pytest.fixture
def exported(tmp_path: Path) -> Path:
    images = datasets.Dataset.from_dict(
        {"image": [picture(), picture()]}, features=datasets.Features({"image": datasets.Image()})
    )
    made = to_datasets(results(), CATEGORIES)
    datasets.concatenate_datasets([made, images], axis=1).save_to_disk(tmp_path / "set")
    return tmp_path / "set"


def test_own_results_as_panoptic_annotation(exported: Path) -> None:
    assert [f.format.name for f in find_formats(exported)] == [
        "hf-panoptic",
        "hf-semantic",
        "hf-instances",
    ]
    dataset = open_dataset(exported)
    assert isinstance(dataset, HfPanoptic)
    assert [(c.name, c.is_thing) for c in dataset.categories] == [
        ("sky", False),
        ("cat", True),
        ("grass", False),
    ]
    sample = dataset[0]
    assert sample.name == "a.jpg"
    assert sample.labels.tolist() == [0, 2, 1]
    panoptic = next(results()).panoptic
    assert panoptic is not None
    ids = panoptic.ids.numpy()
    np.testing.assert_array_equal(full(sample.masks), [ids == 1, ids == 2, ids == 70_000])
    np.testing.assert_array_equal(full(sample.void), [ids == 0])
    assert [dataset.labels_of(i) for i in range(2)] == [{0, 1, 2}, set()]
    with pytest.raises(ValueError, match="row 1: has no panoptic annotation"):
        dataset[1]


def test_own_results_for_the_other_tasks(exported: Path) -> None:
    semantic = open_dataset(exported, task="semantic")
    assert isinstance(semantic, HfSemantic)
    assert semantic[1].labels.tolist() == [1]
    instances = open_dataset(exported, task="instance")
    assert isinstance(instances, HfInstances)
    assert instances[0].labels.tolist() == [1]
    assert instances.labels_of(0) == {1}
    assert full(instances[0].masks)[0, 4:, 6:].all()
    assert full(instances[0].masks).sum() == 4
    with pytest.raises(ValueError, match="row 1: has no objects"):
        instances[1]
    things = open_dataset(exported, task="instance", format="hf-panoptic")
    assert [c.name for c in things.categories] == ["cat"]
    np.testing.assert_array_equal(full(things[0].masks), full(instances[0].masks))
    united = open_dataset(exported, task="semantic", format="hf-panoptic")
    assert united.tasks == ("semantic",)


def test_results_without_their_images(tmp_path: Path) -> None:
    to_datasets(results(), CATEGORIES).save_to_disk(tmp_path / "set")
    with pytest.raises(ValueError, match="has no column 'image', only name, height"):
        open_dataset(tmp_path / "set")


def test_zip_file_is_to_be_unpacked(tmp_path: Path, exported: Path) -> None:
    with zipfile.ZipFile(tmp_path / "set.zip", "w") as file:
        for path in exported.iterdir():
            file.write(path, path.name)
    with pytest.raises(ValueError, match="read from a folder; unpack it"):
        open_dataset(tmp_path / "set.zip")


def test_without_the_library(exported: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(ImportError, match=r'pip install "mask2former\[exchange\]"'):
        open_dataset(exported)
