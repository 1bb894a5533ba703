"""Charts as inline SVG: lines over steps, a histogram, a heat map. Colours are the page's CSS.

What a pointer rests on is told by its <title>, so that no script is needed.
"""

from __future__ import annotations

import html
import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from jaxtyping import Int64

WIDTH, HEIGHT = 440, 230  # of a line chart; it is scaled to the width of its place
LEFT, RIGHT, TOP, BOTTOM = 50, 10, 10, 30
BINS = 160  # a longer curve is drawn as means and ranges of so many stretches
COLORS = 6  # series of a chart; the page's CSS has as many

Point = tuple[float, float]  # x, y


@dataclass(frozen=True, kw_only=True)
class Series:
    """One curve; points whose y is not finite are left out."""

    name: str
    points: Sequence[Point]  # x ascending


@dataclass(frozen=True, kw_only=True)
class Bin:
    """The part of a curve between two x: mean and range of its values."""

    first: float
    last: float
    mean: float
    low: float
    high: float

    @property
    def x(self) -> float:
        return (self.first + self.last) / 2


def line_chart(
    title: str,
    series: Sequence[Series],
    *,
    unit: str = "",
    log: bool = False,
    from_zero: bool = False,
    dots: bool = False,
) -> str:
    """A figure with legend; "" if no series has a point.

    `log` draws the logarithm, of values above 0; `dots` marks every point, for few of them.
    """
    kept = [(one.name, [p for p in one.points if _drawable(p[1], log)]) for one in series]
    kept = [(name, points) for name, points in kept if points]
    if not kept:
        return ""
    first = min(points[0][0] for _, points in kept)
    last = max(points[-1][0] for _, points in kept)
    curves = [(name, binned(points, first, last, BINS)) for name, points in kept]
    low = min(b.low for _, bins in curves for b in bins)
    high = max(b.high for _, bins in curves for b in bins)
    across = _Scale.of(first, last, LEFT, WIDTH - RIGHT)
    up = _Scale.of(0 if from_zero else low, high, HEIGHT - BOTTOM, TOP, log=log, padded=True)
    parts = [_axes(across, up)]
    for index, (_, bins) in enumerate(curves):
        parts.append(_curve(index, bins, across, up, dots=dots))
    parts.append(_hover(curves, across, unit))
    legend = "".join(
        f'<span><i class="c{index % COLORS}"></i>{html.escape(name)}'
        f" <b>{short(points[-1][1])}{unit}</b></span>"
        for index, (name, points) in enumerate(kept)
    )
    label = f"{title} over steps {short(first)} to {short(last)}; last: " + ", ".join(
        f"{name} {short(points[-1][1])}{unit}" for name, points in kept
    )
    return (
        f'<figure class="chart"><figcaption><h3>{html.escape(title)}</h3>'
        f'<p class="legend">{legend}</p></figcaption>'
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{html.escape(label)}">'
        f"{''.join(parts)}</svg></figure>"
    )


def binned(points: Sequence[Point], first: float, last: float, count: int) -> list[Bin]:
    """The points between `first` and `last` in at most `count` stretches of equal length."""
    groups: dict[int, list[Point]] = {}
    span = max(last - first, 1e-12)
    for point in points:
        index = min(int((point[0] - first) / span * count), count - 1)
        groups.setdefault(index, []).append(point)
    return [
        Bin(
            first=group[0][0],
            last=group[-1][0],
            mean=sum(y for _, y in group) / len(group),
            low=min(y for _, y in group),
            high=max(y for _, y in group),
        )
        for _, group in sorted(groups.items())
    ]


def sparkline(values: Sequence[float]) -> str:
    """The course of a figure without axes; "" for less than two values."""
    if len(values) < 2:
        return ""
    low, high = min(values), max(values)
    span = max(high - low, 1e-9)
    points = [
        f"{2 + 96 * i / (len(values) - 1):.1f},{22 - 18 * (value - low) / span:.1f}"
        for i, value in enumerate(values)
    ]
    x, y = points[-1].split(",")
    return (
        '<svg class="spark" viewBox="0 0 100 24" aria-hidden="true">'
        f'<polyline class="line c0" points="{" ".join(points)}"/>'
        f'<circle class="dot c0" cx="{x}" cy="{y}" r="2"/></svg>'
    )


