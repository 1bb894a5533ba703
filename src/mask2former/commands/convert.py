"""`mask2former convert`: a model in another format, read back and compared."""

from __future__ import annotations

import logging
import sys

import torch
from rich.console import Console

from mask2former.commands.loading import class_names
from mask2former.commands.options import Convert
from mask2former.weights import load, load_model, log, save_model


def convert(options: Convert) -> None:
    """ValueError says why a model has no place in the format, or which folder is in the way."""
    if options.out.exists() and any(options.out.iterdir()):
        raise ValueError(f"--out {options.out}: holds files already; choose a new folder")
    console = Console(highlight=False, markup=False, soft_wrap=True)
    told = logging.StreamHandler(sys.stdout)  # which format it was
    log.setLevel(logging.INFO)
    log.addHandler(told)
    try:
        model = load(options.model, classes=class_names(options.classes))
    finally:
        log.removeHandler(told)
    if options.half:
        model = model.half().float()  # what can be written is what is compared
    save_model(model, options.out, options.to, dtype=torch.float16 if options.half else None)
    written = load_model(options.out)
    tensors = written.state_dict()
    different = [k for k, t in model.state_dict().items() if not torch.equal(tensors[k], t)]
    if different or written.config != model.config:
        raise ValueError(
            f"{options.out}: does not read back equal ({', '.join(different[:5]) or 'its config'});"
            " do not use it, and report this"
        )
    console.print(f"{options.out}: {len(tensors)} tensors and the config read back equal")
