"""A report's page: sections of HTML, and the one template that holds them."""

from __future__ import annotations

import html
from collections import Counter
from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from string import Template

import numpy as np

from mask2former.structures import Category, class_names
from mask2former.training.charts import Series, heat_map, histogram, line_chart, sparkline
from mask2former.training.examine import Findings, Shown

Evaluations = Sequence[tuple[int, Mapping[str, float]]]  # step, figures in percent
Curves = Mapping[str, Sequence[tuple[float, float]]]  # a key of the log: step, value

HEADLINES = (  # key, name, meaning
    ("PQ", "panoptic quality", "every pixel in one segment"),
    ("PQ_things", "PQ of things", "told apart one by one"),
    ("PQ_stuff", "PQ of stuff", "grounds and areas"),
    ("AP", "average precision", "of the instance masks"),
    ("AP50", "AP at IoU 0.5", "found, if roughly"),
    ("mIoU", "mean IoU", "of the classes' areas"),
)
CHARTS = (  # title, keys of the log and their names, unit, logarithmic
    ("Loss", (("loss", "weighted sum"),), "", False),
    (
        "Terms of the last prediction",
        (("class", "class"), ("mask", "mask"), ("dice", "dice"), ("cells", "cells")),
        "",
        False,
    ),
    ("Learning rate", (("rate", "highest group"),), "", False),
    ("Gradient norm", (("gradient_norm", "before clipping"),), "", True),
    ("Time of a step", (("seconds", "all"), ("waited", "waiting for data")), " s", True),
    ("Peak memory", (("memory_gb", "of this process"),), " GB", False),
)
PER_CLASS = ("PQ", "AP", "IoU")
MOST_CLASSES = 30  # of a confusion matrix; the others are one row
MOST_CONFUSIONS = 8  # that are told in words
NOTHING = {"objects": ("invented", "missed"), "pixels": ("", "")}  # last row, last column


@dataclass(frozen=True, kw_only=True)
class Section:
    id: str
    name: str  # in the navigation
    body: str


def render(title: str, lead: str, sections: Sequence[Section], footer: str) -> str:
    """The page; sections without a body are left out. `lead`, bodies and `footer` are HTML."""
    template = Template(Path(__file__).with_name("report.html").read_text(encoding="utf-8"))
    kept = [section for section in sections if section.body]
    return template.substitute(
        title=html.escape(title),
        lead=lead,
        links="\n".join(f'<a href="#{one.id}">{html.escape(one.name)}</a>' for one in kept),
        sections="\n".join(
            f'<section id="{one.id}"><h2>{html.escape(one.name)}</h2>\n{one.body}\n</section>'
            for one in kept
        ),
        footer=footer,
    )


# --- figures ------------------------------------------------------------------------------------


def cards(evaluations: Evaluations) -> str:
    """The last evaluation's headlines, with their course and what changed since the one before."""
    if not evaluations:
        return ""
    figures = evaluations[-1][1]
    before = evaluations[-2][1] if len(evaluations) > 1 else {}
    made = []
    for key, name, meaning in HEADLINES:
        if key not in figures:
            continue
        change = f"<em>{figures[key] - before[key]:+.1f}</em>" if key in before else ""
        course = sparkline([past[key] for _, past in evaluations if key in past])
        made.append(
            f'<div class="card"><b>{figures[key]:.1f}{change}</b><span>{name}</span>'
            f"<small>{meaning}</small>{course}</div>"
        )
    return div("cards", made)


def curves(logged: Curves, evaluations: Evaluations) -> str:
    shown = [
        Series(name=key, points=[(step, past[key]) for step, past in evaluations if key in past])
        for key, _, _ in HEADLINES
    ]
    made = [line_chart("Evaluation, percent", shown, dots=True)]
    for title, keys, unit, log in CHARTS:
        series = [Series(name=name, points=logged.get(key, ())) for key, name in keys]
        made.append(line_chart(title, series, unit=unit, log=log))
    return div("charts", [chart for chart in made if chart])


def evaluation_table(evaluations: Evaluations) -> str:
    """Every evaluation, every figure that is not a class's."""
    keys = list(dict.fromkeys(key for _, past in evaluations for key in past if "/" not in key))
    if not keys:
        return ""
    rows = [
        (f"{step:,}" if step else "", *(percent(past.get(key)) for key in keys))
        for step, past in evaluations
    ]
    return table(("step", *keys), rows)


