"""The records of a results folder: which exist, which cannot be made again, and how they are removed."""

from __future__ import annotations

import os
import re
import shlex
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from densebench import catalog
from densebench.datasets.catalog import titles
from densebench.errors import UserError
from densebench.files.locks import locked
from densebench.results.provenance import writer_lives
from densebench.results.record import read
from densebench.results.record_schema import ID

PATHS = ("ckpt", "folder", "frames", "predictions")  # kinds of spec that name a folder


@dataclass
class Scan:
    """The records of a folder, sorted by their start, and what is wrong with each file that cannot be read as a record."""

    records: list[dict[str, Any]] = field(default_factory=list)
    broken: dict[Path, str] = field(default_factory=dict)


def scan(results: Path) -> Scan:
    """Read every record of a results folder."""
    folder = Scan()
    for path in sorted((results / "records").glob("*.json")):
        try:
            folder.records.append(read(path))
        except UserError as error:
            folder.broken[path] = str(error)
    folder.records.sort(key=lambda record: (record["run"].get("started", ""), record["id"]))
    return folder


def state(record: dict[str, Any]) -> str:
    """Return the status of a record; "stopped" where it says running but its process on this machine has ended."""
    if record["status"] != "running" or writer_lives(record["run"]) is not False:
        return str(record["status"])
    return "stopped"


def obsolete(record: dict[str, Any]) -> bool:
    """Return whether a record cannot be made again from here: a file, a folder or a plug-in that it names is gone."""
    words = [*_words(record["run"].get("command", ""))]
    if not _is_known(record["protocol"], words):
        return True
    known = record["dataset"]["name"] in titles()
    named = [record["backbone"]["spec"], record["dataset"]["name"], *words]
    plugin_dataset = any(_is_file(name) for name in named)  # a data set in a file has another name than the file
    if not known and ":" not in record["dataset"]["name"] and not plugin_dataset:
        return True
    return any(_is_gone(name) for name in named)


def _is_known(protocol: dict[str, Any], words: list[str]) -> bool:
    """Return whether a protocol is in the catalogue, or a file: the words of the command have its path, the record its name."""
    name = protocol["name"]
    files = [word for word in [name, *words] if _is_file(word)]
    by_call = bool(protocol.get("code")) and not words  # from Python: nobody knows where the file is
    return name in catalog.names("protocols") or by_call or any(name in (file, _short(file)) for file in files)


def _short(file: str) -> str:
    return catalog.short_name("protocols", file)


def _words(command: str) -> Iterator[str]:
    """Yield the values in a command line, those of a list with commas one by one."""
    try:
        words = shlex.split(command)
    except ValueError:
        return
    for word in words:
        yield from (word.partition("=")[2] if word.startswith("--") else word).split(",")


def _is_file(name: str) -> bool:
    file = name if name.endswith(".py") else os.path.join(name, "__init__.py")  # noqa: PTH118
    return catalog.is_path(name) and os.path.isfile(file)  # noqa: PTH113 (Path raises for a name that is too long)


def _is_gone(name: str) -> bool:
    kind, _, path = name.partition(":")
    if kind in PATHS and path:
        return not os.path.exists(path) and not os.path.exists(path.rpartition("?")[0])  # noqa: PTH110 (folder:DIR?key=value)
    return name.endswith(".py") and not _is_file(name)


def matching(results: Path, ids: Sequence[str]) -> list[Path]:
    """Return the files of the records with these ids, or beginnings of ids; broken records go by the names of their files.

    Raises UserError for an id that names none, or several.
    """
    paths = sorted((results / "records").glob("*.json"))
    chosen = []
    for name in ids:
        matches = [path for path in paths if path.stem == name] or [p for p in paths if name and p.stem.startswith(name)]
        if not matches:
            raise UserError(f"{results} holds no record {name!r}; `densebench records ls` lists them")
        if len(matches) > 1:
            raise UserError(f"{name!r} is the beginning of {', '.join(path.stem for path in matches)}; give more of it")
        chosen += matches
    return list(dict.fromkeys(chosen))


def remove(results: Path, paths: Sequence[Path]) -> None:
    """Remove records with their pictures. Raises UserError, and removes nothing, where one of them is being written."""
    with locked(results / "records"):
        for path in paths:
            try:
                record = read(path)
            except UserError:
                continue
            if record["status"] == "running" and writer_lives(record["run"]):
                pid = record["run"]["owner"]["pid"]
                raise UserError(f"the record {path} is being written by process {pid}; end that first, or wait until it is done")
        for path in paths:
            pictures = results / "pictures" / path.stem
            if re.fullmatch(ID, path.stem) and pictures.is_dir() and not pictures.is_symlink():
                shutil.rmtree(pictures)
            if path.is_dir() and not path.is_symlink():
                raise UserError(f"{path} is a folder, not a record; remove it by hand")
            path.unlink(missing_ok=True)
