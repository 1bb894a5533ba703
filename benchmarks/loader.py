"""How fast training views are made from files, and where the time goes.

python -m benchmarks.loader [--images 60] [--size 512] [--rounds 3]

Drawn scenes are written to disk as a panoptic data set of PNGs and as one of JPEGs with
run-length encodings. Prints images per second with 0, 1 and 2 processes beside the training, and
the share of decoding, annotation, masks and image in the time of a view; writes JSON.
"""

from __future__ import annotations

import cProfile
import json
import pstats
import statistics
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from PIL import Image

from benchmarks.measure import command, machine
from mask2former.data.detect import open_dataset
from mask2former.data.loader import Stream, batches
from mask2former.data.scenes import Scenes, write_coco_panoptic
from mask2former.data.scenes_layout import ScenesConfig
from mask2former.data.transforms import TrainView
from mask2former.structures import Task, View

WORKERS = (0, 1, 2)
BATCH = 4
CASES: tuple[tuple[str, Task], ...] = ((".png", "panoptic"), (".jpg", "instance"))
# Functions by module and name; none of them calls another one, but reading decodes.
READING = (("coco.py", "__getitem__"), ("coco_panoptic.py", "__getitem__"))
PARTS = {
    "decode": (("imaging.py", "read_image"),),
    "masks": (("masks.py", "render"), ("transforms.py", "pad"), ("transforms.py", "flip")),
    "image": (
        ("transforms.py", "render_image"),
        ("transforms.py", "distort_color"),
        ("imaging.py", "normalize"),
    ),
}


@dataclass(frozen=True, kw_only=True)
class Speed:
    """One data set: medians over the rounds, and shares of a view's time that add up to 1."""

    case: str
    images_per_second: dict[int, float]  # by the number of processes that load
    milliseconds: float  # of processor time a view
    shares: dict[str, float]


def write(folder: Path, images: int, size: int, suffix: str) -> None:
    """A split "train" of drawn scenes, its images with `suffix`."""
    write_coco_panoptic(
        Scenes(length=images, seed=0, config=ScenesConfig(size=size)), folder, "train"
    )
    if suffix == ".png":
        return
    for path in (folder / "images" / "train").iterdir():
        with Image.open(path) as image:
            image.save(path.with_suffix(suffix), quality=90)
        path.unlink()
    for path in (folder / "annotations").glob("*.json"):
        content = json.loads(path.read_text())
        for record in content["images"]:
            record["file_name"] = str(Path(record["file_name"]).with_suffix(suffix))
        path.write_text(json.dumps(content))


def views(folder: Path, task: Task, size: int) -> Stream:
    """As COCO's recipe shows them: large-scale jitter; and colours distorted."""
    view = TrainView(size=size, crop=(size, size), color=True)
    return Stream(open_dataset(folder, "train", task=task), view, View(), seed=0)


def rate(stream: Stream, images: int, workers: int) -> float:
    """Images per second, once the processes run and have given their first batches."""
    steps = -(-images // BATCH)
    loader = batches(stream, batch_size=BATCH, first=0, last=steps + WORKERS[-1], workers=workers)
    for _ in range(WORKERS[-1]):
        next(loader)
    started = time.perf_counter()
    for _ in range(steps):
        next(loader)
    return steps * BATCH / (time.perf_counter() - started)


def shares(stream: Stream, images: int) -> tuple[float, dict[str, float]]:
    """Seconds of processor time a view, and the share of each of `PARTS`."""
    profile = cProfile.Profile(time.process_time)
    profile.enable()
    for index in range(images):
        stream[index]
    profile.disable()
    stats = pstats.Stats(profile)
    total: float = stats.total_tt  # type: ignore[attr-defined]
    spent = {
        (Path(file).name, name): cumulative
        for (file, _, name), (_, _, _, cumulative, _) in stats.stats.items()  # type: ignore[attr-defined]
    }
    found = {part: sum(spent.get(f, 0.0) for f in PARTS[part]) / total for part in PARTS}
    found["annotation"] = sum(spent.get(f, 0.0) for f in READING) / total - found["decode"]
    return total / images, found | {"rest": 1 - sum(found.values())}


def measure(folder: Path, suffix: str, task: Task, images: int, size: int, rounds: int) -> Speed:
    write(folder, images, size, suffix)
    stream = views(folder, task, size)
    rates = {
        workers: statistics.median(rate(stream, images, workers) for _ in range(rounds))
        for workers in WORKERS
    }
    seconds, found = shares(stream, images)
    return Speed(
        case=f"{task}, {size}x{size} {suffix[1:].upper()}",
        images_per_second=rates,
        milliseconds=1000 * seconds,
        shares=found,
    )


def table(speeds: Sequence[Speed]) -> str:
    rows = [["case", *(f"images/s, {n} workers" for n in WORKERS), "ms a view", *speeds[0].shares]]
    rows.append(["---"] * len(rows[0]))
    for speed in speeds:
        rates = [f"{speed.images_per_second[n]:.1f}" for n in WORKERS]
        parts = [f"{share:.0%}" for share in speed.shares.values()]
        rows.append([speed.case, *rates, f"{speed.milliseconds:.1f}", *parts])
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)


def main() -> None:
    parser = command(__doc__, "loader")
    parser.add_argument("--images", type=int, default=60)
    parser.add_argument("--size", type=int, default=512, help="side of the scenes and of the crop")
    parser.set_defaults(rounds=3)
    options = parser.parse_args()
    speeds = []
    for suffix, task in CASES:
        with tempfile.TemporaryDirectory() as name:
            speeds.append(
                measure(Path(name), suffix, task, options.images, options.size, options.rounds)
            )
    print(table(speeds))
    document = {"machine": machine(options.threads), "loaders": [asdict(s) for s in speeds]}
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(document, indent=1) + "\n")


if __name__ == "__main__":
    main()