def class_table(
    figures: Mapping[str, float], findings: Findings | None, categories: Sequence[Category]
) -> str:
    """One row a class: how often it occurs in the evaluated images, and its figures as bars."""
    names = class_names(categories)
    shown = [key for key in PER_CLASS if any(f"{key}/{name}" in figures for name in names)]
    if not shown:
        return ""
    heads = ["<th>class</th>", "<th>kind</th>"]
    if findings is not None:
        heads += ['<th class="n">objects</th>', '<th class="n">images</th>']
    heads += [f"<th>{key}</th>" for key in shown]
    rows = []
    for label, (category, name) in enumerate(zip(categories, names, strict=True)):
        swatch = "rgb({},{},{})".format(*category.color)
        cells = [f"<td>{'thing' if category.is_thing else 'stuff'}</td>"]
        if findings is not None:
            counts = (findings.objects[label], findings.images_with[label])
            cells += [f'<td class="n">{count:,}</td>' for count in counts]
        for key in shown:
            value = figures.get(f"{key}/{name}")
            cells.append(
                "<td></td>"
                if value is None
                else f'<td><i style="--share:{value:.1f}%"></i><span>{value:.1f}</span></td>'
            )
        rows.append(
            f'<tr><th scope="row"><u style="background:{swatch}"></u>{html.escape(name)}</th>'
            f"{''.join(cells)}</tr>"
        )
    return _extremes(figures, shown[0], names) + _table("".join(heads), rows)


def _extremes(figures: Mapping[str, float], key: str, names: Sequence[str]) -> str:
    values = sorted(
        (figures[f"{key}/{name}"], name) for name in names if f"{key}/{name}" in figures
    )
    if len(values) < 6:
        return ""
    weak, strong = values[:3], values[:-4:-1]
    told = [
        ", ".join(f"{html.escape(name)} {value:.1f}" for value, name in some)
        for some in (weak, strong)
    ]
    return f'<p class="note">By {key}, weakest: {told[0]}; strongest: {told[1]}.</p>'


# --- what the examination found -----------------------------------------------------------------


def confusion(findings: Findings) -> str:
    """The matrix of the most common classes, and the most common confusions in words."""
    if not findings.confusion:
        return ""
    count = len(findings.categories)
    invented, missed = NOTHING[findings.confusion_of]
    names = class_names(findings.categories)
    full = np.zeros((count + 1, count + 1), np.int64)
    for truth, predicted, number in findings.confusion:
        full[truth, predicted] = number
    totals = full[:count].sum(axis=1) + full[:, :count].sum(axis=0)
    order = np.argsort(-totals, kind="stable")
    occurring = order[totals[order] > 0]
    chosen = np.sort(occurring[:MOST_CLASSES])
    rest = np.sort(occurring[MOST_CLASSES:])
    groups = [np.array([label]) for label in chosen] + ([rest] if len(rest) else [])
    shown = [names[label] for label in chosen]
    shown += [f"{len(rest)} other classes"] if len(rest) else []
    rows, columns = list(shown), list(shown)
    row_groups, column_groups = list(groups), list(groups)
    if invented:
        rows, row_groups = [*rows, invented], [*row_groups, np.array([count])]
        columns, column_groups = [*columns, missed], [*column_groups, np.array([count])]
    counts = np.array([[full[np.ix_(r, c)].sum() for c in column_groups] for r in row_groups])
    unit = findings.confusion_of
    return (
        f'<p class="note">Rows are the truth, columns the answer; numbers and colour are the share'
        f" of the row's {unit}, in percent.{_matching(unit)}</p>"
        f'<div class="beside"><div class="panel">{heat_map(counts, rows, columns, unit)}</div>'
        f"{_common(full, [*names, invented], [*names, missed], unit)}</div>"
    )


def _matching(unit: str) -> str:
    if unit == "pixels":
        return ""
    return (
        " A true and a found object are a pair if their IoU exceeds one half; found are those with"
        " a score of at least 0.5."
    )


