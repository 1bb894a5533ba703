"""`mask2former predict`: images in, a folder of results out."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from jaxtyping import UInt8
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
)

from mask2former.commands.loading import load_segmenter
from mask2former.commands.options import Predict
from mask2former.imaging import find_images, read_image
from mask2former.inference.tiling import Tiling
from mask2former.inference.writers import ResultWriter, instances_of
from mask2former.segmenter import Segmenter
from mask2former.structures import TASKS, LargeSegmentation, Segmentation, Task

Result = Segmentation | LargeSegmentation
Image = UInt8[np.ndarray, "H W 3"]


def predict(options: Predict) -> list[str]:
    """Segment every image; returns what went wrong with those that could not be."""
    if not options.images:
        raise ValueError("no IMAGE is given; name files, folders or quoted patterns")
    paths = find_images(options.images, recursive=options.recursive)
    segmenter = load_segmenter(
        options.model,
        classes=options.classes,
        device=options.device,
        dtype=options.dtype,
        max_detections=options.max_detections,
        batch_size=options.batch_size,
        compile=options.compile,
        canvas_step=options.canvas_step,
    )
    tasks = options.task or TASKS
    failures: list[str] = []
    done, started = 0, time.perf_counter()
    console = Console(highlight=False, markup=False, soft_wrap=True)
    progress = Progress(
        TextColumn("segmenting"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        console=console,
        disable=not console.is_terminal,
        transient=True,
    )
    writer = ResultWriter(
        options.out,
        segmenter.categories,
        min_score=options.threshold,
        outlines=options.outlines,
    )
    try:
        with writer, progress:
            bar = progress.add_task("", total=len(paths))
            for path, image, result in results_of(segmenter, paths, tasks, options):
                if not isinstance(result, Exception):
                    writer.add(result, image)
                    done += 1
                    console.print(f"{path}: {describe(result, options.threshold)}")
                else:
                    failures.append(message(path, result))
                    console.print(f"{path}: failed")
                progress.advance(bar)
    except KeyboardInterrupt:
        raise KeyboardInterrupt(
            f"{done} of {len(paths)} images are done and written to {options.out}"
        ) from None
    seconds = time.perf_counter() - started
    console.print(
        f"{done} of {len(paths)} images in {seconds:.1f} s; the results are in {options.out}"
    )
    return failures


def results_of(
    segmenter: Segmenter, paths: Sequence[Path], tasks: Sequence[Task], options: Predict
) -> Iterator[tuple[Path, Image | None, Result | Exception]]:
    """Every file with its image and result, or with what went wrong; one does not stop the next."""
    if options.tile is None:
        yield from segment_files(segmenter, paths, tasks)
        return
    overlap = options.tile // 4 if options.overlap is None else options.overlap
    tiling = Tiling(size=options.tile, overlap=overlap)
    for path in paths:
        try:
            image = read_image(path)
            result = segmenter.tiled(
                image,
                tasks,
                tile=tiling.size,
                overlap=tiling.overlap,
                min_score=0.05,  # as good as all
                name=str(path),
                progress=False,
            )
            yield path, image, result
        except (ValueError, OSError, RuntimeError, MemoryError) as error:
            yield path, None, error


def segment_files(
    segmenter: Segmenter, paths: Sequence[Path], tasks: Sequence[Task]
) -> Iterator[tuple[Path, Image | None, Segmentation | Exception]]:
    """Every file with its image and result, or with what went wrong; one does not stop the next."""
    for start in range(0, len(paths), segmenter.batch_size):
        images: dict[Path, Image] = {}
        for path in paths[start : start + segmenter.batch_size]:
            try:
                images[path] = read_image(path)
            except (ValueError, OSError) as error:
                yield path, None, error
        for path, result in zip(images, _segment(segmenter, images, tasks), strict=True):
            yield path, images[path], result


def _segment(
    segmenter: Segmenter, images: dict[Path, Image], tasks: Sequence[Task]
) -> Sequence[Segmentation | Exception]:
    """One batch; if it fails, as for lack of memory, its images are tried one by one."""
    if not images:
        return []
    try:
        return segmenter.segment(list(images.values()), [str(path) for path in images], tasks)
    except (ValueError, RuntimeError, MemoryError) as error:
        if len(images) == 1:
            return [error]
    return [_segment(segmenter, {path: image}, tasks)[0] for path, image in images.items()]


def describe(result: Result, threshold: float) -> str:
    """What was found: "3 star, 2 ring; sky 40 %, sand 31 %"."""
    things: Counter[str] = Counter()
    pixels: Counter[str] = Counter()
    if result.panoptic is not None:
        for segment in result.panoptic.segments:
            if segment.category.is_thing:
                things[segment.category.name] += 1
            else:
                pixels[segment.category.name] += segment.area
    elif isinstance(result, LargeSegmentation):
        things.update(r.category.name for r in result.regions or () if r.score >= threshold)
    elif result.instances is not None:
        things.update(result.instances.above(threshold).names)
    if result.semantic is not None and result.panoptic is None:
        areas = result.semantic.labels.flatten().bincount().tolist()
        for category, area in zip(result.semantic.categories, areas, strict=False):
            if area and not (category.is_thing and instances_of(result) is not None):
                pixels[category.name] += area
    total = result.size[0] * result.size[1]
    counted = [f"{count} {name}" for name, count in things.most_common()]
    shares = [f"{name} {100 * area / total:.0f} %" for name, area in pixels.most_common()]
    return "; ".join(", ".join(part) for part in (counted, shares) if part) or "nothing found"


def message(path: Path, error: Exception) -> str:
    """The error, with the file's name in front unless it says it already."""
    text = str(error) or type(error).__name__
    return text if str(path) in text else f"{path}: {text.splitlines()[0]}"
