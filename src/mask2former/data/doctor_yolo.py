"""The doctor's look at YOLO's files: every faulty line, what is missing, what stands twice."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from mask2former.archive import AnyPath
from mask2former.data.coco_json import Problem
from mask2former.data.findings import MISSING, Finding, Severity, finding
from mask2former.data.yolo_files import (
    DataYaml,
    Outline,
    find_yaml,
    has_polygon,
    is_image,
    label_file,
    missing_split,
    read_labels,
)

_ROUNDING = 0.01  # share of a side that a corner may lie outside


def faults(folder: AnyPath, split: str) -> Iterator[Finding]:
    """What is wrong with a split; with data.yaml itself, the first of its splits tells.

    Nothing if it cannot be opened, as the message on that says why.
    """
    file = find_yaml(folder)
    assert file is not None, "a folder without a data.yaml has no split to look at"
    data = DataYaml(file)
    try:
        images, names = data.images(split), data.names
    except (ValueError, OSError):
        return
    if split == data.splits[0]:
        yield from _of_yaml(data)
        yield from _of_names(data, names)
    yield from _of_images(data, split, images)
    files = [label_file(image) for image in images]
    if files and not any(path.is_file() for path in files):
        message = f"has no label file; that of {images[0]} should be {files[0]}"
        yield finding(data.path, "split without annotation", "error", split, message)
    # Boxes alone are no data set of masks, while some among polygons are crowd regions.
    severity: Severity = "warning" if has_polygon(files) else "error"
    for path in dict.fromkeys(files):
        yield from _of_labels(path, data, severity)
    yield from _without_image(data, images, files)


def _of_yaml(data: DataYaml) -> Iterator[Finding]:
    for split in sorted({*data.named} - {*data.splits}):
        message = f"{missing_split(split, ', '.join(data.entries(split)))}, or drop the key"
        yield finding(data.path, "missing split", "warning", "", message)
    count, names = data.content.get("nc"), len(data.names)
    if count is not None and count != names:
        message = f"'nc' is {count}, but {names} 'names' are listed; correct the one that is wrong"
        yield finding(data.path, "class count unlike names", "warning", "", message)


def _of_names(data: DataYaml, names: Sequence[str]) -> Iterator[Finding]:
    first_of: dict[str, int] = {}
    for number, name in enumerate(names):
        first = first_of.setdefault(name.strip().casefold(), number)
        if first == number:
            continue
        same = names[first] == name
        kind = "class name twice" if same else "class names alike"
        how = "as class" if same else f"where {names[first]!r} is the one of class"
        message = f"has the name {name!r}, {how} {first}; merge them, or name one otherwise"
        yield finding(data.path, kind, "warning", f"class {number}", message)


def _of_images(data: DataYaml, split: str, images: Sequence[AnyPath]) -> Iterator[Finding]:
    seen: set[AnyPath] = set()
    for image in images:
        if image in seen:
            message = f"'{split}' names {image} more than once, so it counts twice; drop one"
            yield finding(data.path, "file named twice", "warning", image.name, message)
        elif not image.is_file():
            message = f"'{split}' names {image}, which does not exist; restore it, or drop its line"
            yield finding(data.path, MISSING, "error", image.name, message)
        seen.add(image)


def _of_labels(path: AnyPath, data: DataYaml, of_boxes: Severity) -> Iterator[Finding]:
    problems: list[Problem] = []
    try:
        outlines = read_labels(path, data, problems)
    except ValueError as error:
        yield finding(path, "cannot be opened", "error", "", str(error))
        return
    for problem in problems:
        yield finding(path, problem.kind, "error", problem.record, problem.message)
    first_of: dict[tuple[int, bytes], int] = {}
    for outline in outlines:
        record = f"line {outline.line}"
        if outline.kind == "no area":
            message = "has fewer than 3 corners, so it is left out; draw it anew, or drop the line"
            yield finding(path, "mask without a pixel", "warning", record, message)
            continue
        if outline.kind == "box":
            message = "no mask, only a box: it cannot train masks; export polygons, or draw them"
            yield finding(path, "box without a mask", of_boxes, record, message)
        yield from _outside(path, record, outline)
        first = first_of.setdefault((outline.label, outline.corners.tobytes()), outline.line)
        if first != outline.line:
            message = f"is the same as line {first}, of the same class; drop one of the two"
            yield finding(path, "object annotated twice", "warning", record, message)


def _outside(path: AnyPath, record: str, outline: Outline) -> Iterator[Finding]:
    low, high = outline.corners.min(axis=0), outline.corners.max(axis=0)
    if low.max() >= 1 or high.min() <= 0:
        message = "none of it is inside of the image; draw it anew, or drop the line"
        yield finding(path, "mask outside the frame", "error", record, message)
        return
    excess = max(-low.min(), high.max() - 1)
    if excess > _ROUNDING:
        message = (
            f"reaches {100 * excess:.0f} % of a side outside of the image; that part is cut off."
            " Was the image cropped or scaled afterwards?"
        )
        yield finding(path, "mask outside of the image", "warning", record, message)


def _without_image(
    data: DataYaml, images: Sequence[AnyPath], files: Sequence[AnyPath]
) -> Iterator[Finding]:
    """Label files that no image goes with, beside the `files` of the images of a split."""
    known: dict[tuple[AnyPath, AnyPath], set[str]] = {}  # stems, by the folders of both
    for image, file in zip(images, files, strict=True):
        known.setdefault((image.parent, file.parent), set()).add(image.stem)
    for (folder, labels), stems in known.items():
        if folder.is_dir():  # where lists tell splits apart, it holds those of others
            stems |= {path.stem for path in folder.iterdir() if is_image(path)}
        others = (path for path in labels.glob("*.txt") if path.stem not in stems)
        for path in sorted(others):
            if _describes_objects(path, data):
                message = f"no image of this name is in {folder}; restore it, or drop the file"
                yield finding(path, "annotation without image", "warning", "", message)


def _describes_objects(path: AnyPath, data: DataYaml) -> bool:
    """Whether it is a label file at all: notes and lists of classes lie about, too."""
    try:
        return any(outline.kind != "no area" for outline in read_labels(path, data, []))
    except ValueError:
        return False
