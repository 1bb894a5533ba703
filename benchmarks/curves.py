"""The curves of trainings as one picture: loss over the steps, and the figures of evaluations.

python -m benchmarks.curves runs/camvid runs/facades [--out benchmark-output/curves.png]
"""

from __future__ import annotations

import argparse
import json
import math
from pathlib import Path
from typing import Any

from benchmarks.measure import FIGURES

SMOOTHED = 30  # parts of a training that a mean of the loss is taken of


def read_log(run: Path) -> list[dict[str, Any]]:
    """The lines of a training's log. ValueError if the folder holds none."""
    path = run / "log.jsonl"
    if not path.is_file():
        raise ValueError(f"{run}: no log.jsonl here; name the folder that `train --out` wrote")
    return [json.loads(line) for line in path.read_text().splitlines()]


def smoothed(values: list[float], parts: int = SMOOTHED) -> list[tuple[float, float]]:
    """Middle and mean of each of so many equal parts."""
    width = max(1, math.ceil(len(values) / parts))
    chunks = [values[i : i + width] for i in range(0, len(values), width)]
    return [(i * width + len(c) / 2, sum(c) / len(c)) for i, c in enumerate(chunks)]


def plot(runs: list[Path], path: Path) -> None:
    """A panel a training."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, panels = plt.subplots(
        1, len(runs), figsize=(4 * len(runs), 3), layout="constrained", squeeze=False
    )
    for run, panel in zip(runs, panels.flat, strict=True):
        lines = read_log(run)
        losses = [line["loss"] for line in lines if "loss" in line]
        panel.plot(*zip(*smoothed(losses), strict=True), color="tab:gray", label="loss")
        panel.set(title=run.name, xlabel="steps", ylim=(0, None))
        panel.set_ylabel("loss")
        beside = panel.twinx()
        found = [line for line in lines if "evaluation" in line]
        for key, marker in zip(FIGURES, "os^", strict=True):
            points = [(f["step"], f["evaluation"][key]) for f in found if key in f["evaluation"]]
            if points:
                beside.plot(*zip(*points, strict=True), f"{marker}-", label=key)
        beside.set(ylim=(0, 100))
        handles = panel.get_legend_handles_labels()
        more = beside.get_legend_handles_labels()
        panel.legend(handles[0] + more[0], handles[1] + more[1], fontsize=8)
        panel.grid(alpha=0.3)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)


def main() -> None:
    assert __doc__ is not None
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("runs", nargs="+", type=Path, help="folders that `train --out` wrote")
    parser.add_argument("--out", type=Path, default=Path("benchmark-output/curves.png"))
    options = parser.parse_args()
    plot(options.runs, options.out)
    print(options.out)


if __name__ == "__main__":
    main()