def histogram(counts: Sequence[int], title: str) -> str:
    """How many images have a score in each of the equal parts of 0 to 100."""
    most, width, height = max(*counts, 1), 440, 110
    step = (width - LEFT - RIGHT) / len(counts)
    share = 100 / len(counts)
    bars = []
    for index, count in enumerate(counts):
        tall = (height - TOP - BOTTOM) * count / most
        bars.append(
            f'<rect class="bar" x="{LEFT + index * step + 1:.1f}" y="{height - BOTTOM - tall:.1f}"'
            f' width="{step - 2:.1f}" height="{tall:.1f}" rx="1.5"><title>'
            f"{index * share:.0f} to {(index + 1) * share:.0f}: {count} images</title></rect>"
        )
    base = height - BOTTOM
    ticks = "".join(
        f'<text x="{LEFT + (width - LEFT - RIGHT) * tick / 100:.1f}" y="{base + 16}"'
        f' text-anchor="middle">{tick}</text>'
        for tick in (0, 25, 50, 75, 100)
    )
    return (
        f'<figure class="chart small"><figcaption><h3>{html.escape(title)}</h3></figcaption>'
        f'<svg viewBox="0 0 {width} {height}" role="img" aria-label="{html.escape(title)}">'
        f'<line class="axis" x1="{LEFT}" x2="{width - RIGHT}" y1="{base}" y2="{base}"/>'
        f'<text x="{LEFT - 6}" y="{TOP + 8}" text-anchor="end">{most}</text>'
        f"{''.join(bars)}{ticks}</svg></figure>"
    )


def heat_map(
    counts: Int64[np.ndarray, "R C"], rows: Sequence[str], columns: Sequence[str], unit: str
) -> str:
    """A confusion matrix, truth down and prediction across; colour is the share of the row.

    A cell whose row and column have one name is right, any other is wrong.
    """
    cell = 34 if len(columns) <= 14 else 24
    left = 16 + 7 * min(24, max(len(name) for name in rows))
    top = 12 + 5 * min(24, max(len(name) for name in columns))
    width, height = left + cell * len(columns) + 60, top + cell * len(rows) + 6
    parts = []
    for index, name in enumerate(columns):
        x, y = left + cell * (index + 0.5) + 4, top - 7
        parts.append(
            f'<text transform="translate({x:.0f} {y}) rotate(-45)">{html.escape(_cut(name))}</text>'
        )
    for row, name in enumerate(rows):
        y = top + cell * row
        total = int(counts[row].sum())
        parts.append(
            f'<text x="{left - 8}" y="{y + cell / 2 + 4:.0f}" text-anchor="end">'
            f"{html.escape(_cut(name))}</text>"
        )
        for column, other in enumerate(columns):
            count = int(counts[row, column])
            share = count / total if total else 0.0
            kind = "right" if other == name else "wrong"
            x = left + cell * column
            said = html.escape(f"{name} as {other}: {100 * share:.1f} %, {count:,} {unit}")
            # The square root, so that a confusion of one in a hundred can be seen.
            parts.append(
                f'<rect class="cell" x="{x + 1}" y="{y + 1}" width="{cell - 2}"'
                f' height="{cell - 2}" rx="3"/><rect class="{kind}" x="{x + 1}" y="{y + 1}"'
                f' width="{cell - 2}" height="{cell - 2}" rx="3"'
                f' fill-opacity="{math.sqrt(share):.2f}"><title>{said}</title></rect>'
            )
            if cell > 30 and share >= 0.01:
                tone = " over" if share > 0.3 else ""
                parts.append(
                    f'<text class="number{tone}" x="{x + cell / 2:.0f}" y="{y + cell / 2 + 4:.0f}"'
                    f' text-anchor="middle">{100 * share:.0f}</text>'
                )
    return (
        f'<svg class="heat" width="{width}" height="{height}" viewBox="0 0 {width} {height}"'
        f' role="img" aria-label="confusion matrix, truth in rows, prediction in columns">'
        f"{''.join(parts)}</svg>"
    )


def short(value: float) -> str:
    """A number in about three digits: 0.000123 as 1.2e-4, 1234 as 1,234, 1234567 as 1.23M."""
    size = abs(value)
    if size >= 1e6:
        return f"{value / 1e6:.3g}M"
    if size >= 1e3:
        return f"{value:,.0f}"
    if size and size < 1e-3:
        mantissa, exponent = f"{value:.1e}".split("e")
        return f"{mantissa.removesuffix('.0')}e{int(exponent)}"
    return f"{value:.3g}"


def _cut(name: str) -> str:
    return name if len(name) <= 24 else name[:23] + "…"


def _drawable(y: float, log: bool) -> bool:
    return math.isfinite(y) and (y > 0 or not log)


