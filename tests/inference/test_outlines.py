from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
import yaml

from mask2former.inference.outlines import area, geojson, polygons_of, yolo_lines
from mask2former.inference.writers import ResultWriter
from mask2former.masks import rasterize_polygons
from mask2former.structures import Category, Instances, Segmentation

CATEGORIES = (
    Category(id=7, name="ring", is_thing=True, color=(1, 2, 3)),
    Category(id=9, name="Zelle ä", is_thing=True, color=(4, 5, 6)),
)


def drawn() -> np.ndarray:
    """A ring with an island in it, and a speck of one pixel elsewhere."""
    mask = np.zeros((40, 50), np.uint8)
    cv2.circle(mask, (20, 20), 15, 1, -1)
    cv2.circle(mask, (20, 20), 8, 0, -1)
    cv2.circle(mask, (20, 20), 3, 1, -1)
    mask[2, 45] = 1
    return mask.astype(bool)


def random_masks() -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    coarse = [rng.random((7, 9)) < share for share in (0.2, 0.5, 0.8)]
    fine = [rng.random((31, 23)) < share for share in (0.3, 0.6)]
    return [*(m.repeat(3, 0).repeat(4, 1) for m in coarse), *fine, np.ones((1, 1), bool), drawn()]


@pytest.mark.parametrize("mask", random_masks())
def test_filled_again_they_are_the_mask(mask: np.ndarray) -> None:
    height, width = mask.shape
    again = np.zeros_like(mask)
    for outer, *holes in polygons_of(mask):
        part = rasterize_polygons([outer.ravel()], (0, 0, width, height), (height, width))
        for hole in holes:
            part &= ~rasterize_polygons([hole.ravel()], (0, 0, width, height), (height, width))
        again |= part
    np.testing.assert_array_equal(again, mask)


def test_parts_and_holes() -> None:
    parts = polygons_of(drawn())
    assert [len(part) for part in parts] == [2, 1, 1]  # the ring with its hole, island, speck
    assert area(parts[0][0]) > area(parts[1][0]) > area(parts[2][0])
    assert polygons_of(np.zeros((5, 5), bool)) == []


@pytest.mark.parametrize("mask", random_masks())
def test_rings_touch_neither_themselves_nor_another(mask: np.ndarray) -> None:
    seen: set[tuple[float, float]] = set()
    for part in polygons_of(mask):
        for ring in part:
            points = [tuple(point) for point in ring.tolist()]
            assert not seen.intersection(points)
            seen.update(points)
            assert len(set(points)) == len(points)


def test_corners_do_not_connect() -> None:
    assert len(polygons_of(np.eye(3, dtype=bool))) == 3
    ring = np.array([[1, 1, 0], [1, 0, 1], [1, 1, 1]], bool)  # its hole is open at a corner
    assert [len(part) for part in polygons_of(ring)] == [1]


def made_up() -> Instances:
    square = np.zeros((40, 50), bool)
    square[10:20, 5:15] = True
    return Instances(
        masks=torch.from_numpy(np.stack([drawn(), square, np.zeros((40, 50), bool)])),
        scores=torch.tensor([0.9, 0.8, 0.2]),
        labels=torch.tensor([0, 1, 1]),
        boxes=torch.tensor([[5.0, 2, 46, 36], [5, 10, 15, 20], [0, 0, 0, 0]]),
        categories=CATEGORIES,
    )


def test_geojson() -> None:
    ring, square = geojson(made_up().regions())["features"]  # the empty mask has no outline
    assert ring["geometry"]["type"] == "MultiPolygon"
    assert [len(part) for part in ring["geometry"]["coordinates"]] == [2, 1, 1]
    assert ring["properties"] == {
        "classification": {"name": "ring", "color": [1, 2, 3]},
        "category_id": 7,
        "score": 0.9,
    }
    assert square["geometry"]["type"] == "Polygon"
    corners = square["geometry"]["coordinates"][0]
    assert corners[0] == corners[-1]
    assert {tuple(corner) for corner in corners} == {
        (x, y) for x in (5.125, 14.875) for y in (10.125, 19.875)
    }


def test_yolo() -> None:
    lines = yolo_lines(made_up().regions(), (40, 50)).splitlines()
    assert [line.split()[0] for line in lines] == ["0", "1"]
    square = np.array(lines[1].split()[1:], float).reshape(-1, 2) * (50, 40)
    np.testing.assert_allclose(sorted(set(square[:, 0].round(3))), [5.125, 14.875])
    np.testing.assert_allclose(sorted(set(square[:, 1].round(3))), [10.125, 19.875])


def test_writers_write_them_if_asked(tmp_path: Path) -> None:
    result = Segmentation(size=(40, 50), name="a/1.jpg", instances=made_up())
    with ResultWriter(tmp_path / "plain", CATEGORIES) as writer:
        writer.add(result)
    assert not (tmp_path / "plain" / "yolo").exists()
    with ResultWriter(tmp_path, CATEGORIES, outlines=("geojson", "yolo")) as writer:
        writer.add(result)
    collection = json.loads((tmp_path / "geojson" / "1.geojson").read_text())
    assert len(collection["features"]) == 2  # of at least the score that is drawn
    assert len((tmp_path / "yolo" / "1.txt").read_text().splitlines()) == 2
    names = yaml.safe_load((tmp_path / "yolo" / "data.yaml").read_text())["names"]
    assert names == {0: "ring", 1: "Zelle ä"}
