"""Drawings of a recommendation as SVG inside a page: how far each is behind, quality against speed, learning curves."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from markupsafe import Markup, escape

from densebench.few_labels.comparison import Comparison
from densebench.few_labels.learning_curve import Curve

WIDE, NARROW = 860, 350
"""Widths of a drawing in px: for wide screens, and for narrow ones, where names stand above or below."""
LETTERS = 34  # of a name that are drawn; the tables have all of it
LINE = 15  # px between two names at least
LEFT, BOTTOM = 46, 280  # px of the axes
LIGHT = ("#0b5cad", "#9a4a00", "#176b3a", "#8a2a83", "#b3261e", "#4d5966", "#7a5c00", "#00697a")
DARK = ("#7db8f5", "#f0a860", "#7fd6a0", "#d9a0e0", "#f2938c", "#b4bfca", "#d9c46a", "#7fd0dd")
COLOURS = tuple({"light": light, "dark": dark} for light, dark in zip(LIGHT, DARK, strict=True))


@dataclass(frozen=True)
class Axis:
    """A scale from values to px, linear or logarithmic."""

    low: float
    high: float
    start: float
    end: float
    log: bool = False

    def __call__(self, value: float) -> float:
        """Return where a value lies, in px; beyond the ends at the ends."""
        low, high, at = (math.log(v) if self.log else v for v in (self.low, self.high, max(min(value, self.high), self.low)))
        return round(self.start + (self.end - self.start) * (at - low) / ((high - low) or 1), 1)


def ticks(low: float, high: float) -> list[float]:
    """Return four to nine round numbers between two values."""
    span = max(high - low, 1e-6)
    unit = 10 ** math.floor(math.log10(span))
    step = next(unit * part for part in (0.1, 0.2, 0.5, 1, 2) if span / (unit * part) <= 9)
    return [round(n * step, 6) for n in range(math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9) + 1)]


def behind(comparison: Comparison, width: int = WIDE) -> Markup:
    """Return a row for each backbone: how far it is behind the best, with the interval of the difference."""
    others = [each.behind for each in comparison.standings if each.behind is not None]
    left, step = (250, 30) if width >= WIDE else (14, 44)
    axis = Axis(min([0.0, *(each.low for each in others)]), max([1.0, *(each.high for each in others)]), left, width - 20)
    height, parts = step * len(comparison.standings) + 48, []
    for value in ticks(axis.low, axis.high):
        parts.append(f'<line class="axis" x1="{axis(value)}" x2="{axis(value)}" y1="4" y2="{height - 40}"/>')
        parts.append(_text(axis(value), height - 26, f"{value:g}", "middle"))
    parts.append(f'<line class="zero" x1="{axis(0)}" x2="{axis(0)}" y1="4" y2="{height - 40}"/>')
    for row, each in enumerate(comparison.standings):
        y = step * row + (20 if width >= WIDE else 32)
        kind = "best" if each.behind is None else "worse" if each.behind.separable else "near"
        low, value, high = (0.0, 0.0, 0.0) if each.behind is None else (each.behind.low, each.behind.value, each.behind.high)
        at = (left - 14, y + 4, "end") if width >= WIDE else (left, y - 12, "start")
        parts.append(_text(at[0], at[1], _short(each.backbone), at[2], each.backbone))
        bar = f'<line class="bar" x1="{axis(low)}" x2="{axis(high)}" y1="{y}" y2="{y}"/>' if each.behind is not None else ""
        parts.append(f'<g class="{kind}">{bar}<circle class="dot" cx="{axis(value)}" cy="{y}" r="5"/></g>')
    parts.append(_text((axis.start + axis.end) / 2, height - 6, "points of mIoU behind the best", "middle", kind="faint"))
    description = "; ".join(
        f"{each.backbone} {each.behind.value:.1f} ({each.behind.low:.1f} to {each.behind.high:.1f})"
        for each in comparison.standings
        if each.behind is not None
    )
    best = comparison.standings[0].backbone
    what = f"Points of mIoU behind {best}, the best, with 95 % intervals: {description or 'no other backbone'}"
    return _drawing(parts, width, height, what)


def against_speed(comparison: Comparison, speeds: Mapping[str, float], width: int = WIDE) -> Markup:
    """Return a point for each backbone: images a second, on a logarithmic axis, and mIoU with its interval."""
    rows = [each for each in comparison.standings if speeds.get(each.backbone)]
    known = [speeds[each.backbone] for each in rows]
    across = Axis(min(known) / 1.6, max(known) * 1.6, LEFT, width - 20, log=True)
    up = Axis(min(each.low for each in rows) - 1, max(each.high for each in rows) + 1, BOTTOM, 26)
    parts = [*_grid_up(up, width - 20), *_grid_across(across, _decades(across), "images a second")]
    labels = []
    for number, each in enumerate(rows):
        x, kind = across(speeds[each.backbone]), number % len(COLOURS)
        parts.append(f'<line class="line s{kind}" x1="{x}" x2="{x}" y1="{up(each.low)}" y2="{up(each.high)}"/>')
        parts.append(f'<circle class="f{kind}" cx="{x}" cy="{up(each.value)}" r="5"/>')
        labels.append((x, up(each.value), each.backbone))
    description = "; ".join(f"{each.backbone} {speeds[each.backbone]:.3g} images a second, {each.value:.1f}" for each in rows)
    return _named(parts, labels, width, f"mIoU against speed: {description}", 0.55 * width)


def learning_curves(curves: Mapping[str, Curve], order: Sequence[str], labelled: int, width: int = WIDE) -> Markup:
    """Return a line for each backbone over the number of training images, continued by a dashed law with its band.

    labelled: how many labelled images there are; what more would bring begins there.
    """
    shown = [(name, curves[name]) for name in order]
    sizes = sorted({size for _, curve in shown for size in curve.sizes})
    furthest = max([sizes[-1], *(labelled + forecast.more for _, curve in shown for forecast in curve.forecasts)])
    ends = [
        bound for _, curve in shown for bound in (*curve.values, *(_level(curve, labelled) + p.high for p in curve.forecasts))
    ]
    right = width - 260 if width >= WIDE else width - 20
    across = Axis(sizes[0], max(furthest, sizes[0] + 1), LEFT, right, log=True)
    up = Axis(min(ends) - 1, max(ends) + 1, BOTTOM, 26)
    at = [*sizes, *(times * labelled for times in (2, 3) if sizes[-1] < times * labelled <= furthest)]
    parts = [*_grid_up(up, right), *_grid_across(across, at, "training images")]
    labels = []
    for number, (name, curve) in enumerate(shown):
        kind = number % len(COLOURS)
        last = (across(curve.sizes[-1]), up(curve.values[-1]))
        if curve.law is not None and curve.forecasts:
            most = labelled + curve.forecasts[-1].more
            last = (across(most), up(float(curve.law.at(most))))
            parts += _forecast(curve, labelled, across, up, kind)
        places = [(across(size), up(value)) for size, value in zip(curve.sizes, curve.values, strict=True)]
        parts.append(f'<polyline class="line s{kind}" points="{" ".join(f"{x},{y}" for x, y in places)}"/>')
        parts += [f'<circle class="f{kind}" cx="{x}" cy="{y}" r="4"/>' for x, y in places]
        labels.append((*last, name))
    description = "; ".join(
        f"{name} {', '.join(f'{value:.1f} with {size}' for size, value in zip(curve.sizes, curve.values, strict=True))}"
        for name, curve in shown
    )
    return _named(parts, labels, width, f"mIoU by the number of training images: {description}", width)


def _level(curve: Curve, labelled: int) -> float:
    return float(curve.law.at(labelled)) if curve.law is not None else curve.values[-1]


def _forecast(curve: Curve, labelled: int, across: Axis, up: Axis, kind: int) -> list[str]:
    """Return the law from the last score on, dashed, and its band around what more labels would bring."""
    assert curve.law is not None
    level, most = _level(curve, labelled), labelled + curve.forecasts[-1].more
    xs = np.geomspace(curve.sizes[-1], most, 24).tolist()
    line = " ".join(f"{across(x)},{up(float(curve.law.at(x)))}" for x in xs)
    upper = [(labelled, level), *((labelled + p.more, level + p.high) for p in curve.forecasts)]
    lower = [(labelled + p.more, level + p.low) for p in reversed(curve.forecasts)]
    band = " ".join(f"{across(x)},{up(y)}" for x, y in [*upper, *lower])
    return [f'<polygon class="band f{kind}" points="{band}"/>', f'<polyline class="law s{kind}" points="{line}"/>']


def _grid_up(up: Axis, right: float) -> list[str]:
    lines = []
    for value in ticks(up.low, up.high):
        lines.append(f'<line class="axis" x1="{LEFT}" x2="{right}" y1="{up(value)}" y2="{up(value)}"/>')
        lines.append(_text(LEFT - 8, up(value) + 4, f"{value:g}", "end"))
    return [*lines, _text(4, 12, "mIoU, %", "start", kind="faint")]


def _grid_across(across: Axis, at: Iterable[float], title: str) -> list[str]:
    lines: list[str] = []
    last = -100.0
    for value in at:
        lines.append(f'<line class="axis" x1="{across(value)}" x2="{across(value)}" y1="{BOTTOM}" y2="{BOTTOM + 6}"/>')
        if across(value) - last > 24:
            lines.append(_text(across(value), BOTTOM + 20, f"{value:,.4g}", "middle"))
            last = across(value)
    return [*lines, _text((across.start + across.end) / 2, BOTTOM + 40, title, "middle", kind="faint")]


def _decades(axis: Axis) -> list[float]:
    """Return 1, 2 and 5 times powers of ten inside an axis, or powers of ten alone where these are many."""
    powers = range(math.floor(math.log10(axis.low)), math.ceil(math.log10(axis.high)) + 1)
    parts = (1, 2, 5) if len(powers) < 4 else (1,)
    return [value for power in powers for part in parts if axis.low <= (value := part * 10.0**power) <= axis.high]


def _named(parts: list[str], labels: Sequence[tuple[float, float, str]], width: int, description: str, turn: float) -> Markup:
    """Return a drawing whose points have their names beside them, or below it on a narrow screen.

    labels: x, y and name of each, in the order of their colours. turn: x from which on a name stands to the left of its point.
    """
    height = BOTTOM + 46
    if width < WIDE:
        for number, (_, _, name) in enumerate(labels):
            parts.append(f'<circle class="f{number % len(COLOURS)}" cx="{LEFT}" cy="{height + 14}" r="5"/>')
            parts.append(_text(LEFT + 12, height + 18, _short(name), "start", name))
            height += 22
        return _drawing(parts, width, height + 12, description)
    for is_right in (True, False):
        mine = sorted((y, x, name) for x, y, name in labels if (x < turn) == is_right)
        heights: list[float] = []
        for y, _, _ in mine:
            heights.append(max(y + 4, heights[-1] + LINE) if heights else y + 4)
        for index in range(len(heights) - 1, -1, -1):
            heights[index] = min(heights[index], heights[index + 1] - LINE if index + 1 < len(heights) else BOTTOM - 4)
        for (_, x, name), y in zip(mine, heights, strict=True):
            parts.append(_text(x + 11 if is_right else x - 11, y, _short(name), "start" if is_right else "end", name))
    return _drawing(parts, width, height, description)


def _short(name: str, letters: int = LETTERS) -> str:
    return name if len(name) <= letters else f"{name[: letters - 1]}…"


def _text(x: float, y: float, text: str, anchor: str, title: str = "", kind: str = "") -> str:
    """Return a text of a drawing, escaped; `title` is the whole of a text that was shortened."""
    whole = f"<title>{escape(title)}</title>" if title and title != text else ""
    style = f' class="{kind}"' if kind else ""
    return f'<text{style} x="{round(x, 1)}" y="{round(y, 1)}" text-anchor="{anchor}">{whole}{escape(text)}</text>'


def _drawing(parts: Sequence[str], width: int, height: float, description: str) -> Markup:
    """Return a drawing; description: for screen readers."""
    return Markup(
        f'<svg role="img" aria-label="{escape(description)}" width="{width}" height="{height}" viewBox="0 0 {width} {height}">'
        f"{''.join(parts)}</svg>"
    )
