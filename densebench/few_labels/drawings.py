"""Drawings of a recommendation as SVG inside a page: how far each is behind, quality against speed, learning curves."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from markupsafe import Markup, escape

from densebench.few_labels.comparison import Comparison
from densebench.few_labels.learning_curve import Curve

WIDTH = 760  # px, of every drawing
LETTERS = 30  # of a name that are drawn; the tables have all of it
LINE = 15  # px between two names at least
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


def behind(comparison: Comparison) -> Markup:
    """Return a row for each backbone: how far it is behind the best, with the interval of the difference."""
    others = [each.behind for each in comparison.standings if each.behind is not None]
    axis = Axis(min([0.0, *(each.low for each in others)]), max([1.0, *(each.high for each in others)]), 235, WIDTH - 20)
    height, parts = 30 * len(comparison.standings) + 44, []
    for value in ticks(axis.low, axis.high):
        parts.append(f'<line class="axis" x1="{axis(value)}" x2="{axis(value)}" y1="4" y2="{height - 38}"/>')
        parts.append(_text(axis(value), height - 24, f"{value:g}", "middle"))
    parts.append(f'<line class="zero" x1="{axis(0)}" x2="{axis(0)}" y1="4" y2="{height - 38}"/>')
    for row, each in enumerate(comparison.standings):
        y = 30 * row + 20
        kind = "best" if each.behind is None else "worse" if each.behind.separable else "near"
        low, value, high = (0.0, 0.0, 0.0) if each.behind is None else (each.behind.low, each.behind.value, each.behind.high)
        parts.append(_text(222, y + 4, _short(each.backbone), "end", each.backbone))
        bar = f'<line class="bar" x1="{axis(low)}" x2="{axis(high)}" y1="{y}" y2="{y}"/>' if each.behind is not None else ""
        parts.append(f'<g class="{kind}">{bar}<circle class="dot" cx="{axis(value)}" cy="{y}" r="5"/></g>')
    parts.append(_text((axis.start + axis.end) / 2, height - 6, "points of mIoU behind the best", "middle", kind="faint"))
    said = "; ".join(
        f"{each.backbone} {each.behind.value:.1f} ({each.behind.low:.1f} to {each.behind.high:.1f})"
        for each in comparison.standings
        if each.behind is not None
    )
    best = comparison.standings[0].backbone
    return _drawing(parts, height, f"Points of mIoU behind {best}, the best, with 95 % intervals: {said or 'no other backbone'}")


def against_speed(comparison: Comparison, speeds: Mapping[str, float]) -> Markup:
    """Return a point for each backbone: images a second, on a logarithmic axis, and mIoU with its interval."""
    rows = [each for each in comparison.standings if speeds.get(each.backbone)]
    height, known = 300, [speeds[each.backbone] for each in rows]
    across = Axis(min(known) / 1.6, max(known) * 1.6, 60, WIDTH - 20, log=True)
    up = Axis(min(each.low for each in rows) - 1, max(each.high for each in rows) + 1, height - 50, 12)
    parts = [*_grid_up(up, WIDTH), *_grid_across(across, height - 50, _decades(across), "images a second")]
    labels = []
    for number, each in enumerate(rows):
        x, kind = across(speeds[each.backbone]), number % len(COLOURS)
        parts.append(f'<line class="line s{kind}" x1="{x}" x2="{x}" y1="{up(each.low)}" y2="{up(each.high)}"/>')
        parts.append(f'<circle class="f{kind}" cx="{x}" cy="{up(each.value)}" r="5"/>')
        labels.append((x, up(each.value), each.backbone))
    parts += _labels(labels, height - 54)
    said = "; ".join(f"{each.backbone} {speeds[each.backbone]:.3g} images a second, {each.value:.1f}" for each in rows)
    return _drawing(parts, height, f"mIoU against speed: {said}")


def learning_curves(curves: Mapping[str, Curve], order: Sequence[str], labelled: int) -> Markup:
    """Return a line for each backbone over the number of training images, continued by a dashed law with its band.

    labelled: how many labelled images there are; what more would bring begins there.
    """
    shown = [(name, curves[name]) for name in order]
    sizes = sorted({size for _, curve in shown for size in curve.sizes})
    furthest = max([sizes[-1], *(labelled + promise.more for _, curve in shown for promise in curve.promises)])
    ends = [
        bound for _, curve in shown for bound in (*curve.values, *(_level(curve, labelled) + p.high for p in curve.promises))
    ]
    height = 320
    across = Axis(sizes[0], max(furthest, sizes[0] + 1), 60, WIDTH - 200, log=True)
    up = Axis(min(ends) - 1, max(ends) + 1, height - 50, 12)
    at = [*sizes, *(times * labelled for times in (2, 3) if sizes[-1] < times * labelled <= furthest)]
    parts = [*_grid_up(up, WIDTH - 200), *_grid_across(across, height - 50, at, "training images")]
    labels = []
    for number, (name, curve) in enumerate(shown):
        kind = number % len(COLOURS)
        last = (across(curve.sizes[-1]), up(curve.values[-1]))
        if curve.law is not None and curve.promises:
            last = (across(labelled + curve.promises[-1].more), up(float(curve.law.at(labelled + curve.promises[-1].more))))
            parts += _forecast(curve, labelled, across, up, kind)
        points = " ".join(f"{across(size)},{up(value)}" for size, value in zip(curve.sizes, curve.values, strict=True))
        parts.append(f'<polyline class="line s{kind}" points="{points}"/>')
        parts += [
            f'<circle class="f{kind}" cx="{across(size)}" cy="{up(value)}" r="4"/>'
            for size, value in zip(curve.sizes, curve.values, strict=True)
        ]
        labels.append((last[0] + 4, last[1], name))
    parts += _labels(labels, height - 54, always_right=True)
    said = "; ".join(
        f"{name} {', '.join(f'{value:.1f} with {size}' for size, value in zip(curve.sizes, curve.values, strict=True))}"
        for name, curve in shown
    )
    return _drawing(parts, height, f"mIoU by the number of training images: {said}")


def _level(curve: Curve, labelled: int) -> float:
    return float(curve.law.at(labelled)) if curve.law is not None else curve.values[-1]


def _forecast(curve: Curve, labelled: int, across: Axis, up: Axis, kind: int) -> list[str]:
    """Return the law from the last score on, dashed, and its band around what more labels would bring."""
    assert curve.law is not None
    level, most = _level(curve, labelled), labelled + curve.promises[-1].more
    xs = np.geomspace(curve.sizes[-1], most, 24).tolist()
    line = " ".join(f"{across(x)},{up(float(curve.law.at(x)))}" for x in xs)
    upper = [(labelled, level), *((labelled + p.more, level + p.high) for p in curve.promises)]
    lower = [(labelled + p.more, level + p.low) for p in reversed(curve.promises)]
    band = " ".join(f"{across(x)},{up(y)}" for x, y in [*upper, *lower])
    return [f'<polygon class="band f{kind}" points="{band}"/>', f'<polyline class="law s{kind}" points="{line}"/>']


def _grid_up(up: Axis, right: float) -> list[str]:
    lines = []
    for value in ticks(up.low, up.high):
        lines.append(f'<line class="axis" x1="60" x2="{right - 20}" y1="{up(value)}" y2="{up(value)}"/>')
        lines.append(_text(52, up(value) + 4, f"{value:g}", "end"))
    return [*lines, _text(8, 14, "mIoU, %", "start", kind="faint")]


def _grid_across(across: Axis, y: float, at: Iterable[float], title: str) -> list[str]:
    lines = []
    for value in at:
        lines.append(f'<line class="axis" x1="{across(value)}" x2="{across(value)}" y1="{y}" y2="{y + 6}"/>')
        lines.append(_text(across(value), y + 20, f"{value:,.4g}", "middle"))
    return [*lines, _text((across.start + across.end) / 2, y + 40, title, "middle", kind="faint")]


def _decades(axis: Axis) -> list[float]:
    """Return 1, 2 and 5 times powers of ten inside an axis, or powers of ten alone where these are many."""
    powers = range(math.floor(math.log10(axis.low)), math.ceil(math.log10(axis.high)) + 1)
    parts = (1, 2, 5) if len(powers) < 4 else (1,)
    return [value for power in powers for part in parts if axis.low <= (value := part * 10.0**power) <= axis.high]


def _labels(labels: Sequence[tuple[float, float, str]], lowest: float, always_right: bool = False) -> list[str]:
    """Return names beside their points, moved down, or all up, where they would overlap."""
    parts: list[str] = []
    for side in ("right", "left"):
        mine = sorted(((y, x, name) for x, y, name in labels if (always_right or x < 0.6 * WIDTH) == (side == "right")))
        heights: list[float] = []
        for y, _, _ in mine:
            heights.append(max(y + 4, heights[-1] + LINE) if heights else y + 4)
        for index in range(len(heights) - 1, -1, -1):
            below = heights[index + 1] - LINE if index + 1 < len(heights) else lowest
            heights[index] = min(heights[index], below)
        for (_, x, name), height in zip(mine, heights, strict=True):
            anchor = "start" if side == "right" else "end"
            parts.append(_text(x + 10 if side == "right" else x - 10, height, _short(name, 24), anchor, name))
    return parts


def _short(name: str, letters: int = LETTERS) -> str:
    return name if len(name) <= letters else f"{name[: letters - 1]}…"


def _text(x: float, y: float, text: str, anchor: str, title: str = "", kind: str = "") -> str:
    """Return a text of a drawing, escaped; `title` is the whole of a text that was shortened."""
    whole = f"<title>{escape(title)}</title>" if title and title != text else ""
    style = f' class="{kind}"' if kind else ""
    return f'<text{style} x="{round(x, 1)}" y="{round(y, 1)}" text-anchor="{anchor}">{whole}{escape(text)}</text>'


def _drawing(parts: Sequence[str], height: float, said: str) -> Markup:
    """Return a drawing; `said` is what a screen reader says of it."""
    return Markup(
        f'<svg role="img" aria-label="{escape(said)}" width="{WIDTH}" height="{height}" viewBox="0 0 {WIDTH} {height}">'
        f"{''.join(parts)}</svg>"
    )
