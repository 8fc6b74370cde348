"""The command that reproduces a record, as a public page may show it."""

from __future__ import annotations

from typing import Any

from densebench.pages.public import public
from densebench.results.score import point_of


def command_of(record: dict[str, Any]) -> str:
    """Return the command that a record holds, that of its last run; "" where it holds none that can be read.

    Nothing is made up: records of `densebench.evaluate` hold no command. What is private is left out, see `public`.
    """
    return public(record["run"].get("command", ""))


def remark_on(record: dict[str, Any]) -> str:
    """Return what a reader of a record's command must know; "" for nothing.

    A record keeps the command of its last run alone, which may have scored a part of the points.
    """
    remarks, points = [], len({point_of(score) for score in record["scores"]})
    if (scored := record["run"].get("scored_points")) is not None and scored < points:
        remarks.append(f"the last of several runs, which scored {scored} of {points} points")
    if "..." in command_of(record):
        remarks.append("... stands for a folder")
    return "; ".join(remarks)
