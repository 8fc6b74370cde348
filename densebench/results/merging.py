"""Merging results folders: their records and pictures become those of one folder. Nothing is lost, and nothing is guessed."""

from __future__ import annotations

import filecmp
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from densebench.errors import UserError
from densebench.files.atomic import replacing, write_text
from densebench.files.locks import locked
from densebench.files.stored_json import ShapeError
from densebench.options import PATH, check_types
from densebench.results import shards
from densebench.results.provenance import is_rehearsal, writer_lives
from densebench.results.record import check_writable, read, text_of
from densebench.results.record_keeping import scan
from densebench.results.uniting import Version, label_of, united

SHOWN = 5  # contradicting scores that a line names


@dataclass
class Merged:
    """What a merge did: the ids of the records that are new in the folder, have changed, or are as they were.

    problems: what was not merged and why, a line each. notices: what a reader should also know.
    """

    into: Path
    new: list[str] = field(default_factory=list)
    grown: list[str] = field(default_factory=list)
    same: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    notices: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        """Return one line, such as "results: 3 new records, 2 changed, 48 as they were"."""
        new = f"{len(self.new)} new record{'s' if len(self.new) != 1 else ''}"
        return f"{self.into}: {new}, {len(self.grown)} changed, {len(self.same)} as they were"


def merge(*results: str | Path, into: str | Path, prefer: str | Path | None = None) -> Merged:
    """Merge the records, pictures and shards of results folders into the folder `into`; return what was done.

        print(densebench.merge("results", "colleague/results", into="results"))

    into: a folder that may exist, and may be one of `results`; the records that it holds stay, or grow. prefer: one of the
    folders, whose scores count where others contradict them; without it a record with such scores is left as it is, and
    `problems` names both values. Two scores are of the same thing where metric, variant and axes are equal. Records that a
    process of this machine is writing, broken ones, and those whose shards are not all here are left out and named too. So are
    records of rehearsals, unless the folders hold no others. A merge that is killed leaves whole records, and another one
    continues; merging twice changes nothing.

    Raises UserError for a folder that holds no records, and for a `prefer` that is none of the folders.
    """
    check_types(PATH, into=into, prefer=prefer)
    for folder in results:
        check_types(PATH, results=folder)
    target = Path(into)
    folders = _folders([Path(folder) for folder in results], target)
    if (favourite := Path(prefer) if prefer is not None else None) is not None and not _among(favourite, [*folders, target]):
        raise UserError(f"--prefer {favourite} is none of the folders: {', '.join(map(str, folders))}")
    check_writable(target)
    merged = Merged(target)
    versions = _versions(folders, target, favourite, merged)
    for name in sorted(versions):
        _merge_record(target, name, versions[name], favourite, merged)
    return merged


def _folders(results: Sequence[Path], into: Path) -> list[Path]:
    """Return the folders, each once. Raises UserError where none is given, and for one without records."""
    if not results:
        raise UserError("no results folder is given; name one or several, such as results")
    for folder in results:
        if not any((folder / name).is_dir() for name in ("records", shards.FOLDER)) and not _among(folder, [into]):
            raise UserError(f"{folder} has no folder called records or {shards.FOLDER}; give results of `densebench eval`")
    return list({folder.resolve(): folder for folder in results}.values())


def _among(folder: Path, folders: Sequence[Path]) -> bool:
    return folder.resolve() in [each.resolve() for each in folders]


def _versions(folders: Sequence[Path], into: Path, prefer: Path | None, merged: Merged) -> dict[str, list[Version]]:
    """Return the versions of each record beside the one in `into`, and note what cannot be merged."""
    versions: dict[str, list[Version]] = {}
    for folder in folders:
        if not _among(folder, [into]):
            scanned = scan(folder)
            merged.problems += list(scanned.broken.values())
            for record in scanned.records:
                if (problem := _running(record, folder)) is not None:
                    merged.problems.append(problem)
                else:
                    versions.setdefault(record["id"], []).append(Version(str(folder), (folder,), record))
    assembled = shards.assembled(list({each.resolve(): each for each in (*folders, into)}.values()), prefer)
    merged.problems += assembled.problems
    merged.notices += assembled.notices
    for version in assembled.versions:
        versions.setdefault(version.record["id"], []).append(version)
    return _without_rehearsals(versions, into, merged)