def _common(full: np.ndarray, rows: Sequence[str], columns: Sequence[str], unit: str) -> str:
    """The largest numbers beside the diagonal."""
    wrong = full - np.diag(np.diag(full))
    order = np.argsort(-wrong, axis=None, kind="stable")[:MOST_CONFUSIONS]
    entries = []
    for row, column in zip(*np.unravel_index(order, wrong.shape), strict=True):
        number = int(wrong[row, column])
        if number:
            share = 100 * number / full[row].sum()
            entries.append((rows[row], columns[column], f"{number:,}", f"{share:.1f}"))
    if not entries:
        return ""
    heads = ("truth", "taken for", unit, "% of truth")
    return f"<div><h3>Most common confusions</h3>{table(heads, entries, words=2)}</div>"


def pictures(findings: Findings) -> str:
    """The worst and the best images, and how the scores of all of them are spread."""
    if not findings.worst:
        return ""
    parts = [histogram(findings.histogram, f"{findings.score} of each image, percent")]
    titles = ("Worst", "Best") if findings.best else ("All images, the worst first", "")
    for title, some in zip(titles, (findings.worst, findings.best), strict=True):
        if some:
            parts.append(f"<h3>{title}</h3>")
            parts += [_shown(one, findings.score) for one in some]
    return "\n".join(parts)


def _shown(one: Shown, score: str) -> str:
    name = html.escape(one.name)
    columns = ("image", "truth", "prediction")
    figures = "".join(
        f'<figure><img src="{html.escape(picture)}" alt="{column} of {name}" loading="lazy">'
        f"<figcaption>{column}</figcaption></figure>"
        for column, picture in zip(columns, one.pictures, strict=True)
    )
    return (
        f'<div class="shown"><div><b title="{score}, percent">{one.score:.1f}</b>'
        f"<span>{name}</span><br><small>{one.true} true, {one.found} found</small></div>"
        f'<div class="trio">{figures}</div></div>'
    )


# --- parts --------------------------------------------------------------------------------------


def facts(groups: Mapping[str, Mapping[str, str]]) -> str:
    """Panels of label and text."""
    panels = [
        f'<div class="panel"><h3>{html.escape(title)}</h3><dl>'
        + "".join(
            f"<dt>{html.escape(label)}</dt><dd>{html.escape(text)}</dd>"
            for label, text in group.items()
        )
        + "</dl></div>"
        for title, group in groups.items()
        if group
    ]
    return div("facts", panels)


def data_facts(findings: Findings) -> dict[str, str]:
    kinds = Counter("things" if one.is_thing else "stuff" for one in findings.categories)
    total = sum(findings.objects)
    made = {"evaluated images": f"{findings.images:,}", "their objects": f"{total:,}"}
    if findings.images:
        made["objects an image"] = f"{total / findings.images:.1f}"
    split = ", ".join(f"{number} {kind}" for kind, number in sorted(kinds.items()))
    made["classes"] = f"{len(findings.categories)} ({split})"
    absent = [
        name
        for name, number in zip(class_names(findings.categories), findings.objects, strict=True)
        if not number
    ]
    if absent:
        listed = ", ".join(absent[:8]) + (", ..." if len(absent) > 8 else "")
        made["without an object"] = f"{len(absent)}: {listed}"
    return made


def table(
    heads: Sequence[str],
    rows: Sequence[Sequence[str]],
    *,
    words: int = 0,
    marked: Container[tuple[int, int]] = (),
) -> str:
    """Text in rows; the columns after the first `words` are numbers. `marked` cells stand out."""
    kinds = ["" if column < words else "n" for column in range(len(heads))]
    head = "".join(
        f'<th scope="col" class="{kind}">{html.escape(text)}</th>'
        for kind, text in zip(kinds, heads, strict=True)
    )
    body = []
    for row, texts in enumerate(rows):
        cells = []
        for column, (kind, text) in enumerate(zip(kinds, texts, strict=True)):
            top = " top" if (row, column) in marked else ""
            cells.append(f'<td class="{kind}{top}">{html.escape(text)}</td>')
        body.append(f"<tr>{''.join(cells)}</tr>")
    return _table(head, body)


def _table(head: str, rows: Sequence[str]) -> str:
    body = "\n".join(rows)
    return (
        f'<div class="table"><table>\n<thead><tr>{head}</tr></thead>\n<tbody>\n{body}\n</tbody>'
        "\n</table></div>"
    )


def div(kind: str, parts: Sequence[str]) -> str:
    inner = "\n".join(parts)
    return f'<div class="{kind}">\n{inner}\n</div>' if parts else ""


def percent(value: float | None) -> str:
    return "" if value is None else f"{value:.1f}"
