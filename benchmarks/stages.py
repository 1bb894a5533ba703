"""Where the time from an image file to a panoptic result goes, in this package and in transformers.

python -m benchmarks.stages [--backbone r50] [--size 640x640] [--dtype bfloat16]
"""

from __future__ import annotations

import itertools
import statistics
import tempfile
import time
from pathlib import Path

import torch
from torch import nn

from benchmarks.inference import DTYPES, ours_from_file, peer, peer_from_file
from benchmarks.measure import Comparison, Run, command, markdown, side_by_side, write_json
from benchmarks.models import BACKBONES, write_models
from mask2former.segmenter import Segmenter

STAGES = ("read and prepare", "backbone", "pixel decoder", "decoder", "masks and result")


def ours_staged(folder: Path, dtype: torch.dtype) -> Run:
    segmenter = Segmenter.from_pretrained(folder / "ours", device="cpu", dtype=dtype)
    model = segmenter.model
    run = ours_from_file(segmenter, folder, 1)
    return staged(run, model.backbone, model.pixel_decoder, model.decoder)


def peer_staged(folder: Path, dtype: torch.dtype) -> Run:
    model = peer(folder, dtype, same_memory=False)
    run = peer_from_file(model, folder, 1, dtype)
    pixels = model.model.pixel_level_module
    return staged(run, pixels.encoder, pixels.decoder, model.model.transformer_module)


def staged(run: Run, backbone: nn.Module, pixel_decoder: nn.Module, decoder: nn.Module) -> Run:
    """`run`, which now returns the seconds of each stage. A stage ends where a module returns."""
    times: list[float] = []

    def mark(*_: object) -> None:
        times.append(time.perf_counter())

    backbone.register_forward_pre_hook(mark)
    for module in (backbone, pixel_decoder, decoder):
        module.register_forward_hook(mark)

    def timed() -> tuple[float, ...]:
        times.clear()
        mark()
        run()
        mark()
        seconds = tuple(end - start for start, end in itertools.pairwise(times))
        assert len(seconds) == len(STAGES), "each module runs once"
        return seconds

    return timed


def main() -> None:
    parser = command(__doc__, "stages")
    parser.add_argument("--backbone", default="r50", choices=BACKBONES)
    parser.add_argument("--size", default="640x640", help="HxW")
    parser.add_argument("--dtype", default="float32", choices=DTYPES, help="of ours")
    options = parser.parse_args()
    height, width = map(int, options.size.split("x"))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_models(folder, options.backbone, (height, width), kept=0.2)
        with side_by_side(
            (ours_staged, (folder, DTYPES[options.dtype])),
            (peer_staged, (folder, torch.float32)),
            threads=options.threads,
        ) as contenders:
            memory = [contender.make_ready() for contender in contenders]
            pairs = [[c.ask("result")[0] for c in contenders] for _ in range(options.rounds)]
    rows, found = [], []
    whole = [statistics.median(sum(pair[side]) for pair in pairs) for side in (0, 1)]
    for i, stage in enumerate(STAGES):
        both = [tuple(pair[side][i] for pair in pairs) for side in (0, 1)]
        medians = [statistics.median(seconds) for seconds in both]
        shares = [f"{one / all_of_it:.0%}" for one, all_of_it in zip(medians, whole, strict=True)]
        comparison = Comparison(
            case=stage, ours=both[0], peer=both[1], our_memory=memory[0], peer_memory=memory[1]
        )
        found.append(comparison)
        rows.append([*comparison.row()[:4], *shares])
    print(markdown(["stage", "ours", "peer", "times faster", "share of ours", "of peer's"], rows))
    write_json(options.out, options.threads, found)


if __name__ == "__main__":
    main()
