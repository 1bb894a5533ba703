"""From an image file to a panoptic result: this package and transformers, same weights, in turn.

python -m benchmarks.inference [--backbones r50 swin_t] [--sizes 640x640] [--dtype bfloat16]
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.measure import (
    Comparison,
    Run,
    add_same_memory,
    command,
    compare,
    convolution_peak,
    relative_distance,
    report,
    write_json,
)
from benchmarks.models import BACKBONES, write_models
from mask2former.allocator import keep_freed_memory
from mask2former.segmenter import Segmenter
from mask2former.weights import load_model

TOLERANCE = 1e-3  # of the logits, in relative norm, in fp32
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def ours_whole(folder: Path, batch: int, dtype: torch.dtype, compile: bool) -> Run:
    segmenter = Segmenter.from_pretrained(
        folder / "ours", device="cpu", dtype=dtype, batch_size=batch, compile=compile
    )
    return ours_from_file(segmenter, folder, batch)


def ours_from_file(segmenter: Segmenter, folder: Path, batch: int) -> Run:
    images = [folder / "image.jpg"] * batch
    return lambda: len(segmenter(images, task="panoptic"))


def peer_whole(folder: Path, batch: int, dtype: torch.dtype, same_memory: bool) -> Run:
    return peer_from_file(peer(folder, dtype, same_memory), folder, batch, dtype)


def peer_from_file(model: Any, folder: Path, batch: int, dtype: torch.dtype) -> Run:
    from transformers import AutoImageProcessor

    processor = AutoImageProcessor.from_pretrained(folder / "peer")

    @torch.inference_mode()
    def run() -> int:
        images = [Image.open(folder / "image.jpg").convert("RGB") for _ in range(batch)]
        inputs = processor(images, return_tensors="pt")
        output = model(inputs["pixel_values"].to(dtype), pixel_mask=inputs["pixel_mask"])
        sizes = [image.size[::-1] for image in images]
        return len(
            processor.post_process_panoptic_segmentation(
                output, threshold=0.8, target_sizes=sizes, label_ids_to_fuse=set(range(80, 133))
            )
        )

    return run


def ours_model(folder: Path, batch: int, dtype: torch.dtype, compile: bool) -> Run:
    segmenter = Segmenter.from_pretrained(
        folder / "ours", device="cpu", dtype=dtype, compile=compile
    )
    pixels = pixels_of(folder, batch).to(dtype)

    @torch.inference_mode()
    def run() -> list[np.ndarray]:
        output = segmenter.network(pixels)
        return [output.class_logits.float().numpy(), output.mask_logits.float().numpy()]

    return run


def peer_model(folder: Path, batch: int, dtype: torch.dtype, same_memory: bool) -> Run:
    model = peer(folder, dtype, same_memory)
    pixels = pixels_of(folder, batch).to(dtype)

    @torch.inference_mode()
    def run() -> list[np.ndarray]:
        output = model(pixels)
        logits = (output.class_queries_logits, output.masks_queries_logits)
        return [x.float().numpy() for x in logits]

    return run


def peer(folder: Path, dtype: torch.dtype, same_memory: bool) -> Any:
    from transformers import Mask2FormerForUniversalSegmentation

    if same_memory:
        keep_freed_memory()
    model = Mask2FormerForUniversalSegmentation.from_pretrained(folder / "peer", dtype=dtype)
    return model.eval()


def pixels_of(folder: Path, batch: int) -> torch.Tensor:
    # Not `from_pretrained`, for in the peer's process memory is to be as its users have it.
    segmenter = Segmenter(load_model(folder / "ours"))
    one = segmenter.prepare(np.asarray(Image.open(folder / "image.jpg")))
    height, width = segmenter.canvas([one.shape[-2:]])
    padded = torch.zeros(batch, 3, height, width)
    padded[:, :, : one.shape[1], : one.shape[2]] = one
    return padded


def agreement(ours: list[np.ndarray], theirs: list[np.ndarray]) -> dict[str, Any]:
    """How far apart the logits are."""
    return {"distance": f"{distance(ours, theirs):.1e}"}


def equality(ours: list[np.ndarray], theirs: list[np.ndarray]) -> dict[str, Any]:
    """The same; an error if they are not the same."""
    far = distance(ours, theirs)
    assert far < TOLERANCE, f"not the same outputs: {far}"
    return agreement(ours, theirs)


def distance(ours: list[np.ndarray], theirs: list[np.ndarray]) -> float:
    """The largest of the parts'; not a number if one is not."""
    return float(np.max([relative_distance(a, b) for a, b in zip(ours, theirs, strict=True)]))


def flops(folder: Path) -> int:
    """Of a forward pass, two for each multiply-add; as torch counts them."""
    segmenter = Segmenter.from_pretrained(folder / "ours", device="cpu")
    segmenter.model.requires_grad_(False)
    with FlopCounterMode(display=False) as counter:
        _ = segmenter.model(pixels_of(folder, 1)).mask_logits
    return int(counter.get_total_flops())


def both_ways(
    folder: Path, case: str, batch: int, options: argparse.Namespace
) -> Iterator[Comparison]:
    """The model alone, whose outputs must agree, and all from the file on."""
    ours = (folder, batch, DTYPES[options.dtype], options.compile)
    theirs = (folder, batch, DTYPES[options.peer_dtype], options.same_memory)
    exact = options.dtype == options.peer_dtype == "float32"
    yield compare(
        f"{case}: model",
        (ours_model, ours),
        (peer_model, theirs),
        agree=equality if exact else agreement,
        rounds=options.rounds,
        threads=options.threads,
    )
    whole = compare(
        f"{case}: file to panoptic result",
        (ours_whole, ours),
        (peer_whole, theirs),
        rounds=options.rounds,
        threads=options.threads,
    )
    whole.facts["distance"] = ""
    yield whole


def add_rates(comparison: Comparison, batch: int, limit: float, dtype: str) -> None:
    """Images a second of both; ours beside `limit`, an image's seconds at the peak of fp32."""
    ours, theirs = (statistics.median(x) / batch for x in (comparison.ours, comparison.peer))
    comparison.facts["images/s"] = f"{1 / ours:.2f}, {1 / theirs:.2f}"
    within = f"{ours / limit:.2f} x {batch * limit:.2f} s"
    comparison.facts["of the limit"] = within if dtype == "float32" else ""


def main() -> None:
    parser = command(__doc__, "inference")
    parser.add_argument("--backbones", nargs="+", default=["r50", "swin_t"], choices=BACKBONES)
    parser.add_argument("--sizes", nargs="+", default=["640x640"], help="HxW")
    parser.add_argument("--batches", nargs="+", type=int, default=[1], help="images at once")
    parser.add_argument("--dtype", default="float32", choices=DTYPES, help="of ours")
    parser.add_argument("--peer-dtype", default="float32", choices=DTYPES)
    parser.add_argument("--compile", action="store_true", help="ours, through torch.compile")
    add_same_memory(parser)
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
                limit = flops(folder) / peak
                for batch in options.batches:
                    case = f"{backbone}, {size}, batch {batch}"
                    for comparison in both_ways(folder, case, batch, options):
                        add_rates(comparison, batch, limit, options.dtype)
                        found.append(comparison)
                        print(comparison.row(), flush=True)
    print(report("Inference", list(found[0].facts), found))
    write_json(options.out, options.threads, found)


if __name__ == "__main__":
    main()