# --- parts of a line chart ----------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class _Scale:
    """From values to places of the picture, with the values that the axis names."""

    low: float
    high: float
    start: float
    end: float
    log: bool
    ticks: tuple[float, ...]

    @staticmethod
    def of(
        low: float,
        high: float,
        start: float,
        end: float,
        *,
        log: bool = False,
        padded: bool = False,
    ) -> _Scale:
        if log:
            if low == high:
                low, high = low / 2, high * 2
            low, high = low / 1.1, high * 1.1
            ticks = _log_ticks(low, high)
        else:
            if low == high:
                low, high = low - abs(low) / 2, high + (abs(high) or 1) / 2
            step = _tick_step((high - low) / 4)
            if padded:
                low, high = (
                    math.floor(low / step + 1e-9) * step,
                    math.ceil(high / step - 1e-9) * step,
                )
            begin = math.ceil(low / step - 1e-9)
            ticks = [i * step for i in range(begin, math.floor(high / step + 1e-9) + 1)]
        return _Scale(low=low, high=high, start=start, end=end, log=log, ticks=tuple(ticks))

    def __call__(self, value: float) -> float:
        if self.log:
            share = math.log(value / self.low) / math.log(self.high / self.low)
        else:
            share = (value - self.low) / (self.high - self.low)
        return self.start + share * (self.end - self.start)


def _tick_step(least: float) -> float:
    """The next of 1, 2, 5, 10, 20 ..."""
    power = 10.0 ** math.floor(math.log10(least))
    return next(f * power for f in (1, 2, 5, 10) if f * power >= least * (1 - 1e-9))


def _log_ticks(low: float, high: float) -> list[float]:
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    for factors in ((1,), (1, 3), (1, 2, 5), tuple(range(1, 10))):
        ticks = [f * 10.0**d for d in decades for f in factors if low <= f * 10.0**d <= high]
        if len(ticks) >= 3:
            return ticks[:: math.ceil(len(ticks) / 7)]
    return [low, high]


def _axes(across: _Scale, up: _Scale) -> str:
    parts = []
    for tick in up.ticks:
        y = up(tick)
        parts.append(
            f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>'
            f'<text x="{LEFT - 7}" y="{y + 4:.1f}" text-anchor="end">{short(tick)}</text>'
        )
    base = HEIGHT - BOTTOM
    parts.append(f'<line class="axis" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{base}" y2="{base}"/>')
    for tick in across.ticks:
        # The outermost would be cut off at the picture's edge.
        anchor = "end" if across(tick) > WIDTH - RIGHT - 14 else "middle"
        parts.append(
            f'<text x="{across(tick):.1f}" y="{base + 18}" text-anchor="{anchor}">'
            f"{short(tick)}</text>"
        )
    return "".join(parts)


def _curve(index: int, bins: Sequence[Bin], across: _Scale, up: _Scale, *, dots: bool) -> str:
    color = f"c{index % COLORS}"
    places = [(across(b.x), up(b.mean)) for b in bins]
    parts = []
    if any(b.high > b.low for b in bins):
        edge = [f"{across(b.x):.1f},{up(b.high):.1f}" for b in bins]
        edge += [f"{across(b.x):.1f},{up(b.low):.1f}" for b in reversed(bins)]
        parts.append(f'<polygon class="band {color}" points="{" ".join(edge)}"/>')
    line = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
    parts.append(f'<polyline class="line {color}" points="{line}"/>')
    if dots or len(bins) == 1:
        parts += [
            f'<circle class="dot {color}" cx="{x:.1f}" cy="{y:.1f}" r="3"/>' for x, y in places
        ]
    return "".join(parts)


def _hover(curves: Sequence[tuple[str, Sequence[Bin]]], across: _Scale, unit: str) -> str:
    """Columns over the whole height that name the values under the pointer."""
    columns: dict[tuple[float, float], list[str]] = {}
    for name, bins in curves:
        for b in bins:
            ranged = f" ({short(b.low)} to {short(b.high)})" if b.high > b.low else ""
            text = f"{name} {short(b.mean)}{unit}{ranged}"
            columns.setdefault((b.first, b.last), []).append(text)
    ordered = sorted(columns)
    centres = [across((first + last) / 2) for first, last in ordered]
    edges = [(a + b) / 2 for a, b in pairwise(centres)]
    edges = [LEFT, *edges, WIDTH - RIGHT]
    parts = []
    for (first, last), start, end in zip(ordered, edges, edges[1:], strict=False):
        steps = f"step {first:,.0f}" if first == last else f"steps {first:,.0f} to {last:,.0f}"
        said = html.escape("\n".join([steps, *columns[first, last]]))
        parts.append(
            f'<rect class="hover" x="{start:.1f}" y="{TOP}" width="{max(end - start, 0.1):.1f}"'
            f' height="{HEIGHT - TOP - BOTTOM}"><title>{said}</title></rect>'
        )
    return "".join(parts)
