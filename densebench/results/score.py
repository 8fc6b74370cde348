"""One number: a score, and the point of the axes where it was measured."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from densebench.console import one_line
from densebench.errors import UserError
from densebench.results.record_schema import OWN_KEYS

Point = tuple[tuple[str, Any], ...]
"""The axes of one score, such as (("fraction", 8), ("seed", 0))."""

DIRECTIONS = ("higher", "lower")


@dataclass(frozen=True)
class Score:
    """One number: what it is, in which variant, at which point of the axes, and how sure it is.

    value and ci95 are in `unit` ("" for a plain number); bootstrap holds the values of resampled image sets, the same draws for
    all; per_class has None for a class in neither truth nor prediction. An axis stands beside the other keys in JSON, so
    it cannot have their names.
    direction: whether the "higher" or the "lower" value is better; every score states it. digits: the decimals that tables show,
    1 for % where none are given; other units state them.
    Raises UserError where direction or digits are missing or wrong.
    """

    metric: str
    variant: str
    value: float
    unit: str = "%"
    axes: dict[str, Any] = field(default_factory=dict)
    ci95: tuple[float, float] | None = None
    per_class: dict[str, float | None] = field(default_factory=dict)
    bootstrap: tuple[float, ...] = ()
    details: dict[str, Any] = field(default_factory=dict)
    direction: str = field(default="", kw_only=True)
    digits: int | None = field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        if self.direction not in DIRECTIONS:
            said = f"has the direction {self.direction!r}" if self.direction else "does not say which values are better"
            raise UserError(f'the score {self.metric} ({self.variant}) {said}; write direction="higher" or "lower" in Score(...)')
        if self.digits is None and self.unit == "%":
            object.__setattr__(self, "digits", 1)
        if not _are_digits(self.digits):
            raise UserError(
                f"the score {self.metric} ({self.variant}) is in {self.unit or 'no unit'} and has digits {self.digits!r}; "
                "write how many decimals tables show, a whole number from 0 to 9, such as digits=3, in Score(...)"
            )
        if taken := OWN_KEYS & self.axes.keys():
            raise ValueError(f"an axis cannot be called {', '.join(sorted(taken))}: a score has that already")

    def json(self) -> dict[str, Any]:
        """The score as JSON values, the axes at the top level."""
        found: dict[str, Any] = {
            "metric": self.metric,
            "variant": self.variant,
            "value": self.value,
            "unit": self.unit,
            "direction": self.direction,
            "digits": self.digits,
            **self.axes,
        }
        if self.ci95 is not None:
            found["ci95"] = list(self.ci95)
        if self.details:
            found["details"] = self.details
        if self.per_class:
            found["per_class"] = self.per_class
        if self.bootstrap:
            found["bootstrap"] = encode(self.bootstrap)
        return found


def _are_digits(value: Any) -> bool:
    return type(value) is int and 0 <= value <= 9


def in_unit(unit: str, direction: str) -> str:
    """Return how to read values, for captions: " in %", " in m, lower is better"; "" for plain numbers where higher is better."""
    return (f" in {unit}" if unit else "") + (", lower is better" if direction == "lower" else "")


def encode(values: Sequence[float]) -> str:
    """Numbers as base64 of little-endian float32."""
    return base64.b64encode(np.asarray(values, dtype="<f4").tobytes()).decode("ascii")


def decode(text: str) -> np.ndarray:
    """The numbers of `encode`."""
    return np.frombuffer(base64.b64decode(text), dtype="<f4")


def point_of(score: dict[str, Any]) -> Point:
    """The axes of a score in JSON."""
    return tuple((name, value) for name, value in score.items() if name not in OWN_KEYS)


def without_seed(point: Point) -> Point:
    """The axes over which tables do not average."""
    return tuple((name, value) for name, value in point if name != "seed")


def heading(point: Point) -> str:
    """What a point is called: "1/8", "1/8, K 300", "K 300"; "value" where a protocol sweeps nothing."""
    parts = [f"1/{value}" if name == "fraction" else f"{name} {value}" for name, value in point]
    return one_line(", ".join(parts)) or "value"


def place(point: Point) -> list[tuple[str, float, str]]:
    """The order of points: small shares of the data first, then every other axis upwards."""
    number = {name: value for name, value in point if isinstance(value, int | float)}
    signed = {**number, "fraction": -number.get("fraction", 1)}
    return [("", signed["fraction"], ""), *((name, signed.get(name, 0.0), str(value)) for name, value in point)]
