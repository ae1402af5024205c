"""Charts as inline SVG: lines with bands, and gaps with their intervals.

A chart is as wide as a phone screen, and the page places multiple charts side by side. The colours are variables of the
page's style sheet, so that charts adapt to light mode, dark mode and print. Each line is labelled with its name at its
end, so that readers do not have to rely on colours.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from xml.etree import ElementTree

from markupsafe import Markup

from .numbers import signed

Point = tuple[float, float]

WIDTH, HEIGHT = 360, 236
TOP, BOTTOM = 10, 36
ABOVE = 18  # space for the label of the vertical axis, if it has one
CHARACTER = 7.0  # estimated width of a character at 11 px, sufficient for bold names
MAX_NAME = 20  # maximum length of a name before it is truncated
LINE_HEIGHT = 14  # minimum distance of labels
ROW_HEIGHT, DOT = 22, 4.5
TONES = 6  # number of colours in the style sheet, in addition to the reference's, which is tone 0


@dataclass(frozen=True)
class Axis:
    """One axis of a chart.

    Attributes:
        label: name of the quantity, with its unit.
        ticks: tick values and their labels; by default, round numbers.
        logarithmic: whether the scale is logarithmic.
        limits: smallest and largest displayed value; by default, the range of the data, rounded outwards.
    """

    label: str
    ticks: Sequence[tuple[float, str]] | None = None
    logarithmic: bool = False
    limits: tuple[float, float] | None = None


@dataclass(frozen=True)
class Series:
    """One line of a chart.

    Attributes:
        name: label at the end of the line; empty if the chart has only one line.
        points: (x, y) pairs in increasing order of x.
        tone: number of the colour; 0 is the grey of the reference.
        band: (low, high) around each point.
        marked: whether the points are marked, for lines with few points.
    """

    name: str
    points: Sequence[Point]
    tone: int = 1
    band: Sequence[Point] | None = None
    marked: bool = False


@dataclass(frozen=True)
class Level:
    """A horizontal line, such as the chance level."""

    name: str
    value: float


@dataclass(frozen=True)
class Gap:
    """One row of `gap_chart`: a difference and its interval."""

    name: str
    value: float
    low: float | None
    high: float | None
    tone: int = 1
    group: str = ""


def round_ticks(low: float, high: float, count: int = 4) -> list[float]:
    """Return about ``count`` round numbers that span the range from ``low`` to ``high``."""
    if not low < high:
        room = abs(low) / 10 or 1.0
        low, high = low - room, high + room
    raw = (high - low) / count
    magnitude = 10 ** math.floor(math.log10(raw))
    step = next(factor * magnitude for factor in (1, 2, 5, 10) if factor * magnitude >= raw * 0.999)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [number * step for number in range(first, last + 1)]


def line_chart(title: str, series: Sequence[Series], x: Axis, y: Axis, levels: Sequence[Level] = ()) -> Markup:
    """Draw a line chart.

    Args:
        title: description for screen readers. The page displays its own title.
        series: lines, at least one of which has a point.
        x, y: axes.
        levels: horizontal lines.

    Raises:
        ValueError: there are no points, or a point is not finite.
    """
    points = [point for line in series for point in line.points]
    if not points or not all(math.isfinite(value) for point in points for value in point):
        raise ValueError(f"the chart {title!r} has no points, or contains values that are not finite")
    heights = [value for _, value in points] + [level.value for level in levels]
    heights += [value for line in series for pair in line.band or () for value in pair]
    named = [line for line in series if line.points and line.name]
    labels = [*(line.name for line in named), *(level.name for level in levels)]
    room = 10 + CHARACTER * max((len(_cut(label)) for label in labels), default=0)
    top = TOP + (ABOVE if y.label else 0)
    upwards = _Scale(y, heights, HEIGHT - BOTTOM, top)
    left = 10 + CHARACTER * max(len(text) for _, text in upwards.ticks)
    across = _Scale(x, [value for value, _ in points], left, WIDTH - room)

    svg = _svg(title, _summary(series), HEIGHT)
    _grid(svg, across, upwards, left, WIDTH - room)
    for level in levels:
        height = upwards(level.value)
        _add(svg, "line", class_="level", x1=left, x2=WIDTH - room, y1=height, y2=height)
    for line in series:
        _line(svg, line, across, upwards)
    ends = [(upwards(line.points[-1][1]), line.name, line.tone) for line in named]
    ends += [(upwards(level.value), level.name, -1) for level in levels]
    _labels(svg, ends, top, WIDTH - room)
    return _markup(svg)


def gap_chart(title: str, gaps: Sequence[Gap], axis: Axis) -> Markup:
    """Draw differences as dots with intervals, one per row, relative to a line at zero.

    A dot is filled if its interval excludes 0. Consecutive rows of one ``group`` share a heading with the group's name.

    Raises:
        ValueError: there are no rows.
    """
    if not gaps:
        raise ValueError(f"the chart {title!r} has no rows")
    ends = [value for gap in gaps for value in (gap.value, gap.low, gap.high) if value is not None]
    left = 12 + CHARACTER * max(len(_cut(gap.name)) for gap in gaps)
    right = WIDTH - 44
    low, high = axis.limits or (min(0.0, *ends), max(0.0, *ends))
    room = (high - low or 1.0) / 25
    across = _Scale(replace(axis, limits=(low - room, high + room)), [], left, right)
    heading = [bool(gap.group) and (n == 0 or gaps[n - 1].group != gap.group) for n, gap in enumerate(gaps)]
    height = 8 + ROW_HEIGHT * (len(gaps) + sum(heading)) + BOTTOM
    bottom = height - BOTTOM

    svg = _svg(title, "; ".join(_gap_in_words(gap) for gap in gaps), height)
    for value, text in across.ticks:
        place = across(value)
        _add(svg, "line", class_="grid" if value else "zero", x1=place, x2=place, y1=8, y2=bottom)
        _add(svg, "text", text, class_="tick", x=place, y=bottom + 14, text_anchor="middle")
    _add(svg, "text", axis.label, class_="axis", x=(left + right) / 2, y=height - 6, text_anchor="middle")
    row = 8 - ROW_HEIGHT / 2
    for gap, begins in zip(gaps, heading, strict=True):
        if begins:
            row += ROW_HEIGHT
            _add(svg, "text", gap.group, class_="group", x=4, y=row + 5)
        row += ROW_HEIGHT
        _add(svg, "text", _cut(gap.name), class_="label", x=left - 8, y=row + 4, text_anchor="end")
        mark = _add(svg, "g", class_=_tone(gap.tone))
        certain = gap.low is not None and gap.high is not None and not gap.low <= 0 <= gap.high
        if gap.low is not None and gap.high is not None:
            _add(mark, "line", class_="interval", x1=across(gap.low), x2=across(gap.high), y1=row, y2=row)
        dot = _add(mark, "circle", class_="dot" if certain else "dot open", cx=across(gap.value), cy=row, r=DOT)
        _add(dot, "title", _gap_in_words(gap))
        _add(svg, "text", signed(gap.value), class_="value", x=WIDTH - 2, y=row + 4, text_anchor="end")
    return _markup(svg)


class _Scale:
    """Maps values to pixels."""

    def __init__(self, axis: Axis, values: Sequence[float], start: float, end: float) -> None:
        self.axis, self.start, self.end = axis, start, end
        low, high = axis.limits or (min(values), max(values))
        if axis.ticks is None:
            found = round_ticks(low, high, 5)
            digits = max(0, -math.floor(math.log10(found[1] - found[0]) + 1e-9))
            self.ticks = [(value + 0.0, f"{value + 0.0:,.{digits}f}".replace("-", "−")) for value in found]
            if axis.limits is None:
                low, high = found[0], found[-1]
        else:
            self.ticks = list(axis.ticks)
        self.ticks = [(value, text) for value, text in self.ticks if low <= value <= high]
        self.low, self.high = self._along(low), self._along(high)
        if self.low == self.high:
            self.low, self.high = self.low - 1, self.high + 1

    def __call__(self, value: float) -> float:
        share = (self._along(value) - self.low) / (self.high - self.low)
        return self.start + share * (self.end - self.start)

    def _along(self, value: float) -> float:
        return math.log(value) if self.axis.logarithmic else value


def _grid(svg: ElementTree.Element, across: _Scale, upwards: _Scale, left: float, right: float) -> None:
    for value, text in upwards.ticks:
        height = upwards(value)
        _add(svg, "line", class_="grid", x1=left, x2=right, y1=height, y2=height)
        _add(svg, "text", text, class_="tick y", x=left - 6, y=height + 4, text_anchor="end")
    free = -math.inf  # end of the previous label, so that the labels of close ticks do not overlap
    for value, text in across.ticks:
        place, half = across(value), CHARACTER * len(text) / 2
        _add(svg, "line", class_="notch", x1=place, x2=place, y1=HEIGHT - BOTTOM, y2=HEIGHT - BOTTOM + 4)
        if place - half > free + 4:
            _add(svg, "text", text, class_="tick x", x=place, y=HEIGHT - BOTTOM + 16, text_anchor="middle")
            free = place + half
    _add(svg, "text", across.axis.label, class_="axis", x=(left + right) / 2, y=HEIGHT - 4, text_anchor="middle")
    if upwards.axis.label:
        _add(svg, "text", upwards.axis.label, class_="axis", x=2, y=12)


def _line(svg: ElementTree.Element, line: Series, across: _Scale, upwards: _Scale) -> None:
    group = _add(svg, "g", class_=_tone(line.tone))
    places = [across(x) for x, _ in line.points]
    if line.band:
        lows, highs = zip(*line.band, strict=True)
        there = [*zip(places, map(upwards, highs), strict=True)]
        back = [*zip(places, map(upwards, lows), strict=True)][::-1]
        _add(group, "path", class_="band", d=f"{_path([*there, *back])}Z")
    drawn = [(place, upwards(y)) for place, (_, y) in zip(places, line.points, strict=True)]
    _add(group, "path", class_="line", d=_path(drawn))
    if line.marked or len(drawn) == 1:
        for (place, height), (_, y) in zip(drawn, line.points, strict=True):
            dot = _add(group, "circle", class_="dot", cx=place, cy=height, r=3)
            _add(dot, "title", f"{line.name} {y:.4g}".strip())


def _labels(svg: ElementTree.Element, ends: Sequence[tuple[float, str, int]], top: float, right: float) -> None:
    """Write names next to the ends of lines, without overlaps. ``ends`` contains (height, name, tone) tuples."""
    places = spread([height for height, _, _ in ends], LINE_HEIGHT, top, HEIGHT - BOTTOM)
    for place, (_, name, tone) in zip(places, ends, strict=True):
        group = _add(svg, "g", class_=_tone(tone) if tone >= 0 else "chance")
        label = _add(group, "text", _cut(name), class_="end", x=right + 6, y=place + 4)
        if label.text != name:
            _add(label, "title", name)


def spread(heights: Sequence[float], room: float, low: float, high: float) -> list[float]:
    """Move ``heights`` as little as possible, so that they are ``room`` apart and between ``low`` and ``high``.

    The heights keep their order. If they do not fit, they are spaced evenly.
    """
    order = sorted(range(len(heights)), key=lambda n: heights[n])
    room = min(room, (high - low) / max(1, len(heights) - 1))
    # Labels that touch form a block, which is centred on the mean of their desired positions.
    blocks: list[list[int]] = []
    for n in order:
        blocks.append([n])
        while len(blocks) > 1 and _begin(blocks[-1], heights, room, low, high) < (
            _begin(blocks[-2], heights, room, low, high) + room * len(blocks[-2])
        ):
            last = blocks.pop()
            blocks[-1] += last
    places = [0.0] * len(heights)
    for block in blocks:
        begin = _begin(block, heights, room, low, high)
        for k, n in enumerate(block):
            places[n] = begin + k * room
    return places


def _begin(block: Sequence[int], heights: Sequence[float], room: float, low: float, high: float) -> float:
    """Return the position of the first label of a block."""
    wanted = sum(heights[n] - k * room for k, n in enumerate(block)) / len(block)
    return min(max(wanted, low), high - room * (len(block) - 1))


def _path(points: Sequence[Point]) -> str:
    return "M" + "L".join(f"{_number(x)} {_number(y)}" for x, y in points)


def _number(value: float) -> str:
    return f"{value:.1f}".removesuffix(".0")


def _cut(name: str) -> str:
    return name if len(name) <= MAX_NAME else f"{name[: MAX_NAME - 1]}…"


def _tone(tone: int) -> str:
    """Return the CSS classes of a tone. After the last colour, the colours repeat with dashed lines."""
    if tone <= TONES:
        return f"tone-{tone}"
    return f"tone-{(tone - 1) % TONES + 1} dashed"


def _summary(series: Sequence[Series]) -> str:
    drawn = [line for line in series if line.points]
    return "; ".join(f"{line.name} from {line.points[0][1]:.4g} to {line.points[-1][1]:.4g}".strip() for line in drawn)


def _gap_in_words(gap: Gap) -> str:
    name = f"{gap.group}, {gap.name}" if gap.group else gap.name
    between = "" if gap.low is None or gap.high is None else f", interval {signed(gap.low)} to {signed(gap.high)}"
    return f"{name}: {signed(gap.value)}{between}"


def _svg(title: str, description: str, height: float) -> ElementTree.Element:
    svg = ElementTree.Element("svg", {"class": "chart", "viewBox": f"0 0 {WIDTH} {_number(height)}", "role": "img"})
    svg.set("aria-label", title)
    _add(svg, "desc", description)
    return svg


def _add(
    parent: ElementTree.Element, tag: str, text: str | None = None, **attributes: str | float
) -> ElementTree.Element:
    named = {
        name.rstrip("_").replace("_", "-"): value if isinstance(value, str) else _number(value)
        for name, value in attributes.items()
    }
    child = ElementTree.SubElement(parent, tag, named)
    child.text = text
    return child


def _markup(svg: ElementTree.Element) -> Markup:
    """Return the chart as markup for the page. Serialisation has escaped all of its content."""
    return Markup(ElementTree.tostring(svg, encoding="unicode"))
