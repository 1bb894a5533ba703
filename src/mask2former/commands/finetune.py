"""`mask2former finetune`: what is chosen and why, and the training."""

from __future__ import annotations

from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from mask2former.commands.options import Finetune
from mask2former.commands.output import wide_console
from mask2former.commands.train import (
    assignments,
    changed,
    data_of,
    place,
    prepare,
    read_config,
    run,
)
from mask2former.presets.finetune import GIVEN, Choice, Wishes, plan
from mask2former.serialization import from_dict, to_dict

WISHES = {"batch_size": "batch_size", "steps": "steps", "optimizer.rate": "rate"}  # key, its wish


def finetune(options: Finetune) -> None:
    """Choose, print the choices, train; or go on with what the folder's training was begun with."""
    prepare(options)
    written = options.out / "config.yaml"
    if written.exists():  # another machine, or a fuller one, would choose otherwise
        tree, source = read_config(written), str(written)
        check_same(tree, options)
        Console(highlight=False, markup=False, soft_wrap=True).print(f"settings: {written}")
    else:
        set_ones = dict(assignments(options))
        wished = {wish: set_ones.get(key) for key, wish in WISHES.items()}
        wishes = from_dict(Wishes, {"size": options.size, **wished})
        planned = plan(data_of(options), options.model, wishes)
        given = (
            Choice(what=key, value=str(value), reason=GIVEN)
            for key, value in set_ones.items()
            if key not in WISHES  # else the plan has it
        )
        show((*planned.choices, *given))
        tree, source = to_dict(planned.config), "config"
    config = changed(tree, source, options)
    if not options.plan_only:
        run(config, options.out)


def check_same(tree: dict[str, Any], options: Finetune) -> None:
    """ValueError if a folder's training is on other data, from another model or of another size."""
    begun = {
        "data": tree.get("data", {}).get("folder"),
        "model": tree.get("initial_weights"),
        "size": tree.get("view", {}).get("size"),
    }
    wanted = {"data": options.data, "model": options.model, "size": options.size or begun["size"]}
    if {k: place(v) for k, v in begun.items()} != {k: place(v) for k, v in wanted.items()}:
        was = ", ".join(f"--{name} {value}" for name, value in begun.items())
        raise ValueError(
            f"{options.out}: holds a training that was begun with {was}; choose another --out, or"
            " give these again to go on with it"
        )


def show(choices: tuple[Choice, ...]) -> None:
    table = Table("setting", "chosen", "for")
    for choice in choices:
        cells = (choice.what, choice.value, choice.reason)
        table.add_row(*(Text(cell) for cell in cells))  # never taken for markup
    console = wide_console()
    console.print(table)
    console.print("to change it: --size, --batch-size, --steps, --rate, --set KEY=VALUE")
