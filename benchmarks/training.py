"""One training step, forward to gradients: this package and transformers, same weights, in turn.

python -m benchmarks.training [--cases 512:2:20 1024:1:200] [--rounds 7]
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.measure import (
    Comparison,
    Run,
    add_same_memory,
    command,
    compare,
    report,
    write_json,
)
from benchmarks.models import write_models
from mask2former.allocator import keep_freed_memory
from mask2former.loss.criterion import Criterion, LossConfig
from mask2former.structures import Targets
from mask2former.weights import load_model


def objects(size: int, batch: int, count: int) -> tuple[torch.Tensor, list[Targets]]:
    """Noise, and for each image `count` ellipses; the same in every process."""
    rng = np.random.default_rng(0)
    images = torch.from_numpy(rng.normal(size=(batch, 3, size, size)).astype(np.float32))
    y, x = np.mgrid[:size, :size]
    targets = []
    for _ in range(batch):
        masks = np.zeros((count, size, size), bool)
        for mask in masks:
            cy, cx = rng.uniform(0, size, 2)
            ry, rx = rng.uniform(size / 60, size / 6, 2)
            mask |= ((y - cy) / ry) ** 2 + ((x - cx) / rx) ** 2 < 1
        labels = torch.from_numpy(rng.integers(0, 133, count))
        targets.append(Targets(labels=labels, masks=torch.from_numpy(masks[:, None])))
    return images, targets


def ours_step(folder: Path, size: int, batch: int, count: int) -> Run:
    keep_freed_memory()  # as `train` does
    model = load_model(folder / "ours").train().to(memory_format=torch.channels_last)
    criterion = Criterion(LossConfig(), model.config.categories)
    images, targets = objects(size, batch, count)

    def run() -> float:
        torch.manual_seed(0)
        loss = criterion(model(images), tuple(targets)).total
        loss.backward()
        model.zero_grad(set_to_none=True)
        return float(loss.detach())

    return run


def peer_step(folder: Path, size: int, batch: int, count: int, same_memory: bool) -> Run:
    if same_memory:
        keep_freed_memory()
    from transformers import Mask2FormerForUniversalSegmentation

    model = Mask2FormerForUniversalSegmentation.from_pretrained(folder / "peer").train()
    images, targets = objects(size, batch, count)
    masks = [target.masks[:, 0].float() for target in targets]
    labels = [target.labels for target in targets]

    def run() -> float:
        torch.manual_seed(0)
        loss = model(pixel_values=images, mask_labels=masks, class_labels=labels).loss
        loss.backward()
        model.zero_grad(set_to_none=True)
        return float(loss.detach())

    return run


def agreement(ours: float, theirs: float) -> dict[str, Any]:
    """The points are drawn differently, so the losses are alike, not equal."""
    assert abs(ours / theirs - 1) < 0.05, f"not the same loss: {ours} and {theirs}"
    return {"loss": f"{ours:.2f}, {theirs:.2f}"}


def main() -> None:
    parser = command(__doc__, "training")
    parser.add_argument("--cases", nargs="+", default=["512:2:20"], help="size:batch:objects")
    add_same_memory(parser)
    options = parser.parse_args()
    found: list[Comparison] = []
    for text in options.cases:
        size, batch, count = map(int, text.split(":"))
        with tempfile.TemporaryDirectory() as name:
            write_models(Path(name), "r50", (512, 512), kept=0.2)
            arguments = (Path(name), size, batch, count)
            found.append(
                compare(
                    f"R50, {size}x{size}, batch {batch}, {count} objects each",
                    (ours_step, arguments),
                    (peer_step, (*arguments, options.same_memory)),
                    rounds=options.rounds,
                    threads=options.threads,
                    agree=agreement,
                )
            )
        print(found[-1].row(), flush=True)
    print(report("Training step", ["loss"], found))
    write_json(options.out, options.threads, found)


if __name__ == "__main__":
    main()
