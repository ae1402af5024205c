"""Charts are read back from their SVG: what their ticks say must be where the values are drawn."""

import itertools
import math
import re
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mocodet.common.report.charts import Axis, Gap, Level, Series, gap_chart, line_chart, round_ticks, spread

PIXEL = 0.11  # coordinates are written with one digit


def parse(svg):
    return ElementTree.fromstring(svg)


def by_class(root, name):
    return [node for node in root.iter() if name in node.get("class", "").split()]


def reader(root, kind, place, transform=float):
    """Return what turns a pixel into a value, by the first and the last tick of a direction."""
    ticks = [
        (transform(node.text.rstrip(" %").replace("−", "-").replace(",", "")), node) for node in by_class(root, kind)
    ]
    offset = 4 if place == "y" else 0  # the baseline of a text is below its middle
    (low, first), (high, last) = ((value, float(node.get(place)) - offset) for value, node in (ticks[0], ticks[-1]))
    return lambda pixel: low + (pixel - first) * (high - low) / (last - first), abs((high - low) / (last - first))


def test_line_chart__points_and_band_lie_where_their_values_say():
    points, band = [(0, 3.0), (400, 12.5), (1000, 7.25)], [(2.0, 4.0), (10.5, 14.5), (7.0, 7.5)]
    other = Series("other", [(0, 1.0), (1000, -2.0)], tone=0)
    root = parse(line_chart("t", [Series("one", points, 2, band, marked=True), other], Axis("x"), Axis("y")))
    (across, pixel_x), (upwards, pixel_y) = reader(root, "x", "x"), reader(root, "y", "y")
    dots = by_class(root, "dot")
    assert [across(float(dot.get("cx"))) for dot in dots] == pytest.approx([x for x, _ in points], abs=PIXEL * pixel_x)
    assert [upwards(float(dot.get("cy"))) for dot in dots] == pytest.approx([y for _, y in points], abs=PIXEL * pixel_y)
    drawn = [[float(number) for number in re.findall(r"[\d.]+", node.get("d"))] for node in by_class(root, "band")]
    heights = [upwards(pixel) for pixel in drawn[0][1::2]]
    outline = [high for _, high in band] + [low for low, _ in band][::-1]
    assert heights == pytest.approx(outline, abs=PIXEL * pixel_y)
    lines = [node.get("d") for node in by_class(root, "line")]
    assert [line.count("L") for line in lines] == [2, 1]
    last = float(lines[1].split()[-1])
    assert upwards(last) == pytest.approx(-2.0, abs=PIXEL * pixel_y)
    assert [node.text for node in by_class(root, "end")] == ["one", "other"]


def test_line_chart__logarithmic():
    axis = Axis("labels", [(0.01, "1 %"), (0.1, "10 %"), (1.0, "100 %")], logarithmic=True)
    points = [(0.01, 1.0), (0.1, 2.0), (0.5, 3.0), (1.0, 4.0)]
    root = parse(line_chart("t", [Series("one", points, marked=True)], axis, Axis("y")))
    read, pixel = reader(root, "x", "x", lambda text: math.log10(float(text)))
    places = [read(float(dot.get("cx"))) for dot in by_class(root, "dot")]
    assert places == pytest.approx([math.log10(100 * x) for x, _ in points], abs=PIXEL * pixel)


def test_line_chart__level_and_limits():
    axis = Axis("x", limits=(0, 30))
    root = parse(line_chart("t", [Series("", [(10, 1.0), (30, 5.0)])], axis, Axis("y"), [Level("chance", 6.24)]))
    upwards, pixel = reader(root, "y", "y")
    (level,) = by_class(root, "level")
    assert upwards(float(level.get("y1"))) == pytest.approx(6.24, abs=PIXEL * pixel)
    assert level.get("y1") == level.get("y2")
    assert [node.text for node in by_class(root, "x")][::3] == ["0", "30"]
    assert [node.text for node in by_class(root, "end")] == ["chance"]


