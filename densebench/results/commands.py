"""The command that makes a record again, as a page may show it to everybody."""

from __future__ import annotations

import re
import shlex
from typing import Any

from densebench.console import one_line
from densebench.results.score import point_of

# A path from the root, a home or a drive, at the beginning of a value; not the address of a host, as in https://host/path.
FOLDERS = re.compile(r"(^|[=,?&]|:(?!//[^/]))(?:~[^/\\,]*|[A-Za-z]:)?[/\\](?:[^,/\\?&]*[/\\])*(?=[^,/\\?&]*)")
SECRETS = re.compile(r"(?<=://)[^/@\s]*@")


def command_of(record: dict[str, Any]) -> str:
    """Return the command that a record holds, that of its last run; "" where it holds none that can be read.

    Nothing is made up: records of `densebench.evaluate` hold no command. Folders on the way from the root or from a home are
    private: "..." stands for them. So do the words before the "@" of an address.
    """
    try:
        words = shlex.split(one_line(record["run"].get("command", "")))
    except ValueError:
        return ""
    return shlex.join(_shown(word) for word in words)


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


def _shown(word: str) -> str:
    return FOLDERS.sub(r"\1.../", SECRETS.sub("", word))
