"""The paper's ablations in small: drawn scenes, one model a variant, equal budgets, two seeds.

python -m benchmarks.ablations [--only paper maskformer ...] [--seeds 0 1] [--steps 300]

Every training is a process of its own. What is finished is kept in the folder of --out, and the
same command goes on from there. Writes ablations.json, a table and the plot of convergence.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from benchmarks.curves import read_log
from benchmarks.measure import FIGURES, markdown, status
from benchmarks.models import small_config
from mask2former.data.scenes import CATEGORIES
from mask2former.data.scenes_layout import ScenesConfig
from mask2former.data.transforms import TrainView
from mask2former.loss.criterion import LossConfig
from mask2former.modeling.fpn import FPNConfig
from mask2former.presets.compact import COMPACT_OPTIMIZER
from mask2former.structures import Task, View
from mask2former.training.config import ScenesData, TrainConfig
from mask2former.training.trainer import train

EVALUATIONS = 4  # of a training: the points of its curve


@dataclass(frozen=True, kw_only=True)
class Variant:
    """One change of the paper's model, and what the paper measured for it."""

    change: Callable[[TrainConfig], TrainConfig]
    text: str
    paper: tuple[float | None, float | None, float | None] = (None, None, None)  # PQ, AP, mIoU


def paper_model() -> TrainConfig:
    """All of the paper's choices in a size that learns on a CPU, scenes of 128 pixels.

    The backbone starts from the embedded model's, in the place of one that knows ImageNet.
    """
    view = View(shortest_side=128, longest_side=256, object_threshold=0.5, overlap_threshold=0.6)
    return TrainConfig(
        model=small_config(CATEGORIES, view, queries=20),
        data=ScenesData(
            val_length=100,
            drawing=ScenesConfig(size=128, min_things=1, max_things=4, min_size=24, max_size=64),
        ),
        view=TrainView(size=128, scale=(1.0, 1.0), fit="shortest_side", crop=(128, 128)),
        loss=LossConfig(points=1024),
        optimizer=replace(COMPACT_OPTIMIZER, rate=1e-3, warmup_steps=50),
        batch_size=8,
        backbone_weights="scenes",
        workers=1,
    )


def with_decoder(**fields: Any) -> Callable[[TrainConfig], TrainConfig]:
    def change(config: TrainConfig) -> TrainConfig:
        decoder = replace(config.model.decoder, **fields)
        return replace(config, model=replace(config.model, decoder=decoder))

    return change


def with_dropout(config: TrainConfig) -> TrainConfig:
    pixels = replace(config.model.pixel_decoder, dropout=0.1)
    config = replace(config, model=replace(config.model, pixel_decoder=pixels))
    return with_decoder(dropout=0.1)(config)


def with_fpn(config: TrainConfig) -> TrainConfig:
    fpn = FPNConfig(channels=config.model.pixel_decoder.channels)
    return replace(config, model=replace(config.model, pixel_decoder=fpn))


def with_loss(**fields: Any) -> Callable[[TrainConfig], TrainConfig]:
    return lambda config: replace(config, loss=replace(config.loss, **fields))


def maskformer(config: TrainConfig) -> TrainConfig:
    """MaskFormer, the baseline (Cheng et al., NeurIPS 2021): everything that the paper changed."""
    old = with_decoder(
        masked_attention=False,
        strides=(32,),
        self_attention_first=True,
        learnable_queries=False,
        dropout=0.1,
        layers=6,
    )
    losses = with_loss(
        mask_term="focal",
        mask_weight=20.0,
        dice_weight=1.0,
        class_weight=1.0,
        matching_on="masks",
        loss_on="masks",
    )
    return losses(old(with_fpn(config)))


def specialist(task: Task) -> Callable[[TrainConfig], TrainConfig]:
    """Trained on the annotation of one task alone."""

    def change(config: TrainConfig) -> TrainConfig:
        assert isinstance(config.data, ScenesData)
        data = replace(config.data, task=task)
        model = replace(config.model, categories=data.open_train().categories)
        return replace(config, data=data, model=model)

    return change


# The paper's figures: COCO PQ, COCO AP, ADE20K mIoU of R50 (tables 4, 5; of MaskFormer 1 to 3).
VARIANTS: dict[str, Variant] = {
    "paper": Variant(change=lambda c: c, text="Mask2Former", paper=(51.9, 43.7, 47.2)),
    "no-masked-attention": Variant(
        change=with_decoder(masked_attention=False),
        text="without masked attention",
        paper=(47.1, 37.8, 45.5),
    ),
    "stride-32": Variant(
        change=with_decoder(strides=(32,)), text="only 1/32", paper=(50.2, 41.5, 46.1)
    ),
    "stride-16": Variant(
        change=with_decoder(strides=(16,)), text="only 1/16", paper=(51.5, 43.0, 46.5)
    ),
    "stride-8": Variant(
        change=with_decoder(strides=(8,)), text="only 1/8", paper=(51.8, 44.0, 47.4)
    ),
    "self-attention-first": Variant(
        change=with_decoder(self_attention_first=True),
        text="self-attention first",
        paper=(51.6, 43.2, 46.3),
    ),
    "zero-queries": Variant(
        change=with_decoder(learnable_queries=False),
        text="queries neither learnt nor supervised",
        paper=(51.2, 42.9, 45.4),
    ),
    "dropout": Variant(change=with_dropout, text="dropout 0.1", paper=(51.3, 43.0, 47.2)),
    "loss-on-masks": Variant(
        change=with_loss(matching_on="masks", loss_on="masks"),
        text="matching and loss on whole masks",
        paper=(50.3, 41.0, 45.9),
    ),
    "fpn": Variant(change=with_fpn, text="FPN as pixel decoder", paper=(50.7, 41.5, 45.6)),
    "maskformer": Variant(change=maskformer, text="MaskFormer", paper=(46.5, 34.0, 44.5)),
    "instance-only": Variant(
        change=specialist("instance"), text="trained on instances alone", paper=(None, 43.7, None)
    ),
    "semantic-only": Variant(change=specialist("semantic"), text="trained on semantic maps alone"),
}


