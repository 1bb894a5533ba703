"""`mask2former models`: what has a name, what it is worth, and under which licence."""

from __future__ import annotations

from rich.table import Table

from mask2former.commands.options import Models
from mask2former.commands.output import wide_console
from mask2former.weights import EMBEDDED, embedded_models, native
from mask2former.weights.released import LICENCE, released_models


def list_models(options: Models) -> None:
    """Print the table. ValueError if no name holds the text that was asked for."""
    table = Table(
        "name", "tells apart", "backbone", "published", "size", "weights' licence", "here"
    )
    for name in embedded_models():
        if options.only is None or options.only in name:
            config = native.read_config(EMBEDDED / name / native.CONFIG)
            size = (EMBEDDED / name / native.WEIGHTS).stat().st_size
            classes = f"{len(config.categories)} classes of its own"
            row = (name, classes, "small ResNet", "its card", megabytes(size), "Apache 2.0", "yes")
            table.add_row(*row)
    for released in released_models().values():
        if options.only is None or options.only in released.name:
            figures = ", ".join(f"{k} {v}" for k, v in released.metrics.items())
            table.add_row(
                released.name,
                f"{len(released.categories)} classes of {released.dataset}",
                released.backbone,
                figures,
                f"about {megabytes(4e6 * released.parameters)}",
                LICENCE,
                "yes" if released.path.exists() else "",
            )
    if not table.row_count:
        raise ValueError(f"--only {options.only}: no model's name holds this text")
    wide_console().print(table)


def megabytes(size: float) -> str:
    return f"{size / 1e6:.0f} MB"
