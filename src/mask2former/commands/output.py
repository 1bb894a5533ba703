"""How commands print tables and write figures."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from rich.console import Console

WIDTH = 160  # of tables where nothing says how wide the output is


def wide_console() -> Console:
    """Where nothing says how wide the output is, tables get room."""
    console = Console(highlight=False)
    return console if console.is_terminal else Console(highlight=False, width=WIDTH)


def tell(console: Console, text: str, style: str | None = None) -> None:
    """Print a line as it is: no part is taken for markup, and however long it is not broken."""
    console.print(text, style=style, markup=False, soft_wrap=True)


def write_json(path: Path, document: Mapping[str, object]) -> None:
    """Write it, and the folder that it lies in."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(document, indent=1) + "\n")
