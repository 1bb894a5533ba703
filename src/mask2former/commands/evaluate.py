"""`mask2former evaluate`: a model, annotated images, and a table of figures."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table

from mask2former.commands.loading import load_segmenter
from mask2former.commands.options import Evaluate, command_line
from mask2former.data.coco import CocoInstances
from mask2former.data.coco_panoptic import CocoPanoptic
from mask2former.data.dataset import Dataset
from mask2former.data.detect import open_dataset
from mask2former.data.scenes import Scenes
from mask2former.structures import Category, class_names
from mask2former.training.evaluate import evaluate
from mask2former.training.examine import Examination
from mask2former.training.report import record_of, write_evaluation

HEADLINES = (
    *("PQ", "SQ", "RQ", "PQ_things", "PQ_stuff"),
    *("AP", "AP50", "AP75", "AP_small", "AP_medium", "AP_large"),
    *("mIoU", "pixel_accuracy"),
)
PER_CLASS = ("PQ", "AP", "IoU")


def measure(options: Evaluate) -> dict[str, float]:
    """Evaluate, print the tables, write the JSON file; returns the figures, in percent."""
    segmenter = load_segmenter(
        options.model,
        classes=options.classes,
        device=options.device,
        dtype=options.dtype,
        max_detections=options.max_detections,
    )
    things_only = all(category.is_thing for category in segmenter.categories)
    dataset = open_data(options, things_only)
    groups = read_groups(dataset, options.group_by) if options.group_by else {}
    tasks = options.task or dataset.tasks
    console = Console(highlight=False)
    examination = Examination(segmenter.categories) if options.report is not None else None
    figures = evaluate(
        segmenter,
        dataset,
        tasks,
        groups=groups or None,
        progress=console.is_terminal,
        on_image=examination.update if examination is not None else None,
    )
    console.print(headline_table(figures, groups, f"{options.model}: {len(dataset)} images"))
    console.print(class_table(figures, segmenter.categories))
    if options.json is not None:
        document = {
            "model": options.model,
            "data": options.data,
            "images": len(dataset),
            "figures": figures,
        }
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(json.dumps(document, indent=1) + "\n")
        console.print(f"all figures: {options.json}", markup=False, soft_wrap=True)
    if options.report is not None and examination is not None:
        title = f"{Path(options.model).name}: evaluation"
        record = record_of(examination, figures, segmenter.model)
        write_evaluation(options.report, title, record, command_line("evaluate", options))
        console.print(f"report: {options.report}", markup=False, soft_wrap=True)
    return figures


def open_data(options: Evaluate, things_only: bool) -> Dataset:
    """The data set that the options name; a folder goes before the drawn scenes."""
    if options.data == "scenes" and not Path(options.data).exists():
        return Scenes(length=options.count, seed=options.seed)
    return open_dataset(options.data, options.split, task="instance" if things_only else None)


def read_groups(dataset: Dataset, field: str) -> dict[int | str, str]:
    """From an image's id to what `field` of its record in the annotation file says."""
    if not isinstance(dataset, CocoPanoptic | CocoInstances):
        raise ValueError(f"--group-by {field}: only data sets in COCO's formats have such fields")
    records = json.loads(dataset.path.read_text())["images"]
    groups = {record["id"]: str(record[field]) for record in records if field in record}
    if not groups:
        known = sorted({key for record in records for key in record})
        raise ValueError(
            f"--group-by {field}: no image in {dataset.path} has this field; they have"
            f" {', '.join(known)}"
        )
    return groups


def headline_table(
    figures: Mapping[str, float], groups: Mapping[int | str, str], title: str
) -> Table:
    """One row a figure, one column for all images and one for each group."""
    table = Table(title=title, title_justify="left")
    table.add_column("percent")
    table.add_column("all", justify="right", style="bold")
    counts = Counter(groups.values())
    for group in sorted(counts):
        table.add_column(f"{group} ({counts[group]})", justify="right")
    for key in HEADLINES:
        if key in figures:
            of_groups = [_text(figures, f"{group}/{key}") for group in sorted(counts)]
            table.add_row(key, _text(figures, key), *of_groups)
    return table


def class_table(figures: Mapping[str, float], categories: Sequence[Category]) -> Table:
    """One row a class that occurs, one column a figure."""
    shown = [key for key in PER_CLASS if any(name.startswith(f"{key}/") for name in figures)]
    table = Table()
    table.add_column("class")
    table.add_column("kind")
    for key in shown:
        table.add_column(key, justify="right")
    for category, name in zip(categories, class_names(categories), strict=True):
        cells = [_text(figures, f"{key}/{name}") for key in shown]
        if any(cells):
            table.add_row(name, "thing" if category.is_thing else "stuff", *cells)
    return table


def _text(figures: Mapping[str, float], key: str) -> str:
    return f"{figures[key]:.1f}" if key in figures else ""
