"""On a GPU, image and result both there: this package and transformers, same weights, in turn.

python -m benchmarks.gpu [--backbone r50] [--size 640x640] [--batch 1] [--rounds 20]

Inference in bf16, compiled, beside transformers in fp32 as it comes and in bf16 compiled;
deformable sampling beside `grid_sample`; a training step of both under bf16 autocast.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from benchmarks.inference import pixels_of
from benchmarks.measure import Run, markdown
from benchmarks.models import BACKBONES, write_models
from benchmarks.training import objects
from mask2former.inference.postprocess import segment
from mask2former.inference.resample import Sizes
from mask2former.loss.criterion import Criterion, LossConfig
from mask2former.modeling.sampling import Grid, sample, sample_plainly
from mask2former.segmenter import Segmenter
from mask2former.structures import Targets
from mask2former.weights import load_model

PARTS = ("inference", "sampling", "training")


def in_turn(runs: dict[str, Run], rounds: int, device: torch.device) -> dict[str, float]:
    """Median seconds of each, one run of each after the other; the first three are not counted."""
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(3 + rounds):
        for name, run in runs.items():
            synchronize(device)
            started = time.perf_counter()
            run()
            synchronize(device)
            seconds[name].append(time.perf_counter() - started)
    return {name: statistics.median(taken[3:]) for name, taken in seconds.items()}


def synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def inference(folder: Path, device: torch.device, batch: int) -> dict[str, Run]:
    """From pixels on the device to panoptic results on the device."""
    from transformers import AutoImageProcessor, Mask2FormerForUniversalSegmentation

    pixels = pixels_of(folder, batch).to(device)
    size = (pixels.shape[2], pixels.shape[3])
    ours = Segmenter.from_pretrained(
        folder / "ours", device=device, dtype=torch.bfloat16, compile=True
    )
    config, sizes = ours.model.config, Sizes(padded=size, image=size, output=size)
    processor = AutoImageProcessor.from_pretrained(folder / "peer")

    @torch.inference_mode()
    def run_ours() -> None:
        output = ours.network(pixels.bfloat16())
        for classes, masks in zip(output.class_logits, output.mask_logits, strict=True):
            segment(classes, masks, sizes, config.categories, config.view, ("panoptic",))

    def peer(dtype: torch.dtype, compiled: bool) -> Run:
        model = Mask2FormerForUniversalSegmentation.from_pretrained(folder / "peer", dtype=dtype)
        model = model.eval().to(device)
        network = torch.compile(model, mode="max-autotune") if compiled else model

        @torch.inference_mode()
        def run() -> None:
            processor.post_process_panoptic_segmentation(
                network(pixels.to(dtype)), threshold=0.8, target_sizes=[size] * batch
            )

        return run

    return {
        "ours": run_ours,
        "transformers, fp32": peer(torch.float32, compiled=False),
        "transformers, bf16, compiled": peer(torch.bfloat16, compiled=True),
    }


def sampling(size: tuple[int, int], device: torch.device, batch: int) -> dict[str, Run]:
    """One layer's deformable sampling, forward and backward, in fp32."""
    shapes = [(size[0] // stride, size[1] // stride) for stride in (32, 16, 8)]
    grid = Grid.of(shapes, 8, 4, device)
    tokens, samples = sum(h * w for h, w in shapes), 8 * 3 * 4
    value = torch.randn(batch, tokens, 8, 32, device=device, requires_grad=True)
    offsets = 3 * torch.randn(batch, tokens, 2, samples, device=device)
    positions = grid.positions(grid.reference(), offsets).requires_grad_()
    weights = torch.rand(batch, tokens, samples, device=device, requires_grad=True)

    def of(function: Callable[..., Tensor]) -> Run:
        def run() -> None:
            function(value, grid, positions, weights).sum().backward()
            value.grad = positions.grad = weights.grad = None

        return run

    return {"ours": of(sample), "grid_sample": of(sample_plainly)}


def training(folder: Path, size: int, device: torch.device, batch: int) -> dict[str, Run]:
    """Forward to gradients under bf16 autocast, 20 objects an image."""
    from transformers import Mask2FormerForUniversalSegmentation

    images, targets = objects(size, batch, 20)
    images = images.to(device)
    targets = [Targets(labels=t.labels.to(device), masks=t.masks.to(device)) for t in targets]
    model = load_model(folder / "ours").train().to(device)
    criterion = Criterion(LossConfig(), model.config.categories).to(device)
    peer = Mask2FormerForUniversalSegmentation.from_pretrained(folder / "peer").train().to(device)
    masks, labels = [t.masks[:, 0].float() for t in targets], [t.labels for t in targets]

    def our_loss() -> Tensor:
        return criterion(model(images), tuple(targets)).total

    def their_loss() -> Tensor:
        loss: Tensor = peer(pixel_values=images, mask_labels=masks, class_labels=labels).loss
        return loss.squeeze()

    def step(network: torch.nn.Module, loss: Callable[[], Tensor]) -> Run:
        def run() -> None:
            with torch.autocast(device.type, torch.bfloat16):
                found = loss()
            found.backward()
            network.zero_grad(set_to_none=True)

        return run

    return {"ours": step(model, our_loss), "transformers": step(peer, their_loss)}


def main() -> None:
    assert __doc__ is not None
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--backbone", default="r50", choices=BACKBONES)
    parser.add_argument("--size", default="640x640", help="HxW")
    parser.add_argument("--train-size", type=int, default=512)
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--out", type=Path, default=Path("benchmark-output/gpu.json"))
    options = parser.parse_args()
    device = torch.device(options.device)
    height, width = map(int, options.size.split("x"))
    rows: list[list[str]] = []
    measured: dict[str, dict[str, float]] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_models(folder, options.backbone, (height, width), kept=0.2)
        makers: dict[str, Callable[[], dict[str, Run]]] = {
            "inference": lambda: inference(folder, device, options.batch),
            "sampling": lambda: sampling((height, width), device, options.batch),
            "training": lambda: training(folder, options.train_size, device, options.batch),
        }
        for part in options.parts:
            found = in_turn(makers[part](), options.rounds, device)
            measured[part] = found
            for who, seconds in found.items():
                rate, faster = options.batch / seconds, seconds / found["ours"]
                rows.append([part, who, f"{1e3 * seconds:.2f}", f"{rate:.1f}", f"{faster:.2f}"])
    print(markdown(["", "", "ms", "images/s", "times ours"], rows))
    is_cuda = device.type == "cuda"
    machine = torch.cuda.get_device_name(device) if is_cuda else "CPU"
    options.out.parent.mkdir(parents=True, exist_ok=True)
    document = {"machine": machine, "torch": torch.__version__, "seconds": measured}
    options.out.write_text(json.dumps(document, indent=1) + "\n")


if __name__ == "__main__":
    main()
