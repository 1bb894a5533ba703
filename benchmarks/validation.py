"""Validation beside the forward passes alone: its time, and its memory as images go by.

python -m benchmarks.validation [--images 1000] [--size 1024] [--queries 100] [--threads 2]

What a model would answer is drawn, so that every image has as many sure predictions as queries, as
no untrained model would give; post-processing and evaluators work on it as on any answer. The
forward pass that their time is compared with is that of a ResNet-50 model of the released shape.
"""

from __future__ import annotations

import argparse
import gc
import json
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from benchmarks.measure import status
from mask2former.data.class_lists import class_list
from mask2former.inference.postprocess import segment
from mask2former.inference.resample import Sizes
from mask2former.masks import IdMapMasks
from mask2former.modeling.mask2former import Mask2Former, Mask2FormerConfig
from mask2former.modeling.resnet import RESNET50
from mask2former.structures import TASKS, Sample, View
from mask2former.training.evaluate import evaluators

CATEGORIES = class_list("coco")
VIEW = View(object_threshold=0.0, overlap_threshold=0.0)


class Answers:
    """Drawn answers of a model, a few of them used in turn, with a truth that resembles each."""

    def __init__(self, size: int, queries: int, objects: int, kinds: int = 8) -> None:
        self.size = size
        rng = np.random.default_rng(0)
        self.kinds = [self._draw(rng, queries, objects) for _ in range(kinds)]

    def _draw(
        self, rng: np.random.Generator, queries: int, objects: int
    ) -> tuple[torch.Tensor, torch.Tensor, np.ndarray, np.ndarray]:
        """Class logits, mask logits at a quarter of the size, and the truth's id map and labels."""
        small = self.size // 4
        y, x = np.mgrid[:small, :small].astype(np.float32)
        centre = rng.uniform(0, small, (queries, 2))
        radius = rng.uniform(0.03, 0.2, (queries, 2)) * small
        things = [i for i, category in enumerate(CATEGORIES) if category.is_thing]
        labels = rng.choice(things, queries)
        labels[-max(1, queries // 20) :] = rng.integers(
            len(things), len(CATEGORIES)
        )  # and some stuff
        distance = [
            ((x - cx) / rx) ** 2 + ((y - cy) / ry) ** 2
            for (cx, cy), (rx, ry) in zip(centre, radius, strict=True)
        ]
        wobble = rng.normal(0, 0.3, (queries, small // 8, small // 8)).astype(np.float32)
        logits = 6 * (1 - np.stack(distance)).clip(-2) + wobble.repeat(8, axis=1).repeat(8, axis=2)
        class_logits = torch.full((queries, len(CATEGORIES) + 1), -2.0)
        class_logits[torch.arange(queries), torch.from_numpy(labels)] = 6.0
        ids = np.zeros((small, small), np.int32)
        for index in range(objects):
            ids[distance[index] < 1] = index + 1
        truth = ids.repeat(4, axis=0).repeat(4, axis=1)
        return class_logits, torch.from_numpy(logits), truth, labels[:objects]

    def __call__(self, index: int) -> tuple[torch.Tensor, torch.Tensor, Sample]:
        class_logits, mask_logits, ids, labels = self.kinds[index % len(self.kinds)]
        shift = 7 * index % self.size  # no two images are alike
        sample = Sample(
            image=np.zeros((self.size, self.size, 3), np.uint8),
            labels=labels,
            masks=IdMapMasks(np.roll(ids, shift, axis=1), range(1, len(labels) + 1)),
            is_crowd=np.zeros(len(labels), bool),
            image_id=index,
            name=f"image {index}",
            void=IdMapMasks((ids == 0).astype(np.uint8), [1]),
        )
        return class_logits, mask_logits.roll(shift // 4, dims=2), sample


@dataclass(frozen=True)
class Spent:
    """Seconds on the wall, and of all processors: on a machine that others use, these tell more."""

    wall: float
    processor: float

    @classmethod
    def now(cls) -> Spent:
        return cls(time.perf_counter(), time.process_time())

    def since(self, start: Spent) -> Spent:
        return Spent(self.wall - start.wall, self.processor - start.processor)


def validate(answers: Answers, images: int) -> Iterator[tuple[str, Spent]]:
    """Of each image the time of post-processing and of the evaluators; at last of the figures."""
    measuring = evaluators(CATEGORIES, VIEW.max_detections, TASKS)
    size = (answers.size, answers.size)
    sizes = Sizes(padded=size, image=size, output=size)
    for index in range(images):
        class_logits, mask_logits, sample = answers(index)
        started = Spent.now()
        result = segment(class_logits, mask_logits, sizes, CATEGORIES, VIEW, TASKS)
        assert result.instances is not None
        assert len(result.instances) > 0.9 * len(class_logits)
        yield "post-processing", Spent.now().since(started)
        started = Spent.now()
        for evaluator in measuring:
            evaluator.update(result, sample)
        yield "evaluators", Spent.now().since(started)
    started = Spent.now()
    figures: dict[str, float] = {}
    for evaluator in measuring:
        figures |= evaluator.compute()
    yield "figures", Spent.now().since(started)
    print(f"PQ {figures['PQ']:.1f}, AP {figures['AP']:.1f}, mIoU {figures['mIoU']:.1f}")


def forward_pass(size: int) -> Callable[[], Spent]:
    """A ResNet-50 model of the released shape, that has run once."""
    torch.manual_seed(0)
    model = Mask2Former(Mask2FormerConfig(categories=CATEGORIES, backbone=RESNET50)).eval()
    model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    pixels = torch.rand(1, 3, size, size)

    @torch.inference_mode()
    def run() -> Spent:
        started = Spent.now()
        output = model(pixels)
        assert output.mask_logits.shape[-1] == size // 4
        return Spent.now().since(started)

    run()
    return run


def report(options: argparse.Namespace) -> Mapping[str, object]:
    torch.set_num_threads(options.threads)
    forward = forward_pass(options.size)
    answers = Answers(options.size, options.queries, options.objects)
    spent: dict[str, list[Spent]] = {"forward": []}
    memory: dict[int, int] = {}
    for part, time_of_part in validate(answers, options.images):
        spent.setdefault(part, []).append(time_of_part)
        count = len(spent.get("evaluators", ()))
        if part == "evaluators" and (count % options.every == 0 or count == 1):
            spent["forward"].append(forward())  # now and then, so that both see the same machine
            gc.collect()
            memory[count] = status("VmRSS")
            print(f"{count:6} images: {memory[count] / 2**20:.0f} MB, peak {_peak():.0f} MB")
    found: dict[str, object] = {"memory": memory, "peak": _peak()}
    for clock in ("wall", "processor"):
        passes = np.median([getattr(s, clock) for s in spent["forward"]])
        found[clock] = of_clock = {"forward": float(passes)}
        print(f"seconds an image ({clock}): forward {passes:.3f}", end="")
        for part in ("post-processing", "evaluators", "figures"):
            of_clock[part] = sum(getattr(s, clock) for s in spent[part]) / options.images
            print(f", {part} {of_clock[part]:.3f}", end="")
        beyond = (sum(of_clock.values()) - passes) / passes
        found[f"beyond, {clock}"] = float(beyond)
        print(f": {beyond:.1%} beyond the forward pass")
    return found


def _peak() -> float:
    return status("VmHWM") / 2**20


def main() -> None:
    assert __doc__ is not None
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--images", type=int, default=1000)
    parser.add_argument("--size", type=int, default=1024)
    parser.add_argument("--queries", type=int, default=100)
    parser.add_argument("--objects", type=int, default=30, help="true ones in an image")
    parser.add_argument("--every", type=int, default=100, help="images between prints of memory")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out", type=Path, default=Path("benchmark-output/validation.json"))
    options = parser.parse_args()
    found = report(options)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps({**vars(options), "out": "", **found}, indent=1) + "\n")


if __name__ == "__main__":
    main()
