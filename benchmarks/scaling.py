"""How time and memory grow with pixels, queries, classes, batch, frames and objects, R50.

python -m benchmarks.scaling [--axes pixels queries ...] [--rounds 3]

Each value is measured in a process of its own. Prints a table with the exponent of the growth
(1: linear), writes JSON and a plot.
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import torch

from benchmarks.measure import Contender, Run, command, markdown
from benchmarks.training import objects
from mask2former.data.dataset import generated_color
from mask2former.loss.criterion import Criterion, LossConfig
from mask2former.modeling.mask2former import Mask2Former, Mask2FormerConfig
from mask2former.segmenter import Segmenter
from mask2former.structures import Category, View


@dataclass(frozen=True, kw_only=True)
class Size:
    """What is run; each axis changes one of these."""

    side: int = 512  # of the square image, in pixels
    queries: int = 100
    classes: int = 133
    batch: int = 1
    frames: int = 0  # of a clip, through the model alone; 0: images, to their results
    objects: int = 0  # of a training step; 0: inference


VALUES: dict[str, list[Size]] = {
    "pixels": [Size(side=side) for side in (256, 384, 512, 768, 1024)],
    "queries": [Size(queries=count) for count in (50, 100, 200, 400)],
    "classes": [Size(classes=count) for count in (20, 133, 400, 847)],
    "batch": [Size(batch=count) for count in (1, 2, 4, 8)],
    "frames": [Size(frames=count) for count in (1, 2, 4, 8)],
    "objects": [Size(objects=count) for count in (5, 20, 80, 200)],
}
EXPLAINED = {
    "pixels": "convolutions, sampling and attention to pixels are linear; nothing attends pixel"
    " to pixel",
    "queries": "the backbone does not know them; masks and attention to pixels are linear in them",
    "classes": "one linear layer, and a semantic score a class and pixel",
    "batch": "images are independent",
    "frames": "maps of each frame; queries attend to the pixels of all",
    "objects": "matched masks alone are made and compared; the matching itself is cubic, and small",
}


def value_of(axis: str, size: Size) -> int:
    return size.side**2 if axis == "pixels" else int(getattr(size, axis))


def model_of(size: Size) -> Mask2Former:
    """Random weights, every query sure of a class, so that all of them are post-processed."""
    torch.manual_seed(0)
    categories = tuple(
        Category(id=i, name=str(i), is_thing=i % 2 == 0, color=generated_color(i))
        for i in range(size.classes)
    )
    config = Mask2FormerConfig(
        categories=categories, view=View(shortest_side=size.side, longest_side=size.side)
    )
    decoder = replace(config.decoder, queries=size.queries, temporal_positions=size.frames > 0)
    model = Mask2Former(replace(config, decoder=decoder))
    with torch.no_grad():
        model.decoder.head.class_logits.weight.mul_(60)
        model.decoder.head.class_logits.bias[-1] -= 100
    return model


def make(size: Size) -> Run:
    model = model_of(size)
    model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # as everywhere
    if size.objects:
        return training_step(model.train(), size)
    if size.frames:
        clip = torch.randn(1, size.frames, 3, size.side, size.side)
        return torch.inference_mode()(lambda: model.eval()(clip).mask_logits.sum().item())
    segmenter = Segmenter(model.eval(), batch_size=size.batch)
    rng = np.random.default_rng(0)
    image = rng.integers(0, 255, (size.side, size.side, 3), np.uint8)
    return lambda: len(segmenter([image] * size.batch))


def training_step(model: Mask2Former, size: Size) -> Run:
    criterion = Criterion(LossConfig(), model.config.categories)
    images, targets = objects(size.side, size.batch, size.objects)

    def run() -> None:
        criterion(model(images), tuple(targets)).total.backward()
        model.zero_grad(set_to_none=True)

    return run


@dataclass(frozen=True, kw_only=True)
class Point:
    """Seconds (median) and memory of a run (bytes, beyond what the process held before it)."""

    axis: str
    value: int
    seconds: float
    memory: int


def measure(axis: str, size: Size, rounds: int, threads: int) -> Point:
    contender = Contender(f"{axis} {value_of(axis, size)}", make, size, threads=threads)
    try:
        memory = contender.make_ready()
        seconds = statistics.median(contender.ask("run") for _ in range(rounds))
        return Point(axis=axis, value=value_of(axis, size), seconds=seconds, memory=memory)
    finally:
        contender.stop()


def exponent(points: Sequence[Point], field: str) -> float:
    """The slope between the two largest values, both axes logarithmic."""
    first, last = points[-2:]
    ratio = getattr(last, field) / max(getattr(first, field), 1e-9)
    return float(np.log(ratio) / np.log(last.value / first.value))


def table(points: Sequence[Point]) -> str:
    header = ["grows with", "values", "seconds", "MB", "exponent of time", "of memory", "why"]
    rows = []
    for axis in VALUES:
        own = [point for point in points if point.axis == axis]
        if len(own) > 1:
            rows.append(
                [
                    axis,
                    " ".join(str(point.value) for point in own),
                    " ".join(f"{point.seconds:.2f}" for point in own),
                    " ".join(f"{point.memory / 2**20:.0f}" for point in own),
                    f"{exponent(own, 'seconds'):.2f}",
                    f"{exponent(own, 'memory'):.2f}",
                    EXPLAINED[axis],
                ]
            )
    return markdown(header, rows)


def plot(points: Sequence[Point], path: Path) -> None:
    """A panel an axis: time and memory, both axes logarithmic."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    axes = [axis for axis in VALUES if any(point.axis == axis for point in points)]
    figure, panels = plt.subplots(
        2, -(-len(axes) // 2), figsize=(10, 6), layout="constrained", squeeze=False
    )
    for panel in panels.flat[len(axes) :]:
        panel.remove()
    for axis, panel in zip(axes, panels.flat, strict=False):
        own = [point for point in points if point.axis == axis]
        values = [point.value for point in own]
        panel.loglog(values, [point.seconds for point in own], "o-", label="seconds")
        memory = [point.memory / 2**30 for point in own]
        panel.loglog(values, memory, "s--", label="GB", color="tab:orange")
        panel.set(title=axis)
        panel.minorticks_off()
        panel.set_xticks(values, [f"{value:,}" for value in values], fontsize=7)
        ends = (min(memory) / 2, 2 * max(point.seconds for point in own))
        ticks = [10.0**k for k in range(-3, 4) if ends[0] <= 10.0**k <= ends[1]]
        panel.set_ylim(*ends)
        panel.set_yticks(ticks, [f"{tick:g}" for tick in ticks])
        panel.grid(alpha=0.3, which="both")
    panels.flat[0].legend()
    figure.savefig(path, dpi=110)


def main() -> None:
    parser = command(__doc__, "scaling")
    parser.add_argument("--axes", nargs="+", default=list(VALUES), choices=list(VALUES))
    parser.set_defaults(rounds=3)
    options = parser.parse_args()
    points: list[Point] = []
    for axis in options.axes:
        for size in VALUES[axis]:
            points.append(measure(axis, size, options.rounds, options.threads))
            print(points[-1], flush=True)
    print(table(points))
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps([asdict(point) for point in points], indent=1) + "\n")
    plot(points, options.out.with_suffix(".png"))


if __name__ == "__main__":
    main()
