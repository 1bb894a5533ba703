"""report.html beside a run: all that is known of it on one page that needs no other file.

A training's page is made from what lies in its folder: `log.jsonl`, `config.yaml` and
`evaluation.json`, which holds the last evaluation's findings. So it can be made anew at any time.
"""

from __future__ import annotations

import html
import json
import shlex
import statistics
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import yaml

from mask2former.evaluation.evaluator import merge_across_ranks
from mask2former.modeling.mask2former import Mask2Former
from mask2former.serialization import from_dict, to_dict
from mask2former.structures import Category
from mask2former.training import page
from mask2former.training.environment import environment, model_facts
from mask2former.training.examine import Examination, Findings
from mask2former.training.log import replace_text
from mask2former.training.page import Section

REPORT, EVALUATION = "report.html", "evaluation.json"


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """What `evaluation.json` holds."""

    step: int
    figures: dict[str, float]  # in percent
    findings: Findings
    train_images: int
    model: dict[str, str]  # label and text
    environment: dict[str, str]
    gave_up: bool = False  # the training then ended, for nothing had got better


@dataclass(frozen=True, kw_only=True)
class Run:
    """A training as its folder tells it."""

    folder: Path
    curves: dict[str, list[tuple[float, float]]]  # key of the log: step, value
    evaluations: list[tuple[int, dict[str, float]]]
    config: dict[str, Any]
    last: Evaluation | None

    @property
    def name(self) -> str:
        return self.folder.resolve().name

    @property
    def done(self) -> int:
        """Steps."""
        return int(self.curves["loss"][-1][0]) + 1 if self.curves.get("loss") else 0

    @property
    def gave_up(self) -> bool:
        """Whether it ended early, and has not gone on."""
        return self.last is not None and self.last.gave_up and self.last.step == self.done


def report_evaluation(
    folder: Path,
    examination: Examination,
    figures: Mapping[str, float],
    step: int,
    model: Mask2Former,
    *,
    train_images: int,
    gave_up: bool = False,
    is_first_rank: bool = True,
) -> None:
    """Keep what an evaluation found and renew the page. Every process must call it."""
    examination = merge_across_ranks(examination)
    if not is_first_rank:
        return
    record = record_of(
        examination, figures, model, step=step, train_images=train_images, gave_up=gave_up
    )
    replace_text(folder / EVALUATION, json.dumps(to_dict(record)))
    write_report(folder, folder / REPORT)


def record_of(
    examination: Examination,
    figures: Mapping[str, float],
    model: Mask2Former,
    *,
    step: int = 0,
    train_images: int = 0,
    gave_up: bool = False,
) -> Evaluation:
    """All that a page needs to know; without `train_images` the model was not trained here."""
    return Evaluation(
        step=step,
        figures=dict(figures),
        findings=examination.findings(),
        train_images=train_images,
        model=model_facts(model),
        environment=environment(next(model.parameters()).device),
        gave_up=gave_up,
    )


def write_report(folder: Path, path: Path) -> Path:
    """(Re)write the page of a training's folder to `path`; returns it.

    FileNotFoundError or ValueError name what is missing or wrong in the folder.
    """
    page_ = training_page(read_run(folder))
    path.parent.mkdir(parents=True, exist_ok=True)
    replace_text(path, page_)
    return path


def write_evaluation(path: Path, title: str, record: Evaluation, command: str) -> None:
    """Write the page of a model's evaluation outside of a training."""
    path.parent.mkdir(parents=True, exist_ok=True)
    replace_text(path, evaluation_page(title, record, command))


def read_run(folder: Path) -> Run:
    """A training that is under way is read up to its last whole line."""
    log, config = folder / "log.jsonl", folder / "config.yaml"
    for path in (log, config):
        if not path.is_file():
            raise FileNotFoundError(
                f"{path}: there is no such file; give a folder that `mask2former train --out` wrote"
            )
    curves: dict[str, list[tuple[float, float]]] = {}
    evaluations = []
    with log.open() as lines:
        for line in lines:
            try:
                entry = json.loads(line)
            except json.JSONDecodeError:  # it is being written, or a crash tore it
                break
            step = entry.pop("step")
            if "evaluation" in entry:
                evaluations.append((step, entry["evaluation"]))
                continue
            for key, value in entry.items():
                if isinstance(value, int | float):
                    curves.setdefault(key, []).append((step, value))
    last = None
    kept = folder / EVALUATION
    if kept.is_file():
        try:
            last = from_dict(Evaluation, json.loads(kept.read_text()), str(kept))
        except json.JSONDecodeError as error:
            raise ValueError(f"{kept}: not valid JSON ({error}); remove it") from None
        if last.step not in (step for step, _ in evaluations):
            last = None  # of a step that will come again, or of an earlier training
    tree = yaml.safe_load(config.read_text())
    if not isinstance(tree, dict) or not {"model", "data", "steps", "batch_size"} <= tree.keys():
        raise ValueError(f"{config}: holds no training's config; restore the file")
    return Run(folder=folder, curves=curves, evaluations=evaluations, config=tree, last=last)


# --- pages --------------------------------------------------------------------------------------


