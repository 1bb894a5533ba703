"""From an image file to a panoptic result: this package and transformers, same weights, in turn.

python -m benchmarks.inference [--backbones r50 swin_t] [--sizes 640x640] [--rounds 7]
"""

from __future__ import annotations

import statistics
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.measure import (
    Comparison,
    Run,
    command,
    compare,
    convolution_peak,
    relative_distance,
    report,
    write_json,
)
from benchmarks.models import BACKBONES, write_models
from mask2former.segmenter import Segmenter
from mask2former.weights import load_model

TOLERANCE = 1e-3  # of the logits, in relative norm


def ours_whole(folder: Path, batch: int, compile: bool) -> Run:
    segmenter = Segmenter.from_pretrained(
        folder / "ours", device="cpu", batch_size=batch, compile=compile
    )
    images = [folder / "image.jpg"] * batch
    return lambda: len(segmenter(images, task="panoptic"))


def peer_whole(folder: Path, batch: int) -> Run:
    from transformers import AutoImageProcessor, Mask2FormerForUniversalSegmentation

    model = Mask2FormerForUniversalSegmentation.from_pretrained(folder / "peer").eval()
    processor = AutoImageProcessor.from_pretrained(folder / "peer")

    @torch.inference_mode()
    def run() -> int:
        images = [Image.open(folder / "image.jpg").convert("RGB") for _ in range(batch)]
        output = model(**processor(images, return_tensors="pt"))
        sizes = [image.size[::-1] for image in images]
        return len(
            processor.post_process_panoptic_segmentation(
                output, threshold=0.8, target_sizes=sizes, label_ids_to_fuse=set(range(80, 133))
            )
        )

    return run


def ours_model(folder: Path, batch: int, compile: bool) -> Run:
    segmenter = Segmenter.from_pretrained(folder / "ours", device="cpu", compile=compile)
    pixels = pixels_of(folder, batch)

    @torch.inference_mode()
    def run() -> list[np.ndarray]:
        output = segmenter.network(pixels)
        return [output.class_logits.numpy(), output.mask_logits.numpy()]

    return run


def peer_model(folder: Path, batch: int) -> Run:
    from transformers import Mask2FormerForUniversalSegmentation

    model = Mask2FormerForUniversalSegmentation.from_pretrained(folder / "peer").eval()
    pixels = pixels_of(folder, batch)

    @torch.inference_mode()
    def run() -> list[np.ndarray]:
        output = model(pixels)
        return [output.class_queries_logits.numpy(), output.masks_queries_logits.numpy()]

    return run


def pixels_of(folder: Path, batch: int) -> torch.Tensor:
    # Not `from_pretrained`, for in the peer's process memory is to be as its users have it.
    segmenter = Segmenter(load_model(folder / "ours"))
    one = segmenter.prepare(np.asarray(Image.open(folder / "image.jpg")))
    height, width = segmenter.canvas([one.shape[-2:]])
    padded = torch.zeros(batch, 3, height, width)
    padded[:, :, : one.shape[1], : one.shape[2]] = one
    return padded


def agreement(ours: list[np.ndarray], theirs: list[np.ndarray]) -> dict[str, Any]:
    """How far apart the logits are; an error if they are not the same."""
    distances = [relative_distance(a, b) for a, b in zip(ours, theirs, strict=True)]
    assert max(distances) < TOLERANCE, f"not the same outputs: {distances}"
    return {"distance": f"{max(distances):.1e}"}


def flops(folder: Path) -> int:
    """Of a forward pass, two for each multiply-add; as torch counts them."""
    segmenter = Segmenter.from_pretrained(folder / "ours", device="cpu")
    segmenter.model.requires_grad_(False)
    with FlopCounterMode(display=False) as counter:
        _ = segmenter.model(pixels_of(folder, 1)).mask_logits
    return int(counter.get_total_flops())


def main() -> None:
    parser = command(__doc__, "inference")
    parser.add_argument("--backbones", nargs="+", default=["r50", "swin_t"], choices=BACKBONES)
    parser.add_argument("--sizes", nargs="+", default=["640x640"], help="HxW")
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--compile", action="store_true", help="ours, through torch.compile")
    options = parser.parse_args()
    peak = convolution_peak(options.threads)
    print(f"peak of a convolution: {peak / 1e9:.0f} GFLOP/s", flush=True)
    found: list[Comparison] = []
    for backbone in options.backbones:
        for size in options.sizes:
            height, width = map(int, size.split("x"))
            with tempfile.TemporaryDirectory() as name:
                folder = Path(name)
                write_models(folder, backbone, (height, width), kept=0.2)
                limit = options.batch * flops(folder) / peak
                settings = {"rounds": options.rounds, "threads": options.threads}
                arguments = (folder, options.batch)
                case = f"{backbone}, {size}, batch {options.batch}"
                model = compare(
                    f"{case}: model",
                    (ours_model, (*arguments, options.compile)),
                    (peer_model, arguments),
                    agree=agreement,
                    **settings,
                )
                whole = compare(
                    f"{case}: file to panoptic result",
                    (ours_whole, (*arguments, options.compile)),
                    (peer_whole, arguments),
                    **settings,
                )
            whole.facts["distance"] = ""
            for comparison in (model, whole):
                seconds = statistics.median(comparison.ours)
                comparison.facts["of the limit"] = f"{seconds / limit:.2f} x {limit:.2f} s"
                found.append(comparison)
                print(comparison.row(), flush=True)
    print(report("Inference", ["distance", "of the limit"], found))
    write_json(options.out, options.threads, found)


if __name__ == "__main__":
    main()