@pytest.mark.parametrize("points", [[], [(0, math.nan)]])
def test_line_chart__nothing_to_draw(points):
    with pytest.raises(ValueError, match=r"the chart 'AP' has no points, or contains values that are not finite"):
        line_chart("AP", [Series("one", points)], Axis("x"), Axis("y"))


def test_gap_chart__dots_and_intervals_lie_where_their_values_say():
    gaps = [
        Gap("moco", 2.5, 1.2, 3.7, 1, "AP50"),
        Gap("dense", -0.3, -1.5, 0.9, 2, "AP50"),
        Gap("moco", 1.0, None, None),
    ]
    root = parse(gap_chart("t", gaps, Axis("gap")))
    across, pixel = reader(root, "tick", "x")
    dots, intervals = by_class(root, "dot"), by_class(root, "interval")
    assert [across(float(dot.get("cx"))) for dot in dots] == pytest.approx([2.5, -0.3, 1.0], abs=PIXEL * pixel)
    ends = [(across(float(line.get("x1"))), across(float(line.get("x2")))) for line in intervals]
    assert ends == [pytest.approx(pair, abs=PIXEL * pixel) for pair in [(1.2, 3.7), (-1.5, 0.9)]]
    assert ["open" in dot.get("class") for dot in dots] == [False, True, True]  # filled: the interval excludes 0
    (zero,) = by_class(root, "zero")
    assert across(float(zero.get("x1"))) == pytest.approx(0, abs=PIXEL * pixel)
    assert [node.text for node in by_class(root, "value")] == ["+2.5", "−0.3", "+1.0"]
    assert [node.text for node in by_class(root, "group")] == ["AP50"]
    rows = [float(dot.get("cy")) for dot in dots]
    assert [float(line.get("y1")) for line in intervals] == rows[:2]
    with pytest.raises(ValueError, match="no rows"):
        gap_chart("t", [], Axis("gap"))


def test_charts__names_are_text_and_long_ones_are_cut():
    name, long = "<script>&\"'", "a very long name of an initialisation"
    svg = line_chart(name, [Series(name, [(0, 1), (1, 2)]), Series(long, [(0, 1), (1, 2)])], Axis(name), Axis(name))
    root = parse(svg)
    assert root.get("aria-label") == name
    texts = [node.text for node in by_class(root, "end")]
    assert texts == [name, "a very long name of…"]
    assert long in "".join(root.itertext())  # the whole name is in its title
    gaps = parse(gap_chart(name, [Gap(name, 1, 0, 2, group=name)], Axis(name)))
    assert name in [node.text for node in gaps.iter()]


@given(st.floats(-1e4, 1e4), st.floats(-1e4, 1e4))
def test_round_ticks__enclose_with_steps_of_one_two_or_five(one, other):
    low, high = sorted((one, other))
    ticks = round_ticks(low, high)
    steps = [after - before for before, after in itertools.pairwise(ticks)]
    room = 1e-6 * steps[0]
    assert ticks[0] <= low + room
    assert ticks[-1] >= high - room
    assert 2 <= len(ticks) <= 7
    digits = steps[0] / 10 ** math.floor(math.log10(steps[0]) + 1e-9)
    assert min(abs(digits - step) for step in (1, 2, 5)) < 1e-6
    assert steps == pytest.approx([steps[0]] * len(steps))


@given(st.lists(st.floats(0, 100), min_size=1, max_size=12))
def test_spread__keeps_order_room_and_range_and_moves_nothing_that_is_free(heights):
    room = min(14, 100 / max(1, len(heights) - 1))
    places = spread(heights, 14, 0, 100)
    order = sorted(range(len(heights)), key=lambda n: heights[n])
    moved = [places[n] for n in order]
    assert all(after - before >= room - 1e-6 for before, after in itertools.pairwise(moved))
    assert min(moved) >= -1e-6
    assert max(moved) <= 100 + 1e-6
    wanted = sorted(heights)
    if all(after - before >= 14 for before, after in itertools.pairwise(wanted)):
        assert moved == pytest.approx(wanted)
