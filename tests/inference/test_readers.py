"""What the writers wrote is read back as it was; what is broken is named."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from mask2former.inference.outlines import geojson, yolo_lines
from mask2former.inference.readers import Results, regions_from_geojson, regions_from_yolo
from mask2former.inference.writers import ResultWriter
from mask2former.structures import Category, Region, Segmentation
from some_results import CATEGORIES, made_up, same

NAMED = tuple(
    Category(id=i, name=name, is_thing=True, color=(i, 0, 0))
    for i, name in enumerate(("ring", "Zelle ä"))
)


def written(folder: Path) -> list[Segmentation]:
    results = [
        made_up(0),
        made_up(1, (35, 40)),
        Segmentation(size=(35, 40), name="folder/1.png", semantic=made_up(2, (35, 40)).semantic),
    ]
    with ResultWriter(folder, CATEGORIES) as writer:
        for result in results:
            writer.add(result)
    return results


def test_a_folder_of_results_is_read_back(tmp_path: Path) -> None:
    expected = written(tmp_path)
    results = Results(tmp_path)
    assert results.categories == CATEGORIES
    assert len(results) == 3
    *both, last = results
    for found, wanted in zip(both, expected, strict=False):
        same(found, wanted)
    assert last.panoptic is None
    assert last.instances is not None
    assert len(last.instances) == 0  # instances.json cannot tell none from not asked for


def test_another_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"categories\.json: there is no such file; name a"):
        Results(tmp_path)


def change(path: Path, edit: Any) -> None:
    content = json.loads(path.read_text())
    edit(content)
    path.write_text(json.dumps(content))


def test_results_of_unknown_images_and_classes(tmp_path: Path) -> None:
    written(tmp_path)
    path = tmp_path / "instances.json"
    change(path, lambda rows: rows[1].update(category_id=500))
    with pytest.raises(ValueError, match=r"instances\.json: result 1: category_id 500 is not in"):
        Results(tmp_path)
    change(path, lambda rows: rows[1].update(category_id=7, image_id=9))
    with pytest.raises(ValueError, match=r"instances\.json: result 1: image_id 9 is not in"):
        Results(tmp_path)
    path.write_text("[")
    with pytest.raises(ValueError, match=r"instances\.json: is no JSON"):
        Results(tmp_path)


def test_maps_that_do_not_fit(tmp_path: Path) -> None:
    written(tmp_path)
    change(tmp_path / "panoptic.json", lambda c: c["annotations"][0]["segments_info"].pop(0))
    with pytest.raises(ValueError, match=r"0\.png: segment 1 is not in panoptic\.json"):
        next(iter(Results(tmp_path)))
    (tmp_path / "panoptic" / "0.png").unlink()
    with pytest.raises(FileNotFoundError, match=r"0\.png: there is no such file; restore it"):
        next(iter(Results(tmp_path)))
    (tmp_path / "panoptic.json").unlink()
    Image.fromarray(np.full((30, 41), 9, np.uint8)).save(tmp_path / "semantic" / "0.png")
    with pytest.raises(ValueError, match=r"0\.png: label 9 is none of the 3"):
        next(iter(Results(tmp_path)))
    Image.fromarray(np.zeros((3, 4), np.uint8)).save(tmp_path / "semantic" / "0.png")
    with pytest.raises(ValueError, match=r"0\.png: has shape \[3, 4\], not \[30, 41\]"):
        next(iter(Results(tmp_path)))


# --- outlines -------------------------------------------------------------------------------------


def regions() -> list[Region]:
    ring = np.ones((12, 10), bool)
    ring[3:9, 3:7], ring[5, 4] = False, True
    block = np.ones((4, 6), bool)
    return [
        Region(mask=ring, box=(20, 5, 30, 17), score=0.75, label=0, category=NAMED[0]),
        Region(mask=block, box=(0, 0, 6, 4), score=1.0, label=1, category=NAMED[1]),
    ]


def test_geojson_there_and_back() -> None:
    document = json.loads(json.dumps(geojson(regions())))
    for found, wanted in zip(
        regions_from_geojson(document, (40, 50), NAMED), regions(), strict=True
    ):
        assert np.array_equal(found.mask, wanted.mask)
        assert (found.box, found.label, found.score) == (wanted.box, wanted.label, wanted.score)


def test_yolo_there_and_back() -> None:
    """One ring each, without holes: that is all the format holds."""
    found = regions_from_yolo(yolo_lines(regions(), (40, 50)), (40, 50), NAMED)
    assert [(region.label, region.box) for region in found] == [
        (0, (20, 5, 30, 17)),
        (1, (0, 0, 6, 4)),
    ]
    assert all(region.mask.all() for region in found)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("0 0.5 0.5 0.1 0.1", "line 2: 4 numbers are no outline"),
        ("x 0.5 0.5 0.1 0.1 0.3 0.2", "line 2: must be a class number and coordinates"),
        ("2 0.5 0.5 0.1 0.1 0.3 0.2", "line 2: class 2 is none of the 2"),
    ],
)
def test_lines_that_are_no_outlines(line: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        regions_from_yolo(f"\n{line}\n", (40, 50), NAMED)


def test_features_that_are_no_instances() -> None:
    document = geojson(regions())
    document["features"][1]["properties"] = {"name": "mouse"}
    with pytest.raises(ValueError, match="feature 1: its class 'mouse' is none of the categories"):
        regions_from_geojson(document, (40, 50), NAMED)
    document["features"][1]["properties"] = {"name": "ring"}
    assert regions_from_geojson(document, (40, 50), NAMED)[1].score == 1
    document["features"][1]["geometry"] = {"type": "Point", "coordinates": [1, 2]}
    with pytest.raises(ValueError, match="feature 1: geometry 'Point' has no area"):
        regions_from_geojson(document, (40, 50), NAMED)


def test_classes_of_one_name_are_told_apart_by_their_id() -> None:
    ring = Region(
        mask=np.ones((4, 6), bool), box=(0, 0, 6, 4), score=1.0, label=0, category=CATEGORIES[0]
    )
    document = geojson([ring])
    assert regions_from_geojson(document["features"], (40, 50), CATEGORIES)[0].label == 0
    del document["features"][0]["properties"]["category_id"]
    with pytest.raises(ValueError, match="feature 0: several categories are called 'cat'"):
        regions_from_geojson(document, (40, 50), CATEGORIES)


def test_outlines_beyond_the_image_are_cut() -> None:
    (region,) = regions_from_yolo("0 -0.2 0.5 0.4 0.5 0.4 1.2 -0.2 1.2", (40, 50), NAMED)
    assert region.box == (0, 20, 20, 40)
    assert region.mask.all()
    assert regions_from_yolo("0 1.2 0.5 1.4 0.5 1.4 0.9", (40, 50), NAMED) == []
    with pytest.raises(ValueError, match="line 1: a coordinate is not finite"):
        regions_from_yolo("0 nan 0.5 0.4 0.5 0.4 1.2", (40, 50), NAMED)


def test_masks_of_another_size_and_missing_fields(tmp_path: Path) -> None:
    written(tmp_path)
    path = tmp_path / "instances.json"
    whole = path.read_text()
    change(path, lambda rows: rows[0].update(segmentation={"size": [1, 1], "counts": "01"}))
    with pytest.raises(ValueError, match=r"result 0: its mask measures \[1, 1\], its image"):
        next(iter(Results(tmp_path)))
    change(path, lambda rows: rows[0].update(segmentation={"size": [1, 1], "counts": "0"}))
    with pytest.raises(ValueError, match=r"instances\.json: result 0: run-length"):
        next(iter(Results(tmp_path)))
    path.write_text(whole)
    change(path, lambda rows: rows[2].pop("bbox"))
    with pytest.raises(ValueError, match=r"instances\.json: record 2: lacks bbox; restore"):
        Results(tmp_path)
    path.write_text("{}")
    with pytest.raises(ValueError, match=r"instances\.json: holds no list of records"):
        Results(tmp_path)