def _without_rehearsals(versions: dict[str, list[Version]], into: Path, merged: Merged) -> dict[str, list[Version]]:
    """Return the versions without those of rehearsals, which are counted, unless there is nothing else in any folder."""
    every = [version for group in versions.values() for version in group]
    rehearsed = [version for version in every if is_rehearsal(version.record)]
    if not rehearsed or (len(rehearsed) == len(every) and all(map(is_rehearsal, scan(into).records))):
        return versions
    for where in dict.fromkeys(version.where for version in rehearsed):
        count = sum(version.where == where for version in rehearsed)
        records = "1 record" if count == 1 else f"{count} records"
        merged.notices.append(f"{records} of a rehearsal left in {where}: rehearsals are merged with rehearsals alone")
    kept = {name: [each for each in group if not is_rehearsal(each.record)] for name, group in versions.items()}
    return {name: group for name, group in kept.items() if group}


def _running(record: dict[str, Any], folder: Path) -> str | None:
    """Return the line for a record that a process of this machine is writing; None for any other."""
    if record["status"] != "running" or not writer_lives(record["run"]):
        return None
    pid = record["run"]["owner"]["pid"]
    return f"{label_of(record)} is being written in {folder} by process {pid}; merge again when it is done"


def _merge_record(into: Path, name: str, versions: list[Version], prefer: Path | None, merged: Merged) -> None:
    """Merge the versions of one record into the one that the folder has, or make it."""
    path = into / "records" / f"{name}.json"
    with locked(path.parent):
        before = None
        if path.exists():
            try:
                before = read(path)
            except UserError as error:
                merged.problems.append(f"{error} ({versions[0].where} has it too)")
                return
            if (problem := _running(before, into)) is not None:
                merged.problems.append(problem)
                return
            if is_rehearsal(before) != is_rehearsal(versions[0].record):
                merged.problems.append(f"{label_of(before)} in {into} is of a rehearsal, the one of {versions[0].where} is not")
                return
            versions = [Version(str(into), (into,), before), *versions]
        favourite = next((each for each in versions if prefer is not None and _among(prefer, each.folders)), None)
        record, clashes, differing = united(versions, favourite)
        if clashes:
            more = f" (and {len(clashes) - SHOWN} more)" if len(clashes) > SHOWN else ""
            what = "; ".join(map(str, clashes[:SHOWN])) + more
            merged.problems.append(f"{label_of(record)}: {what}; it is left as it is: --prefer FOLDER says whose scores count")
            return
        try:
            text = text_of(record)
        except ShapeError as error:
            where = " and ".join(version.where for version in versions)
            merged.problems.append(f"{label_of(record)} of {where} {error}; it is left as it is")
            return
        if differing:
            what = f"the details of {len(differing)} scores differ, such as {differing[0]}; their values are equal"
            merged.notices.append(f"{label_of(record)}: {what}")
        _copy_pictures(into, name, versions, merged)
        if record == before:
            merged.same.append(name)
            return
        write_text(path, text)
    (merged.new if before is None else merged.grown).append(name)


def _copy_pictures(into: Path, name: str, versions: Sequence[Version], merged: Merged) -> None:
    """Copy the pictures of a record that the folder lacks; those that it has stay."""
    target = into / "pictures" / name
    for folder in [folder for version in versions for folder in version.folders if not _among(folder, [into])]:
        source = folder / "pictures" / name
        if source.is_symlink() or not source.is_dir():
            continue
        for picture in sorted(source.glob("*.png")):
            copy = target / picture.name
            if picture.is_symlink() or not picture.is_file():
                continue
            if not copy.exists():
                with replacing(copy) as part:
                    shutil.copyfile(picture, part)
            elif not filecmp.cmp(picture, copy, shallow=False):
                merged.notices.append(f"{picture} is another picture than {copy}, which stays")
