"""One number: a score, and the point of the axes where it was measured."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any, Literal, get_args

import numpy as np

from densebench.console import one_line
from densebench.errors import UserError

Point = tuple[tuple[str, Any], ...]
"""The axes of one score, such as (("fraction", 8), ("seed", 0))."""

Direction = Literal["higher", "lower"]
"""Which values of a metric are better."""
SIGNS = dict(zip(get_args(Direction), (1, -1), strict=True))
"""Signs of the directions: a value times the sign of its direction is greater where it is better."""


@dataclass(frozen=True)
class Score:
    """One number: what it is, in which variant, at which point of the axes, and how sure it is.

    `value` and `ci95` are in `unit` ("" for a plain number). `bootstrap` holds the values of resampled sets of images, the same
    draws for all scores. `per_class` has None for a class in neither truth nor prediction. In JSON an axis stands beside the
    other keys, so it cannot have the name of one.
    `direction` says whether the "higher" or the "lower" value is better; every score states it. `digits` are the decimals that
    tables show: 1 for % where none are given; a score in another unit states them.
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
        if self.direction not in SIGNS:
            problem = f"has the direction {self.direction!r}" if self.direction else "does not say which values are better"
            raise UserError(
                f'the score {self.metric} ({self.variant}) {problem}; write direction="higher" or "lower" in Score(...)'
            )
        if self.digits is None and self.unit == "%":
            object.__setattr__(self, "digits", 1)
        if type(self.digits) is not int or not 0 <= self.digits <= 9:
            raise UserError(
                f"the score {self.metric} ({self.variant}) is in {self.unit or 'no unit'} and has digits {self.digits!r}; "
                "write how many decimals tables show, a whole number from 0 to 9, such as digits=3, in Score(...)"
            )
        if taken := OWN_KEYS & self.axes.keys():
            raise ValueError(f"an axis cannot be called {', '.join(sorted(taken))}: a score has that already")

    def json(self) -> dict[str, Any]:
        """Return the score as JSON values, the axes at the top level; what is empty is left out."""
        always = {name: getattr(self, name) for name in ("metric", "variant", "value", "unit", "direction", "digits")}
        optional = {
            "ci95": None if self.ci95 is None else list(self.ci95),
            "details": self.details,
            "per_class": self.per_class,
            "bootstrap": encode(self.bootstrap) if self.bootstrap else "",
        }
        return {**always, **self.axes, **{name: value for name, value in optional.items() if value}}


OWN_KEYS = frozenset(field.name for field in fields(Score)) - {"axes"}
"""The keys of a score in JSON that are not axes."""


def from_json(values: Mapping[str, Any]) -> Score:
    """Return the score that `Score.json` wrote."""
    own = {name: value for name, value in values.items() if name in OWN_KEYS}
    if "ci95" in own:
        own["ci95"] = tuple(own["ci95"])
    if "bootstrap" in own:
        own["bootstrap"] = tuple(decode(own["bootstrap"]).tolist())
    return Score(**own, axes={name: value for name, value in values.items() if name not in OWN_KEYS})


def in_unit(unit: str, direction: str) -> str:
    """Return how to read values, for captions: " in %", " in m, lower is better"; "" for plain numbers where higher is better."""
    return (f" in {unit}" if unit else "") + (", lower is better" if direction == "lower" else "")


def encode(values: Sequence[float]) -> str:
    """Return numbers as base64 of little-endian float32."""
    return base64.b64encode(np.asarray(values, dtype="<f4").tobytes()).decode("ascii")


def decode(text: str) -> np.ndarray:
    """Return the numbers that `encode` wrote."""
    return np.frombuffer(base64.b64decode(text), dtype="<f4")


def point_of(score: dict[str, Any]) -> Point:
    """Return the axes of a score in JSON."""
    return tuple((name, value) for name, value in score.items() if name not in OWN_KEYS)


def decides(protocol: Mapping[str, Any], axes: Mapping[str, Any]) -> bool:
    """Return whether ranks may go by a point with these axes: the protocol of a record names it, or it names none."""
    return dict(protocol.get("decides") or {}).items() <= dict(axes).items()


def without_seed(point: Point) -> Point:
    """Return a point without its seed, the axis over which tables average."""
    return tuple((name, value) for name, value in point if name != "seed")


def heading(point: Point) -> str:
    """Return the name of a point: "1/8", "1/8, K 300", "K 300"; "value" where a protocol sweeps nothing."""
    parts = [f"1/{value}" if name == "fraction" else f"{name} {value}" for name, value in point]
    return one_line(", ".join(parts)) or "value"


def sort_key(point: Point) -> list[tuple[str, float, str]]:
    """Return a key that sorts points: small shares of the data first, then every other axis upwards."""
    number = {name: value for name, value in point if isinstance(value, int | float)}
    signed = {**number, "fraction": -number.get("fraction", 1)}
    return [("", signed["fraction"], ""), *((name, signed.get(name, 0.0), str(value)) for name, value in point)]
