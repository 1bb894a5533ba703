"""Copies of a training's log for other tools: a table, TensorBoard, Weights & Biases."""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from mask2former.serialization import to_dict
from mask2former.training.config import TrainConfig


class Logger(Protocol):
    """Takes the entries of `log.jsonl` as they are written."""

    def write(self, entry: Mapping[str, Any]) -> None: ...

    def close(self) -> None: ...


def open_loggers(config: TrainConfig, folder: Path, first: int) -> tuple[Logger, ...]:
    """The loggers of a config, for a training that goes on at step `first`.

    ImportError names the extra that a logger lacks.
    """
    made: list[Logger] = []
    if "csv" in config.loggers:
        made.append(Csv(folder))
    if "tensorboard" in config.loggers:
        made.append(TensorBoard(folder / "tensorboard", first))
    if "wandb" in config.loggers:
        made.append(WeightsAndBiases(folder, config))
    return tuple(made)


def scalars(entry: Mapping[str, Any]) -> dict[str, float]:
    """An entry's figures by name: a step's, or an evaluation's as "evaluation/PQ"."""
    figures = entry.get("evaluation")
    if figures is not None:
        return {f"evaluation/{key}": value for key, value in figures.items()}
    return {key: value for key, value in entry.items() if key != "step" and value is not None}


class Csv:
    """`metrics.csv`: one row an entry, one column a figure; a new figure has it written anew."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "metrics.csv"
        with (folder / "log.jsonl").open() as file:
            entries = [json.loads(line) for line in file]
        rows = [{"step": entry["step"], **scalars(entry)} for entry in entries]
        self.columns = list(dict.fromkeys(key for row in rows for key in row)) or ["step"]
        self._replace(rows)

    def write(self, entry: Mapping[str, Any]) -> None:
        row = {"step": entry["step"], **scalars(entry)}
        new = [key for key in row if key not in self.columns]
        if new:
            with self.path.open(newline="") as file:
                before = list(csv.DictReader(file))
            self.columns += new
            self._replace([*before, row])
        else:
            with self.path.open("a", newline="") as file:
                csv.DictWriter(file, self.columns).writerow(row)

    def close(self) -> None:
        """Nothing is open between two rows."""

    def _replace(self, rows: Sequence[Mapping[str, Any]]) -> None:
        temporary = self.path.with_name(self.path.name + ".tmp")
        with temporary.open("w", newline="") as file:
            writer = csv.DictWriter(file, self.columns)
            writer.writeheader()
            writer.writerows(rows)
        os.replace(temporary, self.path)


class TensorBoard:
    """Event files; those of steps that are repeated are hidden by the later ones."""

    def __init__(self, folder: Path, first: int) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            raise _lacking("tensorboard") from error
        self.writer: Any = SummaryWriter(str(folder), purge_step=first or None)

    def write(self, entry: Mapping[str, Any]) -> None:
        for name, value in scalars(entry).items():
            self.writer.add_scalar(name, value, entry["step"])

    def close(self) -> None:
        self.writer.close()


class WeightsAndBiases:
    """One run a folder: a training that goes on goes on there, too.

    Steps that are repeated keep the figures that were sent first.
    """

    def __init__(self, folder: Path, config: TrainConfig) -> None:
        try:
            import wandb
        except ImportError as error:
            raise _lacking("wandb") from error
        known = folder / "wandb_run.txt"
        self.run: Any = wandb.init(
            dir=str(folder),
            name=folder.name,
            id=known.read_text() if known.exists() else None,
            resume="allow",
            config=to_dict(config),
        )
        known.write_text(self.run.id)

    def write(self, entry: Mapping[str, Any]) -> None:
        self.run.log(scalars(entry), step=entry["step"])

    def close(self) -> None:
        self.run.finish()


def _lacking(package: str) -> ImportError:
    return ImportError(
        f"loggers: {package!r} is not installed; pip install 'mask2former[loggers]', or leave it"
        " out of loggers"
    )
