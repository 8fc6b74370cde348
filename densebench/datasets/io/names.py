"""Names from lists and annotation files. They become parts of paths, so each is checked where it is read."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

from densebench.errors import UserError
from densebench.files.atomic import check_ordinary

STRANGE = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\\]")  # control characters, line breaks, the backslash
LONGEST = 255  # bytes of a file's name


def check_name(name: Any, where: str) -> str:
    """Return `name` if it stays below the folder that it is joined to: relative, without "..", usable as a file's name.

    Raises UserError, which says `where` it was read, such as "the list a.txt, line 3", and what is wrong with it.
    """
    if problem := _problem(name):
        raise UserError(f"{where} holds the name {str(name)[:100]!r}, which {problem}; correct it")
    return name


def _problem(name: Any) -> str:
    if not isinstance(name, str):
        return "is no text"
    if STRANGE.search(name):
        return "holds a control character or a backslash"
    if name.startswith("/"):
        return "is an absolute path"
    parts = name.split("/")
    if ".." in parts:
        return "leaves its folder"
    if "" in parts or "." in parts:
        return "has an empty part"
    try:
        return f"is longer than {LONGEST} bytes" if max(len(os.fsencode(part)) for part in parts) > LONGEST else ""
    except UnicodeEncodeError:
        return "is no valid text"


def read_lines(path: Path, remedy: str) -> list[tuple[int, str]]:
    """Return the lines of a list that are not blank, with their numbers from 1. Raises UserError where it cannot be read."""
    try:
        check_ordinary(path)
        lines = path.read_text(encoding="utf-8").splitlines()
    except FileNotFoundError as error:
        raise UserError(f"the list {path} is missing; {remedy}") from error
    except OSError as error:
        raise UserError(f"the list {path} cannot be read ({error.strerror}); {remedy}") from error
    except UnicodeDecodeError as error:
        raise UserError(f"the list {path} is not text in UTF-8; {remedy}") from error
    return [(number, line.strip()) for number, line in enumerate(lines, 1) if line.strip()]


def read_list(path: Path, remedy: str) -> list[str]:
    """Return the names of a list, one a line, each checked. Raises UserError where the list cannot be read or a name is unfit."""
    return [check_name(line, at(path, number)) for number, line in read_lines(path, remedy)]


def read_words(path: Path) -> list[str]:
    """Return the names of a list, separated by any white space, each checked. Raises UserError as `read_list` does."""
    lines = read_lines(path, "fetch it again")
    return [check_name(word, at(path, number)) for number, line in lines for word in line.split()]


def at(path: Path, number: int) -> str:
    """Return the list and the line in words, to begin an error message."""
    return f"the list {path}, line {number},"