def run_one(name: str, seed: int, steps: int, folder: Path) -> dict[str, Any]:
    """Train and evaluate one variant in this process."""
    torch.set_num_threads(1)
    config = VARIANTS[name].change(paper_model())
    config = replace(
        config,
        seed=seed,
        steps=steps,
        evaluate_every=max(1, steps // EVALUATIONS),
        checkpoint_every=steps,
    )
    started = time.perf_counter()
    train(config, folder)
    lines = read_log(folder)
    curve = [
        {"step": line["step"], **{k: v for k, v in line["evaluation"].items() if k in FIGURES}}
        for line in lines
        if "evaluation" in line
    ]
    return {
        "variant": name,
        "seed": seed,
        "steps": steps,
        "seconds": time.perf_counter() - started,
        "seconds_per_step": statistics.median(x["seconds"] for x in lines if "seconds" in x),
        "peak_memory": status("VmHWM"),
        "curve": curve,
    }


def table(runs: list[dict[str, Any]]) -> str:
    """A row a variant: the mean of the seeds with their spread, and the paper's figures."""
    header = ["variant", *FIGURES, "s/step", "peak MB", "paper: PQ / AP / mIoU"]
    rows = []
    for name, variant in VARIANTS.items():
        own = [run for run in runs if run["variant"] == name]
        if not own:
            continue
        cells = []
        for key in FIGURES:
            values = [run["curve"][-1][key] for run in own if key in run["curve"][-1]]
            spread = f" ± {(max(values) - min(values)) / 2:.1f}" if len(values) > 1 else ""
            cells.append(f"{statistics.mean(values):.1f}{spread}" if values else "")
        published = " / ".join("–" if value is None else str(value) for value in variant.paper)
        rows.append(
            [
                variant.text,
                *cells,
                f"{statistics.median(run['seconds_per_step'] for run in own):.2f}",
                f"{max(run['peak_memory'] for run in own) / 2**20:.0f}",
                published,
            ]
        )
    return markdown(header, rows)


def plot(runs: list[dict[str, Any]], path: Path) -> None:
    """PQ over steps, a line a variant: the mean of the seeds."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(8, 5), layout="constrained")
    for name, variant in VARIANTS.items():
        curves = [r["curve"] for r in runs if r["variant"] == name and "PQ" in r["curve"][-1]]
        if not curves:
            continue
        steps = [point["step"] for point in curves[0]]
        mean = [statistics.mean(c[i].get("PQ", 0.0) for c in curves) for i in range(len(steps))]
        width = 3.0 if name in ("paper", "maskformer") else 1.2
        color = "black" if name == "maskformer" else None
        axes.plot(steps, mean, label=variant.text, linewidth=width, color=color)
    axes.set(xlabel="steps", ylabel="PQ on unseen scenes", ylim=(0, None))
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8)
    figure.savefig(path, dpi=110)


def main() -> None:
    assert __doc__ is not None
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--only", nargs="+", choices=list(VARIANTS), default=list(VARIANTS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1])
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--out", type=Path, default=Path("benchmark-output/ablations"))
    parser.add_argument("--one", nargs=2, metavar=("VARIANT", "SEED"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    if options.one:
        name, seed = options.one[0], int(options.one[1])
        folder = options.out / f"{name}-{seed}-{options.steps}"
        result = run_one(name, seed, options.steps, folder)
        (folder / "result.json").write_text(json.dumps(result) + "\n")
        return
    runs = []
    for seed in options.seeds:
        for name in options.only:
            path = options.out / f"{name}-{seed}-{options.steps}" / "result.json"
            if not path.exists():
                command = [sys.executable, "-m", "benchmarks.ablations", "--one", name, str(seed)]
                command += ["--steps", str(options.steps), "--out", str(options.out)]
                subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
            runs.append(json.loads(path.read_text()))
            print(f"{name}, seed {seed}: {runs[-1]['curve'][-1]}", flush=True)
    print(table(runs))
    (options.out / "ablations.json").write_text(json.dumps(runs, indent=1) + "\n")
    plot(runs, options.out / "convergence.png")


if __name__ == "__main__":
    main()
