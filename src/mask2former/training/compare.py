"""Several trainings on one page: curves in common charts, figures and configs side by side."""

from __future__ import annotations

import html
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mask2former.training import page
from mask2former.training.charts import Series, line_chart
from mask2former.training.checkpoint import differences
from mask2former.training.log import replace_text
from mask2former.training.page import HEADLINES, Section
from mask2former.training.report import Run, duration, now, read_run

LOGGED = (
    ("loss", "Loss", False),
    ("gradient_norm", "Gradient norm", True),
    ("rate", "Rate", False),
)
LONGEST_VALUE = 60  # characters of a config's value


def write_comparison(folders: Sequence[Path], out: Path) -> Path:
    """Write the page to `out`. ValueError for fewer than two runs."""
    if len(folders) < 2:
        raise ValueError(f"{len(folders)} runs: a comparison needs at least two")
    runs = [read_run(folder) for folder in folders]
    out.parent.mkdir(parents=True, exist_ok=True)
    command = shlex.join(["mask2former", "report", *map(str, folders), "--out", str(out)])
    replace_text(out, comparison_page(runs, command))
    return out


def comparison_page(runs: Sequence[Run], command: str) -> str:
    names = run_names(runs)
    sections = [
        Section(id="figures", name="Last figures", body=_figures(runs, names)),
        Section(id="curves", name="Curves", body=_curves(runs, names)),
        Section(id="classes", name="Class by class", body=_classes(runs, names)),
        Section(id="config", name="What differs in the configs", body=_configs(runs, names)),
    ]
    told = html.escape(", ".join(names))
    lead = f'<p class="lead">{told}<br>Written {now()}.</p>'
    footer = f"Made by <code>{html.escape(command)}</code>; figures are in percent."
    return page.render(f"{len(runs)} trainings compared", lead, sections, footer)


def run_names(runs: Sequence[Run]) -> list[str]:
    """The folders' names; where two share one, their paths."""
    names = [run.name for run in runs]
    return names if len(set(names)) == len(names) else [str(run.folder) for run in runs]


def _figures(runs: Sequence[Run], names: Sequence[str]) -> str:
    """One row a run, the best of each figure marked."""
    last: list[Mapping[str, float]] = [r.evaluations[-1][1] if r.evaluations else {} for r in runs]
    keys = [key for key in dict.fromkeys(k for f in last for k in f) if "/" not in key]
    rows = []
    for run, name, figures in zip(runs, names, last, strict=True):
        seconds = sum(value for _, value in run.curves.get("seconds", ()))
        at = f"{run.evaluations[-1][0]:,}" if run.evaluations else f"{run.done:,}, not evaluated"
        rows.append((name, at, duration(seconds), *(page.percent(figures.get(k)) for k in keys)))
    best = {(run, 3 + column) for column, key in enumerate(keys) for run in _best(last, key)}
    return page.table(("run", "step", "training", *keys), rows, words=1, marked=best)


def _curves(runs: Sequence[Run], names: Sequence[str]) -> str:
    charts = []
    for key, name, _ in HEADLINES:
        series = [
            Series(
                name=run_name,
                points=[(step, past[key]) for step, past in run.evaluations if key in past],
            )
            for run, run_name in zip(runs, names, strict=True)
        ]
        charts.append(line_chart(f"{key}, {name}", series, dots=True))
    for key, title, log in LOGGED:
        series = [
            Series(name=run_name, points=run.curves.get(key, ()))
            for run, run_name in zip(runs, names, strict=True)
        ]
        charts.append(line_chart(title, series, log=log))
    return page.div("charts", [chart for chart in charts if chart])


def _classes(runs: Sequence[Run], names: Sequence[str]) -> str:
    """The richest figure that all evaluated runs have, class by class."""
    last = [run.evaluations[-1][1] if run.evaluations else {} for run in runs]
    for kind in page.PER_CLASS:
        keys = [
            key for key in dict.fromkeys(k for f in last for k in f) if key.startswith(f"{kind}/")
        ]
        if keys:
            rows = [
                (key.partition("/")[2], *(page.percent(figures.get(key)) for figures in last))
                for key in keys
            ]
            best = {(row, 1 + run) for row, key in enumerate(keys) for run in _best(last, key)}
            return page.table((f"{kind} of", *names), rows, words=1, marked=best)
    return ""


def _best(figures: Sequence[Mapping[str, float]], key: str) -> list[int]:
    """Which runs have the highest; none where all have it."""
    values = [of_run.get(key, -1.0) for of_run in figures]
    best = [run for run, value in enumerate(values) if value == max(values)]
    return best if len(best) < len(values) else []


def _configs(runs: Sequence[Run], names: Sequence[str]) -> str:
    """One row a key in which a run differs from the first."""
    first = runs[0].config
    changed = {key for run in runs[1:] for key in differences(first, run.config)}
    if not changed:
        return "<p>Nothing: the configs are the same.</p>"
    rows = [(key, *(_value(run.config, key) for run in runs)) for key in sorted(changed)]
    return page.table(("key", *names), rows, words=1 + len(runs))


def _value(config: Mapping[str, Any], dotted: str) -> str:
    value: Any = config
    for key in dotted.split("."):
        if not isinstance(value, dict) or key not in value:
            return "–"
        value = value[key]
    if isinstance(value, list) and any(isinstance(item, dict) for item in value):
        return f"{len(value)} entries"
    text = str(value)
    return text if len(text) <= LONGEST_VALUE else text[: LONGEST_VALUE - 1] + "…"
