"""Plots of pages as SVG inside them: texts are texts, lines and letters take the colours of the page, light or dark."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from markupsafe import Markup, escape

from densebench.pages.axes import nice_step

WIDTH, HEIGHT = 640, 380  # px
LEFT, TOP, BOTTOM = 56, 14, 46  # px around the axes
LETTERS, LETTER = 12, 6.6  # px: the size of letters, and how wide one is at most on average
LINE = 15  # px between two names
LONGEST = 34  # letters of a name at most
COLOURS = ("#0a78c2", "#d55e00", "#00916a", "#b8589a", "#7d6bd6", "#96710c", "#d23f4d", "#4f8a10", "#16909e", "#7a7f88")
"""Colours of lines: 3 : 1 or more on white and on the dark paper of pages."""
DASHES = ("", "7 3", "2 3", "9 3 2 3")
SIZE = "min-width: 34rem; max-width: 100%; height: auto"
INK, MUTED, GRID = "currentColor", "var(--muted, currentColor)", "var(--line, #8886)"


@dataclass(frozen=True)
class Line:
    """A curve: its points upwards in x, and of each the ends of a band, or of a bar where it has none; NaN for neither."""

    name: str
    x: Sequence[float]
    y: Sequence[float]
    low: Sequence[float]
    high: Sequence[float]
    banded: bool


@dataclass(frozen=True)
class Spot:
    """A point with its interval (NaN for none); front: whether it is on the Pareto front."""

    name: str
    x: float
    y: float
    low: float
    high: float
    front: bool = False


class _Scale:
    """An axis: from values to px, linear or by factors, with its ticks."""

    def __init__(self, values: Iterable[float], start: float, end: float, *, factors: bool = False) -> None:
        finite = [value for value in values if math.isfinite(value)]
        self.put: Callable[[float], float] = math.log10 if factors else float
        low, high = min(map(self.put, finite)), max(map(self.put, finite))
        room = 0.06 * (high - low) or 0.5
        self.factors, self.low, self.high, self.start, self.end = factors, low - room, high + room, start, end

    def __call__(self, value: float) -> float:
        return self.start + (self.put(value) - self.low) / (self.high - self.low) * (self.end - self.start)

    def ticks(self) -> list[float]:
        """Return round values: steps of 1, 2 or 5 times a power of ten, or those numbers themselves where it goes by factors."""
        if self.factors:
            decades = range(math.floor(self.low), math.ceil(self.high) + 1)
            steps = (1, 2, 5) if self.high - self.low < 2.5 else (1,)
            found = [step * 10.0**decade for decade in decades for step in steps]
            return [value for value in found if self.low <= math.log10(value) <= self.high]
        step = nice_step((self.high - self.low) / 5)
        first, last = math.ceil(self.low / step), math.floor(self.high / step)
        return [round(index * step, 10) for index in range(first, last + 1)]


def curves(
    lines: Sequence[Line], along: str, up: str, description: str, ticks: Sequence[tuple[float, str]], *, factors: bool
) -> Markup:
    """Return curves with their names at their ends. ticks: names on the horizontal axis. description: for screen readers."""
    margin = 22 + LETTER * max(len(_short(line.name)) for line in lines)
    right = WIDTH - margin
    x = _Scale([value for line in lines for value in line.x], LEFT, right, factors=factors)
    y = _Scale([v for line in lines for v in (*line.y, *line.low, *line.high)], HEIGHT - BOTTOM, TOP)
    parts = [_frame(x, y, along, up, right, ticks)]
    heights = _spread([y(line.y[-1]) for line in lines])
    for index, (line, height) in enumerate(zip(lines, heights, strict=True)):
        colour = COLOURS[index % len(COLOURS)]
        parts.append(_errors(line, x, y, colour))
        points = " ".join(f"{x(a):.1f},{y(b):.1f}" for a, b in zip(line.x, line.y, strict=True))
        dash = _attributes(stroke_dasharray=DASHES[index % len(DASHES)]) if DASHES[index % len(DASHES)] else ""
        parts.append(f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="2"{dash}/>')
        parts += [_dot(x(a), y(b), colour, f"{line.name}: {b:.4g}") for a, b in zip(line.x, line.y, strict=True)]
        end = (x(line.x[-1]), y(line.y[-1]))
        lead = f"M{end[0] + 5:.1f} {end[1]:.1f}L{right + 8:.1f} {height:.1f}"
        parts.append(f'<path d="{lead}" stroke="{colour}" stroke-width="1" fill="none"/>')
        parts.append(_text(right + 12, height + 4, line.name, full=True))
    return _svg(parts, description)


def scatter(spots: Sequence[Spot], along: str, up: str, description: str, *, factors: bool) -> tuple[Markup, int]:
    """Return points with their intervals and, where there is room, their names; and how many names had no room.

    Points on the front are filled, and a broken line joins them. Hovering over a point shows its name.
    """
    right = WIDTH - 16
    x = _Scale([spot.x for spot in spots], LEFT, right, factors=factors)
    y = _Scale([value for spot in spots for value in (spot.y, spot.low, spot.high)], HEIGHT - BOTTOM, TOP)
    parts = [_frame(x, y, along, up, right, [(tick, f"{tick:,g}") for tick in x.ticks()])]
    front = sorted((spot for spot in spots if spot.front), key=lambda spot: spot.x)
    points = " ".join(f"{x(spot.x):.1f},{y(spot.y):.1f}" for spot in front)
    accent = "var(--accent, #0a78c2)"
    parts.append(f'<polyline points="{points}" fill="none" style="stroke: {accent}" stroke-width="1.5" stroke-dasharray="5 4"/>')
    taken = [(x(spot.x) - 6, y(spot.y) - 6, x(spot.x) + 6, y(spot.y) + 6) for spot in spots]
    unnamed = 0
    for spot in sorted(spots, key=lambda spot: not spot.front):
        at, height = x(spot.x), y(spot.y)
        if math.isfinite(spot.low):
            bar = f'x1="{at:.1f}" x2="{at:.1f}" y1="{y(spot.low):.1f}" y2="{y(spot.high):.1f}"'
            parts.append(f'<line {bar} style="stroke: {accent if spot.front else MUTED}" stroke-width="1.5"/>')
        fill = accent if spot.front else "var(--paper, #fff)"
        ring = accent if spot.front else MUTED
        told = f"{spot.name}: {spot.y:.4g} at {spot.x:,.4g}"
        parts.append(_dot(at, height, fill, told, ring))
        if place := _room(at, height, spot.name, taken, right):
            taken.append(place)
            parts.append(_text(place[0], place[3] - 3, spot.name, full=True))
        else:
            unnamed += 1
    return _svg(parts, description), unnamed


def _room(
    x: float, y: float, name: str, taken: Sequence[tuple[float, ...]], right: float
) -> tuple[float, float, float, float] | None:
    """Return the box of a name beside a point that covers nothing that is taken: left, top, right, bottom; None for none."""
    width = LETTER * len(_short(name))
    for left, top in ((x + 9, y - 8), (x - 9 - width, y - 8), (x - width / 2, y - 24), (x - width / 2, y + 9), (x + 6, y - 22)):
        box = (left, top, left + width, top + LINE)
        inside = left >= LEFT and box[2] <= right and top >= 0 and box[3] <= HEIGHT - BOTTOM
        if inside and not any(a < box[2] and box[0] < c and b < box[3] and box[1] < d for a, b, c, d in taken):
            return box
    return None


def _errors(line: Line, x: _Scale, y: _Scale, colour: str) -> str:
    """Return the band or the bars of a line."""
    known = [each for each in zip(line.x, line.low, line.high, strict=True) if all(map(math.isfinite, each))]
    if line.banded:
        ends = [*((a, high) for a, _, high in known), *((a, low) for a, low, _ in reversed(known))]
        points = " ".join(f"{x(a):.1f},{y(b):.1f}" for a, b in ends)
        return f'<polygon points="{points}" fill="{colour}" fill-opacity="0.15"/>'
    bars = (f"M{x(a):.1f} {y(low):.1f}V{y(high):.1f}" for a, low, high in known if low < high)
    return f'<path d="{"".join(bars)}" stroke="{colour}" stroke-width="1.5" fill="none"/>'


def _spread(heights: Sequence[float]) -> list[float]:
    """Return heights in px that are LINE apart at least, in the same order, as near to the given ones as that allows."""
    order = sorted(range(len(heights)), key=lambda index: heights[index])
    result = list(heights)
    for before, index in pairwise(order):
        result[index] = max(result[index], result[before] + LINE)
    over = max(0.0, max(result) - (HEIGHT - BOTTOM))
    result[order[-1]] -= over
    for index, after in zip(order[-2::-1], order[:0:-1], strict=True):
        result[index] = min(result[index], result[after] - LINE)
    return result


def _frame(x: _Scale, y: _Scale, along: str, up: str, right: float, ticks: Sequence[tuple[float, str]]) -> str:
    """Return the axes, with a line across at each tick of the vertical one."""
    floor = HEIGHT - BOTTOM
    parts = []
    for tick in y.ticks():
        parts.append(f'<line x1="{LEFT}" x2="{right:.1f}" y1="{y(tick):.1f}" y2="{y(tick):.1f}" style="stroke: {GRID}"/>')
        parts.append(_text(LEFT - 8, y(tick) + 4, f"{tick:g}", anchor="end", colour=MUTED))
    for value, name in ticks:
        parts.append(f'<line x1="{x(value):.1f}" x2="{x(value):.1f}" y1="{floor}" y2="{floor + 5}" style="stroke: {MUTED}"/>')
        parts.append(_text(x(value), floor + 19, name, anchor="middle", colour=MUTED))
    parts.append(f'<line x1="{LEFT}" x2="{right:.1f}" y1="{floor}" y2="{floor}" style="stroke: {MUTED}"/>')
    parts.append(_text((LEFT + right) / 2, HEIGHT - 8, along, anchor="middle"))
    middle = (TOP + floor) / 2
    parts.append(_text(14, middle, up, anchor="middle", transform=f"rotate(-90 14 {middle:.0f})"))
    return "".join(parts)


def _dot(x: float, y: float, fill: str, told: str, ring: str = "none") -> str:
    style = f"fill: {fill}; stroke: {ring}"
    return f'<circle cx="{x:.1f}" cy="{y:.1f}" r="4" stroke-width="1.5" style="{style}"><title>{escape(told)}</title></circle>'


def _text(x: float, y: float, text: str, *, anchor: str = "start", colour: str = INK, full: bool = False, **more: Any) -> str:
    """Return a text; with `full`, a long one is cut, and hovering over it shows all of it."""
    shown = _short(text) if full else text
    title = f"<title>{escape(text)}</title>" if shown != text else ""
    place = _attributes(x=f"{x:.1f}", y=f"{y:.1f}", text_anchor=anchor, style=f"fill: {colour}", **more)
    return f"<text{place}>{title}{escape(shown)}</text>"


def _short(name: str) -> str:
    """Return a name that fits: names that begin alike often differ at their ends, so the middle goes."""
    return name if len(name) <= LONGEST else f"{name[: LONGEST // 2 - 3]}...{name[-LONGEST // 2 :]}"


def _attributes(**values: str) -> str:
    return "".join(f' {name.replace("_", "-")}="{escape(value)}"' for name, value in values.items())


def _svg(parts: Sequence[str], description: str) -> Markup:
    """Return the plot in a box that scrolls where the screen is narrower than letters can be read."""
    head = _attributes(viewBox=f"0 0 {WIDTH} {HEIGHT}", width=str(WIDTH), role="img", aria_label=description)
    svg = f'<svg xmlns="http://www.w3.org/2000/svg"{head} font-size="{LETTERS}" style="{SIZE}">{"".join(parts)}</svg>'
    box = _attributes(**{"class": "scroll", "tabindex": "0", "role": "group"}, aria_label="Plot")
    return Markup(f"<div{box}>{svg}</div>")
