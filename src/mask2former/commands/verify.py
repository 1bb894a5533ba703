"""`mask2former verify`: a released checkpoint measured here, beside what its authors published."""

from __future__ import annotations

import difflib

from rich.console import Console
from rich.table import Table

from mask2former.commands.loading import load_segmenter
from mask2former.commands.options import Verify
from mask2former.data.detect import open_dataset
from mask2former.structures import TASKS, Task
from mask2former.training.evaluate import evaluate
from mask2former.weights.released import Released, released_models

TASKS_OF: dict[str, tuple[Task, ...]] = {
    "panoptic": TASKS,
    "instance": ("instance",),
    "semantic": ("semantic",),
}


def verify(options: Verify) -> bool:
    """Print both figures; whether none is further from the published one than the tolerance."""
    released = find(options.model)
    segmenter = load_segmenter(released.name, device=options.device, dtype=options.dtype)
    instances = released.task == "instance"
    dataset = open_dataset(
        options.data, options.split, task="instance" if instances else "panoptic"
    )
    console = Console(highlight=False)
    figures = evaluate(segmenter, dataset, TASKS_OF[released.task], progress=console.is_terminal)
    table = Table("percent", "here", "published", "difference", title=released.name)
    agrees = True
    for metric, published in released.metrics.items():
        if metric not in figures:
            raise ValueError(
                f"{options.data}: has no object that {metric} could be measured on; give the data"
                f" set's own {options.split} split"
            )
        difference = figures[metric] - published
        # Panoptic models' AP was published for the instance annotation: another truth than this.
        judged = instances or metric != "AP"
        agrees &= not judged or abs(difference) <= options.tolerance
        name = metric if judged else f"{metric} (not judged)"
        table.add_row(name, f"{figures[metric]:.2f}", f"{published:.1f}", f"{difference:+.2f}")
    console.print(table)
    verdict = "agrees" if agrees else "does not agree"
    console.print(f"{len(dataset)} images: {verdict} within {options.tolerance}")
    return agrees


def find(name: str) -> Released:
    """ValueError names the nearest ones if there is no such checkpoint, or none for images."""
    table = {n: r for n, r in released_models().items() if r.task in TASKS_OF}
    if name in table:
        return table[name]
    near = difflib.get_close_matches(name, table, n=3, cutoff=0.4)
    raise ValueError(
        f"{name}: not the name of a released checkpoint for images; nearest:"
        f" {', '.join(near) or 'none'}. `mask2former models` lists all"
    )
