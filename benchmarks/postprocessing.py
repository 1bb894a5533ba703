"""All three tasks from one answer with every query kept, beside the forward pass of the peer.

python -m benchmarks.postprocessing [--size 800x1088] [--rounds 7]
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import torch

from benchmarks.inference import peer_model, pixels_of
from benchmarks.measure import Run, command, compare, report, write_json
from benchmarks.models import write_models
from mask2former.inference.postprocess import segment
from mask2former.inference.resample import Sizes
from mask2former.segmenter import Segmenter
from mask2former.structures import TASKS


def ours_postprocessing(folder: Path) -> Run:
    segmenter = Segmenter.from_pretrained(folder / "ours", device="cpu")
    pixels = pixels_of(folder, 1)
    with torch.inference_mode():
        output = segmenter.model(pixels)
        class_logits, mask_logits = output.class_logits[0].clone(), output.mask_logits[0].clone()
    config = segmenter.model.config
    size = (pixels.shape[2], pixels.shape[3])
    sizes = Sizes(padded=size, image=size, output=size)
    kept = class_logits.softmax(-1)[:, :-1].max(-1).values > config.view.object_threshold
    assert kept.all(), f"{int(kept.sum())} of {len(kept)} queries are kept"
    del output, pixels

    @torch.inference_mode()
    def run() -> int:
        result = segment(class_logits, mask_logits, sizes, config.categories, config.view, TASKS)
        assert result.instances is not None
        return len(result.instances)

    return run


def main() -> None:
    parser = command(__doc__, "postprocessing")
    parser.add_argument("--size", default="800x1088", help="HxW")
    options = parser.parse_args()
    height, width = map(int, options.size.split("x"))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_models(folder, "r50", (height, width), kept=1.0)
        found = compare(
            f"{options.size}, 100 queries kept: three tasks; peer: R50 forward",
            (ours_postprocessing, (folder,)),
            (peer_model, (folder, 1, torch.float32, False)),
            rounds=options.rounds,
            threads=options.threads,
        )
    found.facts["share of the forward pass"] = f"{1 / found.times_faster:.3f}"
    print(report("Post-processing", ["share of the forward pass"], [found]))
    write_json(options.out, options.threads, [found])


if __name__ == "__main__":
    main()
