"""`mask2former finetune`: what is chosen and why, and the training."""

from __future__ import annotations

from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from mask2former.commands.models import WIDTH
from mask2former.commands.options import Finetune
from mask2former.commands.train import changed, read_config, run
from mask2former.presets.finetune import Choice, plan
from mask2former.serialization import to_dict


def finetune(options: Finetune) -> None:
    """Choose, print the choices, train; or go on with what the folder's training was begun with."""
    if options.threads is not None:
        torch.set_num_threads(options.threads)
    written = options.out / "config.yaml"
    if written.exists():  # another machine, or a fuller one, would choose otherwise
        tree, source = read_config(written), str(written)
        check_same(tree, options)
    else:
        planned = plan(options.data, options.model)
        show(planned.choices)
        tree, source = to_dict(planned.config), "config"
    config = changed(tree, source, options)
    if not options.plan_only:
        run(config, options.out)


def check_same(tree: dict[str, Any], options: Finetune) -> None:
    """ValueError if a folder's training is on other data or from another model."""
    begun = (tree.get("data", {}).get("folder"), tree.get("initial_weights"))
    if begun != (options.data, options.model):
        raise ValueError(
            f"{options.out}: holds a training on {begun[0]} that began from {begun[1]}; choose"
            " another --out, or give these again to go on with it"
        )


def show(choices: tuple[Choice, ...]) -> None:
    table = Table("setting", "chosen", "for")
    for choice in choices:
        table.add_row(choice.what, choice.value, choice.reason)
    console = Console(highlight=False, markup=False)
    if not console.is_terminal:
        console = Console(highlight=False, markup=False, width=WIDTH)
    console.print(table)
    console.print("any of them may be changed: --steps, --batch-size, --rate, --set KEY=VALUE")
