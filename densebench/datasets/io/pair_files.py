"""Files that list pairs of pictures and keypoints: tables with named columns, JSON, numbers that must be finite."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from densebench.datasets.io.annotations import MALFORMED, reading
from densebench.errors import UserError
from densebench.files.atomic import check_ordinary


@contextmanager
def parsing(where: str, remedy: str) -> Iterator[None]:
    """Turn what a value of another shape raises into a UserError that begins with `where` and ends with `remedy`."""
    try:
        yield
    except MALFORMED as error:
        what = f"lacks {error}" if isinstance(error, KeyError) else f"{' '.join(str(error).split())[:200]}"
        raise UserError(f"{where}: {what or type(error).__name__}; {remedy}") from error


def read_json(path: Path, remedy: str) -> Any:
    """Return the content of a JSON file. Raises UserError where it is missing or no JSON."""
    with reading(path, remedy), parsing(f"{path} is no JSON", "fetch it again"):
        check_ordinary(path)
        return json.loads(path.read_text(encoding="utf-8"))


def read_table(path: Path, columns: Sequence[str], remedy: str) -> list[tuple[int, dict[str, str]]]:
    """Return the rows of a CSV file with the numbers of their lines, each as column -> text.

    Raises UserError where the file is missing, is no table, or lacks one of `columns`, in its head or in a row.
    """
    with reading(path, remedy):
        check_ordinary(path)
        try:
            with path.open(encoding="utf-8-sig", newline="") as file:
                table = csv.DictReader(file, strict=True)
                rows = [(table.line_num, row) for row in table]
                head = table.fieldnames or []
        except (UnicodeDecodeError, csv.Error) as error:
            raise UserError(f"the list {path} is no CSV table in UTF-8 ({error}); fetch it again") from error
    if missing := [column for column in columns if column not in head]:
        raise UserError(f"the list {path} has no column {missing[0]}; its head must name {', '.join(columns)}; fetch it again")
    for number, row in rows:
        if empty := [column for column in columns if row[column] is None]:
            raise UserError(f"the list {path}, line {number}, ends before the column {empty[0]}; fetch it again")
    return rows


def numbers(values: Sequence[Any], what: str) -> Float[np.ndarray, "n"]:
    """Return a list of numbers, or of texts of numbers, as float64.

    Raises ValueError naming `what` for one that is not finite, TypeError or ValueError for anything else.
    """
    if not isinstance(values, list | tuple):
        raise ValueError(f"{what} is {str(values)[:40]!r}, not a list of numbers")
    found = np.array([float(value) for value in values], np.float64)
    if not np.isfinite(found).all():
        raise ValueError(f"{what} holds {found[~np.isfinite(found)][0]}, which is no coordinate")
    return found


def box_of(values: Sequence[Any], what: str) -> tuple[float, float, float, float]:
    """Return four finite numbers. Raises ValueError naming `what` for anything else."""
    left, top, right, bottom = numbers(values, what).tolist()
    return left, top, right, bottom