def training_page(run: Run) -> str:
    figures = run.evaluations[-1][1] if run.evaluations else {}
    findings = run.last.findings if run.last else None
    classes = page.class_table(figures, findings, categories_of(run.config))
    overview = page.cards(run.evaluations)
    every = page.evaluation_table(run.evaluations)
    if len(run.evaluations) > 1 or (every and not overview):
        overview += f"<details><summary>Every evaluation</summary>{every}</details>"
    elif every:
        overview += f"<details><summary>Every figure</summary>{every}</details>"
    data = _data_of(run.config)
    if run.last is not None:
        data["training images"] = f"{run.last.train_images:,}"
        data |= page.data_facts(run.last.findings)
    sections = [
        Section(id="figures", name="Figures", body=overview),
        Section(id="curves", name="Curves", body=page.curves(run.curves, run.evaluations)),
        Section(id="classes", name="Class by class", body=classes),
        *_findings(findings),
        _facts_section(run.last, data),
        Section(id="config", name="Repeat it", body=_repeat(run)),
    ]
    return page.render(run.name, _training_lead(run), sections, _footer("mask2former report"))


def evaluation_page(title: str, record: Evaluation, command: str) -> str:
    """The page of a model's evaluation outside of a training."""
    evaluations = [(0, record.figures)]
    every = page.table(
        ("figure", "percent"),
        [(key, f"{value:.2f}") for key, value in record.figures.items() if not _of_class(key)],
        words=1,
    )
    overview = page.cards(evaluations)
    overview += f"<details><summary>Every figure</summary>{every}</details>"
    classes = page.class_table(record.figures, record.findings, record.findings.categories)
    sections = [
        Section(id="figures", name="Figures", body=overview),
        Section(id="classes", name="Class by class", body=classes),
        *_findings(record.findings),
        _facts_section(record, page.data_facts(record.findings)),
        Section(id="config", name="Repeat it", body=_command(command)),
    ]
    lead = (
        f'<p class="lead">{record.findings.images:,} images ·'
        f" {html.escape(record.environment['device'])}<br>Written {now()}.</p>"
    )
    return page.render(title, lead, sections, _footer("mask2former evaluate --report"))


def _findings(findings: Findings | None) -> list[Section]:
    if findings is None:
        return []
    return [
        Section(id="confusion", name="Confusion", body=page.confusion(findings)),
        Section(id="images", name="Best and worst images", body=page.pictures(findings)),
    ]


def _facts_section(record: Evaluation | None, data: Mapping[str, str]) -> Section:
    groups = {"Data": data}
    if record is not None:
        groups |= {"Model": record.model, "Environment": record.environment}
    return Section(id="facts", name="Data, model, environment", body=page.facts(groups))


def _training_lead(run: Run) -> str:
    steps, batch = run.config["steps"], run.config["batch_size"]
    seconds = sum(value for _, value in run.curves.get("seconds", ()))
    parts = [f"{run.done:,} of {steps:,} steps of {batch} images"]
    parts.append(f"{duration(seconds)} of training, evaluations aside")
    if run.gave_up:
        parts.append(
            f"ended early, after {run.config['patience']} evaluations without a better one"
        )
    elif run.done < steps and run.curves.get("seconds"):
        recent = statistics.median(value for _, value in run.curves["seconds"][-200:])
        parts.append(f"about {duration(recent * (steps - run.done))} to go")
    if run.last is not None:
        parts += [f"{run.last.model['parameters']} parameters", run.last.environment["device"]]
    share = 100 * run.done / steps
    told = html.escape(" · ".join(parts))
    under_way = share < 100 and not run.gave_up
    bar = f'<div class="progress" style="--share:{share:.1f}%"></div>' if under_way else ""
    return f'<p class="lead">{told}<br>Written {now()}.</p>{bar}'


def _repeat(run: Run) -> str:
    config, again = str(run.folder / "config.yaml"), f"{run.folder}-again"
    words = ["mask2former", "train", "--config", config, "--out", again]
    if run.last is not None and "threads" in run.last.environment:
        words += ["--threads", run.last.environment["threads"]]
    tree = html.escape(yaml.safe_dump(run.config, sort_keys=False, allow_unicode=True))
    return (
        f"{_command(shlex.join(words))}"
        f"<details><summary>The whole config</summary>"
        f'<div class="panel"><pre>{tree}</pre></div></details>'
    )


def _command(command: str) -> str:
    return f'<pre class="command">{html.escape(command)}</pre>'


def _footer(command: str) -> str:
    return f"Made by <code>{command}</code>; figures are in percent."


# --- parts --------------------------------------------------------------------------------------


def categories_of(config: Mapping[str, Any]) -> tuple[Category, ...]:
    return tuple(from_dict(Category, one) for one in config["model"]["categories"])


def _data_of(config: Mapping[str, Any]) -> dict[str, str]:
    """The data set's part of a config, but for what is left open or a tree of its own."""
    return {
        key: str(value)
        for key, value in config["data"].items()
        if value is not None and not isinstance(value, dict)
    }


def _of_class(key: str) -> bool:
    return key.partition("/")[0] in page.PER_CLASS


def duration(seconds: float) -> str:
    """As in "3 h 20 min"."""
    minutes = round(seconds / 60)
    if minutes < 1:
        return f"{seconds:.0f} s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min"


def now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")
