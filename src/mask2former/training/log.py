"""What a training tells while it runs: `log.jsonl`, of which every other log is a copy."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from mask2former.training.loggers import Logger

NAME = "log.jsonl"


class Log:
    """One line a step and one an evaluation, each whole or absent after a crash and a resume.

    Lines of the steps from `first` on, which will be repeated, are dropped when it is opened; and
    of an evaluation after `evaluated` steps or more. Without a folder nothing is written.
    """

    def __init__(self, folder: Path | None, first: int = 0, evaluated: int = 0) -> None:
        self.loggers: tuple[Logger, ...] = ()  # what writes copies
        path = Path(os.devnull)
        if folder is not None:
            path = folder / NAME
            kept = kept_lines(path, first, evaluated) if first and path.exists() else []
            replace_text(path, "".join(line + "\n" for line in kept))
        self.file = path.open("a")

    def __enter__(self) -> Log:
        return self

    def __exit__(self, *error: object) -> None:
        self.file.close()
        for logger in self.loggers:
            logger.close()

    def write(self, entry: Mapping[str, Any]) -> None:
        """Add a line: a step's figures, or {"step", "evaluation": figures}. What is not finite
        becomes null, as JSON has no word for it."""
        entry = {key: _finite(value) for key, value in entry.items()}
        self.file.write(json.dumps(entry) + "\n")
        self.file.flush()
        for logger in self.loggers:
            logger.write(entry)


def kept_lines(path: Path, first: int, evaluated: int) -> list[str]:
    """The lines of a log that a training which goes on at step `first` does not write again."""
    kept = []
    for line in path.read_text().splitlines():
        try:
            entry = json.loads(line)
        except json.JSONDecodeError:  # a crash tore the last line
            break
        if entry["step"] <= evaluated if "evaluation" in entry else entry["step"] < first:
            kept.append(line)
    return kept


def replace_text(path: Path, text: str) -> None:
    """Write a file whole or not at all."""
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_text(text, encoding="utf-8")
    os.replace(temporary, path)


def _finite(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value


# --- on the terminal ----------------------------------------------------------------------------


def progress_bar(console: Console) -> Progress:
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
        console=console,
        disable=not console.is_terminal,
    )


def summary(figures: Mapping[str, float]) -> str:
    shown = ("PQ", "PQ_things", "PQ_stuff", "AP", "AP50", "mIoU")
    return "  ".join(f"{key} {figures[key]:.1f}" for key in shown if key in figures)
