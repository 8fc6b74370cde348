"""Charts for pages, as inline SVG: lines or points, intervals, axes, and a legend; they follow the page's colours.

A template takes the style by `{% include "charts.css" %}` in its block `style`, and shows a chart by `{{ chart }}`. Series differ
by marker and dashes as well as by colour. The text of a chart stays as large as the page's where the chart is about as wide as it
was made for: put charts of the default size side by side; a wide one scrolls by itself where there is no room.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from markupsafe import Markup, escape

from densebench.pages.axes import Axis, fitting, number

COLOURS = (
    ("#0b62b0", "#6cb2f5"), ("#b8540a", "#f0a35c"), ("#0f7a4a", "#5fd09a"), ("#a8408f", "#e49ad0"),
    ("#0b7f96", "#5ccbe0"), ("#b3261e", "#f2918a"), ("#7d6608", "#d9c24a"), ("#5b6673", "#a9b4c0"),
)  # fmt: skip
"""Colours of series, on light and on dark paper: at least 4.5 to 1 against it, and told apart by people who are colour-blind."""
DASHES = ("", "7 3", "2 2", "9 3 2 3")
MARKERS = (
    "M-4,0a4,4 0 1,0 8,0a4,4 0 1,0 -8,0z", "M-3.6,-3.6h7.2v7.2h-7.2z", "M0,-4.8L4.5,3.4H-4.5z", "M0,-5L5,0L0,5L-5,0z",
    "M0,4.8L4.5,-3.4H-4.5z", "M-1.6,-4.8h3.2v3.2h3.2v3.2h-3.2v3.2h-3.2v-3.2h-3.2v-3.2h3.2z",
    "M0,-5.2L1.5,-1.6L5,-1.6L2.3,0.8L3.2,4.4L0,2.4L-3.2,4.4L-2.3,0.8L-5,-1.6L-1.5,-1.6z",
)  # fmt: skip
"""Outlines of markers around the origin: circle, square, triangle, diamond, triangle upside down, cross, star."""
MOST_MARKED = 40  # points of a line that are marked, one by one; of a longer line none is
NARROW = 500  # px; a wider chart scrolls on a telephone
LINE = 'fill="none" stroke="currentColor" stroke-width="1.8"'
LETTER = 6.6  # px, the usual width of a letter of 12 px


@dataclass(frozen=True)
class Series:
    """Points in order, and how they are drawn.

    y: a value that is not finite is a gap. low, high: ends of the interval of each point: a band along a line, else a bar.
    line: whether the points are joined. texts: a text beside each point. best: the index of a point with a ring around it.
    """

    name: str
    x: Sequence[float]
    y: Sequence[float]
    low: Sequence[float] = ()
    high: Sequence[float] = ()
    line: bool = True
    texts: Sequence[str] = ()
    best: int | None = None


def line_chart_svg(
    series: Sequence[Series],
    *,
    title: str,
    along: str,
    up: str = "",
    description: str = "",
    log_x: bool = False,
    log_y: bool = False,
    x_limits: tuple[float | None, float | None] = (None, None),
    y_limits: tuple[float | None, float | None] = (None, None),
    width: int = 440,
    height: int = 250,
) -> Markup:
    """Return a figure with its title, the chart, and a legend where there are several series.

    along, up: what the axes show, with the unit. description: what is seen, in a sentence, for people who do not see it; it is
    not shown. x_limits, y_limits: ends of the axes, None: as the values need. width, height: px of the chart's natural size.
    """
    drawn = [_finite(each, log_x, log_y) for each in series]
    y_range = fitting((value for each in drawn for value in (*each.y, *each.low, *each.high)), log=log_y, limits=y_limits)
    x_range = fitting((value for each in drawn for value in each.x), log=log_x, limits=x_limits, margin=0.02)
    vertical = Axis(*y_range, height - 40, -(height - 40 - 24), log_y)
    ticks = vertical.ticks(max(2, height // 50))
    left = 12 + LETTER * max((len(text) for _, text in ticks), default=1)
    horizontal = Axis(*x_range, left, width - left - 14, log_x)
    parts = [*_axes(horizontal, vertical, ticks, along, up, width, height)]
    for index, each in enumerate(drawn):
        parts += ["<g", _colour(index), ">", *_drawing(each, index, horizontal, vertical, (along, up)), "</g>"]
    if not any(len(each.x) for each in drawn):
        parts.append(f'<text x="{width / 2:.0f}" y="{height / 2:.0f}" text-anchor="middle" class="tick">nothing yet</text>')
    legend = _legend(drawn) if len(drawn) > 1 else ""
    about = f"<desc>{escape(description)}</desc>" if description else ""
    size = f"max-width:{1.35 * width:.0f}px" + (f";min-width:{0.8 * width:.0f}px" if width > NARROW else "")
    svg = (
        f'<svg viewBox="0 0 {width} {height}" style="{size}" role="img" fill="currentColor">'
        f"<title>{escape(title)}</title>{about}{''.join(parts)}</svg>"
    )
    if width > NARROW:
        svg = f'<div class="scroll" tabindex="0" role="region" aria-label="{escape(title)}">{svg}</div>'
    return Markup(f'<figure class="chart"><figcaption>{escape(title)}</figcaption>{svg}{legend}</figure>')


def _finite(series: Series, log_x: bool, log_y: bool) -> Series:
    """Return a series without the points that have no place along the axis; a value without a height becomes a gap."""

    def fits(value: float, log: bool) -> bool:
        return abs(value) < 1e150 and (value > 0 or not log)  # neither nan nor infinite, and differences are finite

    kept = [index for index, value in enumerate(series.x) if fits(value, log_x)]

    def values(of: Sequence[float]) -> list[float]:
        return [of[index] if fits(of[index], log_y) else math.nan for index in kept] if len(of) else []

    texts = [series.texts[index] for index in kept] if series.texts else ()
    best = kept.index(series.best) if series.best in kept else None
    x = [series.x[index] for index in kept]
    return Series(series.name, x, values(series.y), values(series.low), values(series.high), series.line, texts, best)


def _colour(index: int) -> str:
    light, dark = COLOURS[index % len(COLOURS)]
    return f' color="{light}" style="color:light-dark({light},{dark})"'


def _dashes(index: int) -> str:
    dashes = DASHES[index % len(DASHES)]
    return f' stroke-dasharray="{dashes}"' if dashes else ""


def _marker(index: int, x: float, y: float) -> str:
    return f'<path d="{MARKERS[index % len(MARKERS)]}" transform="translate({x:.1f},{y:.1f})"'


def _axes(
    horizontal: Axis, vertical: Axis, ticks: Sequence[tuple[float, str]], along: str, up: str, width: int, height: int
) -> Iterator[str]:
    """Yield the grid, the ticks and the names of the axes."""
    left, right, bottom = horizontal.start, horizontal.start + horizontal.length, vertical.start
    for value, text in ticks:
        y = vertical.at(value)
        yield f'<path class="grid" d="M{left:.1f},{y:.1f}H{right:.1f}"/>'
        yield f'<text class="tick" x="{left - 6:.1f}" y="{y + 4:.1f}" text-anchor="end">{text}</text>'
    for value, text in horizontal.ticks(max(2, width // 75)):
        x = horizontal.at(value)
        yield f'<path class="axis" d="M{x:.1f},{bottom:.1f}v4"/>'
        yield f'<text class="tick" x="{x:.1f}" y="{bottom + 17:.1f}" text-anchor="middle">{text}</text>'
    yield f'<path class="axis" d="M{left:.1f},{bottom:.1f}H{right:.1f}"/>'
    yield f'<text class="axis-name" x="{right:.1f}" y="{height - 6}" text-anchor="end">{escape(along)}</text>'
    if up:
        yield f'<text class="axis-name" x="2" y="13">{escape(up)}</text>'


def _drawing(series: Series, index: int, horizontal: Axis, vertical: Axis, names: tuple[str, str]) -> Iterator[str]:
    """Yield the band or the bars of a series, its line, its markers and their texts."""
    places = [
        (horizontal.at(x), vertical.at(y) if math.isfinite(y) else math.nan) for x, y in zip(series.x, series.y, strict=True)
    ]
    marked = not series.line or len(places) <= MOST_MARKED
    if series.low:
        ends = [(vertical.at(low), vertical.at(high)) for low, high in zip(series.low, series.high, strict=True)]
        yield from _intervals([(x, *end) for (x, _), end in zip(places, ends, strict=True)], series.line)
    if series.line:
        yield f'<path d="{_path(places, marked)}" {LINE} stroke-linejoin="round"{_dashes(index)}/>'
    for point, (x, y) in enumerate(places):
        if not math.isfinite(y) or not (marked or point == series.best):
            continue
        told = f"{series.name}: {names[0]} {number(series.x[point])}, {names[1]} {number(series.y[point])}"
        yield f"{_marker(index, x, y)}><title>{escape(told)}</title></path>"
        if point == series.best:
            yield f'<circle cx="{x:.1f}" cy="{y:.1f}" r="8" {LINE}/>'
        if series.texts:
            yield _beside(x, y, series.texts[point], horizontal)


def _path(places: Sequence[tuple[float, float]], marked: bool) -> str:
    """Return the path of a line with gaps. A point between two gaps is a dot, unless it has a marker."""
    words, pen = [], "M"
    for index, (x, y) in enumerate(places):
        if math.isfinite(y):
            words.append(f"{pen}{x:.1f},{y:.1f}")
            alone = pen == "M" and (index + 1 == len(places) or not math.isfinite(places[index + 1][1]))
            words += ["h.1"] if alone and not marked else []
        pen = "L" if math.isfinite(y) else "M"
    return "".join(words)


def _intervals(ends: Sequence[tuple[float, float, float]], band: bool) -> Iterator[str]:
    """Yield a band along a line, or a bar with two caps at each point."""
    known = [(x, low, high) for x, low, high in ends if math.isfinite(low) and math.isfinite(high)]
    if band and len(known) > 1:
        outline = [(x, high) for x, _, high in known] + [(x, low) for x, low, _ in reversed(known)]
        yield f'<path d="{_path(outline, True)}Z" opacity=".16"/>'
        return
    for x, low, high in known:
        bar = f"M{x:.1f},{low:.1f}V{high:.1f}M{x - 4:.1f},{low:.1f}h8M{x - 4:.1f},{high:.1f}h8"
        yield f'<path d="{bar}" fill="none" stroke="currentColor"/>'


def _beside(x: float, y: float, text: str, horizontal: Axis) -> str:
    """Return a text beside a point, on the side that has room for it."""
    leftward = x + 9 + LETTER * len(text) > horizontal.start + horizontal.length + 10
    at, anchor = (x - 9, "end") if leftward else (x + 9, "start")
    return f'<text class="halo" x="{at:.1f}" y="{y + 4:.1f}" text-anchor="{anchor}">{escape(text)}</text>'


def _legend(series: Sequence[Series]) -> str:
    """Return the names of the series, each with a piece of its line and its marker."""
    entries = []
    for index, each in enumerate(series):
        line = f'<path d="M1,7H27" {LINE}{_dashes(index)}/>' if each.line else ""
        marked = not each.line or len(each.x) <= MOST_MARKED
        marker = f"{_marker(index, 14, 7)}/>" if marked else ""
        sample = f'<svg viewBox="0 0 28 14" aria-hidden="true" fill="currentColor"{_colour(index)}>{line}{marker}</svg>'
        entries.append(f"<li>{sample}{escape(each.name)}</li>")
    return f'<ul class="legend">{"".join(entries)}</ul>'
