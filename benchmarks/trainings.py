"""Whole trainings on a folder: this package and transformers, same model, data, order and steps.

python -m benchmarks.trainings FOLDER [--steps 300] [--seeds 0 1] [--size 256] [--batch 4]

Both start from the same weights and see the same crops in the same order; the points at which masks
are compared are each one's own draws. transformers' weights are then read into our model, so that
one evaluation measures both. Every training is a process of its own; what is finished is kept in
the folder of --out, and the same command goes on from there.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.measure import FIGURES, markdown, status
from benchmarks.models import small_config
from mask2former.allocator import keep_freed_memory
from mask2former.data.detect import open_dataset
from mask2former.data.loader import Stream, batches
from mask2former.data.transforms import TrainView
from mask2former.loss.criterion import Criterion, LossConfig
from mask2former.modeling.mask2former import Mask2Former
from mask2former.presets.compact import COMPACT_OPTIMIZER
from mask2former.segmenter import Segmenter
from mask2former.structures import Batch, View
from mask2former.training.evaluate import evaluate
from mask2former.training.optimizer import rate_factor, set_rates
from mask2former.weights import load_model, save_model
from mask2former.weights.pretrained import load_backbone

POINTS, RATE, DECAY, CLIP = 2048, 1e-3, 0.05, 0.1
Step = Callable[[Batch], Tensor]  # to the loss


def start(options: argparse.Namespace, seed: int) -> Mask2Former:
    """The paper's model in a size for a CPU; its backbone begins as the embedded one."""
    torch.manual_seed(seed)
    categories = open_dataset(options.data, "train").categories
    size = options.size
    view = View(
        shortest_side=size, longest_side=2 * size, object_threshold=0.5, overlap_threshold=0.6
    )
    model = Mask2Former(small_config(categories, view, queries=50))
    load_backbone(model, "scenes")
    return model


def ours(model: Mask2Former) -> tuple[nn.Module, Step]:
    keep_freed_memory()  # as `train` does
    model.train().to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    criterion = Criterion(LossConfig(points=POINTS), model.config.categories)
    return model, lambda batch: criterion(model(batch.images), batch.targets, batch.names).total


def theirs(model: Mask2Former, folder: Path) -> tuple[nn.Module, Step]:
    from transformers import Mask2FormerForUniversalSegmentation

    save_model(model, folder, "transformers")
    peer = Mask2FormerForUniversalSegmentation.from_pretrained(folder, train_num_points=POINTS)

    def step(batch: Batch) -> Tensor:
        if any(target.ignore is not None for target in batch.targets):
            raise ValueError(
                "the data set has void or crowds, which transformers' loss does not know"
            )
        masks = [target.masks[:, 0].float() for target in batch.targets]
        labels = [target.labels for target in batch.targets]
        found = peer(pixel_values=batch.images, mask_labels=masks, class_labels=labels)
        loss: Tensor = found.loss.squeeze()
        return loss

    return peer.train(), step


def run_one(name: str, seed: int, options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Train and evaluate one of the two in this process."""
    torch.set_num_threads(options.threads)
    model = start(options, seed)
    view, size = model.config.view, options.size
    crops = TrainView(size=size * 5 // 4, scale=(0.7, 1.5), crop=(size, size))
    stream = Stream(open_dataset(options.data, "train"), crops, view, seed)
    peer_folder = folder / "peer"
    network, step = ours(model) if name == "ours" else theirs(model, peer_folder)
    parameters = [p for p in network.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in parameters if (p.ndim > 1) == decays], "weight_decay": decay}
        for decays, decay in ((True, DECAY), (False, 0.0))
    ]
    optimizer = torch.optim.AdamW(
        [{**group, "base_rate": RATE} for group in groups], lr=RATE, fused=True
    )
    seconds, losses = [], []
    found = batches(stream, batch_size=options.batch, first=0, last=options.steps, workers=0)
    for i, batch in enumerate(found):
        torch.manual_seed(1000 * seed + i)
        started = time.perf_counter()
        set_rates(optimizer, rate_factor(i, options.steps, COMPACT_OPTIMIZER))
        loss = step(batch)
        loss.backward()
        nn.utils.clip_grad_norm_(parameters, CLIP)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        seconds.append(time.perf_counter() - started)
        losses.append(loss.item())
    memory = status("VmHWM")  # of the whole process, libraries and all
    if name == "peer":
        network.save_pretrained(folder / "trained")  # type: ignore[operator]
        shutil.copy(peer_folder / "preprocessor_config.json", folder / "trained")
        model = load_model(folder / "trained")
    validation = open_dataset(options.data, "val")
    figures = evaluate(Segmenter(model.eval()), validation, validation.tasks, progress=False)
    return {
        "name": name,
        "seed": seed,
        "steps": options.steps,
        "seconds_per_step": statistics.median(seconds),
        "peak_memory": memory,
        "loss": losses,
        **{key: figures[key] for key in FIGURES if key in figures},
    }


def kept_in(options: argparse.Namespace, name: str, seed: int) -> Path:
    """A file for each data set and setting: what was measured with others is not these."""
    data = Path(options.data).resolve().name
    setting = f"{options.steps}x{options.batch}x{options.size}-{options.threads}"
    return Path(options.out / f"{data}-{name}-{seed}-{setting}.json")


def table(runs: list[dict[str, Any]]) -> str:
    keys = [key for key in FIGURES if key in runs[0]]
    header = ["", "seed", *keys, "s/step", "peak MB", "mean loss of the last tenth"]
    rows = []
    for run in runs:
        last = run["loss"][-max(1, len(run["loss"]) // 10) :]
        rows.append(
            [
                "mask2former" if run["name"] == "ours" else "transformers",
                str(run["seed"]),
                *(f"{run[key]:.1f}" for key in keys),
                f"{run['seconds_per_step']:.2f}",
                f"{run['peak_memory'] / 2**20:.0f}",
                f"{statistics.mean(last):.1f}",
            ]
        )
    return markdown(header, rows)


def main() -> None:
    assert __doc__ is not None
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("data", help="a folder that `mask2former data inspect` knows")
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1])
    parser.add_argument("--size", type=int, default=256, help="of a crop, and of the shortest side")
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out", type=Path, default=Path("benchmark-output/trainings"))
    parser.add_argument("--one", nargs=2, metavar=("NAME", "SEED"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        name, seed = options.one[0], int(options.one[1])
        with tempfile.TemporaryDirectory() as scratch:
            result = run_one(name, seed, options, Path(scratch))
        options.out.mkdir(parents=True, exist_ok=True)
        kept_in(options, name, seed).write_text(json.dumps(result) + "\n")
        return
    runs = []
    for seed in options.seeds:
        for name in ("ours", "peer"):
            path = kept_in(options, name, seed)
            if not path.exists():
                command = [sys.executable, "-m", "benchmarks.trainings", *sys.argv[1:]]
                subprocess.run([*command, "--one", name, str(seed)], check=True)
            runs.append(json.loads(path.read_text()))
            print(table(runs[-1:]).splitlines()[-1], flush=True)
    print(table(runs))


if __name__ == "__main__":
    main()
