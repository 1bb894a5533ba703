"""`mask2former data`: what a folder of annotated images is, and what is wrong with it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from rich.console import Console
from rich.table import Table

from mask2former.commands.loading import require_positive
from mask2former.commands.options import CheckData, InspectData
from mask2former.commands.output import tell, wide_console, write_json
from mask2former.data.detect import find_formats, nothing_found, open_dataset, root_of
from mask2former.data.doctor import check
from mask2former.data.findings import Finding
from mask2former.data.inspection import Inspection, coarse_masks, inspect
from mask2former.imaging import resize_image
from mask2former.inference.visualize import Picture, contact_sheet, draw_panoptic
from mask2former.structures import Panoptic, Sample, Segment
from mask2former.training.config import FolderData

ROWS_PER_KIND = 5  # findings of a kind that the table shows
SHOWN_CLASSES = 40
PICTURES = 4  # samples of a split on the sheet
ROW_OF = 4  # pictures beside one another
PICTURE_SIDE = 640  # pixels, of the longest side
STYLES = {"error": "red", "warning": "yellow", "note": "dim"}


def inspect_data(options: InspectData) -> None:
    """Print what the folder holds, and draw samples of it."""
    root = root_of(options.folder)
    found = find_formats(root, options.format)
    if not found:
        raise ValueError(nothing_found(root))
    require_positive("--images", options.images)
    console = wide_console()
    for entry in found:
        splits = ", ".join(name for name in entry.splits if name)
        console.print(
            f"{entry.format.title} ({entry.format.name})" + (f": {splits}" if splits else ""),
            markup=False,
        )
    inspections: dict[str, Inspection] = {}
    unopened: dict[str, Exception] = {}
    for split in sorted(
        {name for entry in found for name in entry.splits},
        key=lambda name: (not name.startswith("train"), name),
    ):
        try:
            dataset = open_dataset(options.folder, split, task=options.task, format=options.format)
        except (ValueError, OSError) as error:
            unopened[split] = error
            continue
        inspections[split] = inspect(
            dataset, most=options.images, pictures=PICTURES, progress=console.is_terminal
        )
    if not inspections:
        raise next(iter(unopened.values()))
    console.print(split_table(inspections))
    console.print(class_table(inspections))
    for split, reason in unopened.items():
        console.print(f"{split} cannot be opened: {reason}", style="red", markup=False)
    for split, result in inspections.items():
        if len(result.sizes) < result.length:
            console.print(
                f"{split or 'all'}: figures of {len(result.sizes)} of {result.length} images",
                markup=False,
            )
        if result.unreadable:
            tell(
                console,
                f"{split or 'all'}: {len(result.unreadable)} images could not be read; `mask2former"
                f" data check {options.folder}` tells why",
                style="red",
            )
    if any(result.samples for result in inspections.values()):
        sheet = options.out or Path(f"{Path(options.folder).resolve().stem}-samples.png")
        sheet.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(sample_sheet(inspections)).save(sheet)
        tell(console, f"samples: {sheet}")
    if options.json is not None:
        document = {
            "folder": options.folder,
            "formats": {entry.format.name: list(entry.splits) for entry in found},
            "splits": {split: as_json(result) for split, result in inspections.items()},
        }
        write_json(options.json, document)
        tell(console, f"all figures: {options.json}")


def check_data(options: CheckData) -> bool:
    """Print what is wrong; whether no error is among it."""
    console = wide_console()
    findings = check(
        options.folder,
        options.split or None,
        task=options.task,
        format=options.format,
        deep=not options.fast,
        progress=console.is_terminal,
    )
    if findings:
        console.print(finding_table(findings, options.folder))
    tell(console, verdict(findings, options.folder))
    if options.json is not None:
        count = Counter(finding.severity for finding in findings)
        document = {
            "folder": options.folder,
            "deep": not options.fast,
            "errors": count["error"],
            "warnings": count["warning"],
            "notes": count["note"],
            "findings": [asdict(finding) for finding in findings],
        }
        write_json(options.json, document)
        tell(console, f"all findings: {options.json}")
    return not any(finding.severity == "error" for finding in findings)


def quick_check(data: FolderData, console: Console) -> None:
    """What can be told in seconds of a training's data: warnings are printed, errors raised.

    ValueError tells the first few errors.
    """
    divided = data.divided
    splits = [divided] if divided is not None else sorted({data.train, data.val})
    findings = check(data.folder, splits, task=data.task, format=data.format, deep=False)
    errors = [finding for finding in findings if finding.severity == "error"]
    more = f"`mask2former data check {data.folder}` shows all"
    if errors:
        lines = [str(finding) for finding in errors[:ROWS_PER_KIND]]
        if len(errors) > len(lines):
            lines.append(f"... and {len(errors) - len(lines)} more errors")
        raise ValueError("\n".join([*lines, more]))
    warnings = Counter(finding.kind for finding in findings if finding.severity == "warning")
    if warnings:
        told = ", ".join(f"{kind} ({count})" for kind, count in warnings.items())
        console.print(f"warning: {data.folder}: {told}; {more}")


# --- tables ---------------------------------------------------------------------------------------


def finding_table(findings: Sequence[Finding], folder: str) -> Table:
    """The findings kind by kind; of each the first few, and how many there are."""
    table = Table(title=f"{folder}: findings", title_justify="left", show_lines=False)
    table.add_column("finding")
    table.add_column("count", justify="right")
    table.add_column("file", overflow="fold")
    table.add_column("record", overflow="fold")
    table.add_column("what to do", overflow="fold")
    kinds: dict[tuple[str, str], list[Finding]] = {}
    for finding in findings:
        kinds.setdefault((finding.severity, finding.kind), []).append(finding)
    for (severity, kind), group in kinds.items():
        style = STYLES[severity]
        for index, finding in enumerate(group[:ROWS_PER_KIND]):
            first = (f"{severity}: {kind}", str(len(group))) if index == 0 else ("", "")
            cells = (*first, _inside(finding.file, folder), finding.record, finding.message)
            table.add_row(*(_plain(cell) for cell in cells), style=style)
        if len(group) > ROWS_PER_KIND:
            more = f"... and {len(group) - ROWS_PER_KIND} more"
            table.add_row("", "", "", more, "--json FILE holds all", style=style)
        table.add_section()
    return table


def verdict(findings: Sequence[Finding], folder: str) -> str:
    count = Counter(finding.severity for finding in findings)
    if not count["error"] and not count["warning"]:
        return f"{folder}: nothing is wrong"
    parts = [
        f"{count[severity]} {severity}{'s' * (count[severity] != 1)}"
        for severity in ("error", "warning", "note")
        if count[severity]
    ]
    return f"{folder}: {', '.join(parts)}"


def split_table(inspections: dict[str, Inspection]) -> Table:
    """One row a split."""
    table = Table(title="splits", title_justify="left")
    for heading in ("split", "images", "objects", "an image: median", "most", "crowds", "% void"):
        table.add_column(heading, justify="left" if heading == "split" else "right")
    table.add_column("width x height: least, median, most")
    for split, result in inspections.items():
        objects = np.array(result.objects or [0])
        sizes = np.array(result.sizes or [(0, 0)])
        told = ", ".join(
            f"{width:.0f} x {height:.0f}"
            for height, width in (sizes.min(axis=0), np.median(sizes, axis=0), sizes.max(axis=0))
        )
        table.add_row(
            split or "(none)",
            str(result.length),
            str(objects.sum()),
            f"{np.median(objects):g}",
            str(objects.max()),
            str(result.crowds),
            f"{100 * result.void_share:.1f}",
            told,
        )
    return table


def class_table(inspections: dict[str, Inspection]) -> Table:
    """One row a class, the most frequent first; of each split its objects, images and pixels."""
    places = {  # of every split, where its classes are
        split: {(c.id, c.name): place for place, c in enumerate(result.categories)}
        for split, result in inspections.items()
    }
    categories = {(c.id, c.name): c for result in inspections.values() for c in result.categories}
    objects: Counter[tuple[int, str]] = Counter()
    for split, result in inspections.items():
        objects.update({key: int(result.class_objects[at]) for key, at in places[split].items()})
    table = Table(title=f"{len(categories)} classes", title_justify="left")
    table.add_column("id", justify="right")
    table.add_column("class")
    table.add_column("kind")
    for split in inspections:
        table.add_column(f"{split or 'all'}: objects", justify="right")
        table.add_column("images", justify="right")
        table.add_column("% of pixels", justify="right")
    order = sorted(categories, key=lambda key: (-objects[key], key[0]))
    for key in order[:SHOWN_CLASSES]:
        cells = []
        for split, result in inspections.items():
            own = places[split].get(key)
            if own is None:
                cells += ["-", "-", "-"]
                continue
            cells += [str(result.class_objects[own]), str(result.class_images[own])]
            cells.append(f"{100 * result.class_shares[own]:.2f}")
        kind = "thing" if categories[key].is_thing else "stuff"
        table.add_row(str(key[0]), _plain(key[1]), kind, *cells)
    if len(order) > SHOWN_CLASSES:
        table.add_row("", f"... and {len(order) - SHOWN_CLASSES} more; --json FILE holds all")
    return table


def as_json(result: Inspection) -> dict[str, object]:
    """All figures of a split."""
    sizes = np.array(result.sizes or [(0, 0)])
    objects = np.array(result.objects or [0])
    return {
        "images": result.length,
        "images_read": len(result.sizes),
        "unreadable": result.unreadable,
        "objects": int(objects.sum()),
        "objects_median": float(np.median(objects)),
        "objects_max": int(objects.max()),
        "crowds": result.crowds,
        "void_share": result.void_share,
        "height": [float(f(sizes[:, 0])) for f in (np.min, np.median, np.max)],
        "width": [float(f(sizes[:, 1])) for f in (np.min, np.median, np.max)],
        "classes": [
            {
                "id": category.id,
                "name": category.name,
                "is_thing": category.is_thing,
                "objects": int(result.class_objects[label]),
                "images": int(result.class_images[label]),
                "pixel_share": float(result.class_shares[label]),
            }
            for label, category in enumerate(result.categories)
        ],
    }


# --- pictures -------------------------------------------------------------------------------------


def sample_sheet(inspections: dict[str, Inspection]) -> Picture:
    """Samples with their masks and the names of their classes; the rows of a split together."""
    rows: list[list[Picture]] = []
    titles: list[str] = []
    for split, result in inspections.items():
        pictures = [drawn_sample(sample, result) for sample in result.samples]
        for start in range(0, len(pictures), ROW_OF):
            row = pictures[start : start + ROW_OF]
            blank = np.full((1, 1, 3), 255, np.uint8)
            rows.append(row + [blank] * (ROW_OF - len(row)))
            names = ", ".join(sample.name for sample in result.samples[start : start + ROW_OF])
            titles.append(f"{split}: {names}" if split else names)
    return contact_sheet(rows, [""] * ROW_OF, titles=titles, cell_width=480)


def drawn_sample(sample: Sample, result: Inspection) -> Picture:
    """One sample at a moderate size; where masks overlap, the smaller is on top."""
    masks = coarse_masks(sample.masks, PICTURE_SIDE)
    image = resize_image(sample.image, (masks.shape[1], masks.shape[2]))
    ids = np.zeros(masks.shape[1:], np.int32)
    areas = masks.sum(axis=(1, 2))
    for index in np.argsort(-areas, kind="stable"):
        ids[masks[index]] = index + 1
    segments = tuple(
        Segment(
            id=index + 1,
            label=int(label),
            category=result.categories[label],
            score=1.0,
            area=int(areas[index]),
        )
        for index, label in enumerate(sample.labels)
    )
    panoptic = Panoptic(ids=torch.from_numpy(ids), segments=segments, categories=result.categories)
    return draw_panoptic(image, panoptic)


def _inside(file: str, folder: str) -> str:
    """A file as it is called in the folder."""
    return file.removeprefix(f"{folder.rstrip('/')}/")


def _plain(text: str) -> str:
    """Never taken for markup."""
    return text.replace("[", r"\[")
