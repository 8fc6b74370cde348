"""An axis of a chart: its range, its ticks, and where a value lies on it."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True)
class Axis:
    """The values from `low` to `high`, on a line of `length` px from `start`; with `log`, decades are equally long."""

    low: float
    high: float
    start: float
    length: float
    log: bool = False

    def at(self, value: float) -> float:
        """Return where a value lies, px; a value outside of the range lies at its end."""
        low, high, value = (_log(each) if self.log else each for each in (self.low, self.high, value))
        return self.start + min(max((value - low) / (high - low), 0.0), 1.0) * self.length

    def ticks(self, about: int) -> list[tuple[float, str]]:
        """Return about so many round values of the range, each with its text."""
        if self.log and (marks := _log_ticks(self.low, self.high, about)):
            return [(value, number(value)) for value in marks]
        step = nice_step((self.high - self.low) / max(about, 1))
        first, last = math.ceil(self.low / step - 1e-9), math.floor(self.high / step + 1e-9)
        largest = max(abs(self.low), abs(self.high))
        return [(index * step, number(index * step, step, largest)) for index in range(first, last + 1)]


def fitting(
    values: Iterable[float], *, log: bool = False, limits: tuple[float | None, float | None] = (None, None), margin: float = 0.05
) -> tuple[float, float]:
    """Return the range of an axis that holds all values that are finite, and with `log` positive, with a margin.

    limits: ends that are given. margin: share of the range that is added at each end that is not given. Without values, the range
    is 0 to 1, with `log` 1 to 10; a single value lies in the middle.
    """
    usable = [value for value in values if math.isfinite(value) and (value > 0 or not log)]
    low, high = (min(usable), max(usable)) if usable else ((1.0, 10.0) if log else (0.0, 1.0))
    low, high = (given if given is not None else end for given, end in zip(limits, (low, high), strict=True))
    if log:
        low, high = max(low, 1e-300), max(high, 1e-300)
        wide = math.log10(high / low) if high > low else 0.0
        by = 10 ** (wide * margin) if wide > 1e-9 else 2.0
        return (low if limits[0] is not None else low / by), (high if limits[1] is not None else high * by)
    wide = high - low
    by = wide * margin if wide > 1e-12 * max(abs(low), abs(high), 1e-300) else abs(low) * 0.1 or 1.0
    low, high = (low if limits[0] is not None else low - by), (high if limits[1] is not None else high + by)
    return (low, high) if high > low else (low, low + by)


def nice_step(rough: float) -> float:
    """Return the smallest of 1, 2, 5 times a power of ten that is at least `rough`."""
    power = 10.0 ** math.floor(math.log10(rough))
    return next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough * (1 - 1e-9))


def number(value: float, step: float | None = None, largest: float = 0.0) -> str:
    """Return a number as short as can be: 0.05, 20k, 1.5M, 1e-6.

    step: the distance of ticks, which decides the digits. largest: of the axis, which decides the unit.
    """
    if not value:
        return "0"
    size = max(abs(value), largest)
    for unit, name in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if size >= (1e4 if unit == 1e3 else unit):
            return f"{_digits(value / unit, step / unit if step else None)}{name}"
    if size < 1e-3:
        return f"{value:.3g}".replace("e-0", "e-")
    return _digits(value, step)


def _digits(value: float, step: float | None) -> str:
    if step is None:
        return f"{value:.4g}"
    return f"{value:.{max(0, -math.floor(math.log10(step) + 1e-9))}f}"


def _log_ticks(low: float, high: float, about: int) -> list[float]:
    """Return powers of ten, as many as fit, or 1, 2 and 5 times them; none where fewer than two lie in the range."""
    first, last = math.floor(_log(low)), math.ceil(_log(high))
    for factors in ((1,), (1, 3), (1, 2, 5)):
        marks = [factor * 10.0**power for power in range(first, last + 1) for factor in factors]
        marks = [mark for mark in marks if low * (1 - 1e-9) <= mark <= high * (1 + 1e-9)]
        if len(marks) >= max(3, about - 1):
            break
    return marks[:: math.ceil(len(marks) / (2 * about))] if len(marks) >= 2 else []


def _log(value: float) -> float:
    return math.log10(max(value, 1e-300))
