"""Names of published tables: "neco:8" is Table 8 of neco, "neco:9" its Tables 9a to 9d, "dip:README" that of a README."""

from __future__ import annotations

import re

import pandas as pd

from densebench.errors import UserError, unknown


def of_reference(numbers: pd.DataFrame, reference: str) -> pd.DataFrame:
    """Return the numbers of the table or tables of a reference; a paper alone stands for all of its tables.

    Raises UserError for a paper or a table that does not exist.
    """
    if not isinstance(reference, str):
        raise UserError(f"against={reference!r}: give a paper and its table, such as 'neco:8'")
    papers = {paper.casefold(): paper for paper in numbers.paper}
    paper, colon, table = (reference, "", "") if reference.casefold() in papers else reference.rpartition(":")
    if not colon and not (paper := reference):
        raise UserError(f"no published table is named; give one of {', '.join(references(numbers))}")
    if paper.casefold() not in papers:
        near = unknown("paper", paper or table, papers.values(), f"there are {', '.join(papers.values())}")
        raise UserError(f"{near}; write PAPER:TABLE, such as neco:8")
    paper = papers[paper.casefold()]
    of_paper = numbers[numbers.paper == paper]
    if not colon:
        return of_paper
    wanted = _token(table.strip())
    chosen = [name for name in of_paper.table.unique() if _token(name) == wanted]
    if wanted.isdigit():
        chosen = chosen or [name for name in of_paper.table.unique() if re.fullmatch(rf"{wanted}[a-z]+", _token(name))]
    if not chosen:
        known = references(of_paper)
        raise unknown("table", f"{paper}:{table.strip()}", known, f"there are {', '.join(known)}")
    return of_paper[of_paper.table.isin(chosen)]


def references(numbers: pd.DataFrame) -> list[str]:
    """Return the names of all tables, such as "neco:8", in the order of the numbers."""
    tables = numbers[["paper", "table"]].drop_duplicates().itertuples(index=False, name=None)
    return [f"{paper}:{table.removeprefix('Table ')}" for paper, table in tables]


def _token(table: str) -> str:
    return table.casefold().removeprefix("table").strip()
