from __future__ import annotations

import csv
import json
import math
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from mask2former.training.log import Log, summary
from mask2former.training.loggers import Csv, open_loggers, scalars
from trainings import CONFIG, log_of

STEPS: list[dict[str, Any]] = [{"step": i, "loss": 1.0 / 3 + i} for i in range(5)]


def evaluation(step: int) -> dict[str, Any]:
    return {"step": step, "evaluation": {"PQ": 10.0 * step, "PQ/cat": 1.5}}


def test_steps_and_evaluations_that_come_again_are_dropped(tmp_path: Path) -> None:
    lines = [*STEPS[:2], evaluation(2), *STEPS[2:4], evaluation(4), STEPS[4]]
    text = "".join(json.dumps(line) + "\n" for line in lines) + '{"step": 5, "lo'
    path = tmp_path / "log.jsonl"
    for first, evaluated, kept in ((3, 2, lines[:4]), (4, 2, lines[:5]), (4, 4, lines[:6])):
        path.write_text(text)
        with Log(tmp_path, first, evaluated) as log:
            log.write({"step": 99})
        assert log_of(tmp_path) == [*kept, {"step": 99}]
    Log(tmp_path).__exit__()
    assert path.read_text() == ""
    assert [p.name for p in tmp_path.iterdir()] == ["log.jsonl"]


def test_what_is_not_finite_is_null(tmp_path: Path) -> None:
    with Log(tmp_path) as log:
        log.write({"step": 0, "gradient_norm": math.inf, "loss": math.nan})
    assert log_of(tmp_path) == [{"step": 0, "gradient_norm": None, "loss": None}]


def test_other_processes_write_nothing(tmp_path: Path) -> None:
    with Log(None) as log:
        log.write(STEPS[0])
    assert not list(tmp_path.iterdir())


def test_summary_shows_totals() -> None:
    assert summary({"PQ": 1.26, "AP/cat": 3.0, "mIoU": 2.0}) == "PQ 1.3  mIoU 2.0"


# --- copies ---------------------------------------------------------------------------------------


def rows(folder: Path) -> list[dict[str, str]]:
    with (folder / "metrics.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_csv_has_a_row_an_entry_and_follows_a_stop(tmp_path: Path) -> None:
    entries = [*STEPS[:2], evaluation(2), STEPS[2], {**STEPS[3], "new": 7.0}]
    with Log(tmp_path) as log:
        log.loggers = (Csv(tmp_path),)
        for entry in entries:
            log.write(entry)
    found = rows(tmp_path)
    assert [row["step"] for row in found] == ["0", "1", "2", "2", "3"]
    assert list(found[0]) == ["step", "loss", "evaluation/PQ", "evaluation/PQ/cat", "new"]
    assert float(found[1]["loss"]) == STEPS[1]["loss"]
    assert (found[2]["evaluation/PQ"], found[2]["loss"]) == ("20.0", "")
    assert found[-1]["new"] == "7.0"
    with Log(tmp_path, 2, 2) as log:  # from the log, whatever the table held
        log.loggers = (Csv(tmp_path),)
        log.write(STEPS[2])
    assert [row["step"] for row in rows(tmp_path)] == ["0", "1", "2", "2"]


class FakeWandb:
    def __init__(self) -> None:
        self.started: list[dict[str, Any]] = []
        self.logged: list[tuple[dict[str, float], int]] = []
        self.finished = 0

    def init(self, **options: Any) -> Any:
        self.started.append(options)
        return SimpleNamespace(id="run-1", log=self.log, finish=self.finish)

    def log(self, figures: dict[str, float], step: int) -> None:
        self.logged.append((figures, step))

    def finish(self) -> None:
        self.finished += 1


def test_wandb_goes_on_with_its_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake = FakeWandb()
    monkeypatch.setitem(sys.modules, "wandb", fake)
    config = replace(CONFIG, loggers=("wandb",))
    for first in (0, 1):
        with Log(tmp_path, first) as log:
            log.loggers = open_loggers(config, tmp_path, first)
            log.write(STEPS[first])
    assert [options["id"] for options in fake.started] == [None, "run-1"]
    assert fake.started[0]["config"]["batch_size"] == CONFIG.batch_size
    assert fake.logged == [({"loss": STEPS[0]["loss"]}, 0), ({"loss": STEPS[1]["loss"]}, 1)]
    assert fake.finished == 2


def test_tensorboard_hides_what_is_repeated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[Any] = []

    class Writer:
        def __init__(self, folder: str, purge_step: int | None) -> None:
            self.folder, self.purge_step = folder, purge_step
            self.scalars: list[tuple[str, float, int]] = []
            self.closed = False
            made.append(self)

        def add_scalar(self, name: str, value: float, step: int) -> None:
            self.scalars.append((name, value, step))

        def close(self) -> None:
            self.closed = True

    monkeypatch.setitem(
        sys.modules, "torch.utils.tensorboard", SimpleNamespace(SummaryWriter=Writer)
    )
    config = replace(CONFIG, loggers=("tensorboard",))
    with Log(tmp_path) as log:
        log.loggers = open_loggers(config, tmp_path, 3)
        log.write(evaluation(3))
    (writer,) = made
    assert (writer.folder, writer.purge_step) == (str(tmp_path / "tensorboard"), 3)
    assert writer.scalars == [("evaluation/PQ", 30.0, 3), ("evaluation/PQ/cat", 1.5, 3)]
    assert writer.closed


def test_tensorboards_own_reader_finds_the_figures(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    with Log(tmp_path) as log:
        log.loggers = open_loggers(replace(CONFIG, loggers=("tensorboard",)), tmp_path, 0)
        for entry in STEPS:
            log.write(entry)
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    found = [(event.step, event.value) for event in events.Scalars("loss")]
    assert found == [(entry["step"], pytest.approx(entry["loss"])) for entry in STEPS]


@pytest.mark.parametrize("name", ["tensorboard", "wandb"])
def test_a_logger_that_is_not_installed_names_the_extra(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: Any
) -> None:
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(ImportError, match=rf"{name}.* pip install 'mask2former\[loggers\]'"):
        open_loggers(replace(CONFIG, loggers=(name,)), tmp_path, 0)


def test_scalars_leave_out_what_is_unknown() -> None:
    assert scalars({"step": 1, "loss": 2.0, "gradient_norm": None}) == {"loss": 2.0}
