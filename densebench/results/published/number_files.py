"""Files of published numbers: a CSV of the columns of published.csv, shipped here, by a plug-in, or a researcher's own.

A plug-in names its file by an entry point of the group `densebench.published`: NAME = "package" for package/published.csv, or
NAME = "package:numbers.csv". The file is read where it lies; the package is not imported.
"""

from __future__ import annotations

import csv
import functools
import importlib.metadata
import re
from collections.abc import Iterator, Sequence
from importlib.metadata import EntryPoint
from pathlib import Path

import pandas as pd

from densebench.console import one_line, warn
from densebench.errors import UserError, unknown
from densebench.user_code import find_module

GROUP = "densebench.published"
COLUMNS = (
    "paper", "table", "method", "backbone", "params_millions", "pretrain_data", "pretrain_epochs", "protocol", "dataset",
    "setting", "metric", "value", "note",
)  # fmt: skip
EVALUATION = "evaluation"
"""A further column, which may be left out: settings of the protocol in which a number differs from the preset, "epochs=20", and
how its features were read or changed, "layer=key", "debias=20 of noise", "upsample=jafar"."""
NEEDED = ("paper", "table", "method", "protocol", "dataset", "metric")
"""The columns that may not be empty; nor may the value."""
NUMBER = re.compile(r"-?\d+(\.\d+)?", re.ASCII)
SHIPPED = Path(__file__).with_name("published.csv")


def load_published(*files: str | Path) -> pd.DataFrame:
    """Return every published value as text, as the papers print it; an empty text means that the table does not say.

    The numbers that densebench ships come first, then those of plug-ins, then those of the files.
    Raises UserError for a file that cannot be read, is not of these columns, or has a table that is there already; a plug-in's
    file of this kind is reported and left out.
    """
    parts = [_shipped()]
    for point in importlib.metadata.entry_points(group=GROUP):
        try:
            parts.append(_new(read_numbers(_file_of(point)), parts, f"the plug-in {point.name}"))
        except UserError as error:
            warn(f"the published numbers of the plug-in {point.name} are left out: {error}")
    for file in dict.fromkeys(map(Path, files)):
        parts.append(_new(read_numbers(file), parts, str(file)))
    return pd.concat(parts, ignore_index=True)


@functools.cache
def _shipped() -> pd.DataFrame:
    return read_numbers(SHIPPED)


def read_numbers(path: Path) -> pd.DataFrame:
    """Return the values of a file, one a row, every cell as text.

    Raises UserError, which names the file and the line, for a file that cannot be read, a wrong column, a row of too many or too
    few cells, a value that is no number, an empty cell that is needed, and a number that stands there twice.
    """
    rows: list[dict[str, str]] = []
    lines: dict[tuple[str, ...], int] = {}
    try:
        with path.open(encoding="utf-8-sig", newline="") as stream:
            reader = csv.reader(stream, strict=True)
            columns = _columns(next(reader, []), path)
            for cells in filter(None, reader):
                where = f"{path}, line {reader.line_num}"
                row = dict.fromkeys((*COLUMNS, EVALUATION), "") | _row(cells, columns, where)
                key = tuple(text for name, text in row.items() if name not in ("value", "note"))
                if (first := lines.setdefault(key, reader.line_num)) != reader.line_num:
                    what = f"{row['method']} {row['backbone']} on {row['dataset']}".replace("  ", " ")
                    raise UserError(f"{where}: gives the number of line {first} again ({what}); leave one out")
                rows.append(row)
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}; give a CSV file of published numbers") from error
    except (UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{path} is no CSV file in UTF-8: {error}") from error
    if not rows:
        raise UserError(f"{path} holds no number; write one a line, below the columns")
    return pd.DataFrame(rows, columns=[*COLUMNS, EVALUATION])


def _columns(head: Sequence[str], path: Path) -> list[str]:
    columns, known = [name.strip() for name in head], (*COLUMNS, EVALUATION)
    wrong = next((name for name in columns if name not in known), None)
    missing = [name for name in COLUMNS if name not in columns]
    if wrong is not None:
        raise UserError(f"{path}, line 1: {unknown('column', one_line(wrong)[:60], known, f'the columns are {_words(COLUMNS)}')}")
    if missing:
        raise UserError(f"{path}, line 1: there is no column {', '.join(missing)}; the columns are {_words(COLUMNS)}")
    if twice := next((name for name in columns if columns.count(name) > 1), None):
        raise UserError(f"{path}, line 1: the column {twice} stands there twice; leave one out")
    return columns


def _row(cells: Sequence[str], columns: Sequence[str], where: str) -> dict[str, str]:
    if len(cells) != len(columns):
        raise UserError(f'{where}: {len(cells)} cells for {len(columns)} columns; put a text with a comma in quotes, "a, b"')
    row = {name: one_line(cell.strip()) for name, cell in zip(columns, cells, strict=True)}
    if not NUMBER.fullmatch(row["value"]):
        raise UserError(f"{where}: the value {row['value'][:40]!r} is no number; write it as the paper prints it, such as 47.6")
    if empty := [name for name in NEEDED if not row[name]]:
        raise UserError(f"{where}: {', '.join(empty)} must not be empty")
    return row


def _words(names: Sequence[str]) -> str:
    return ", ".join(names)


def _file_of(point: EntryPoint) -> Path:
    """Return the file of a plug-in, which lies in the package that it names. Raises UserError where it is not there."""
    folders, name = find_module(point.module)[1], point.attr or "published.csv"
    file = next((path for folder in folders if (path := Path(folder, name)).is_file()), None)
    if file is None:
        raise UserError(f"the package {point.module} holds no file {name}")
    return file


def _new(numbers: pd.DataFrame, parts: Sequence[pd.DataFrame], whose: str) -> pd.DataFrame:
    """Return the numbers. Raises UserError where another source has a table of theirs: a table cannot come from two files."""
    known = {table for part in parts for table in _tables(part)}
    for paper, table in _tables(numbers):
        if (paper, table) in known:
            raise UserError(
                f"{whose} gives numbers of {paper} {table}, which is there already; name the paper or table otherwise"
            )
    return numbers


def _tables(numbers: pd.DataFrame) -> Iterator[tuple[str, str]]:
    yield from numbers[["paper", "table"]].drop_duplicates().itertuples(index=False, name=None)
