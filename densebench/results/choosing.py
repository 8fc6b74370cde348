"""Which records a leaderboard is made of: those of several folders, each once, and the rows that names or patterns choose."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import pandas as pd

from densebench.console import warn
from densebench.errors import UserError, unknown
from densebench.options import PATH, check_types
from densebench.results.record_keeping import Scan, obsolete, scan

Names = str | Sequence[str] | None
"""One name or several; None chooses everything."""


def folders(results: str | Path | Sequence[str | Path]) -> list[Path]:
    """Return one results folder or several as a list. Raises UserError for none, and where one of several holds no records."""
    several = [results] if isinstance(results, str | Path) else listed("results", results)
    for folder in several:
        if folder is None:
            raise UserError("a folder of results is None; give a path, as a text or a Path")
        check_types(PATH, results=folder)
    given = list(dict.fromkeys(map(Path, several)))
    if not given:
        raise UserError("no results folder is given; give one, such as results")
    for folder in given if len(given) > 1 else []:
        if not (folder / "records").is_dir():
            raise UserError(f"{folder} holds no folder records; give folders that `densebench eval --results` wrote")
    return given


def listed(what: str, values: Any) -> list[Any]:
    """Return several values as a list. Raises UserError for what is no list, tuple or set."""
    if not isinstance(values, list | tuple | set | frozenset):
        raise UserError(f"the {what} is of the class {type(values).__name__}; give a text or a list of texts")
    return list(values)


def read(results: Sequence[Path]) -> list[dict[str, Any]]:
    """Return the records of results folders that did not fail, each once, sorted by id.

    The same record may lie in several folders. Where one has the other's scores and more, it is used; where they differ, the
    complete one, then the newer one, and a notice names both files. Another notice counts the failed runs that can be made again.
    """
    chosen: dict[str, tuple[Path, dict[str, Any]]] = {}
    for folder in results:
        for record in _readable(scan(folder)):
            known = chosen.get(record["id"])
            chosen[record["id"]] = (folder, record) if known is None else _better(known, (folder, record))
    for folder in results:
        _count_failed(folder, [record for where, record in chosen.values() if where == folder and record["status"] == "failed"])
    return [chosen[name][1] for name in sorted(chosen) if chosen[name][1]["status"] != "failed"]


def _readable(folder: Scan) -> list[dict[str, Any]]:
    for problem in folder.broken.values():
        warn(f"left out: {problem}")
    return folder.records


def _better(one: tuple[Path, dict[str, Any]], other: tuple[Path, dict[str, Any]]) -> tuple[Path, dict[str, Any]]:
    """Return the one of two versions of a record that a leaderboard shows."""

    def order(version: tuple[Path, dict[str, Any]], beside: tuple[Path, dict[str, Any]]) -> tuple[bool, bool, str]:
        record = version[1]
        return record["status"] == "complete", _holds(record, beside[1]), str(record["run"].get("started", ""))

    first, second = (one, other) if order(one, other) >= order(other, one) else (other, one)
    if not _holds(first[1], second[1]):
        shown, other_file = (where / "records" / f"{record['id']}.json" for where, record in (first, second))
        why = "complete" if first[1]["status"] != second[1]["status"] else "newer"
        warn(f"{shown} and {other_file} are one record with different scores; {shown} is shown, which is {why}")
    return first


def _holds(record: dict[str, Any], other: dict[str, Any]) -> bool:
    """Return whether a record has every score of another, with equal values."""
    return all(score in record["scores"] for score in other["scores"])


def _count_failed(folder: Path, failed: list[dict[str, Any]]) -> None:
    if wanted := sum(record["dataset"]["limit"] is None and not obsolete(record) for record in failed):
        where = "" if folder == Path("results") else f" --results {shlex.quote(str(folder))}"
        runs = f"{wanted} failed runs are" if wanted > 1 else "1 failed run is"
        warn(f"{runs} left out: `densebench records ls --status failed{where}`")


def of_groups(scores: pd.DataFrame, dataset: Names, protocol: Names) -> pd.DataFrame:
    """Return the scores of the data sets and protocols that are named; a protocol may be named with its preset, kmeans/croc.

    Raises UserError for a name that no score has, and where no score has both.
    """
    presets = scores.protocol + "/" + scores.preset
    of_dataset = _matching("data set", dataset, [scores.dataset])
    of_protocol = _matching("protocol", protocol, [scores.protocol, presets])
    if not (of_dataset & of_protocol).any():
        both = ", ".join(presets[of_dataset].unique())
        raise UserError(f"no record is of {_words(protocol)} on {_words(dataset)}; there are {both} on {_words(dataset)}")
    return scores[of_dataset & of_protocol]


def of_backbones(scores: pd.DataFrame, backbone: Names) -> set[str]:
    """Return the identities of the backbones that are named as tables or as a record name them, or by their spec.

    Raises UserError for a name that no score has.
    """
    return set(scores[_matching("backbone", backbone, [scores.label, scores["name"], scores.spec])].identity)


def _matching(kind: str, names: Names, columns: list[pd.Series]) -> pd.Series:
    """Return for each row whether one of the columns has one of the names, or matches it as a shell pattern."""
    chosen = pd.Series(names is None, index=columns[0].index)
    if names is not None and not (names := [names] if isinstance(names, str) else listed(kind, names)):
        raise UserError(f"the list of {kind} is empty; give one or several, or leave it out")
    known = list(dict.fromkeys(value for column in columns for value in column.dropna()))
    for name in names or ():
        if not isinstance(name, str):
            raise UserError(f"a {kind} is chosen by its name, a text, not by {type(name).__name__}")
        matches = {value for value in known if value == name or fnmatchcase(value, name)}
        if not matches:
            raise unknown(kind, name, known, f"the records are of {_some(list(columns[0].drop_duplicates()))}")
        for column in columns:
            chosen |= column.isin(matches)
    return chosen


def _some(names: Sequence[str]) -> str:
    """Return names for an error message, ten at most; they may have commas."""
    more = f" and {len(names) - 10} more" if len(names) > 10 else ""
    return ", ".join(map(repr, sorted(names)[:10])) + more


def _words(names: Names) -> str:
    return names if isinstance(names, str) else " or ".join(names or ())
