"""Average precision of files in COCO's format."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from mask2former.evaluation.matching import Matches, figures_of, match_image
from mask2former.evaluation.overlap import mask_api, mask_iou
from mask2former.masks import mask_of_annotation
from mask2former.structures import Category, class_names

Record = dict[str, Any]


def score_instance_files(
    gt_json: str | Path,
    results_json: str | Path,
    *,
    max_detections: int = 100,
    mend: Callable[[dict[str, list[Record]]], None] | None = None,
) -> dict[str, float]:
    """The figures of `AveragePrecision` for files in COCO's format, of all their categories.

    Areas of the truth are the file's own, those of detections the pixels of their masks (boxes
    in the results are ignored). A true object of which the box alone is known is a crowd, and one
    without any area is left out, as readers do. `mend` first changes what a tool has written
    otherwise than COCO does.

    Raises ValueError, naming file and record, where the two files do not fit.
    """
    data = json.loads(Path(gt_json).read_bytes())
    if mend is not None:
        mend(data)
    results = json.loads(Path(results_json).read_bytes())
    images = {image["id"]: image for image in data["images"]}
    categories = [
        Category(id=c["id"], name=c["name"], is_thing=True, color=(0, 0, 0))
        for c in data["categories"]
    ]
    classes = {
        category.id: name
        for category, name in zip(categories, class_names(categories), strict=True)
    }
    truth: dict[Any, list[Record]] = {id: [] for id in images}
    for number, annotation in enumerate(data["annotations"]):
        name = f"{gt_json}: annotation {annotation.get('id', f'number {number}')}"
        try:
            found = mask_of_annotation(annotation)
        except ValueError as error:
            raise ValueError(f"{name}: {error}") from None
        if found is None:
            continue
        if "area" not in annotation:
            raise ValueError(f"{name}: 'area' is missing; add it (pixels)")
        mask, is_box = found
        crowd = int(is_box or annotation.get("iscrowd", 0))
        truth[annotation["image_id"]].append(annotation | {"segmentation": mask, "iscrowd": crowd})
    detections: dict[Any, list[Record]] = {id: [] for id in images}
    for number, result in enumerate(results):
        _check_result(result, f"{results_json}: result {number}", gt_json, images, classes)
        detections[result["image_id"]].append(result)
    matches = [
        _match(images[id], truth[id], detections[id], max_detections)
        for id in sorted(images, key=lambda id: (isinstance(id, str), id))
    ]
    return figures_of(matches, classes)


def _check_result(
    result: Any,
    name: str,
    gt_json: str | Path,
    images: Mapping[Any, Record],
    classes: Mapping[int, str],
) -> None:
    if not isinstance(result, dict):
        raise ValueError(f"{name}: is no record but {result!r}; COCO results are a list of records")
    for field in ("image_id", "category_id", "score", "segmentation"):
        if field not in result:
            cure = "add the mask's run-length encoding" if field == "segmentation" else "add it"
            raise ValueError(f"{name}: '{field}' is missing; {cure}")
    known: Mapping[Any, Any]
    for field, known in (("image_id", images), ("category_id", classes)):
        if result[field] not in known:
            raise ValueError(
                f"{name}: {field} {result[field]!r} is not in {gt_json}; score it against the file"
                " it was predicted for"
            )
    mask, image = result["segmentation"], images[result["image_id"]]
    if isinstance(mask, dict) and mask.get("size") != [image["height"], image["width"]]:
        raise ValueError(
            f"{name}: its mask measures {mask.get('size')}, its image"
            f" [{image['height']}, {image['width']}]; score it against the split it was predicted"
            " for, with masks of the images' size"
        )


def _match(
    image: Record, truth: Sequence[Record], detections: Sequence[Record], max_detections: int
) -> Matches:
    """Their encodings are made image by image, and forgotten."""
    api, (height, width) = mask_api(), (image["height"], image["width"])

    def encoded(record: Record) -> Record:
        return record | {"segmentation": api.segmToRle(record["segmentation"], width, height)}

    found = [encoded(record) for record in detections]
    areas = api.area([record["segmentation"] for record in found]) if found else ()
    return match_image(
        [encoded(record) for record in truth],
        [d | {"area": int(area)} for d, area in zip(found, areas, strict=True)],
        overlap=mask_iou,
        max_detections=max_detections,
    )
