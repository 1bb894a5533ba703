from __future__ import annotations

import math
import re
from xml.etree import ElementTree

import numpy as np
import pytest
from scipy.stats import binned_statistic

from mask2former.training.charts import (
    BINS,
    Series,
    binned,
    heat_map,
    histogram,
    line_chart,
    short,
    sparkline,
)


def svg_of(text: str) -> ElementTree.Element:
    """The chart's picture; it must be well-formed XML."""
    return ElementTree.fromstring(re.search(r"<svg.*</svg>", text, re.DOTALL)[0])  # type: ignore[index]


def points_of(svg: ElementTree.Element, kind: str) -> list[list[tuple[float, float]]]:
    lines = [e for e in svg.iter() if e.get("class", "").startswith(kind) and e.get("points")]
    return [
        [tuple(map(float, pair.split(","))) for pair in line.attrib["points"].split()]  # type: ignore[misc]
        for line in lines
    ]


def test_a_line_is_where_its_values_are() -> None:
    """Between the grid's lines, which stand at the values that the axis names."""
    svg = svg_of(line_chart("loss", [Series(name="a", points=[(0, 0.0), (50, 3.0), (100, 1.0)])]))
    (line,) = points_of(svg, "line")
    grid = [float(e.attrib["y1"]) for e in svg.iter() if e.get("class") == "grid"]
    named = [float(e.text or "") for e in svg.iter() if e.get("text-anchor") == "end"][: len(grid)]
    assert named == [0, 1, 2, 3]
    place = np.interp([0.0, 3.0, 1.0], named, grid)
    np.testing.assert_allclose([y for _, y in line], place, atol=0.1)
    xs = [x for x, _ in line]
    assert xs[1] - xs[0] == pytest.approx(xs[2] - xs[1], abs=0.1)


def test_a_logarithm_gives_equal_factors_equal_lengths() -> None:
    series = [Series(name="a", points=[(0, 0.01), (1, 1.0), (2, 100.0), (3, 0.0)])]
    (line,) = points_of(svg_of(line_chart("norm", series, log=True)), "line")
    assert len(line) == 3  # zero has no logarithm
    assert line[0][1] - line[1][1] == pytest.approx(line[1][1] - line[2][1], abs=0.2)
    assert line[2][1] < line[0][1]


def test_a_long_curve_is_drawn_as_means_and_ranges() -> None:
    points = [(step, math.sin(step / 100) + 0.1 * (step % 2)) for step in range(10_000)]
    bins = binned(points, 0, 9_999, BINS)
    assert len(bins) == BINS
    means, _, _ = binned_statistic(*zip(*points, strict=True), bins=BINS)
    np.testing.assert_allclose([b.mean for b in bins], means)
    assert all(b.low < b.mean < b.high for b in bins)
    text = line_chart("loss", [Series(name="a", points=points)])
    assert len(text) < 60_000
    svg = svg_of(text)
    assert len(points_of(svg, "band")[0]) == 2 * BINS
    titles = [e.text or "" for e in svg.iter("title")]
    assert len(titles) == BINS
    assert titles[0].startswith("steps 0 to 62\na ")


def test_what_is_not_finite_is_left_out() -> None:
    series = [
        Series(name="a", points=[(0, 1.0), (1, math.nan), (2, math.inf), (3, 2.0)]),
        Series(name="b", points=[(0, math.nan)]),
    ]
    text = line_chart("loss", series)
    assert len(points_of(svg_of(text), "line")) == 1
    assert "nan" not in text
    assert line_chart("loss", series[1:]) == ""


@pytest.mark.parametrize("log", [True, False])
@pytest.mark.parametrize("value", [1e-9, 0.5, 7.0, 1e6])
def test_one_value_is_a_dot(value: float, log: bool) -> None:
    svg = svg_of(line_chart("PQ", [Series(name="a", points=[(200, value)])], log=log))
    (dot,) = (e for e in svg.iter() if e.get("class", "").startswith("dot"))
    assert 50 <= float(dot.attrib["cx"]) <= 430
    assert 10 <= float(dot.attrib["cy"]) <= 200


def test_names_are_escaped() -> None:
    text = line_chart("<t>", [Series(name="<b>&", points=[(0, 1.0)])])
    assert "<b>&" not in text
    svg = svg_of(text)
    assert [e.text for e in svg.iter("title")] == ["step 0\n<b>& 1"]
    assert "<t> over steps" in svg.attrib["aria-label"]


def test_a_heat_map_tells_every_share() -> None:
    counts = np.array([[3, 1], [0, 4], [2, 0]])
    svg = svg_of(heat_map(counts, ["<cat>", "dog", "invented"], ["<cat>", "dog"], "objects"))
    titles = [e.text for e in svg.iter("title")]
    assert titles == [
        "<cat> as <cat>: 75.0 %, 3 objects",
        "<cat> as dog: 25.0 %, 1 objects",
        "dog as <cat>: 0.0 %, 0 objects",
        "dog as dog: 100.0 %, 4 objects",
        "invented as <cat>: 100.0 %, 2 objects",
        "invented as dog: 0.0 %, 0 objects",
    ]
    kinds = [e.get("class") for e in svg.iter("rect") if e.get("class") != "cell"]
    assert kinds == ["right", "wrong", "wrong", "right", "wrong", "wrong"]


def test_a_histogram_has_a_bar_for_every_part() -> None:
    svg = svg_of(histogram([0, 2, 4, 1], "scores"))
    bars = [float(e.attrib["height"]) for e in svg.iter("rect")]
    assert bars[1] == pytest.approx(bars[2] / 2, abs=0.1)
    assert bars[0] == 0
    assert [e.text for e in svg.iter("title")][2] == "50 to 75: 4 images"


def test_a_course_needs_two_values() -> None:
    assert sparkline([1.0]) == ""
    assert len(points_of(svg_of(sparkline([1.0, 3.0, 2.0])), "line")[0]) == 3


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0"),
        (0.1234, "0.123"),
        (17.26, "17.3"),
        (1234, "1,234"),
        (0.0006, "6e-4"),
        (0.000123, "1.2e-4"),
        (2_500_000, "2.5M"),
        (-3.5, "-3.5"),
    ],
)
def test_numbers_are_short(value: float, text: str) -> None:
    assert short(value) == text
