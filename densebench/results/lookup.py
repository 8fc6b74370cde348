"""Find one record by its file, its id or a prefix of it, or the name of its backbone."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from densebench.console import one_line
from densebench.errors import UserError, unknown
from densebench.files.stored_json import short
from densebench.options import PATH, check_types
from densebench.results.record import read_any
from densebench.results.record_keeping import scan

MOST = 6  # records that a message lists
LISTS = "`densebench records ls` lists the records"


def lookup(record: str | Path, results: str | Path | Sequence[str | Path] = "results") -> tuple[Path, dict[str, Any]]:
    """Return the file and the values of one record.

    record: the path of its file, whatever that is called; or, in the records of one or several results folders, its id, a unique
    prefix of its id, or the name (in tables) or the spec of its backbone, where that has one record.

    Raises UserError where nothing or more than one thing is called so, and where the file is no record.
    """
    check_types(PATH, record=record)
    name, path = str(record), Path(record)
    if is_file(path) or name.endswith(".json"):
        return path, read_any(path)
    folders = [Path(each) for each in ([results] if isinstance(results, str | Path) else results)]
    files = [file for folder in folders for file in sorted((folder / "records").glob("*.json"))]
    if not files:
        raise UserError(
            f"{' and '.join(map(str, folders))}: there are no records; give --results DIR, or the path of a record's file"
        )
    if exact := [file for file in files if file.stem == name]:
        return _only(name, [(file, read_any(file)) for file in exact])
    known = [(folder / "records" / f"{each['id']}.json", each) for folder in folders for each in scan(folder).records]
    if named := [(file, each) for file, each in known if name in names(each)]:
        return _only(name, named)
    if begun := [file for file in files if name and file.stem.startswith(name)]:
        return _only(name, [(file, read_any(file)) for file in begun])
    if alike := [(file, each) for file, each in known if name.casefold() in (called.casefold() for called in names(each))]:
        return _only(name, alike)
    every = [called for _, each in known for called in names(each)]
    raise unknown("record", name, [*every, *(file.stem for file in files)], LISTS)


def is_file(path: Path) -> bool:
    """Return whether a path is one of a file; False where it cannot be one."""
    try:
        return path.is_file()
    except (OSError, ValueError):  # too long, or with NUL
        return False


def names(record: dict[str, Any]) -> list[str]:
    """Return what the backbone of a record is called: its name in tables, if it has one, and its spec."""
    backbone = record["backbone"]
    return list(dict.fromkeys(one_line(backbone[key]) for key in ("name", "spec") if key in backbone))


def _only(name: str, found: Sequence[tuple[Path, dict[str, Any]]]) -> tuple[Path, dict[str, Any]]:
    """Return the one record that was found. Raises UserError, which lists them, where there are several."""
    if len(found) == 1:
        return found[0]
    ids = {record["id"] for _, record in found}
    if len(ids) == 1:
        raise UserError(f"the record {name} lies in {' and '.join(str(file) for file, _ in found)}; give the path of one")
    listed = [f"{record['id']} ({_about(record)})" for _, record in found[:MOST]]
    more = f" and {len(found) - MOST} more" if len(found) > MOST else ""
    raise UserError(f"{short(name)} stands for {len(found)} records: {', '.join(listed)}{more}; give an id")


def _about(record: dict[str, Any]) -> str:
    protocol, dataset = record["protocol"], record["dataset"]
    limit = f", limit {dataset['limit']}" if dataset["limit"] is not None else ""
    return one_line(f"{names(record)[0]}, {protocol['name']}/{protocol['preset']} on {dataset['name']}{limit}")
