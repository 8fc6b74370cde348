"""Pulling: the records of a repository of the Hugging Face Hub are merged into a results folder.

What comes is not trusted. Only records and PNG pictures whose names are those of records are downloaded, within limits of size;
every record must have the shape of one, and an id and a group that follow from what it says.
"""

from __future__ import annotations

import re
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

from PIL import Image

from densebench.errors import UserError
from densebench.results.hub import RemoteFile, Repository
from densebench.results.merging import Merged, merge
from densebench.results.record import group_of, identity_of, read

RECORD = re.compile(r"records/([0-9a-f]{4,64})\.json")
PICTURE = re.compile(r"pictures/([0-9a-f]{4,64})/[A-Za-z0-9_][A-Za-z0-9_.,=+-]{0,200}\.png")
LARGEST_RECORD, LARGEST_PICTURE = 64 * 2**20, 32 * 2**20
LARGEST_ALL = 4 * 2**30
MOST_PIXELS = 64 * 2**20

Side = Literal["hub", "here"]


def pull(repository: Repository, into: Path, *, prefer: Side | None = None) -> Merged:
    """Merge the records and pictures of a repository into a results folder, as `merge` does; return what was done.

    prefer: whose scores count where the Hub and the folder contradict each other. Raises UserError where the repository cannot be
    reached or holds no record.
    """
    commit = repository.commit()
    if commit is None:
        remedy = "check the name; one that is private takes a token that may see it (HF_TOKEN, or `hf auth login`)"
        raise UserError(f"there is no data set repository {repository}, or it is private: {remedy}")
    files = repository.files(commit)
    problems: list[str] = []
    paths = _wanted(files, problems)
    if not any(RECORD.fullmatch(path) for path in paths):
        raise UserError(f"{repository} holds no record of densebench (records/ID.json)")
    with tempfile.TemporaryDirectory(prefix="densebench-") as name:
        arrived, clean = Path(name) / "arrived", Path(name) / "clean"
        repository.download(commit, paths, files, arrived)
        _take_records(arrived, clean, [path for path in paths if RECORD.fullmatch(path)], problems)
        _take_pictures(arrived, clean, [path for path in paths if PICTURE.fullmatch(path)], problems)
        favourite = {None: None, "hub": clean, "here": into}[prefer]
        (clean / "records").mkdir(parents=True, exist_ok=True)
        merged = merge(clean, into=into, prefer=favourite)
    merged.problems = [*problems, *(line.replace(str(clean), str(repository)) for line in merged.problems)]
    merged.problems = [line.replace("--prefer FOLDER", "--prefer hub or --prefer here") for line in merged.problems]
    merged.notices = [line.replace(str(clean), str(repository)) for line in merged.notices]
    return merged


def _wanted(files: Mapping[str, RemoteFile], problems: list[str]) -> list[str]:
    """Return the paths of records, and of pictures of these records, whose size is within the limits; name what is too large."""
    wanted, total = [], 0
    records = {match[1] for path in files if (match := RECORD.fullmatch(path))}
    for pattern, limit in ((RECORD, LARGEST_RECORD), (PICTURE, LARGEST_PICTURE)):
        for path in sorted(files):
            match, size = pattern.fullmatch(path), files[path].size
            if match is None or match[1] not in records:
                continue
            total += size
            if size > limit or total > LARGEST_ALL:
                problems.append(f"{path} takes {size / 2**20:,.0f} MiB, which is too much")
            else:
                wanted.append(path)
    return wanted


def _take_records(arrived: Path, clean: Path, paths: Sequence[str], problems: list[str]) -> None:
    """Move the records that are sound into a results folder, and name the others."""
    (clean / "records").mkdir(parents=True, exist_ok=True)
    for path in paths:
        try:
            record = read(arrived / path)
            if record["status"] != "complete" or "shard" in record:
                raise UserError(f"{path} is not complete")
            if (record["id"], record["group"]) != (identity_of(record), group_of(record)):
                raise UserError(f"{path} has an id or a group that does not follow from what it says: it was edited")
        except UserError as error:
            problems.append(str(error).replace(f"{arrived}/", ""))
            continue
        shutil.move(arrived / path, clean / path)


def _take_pictures(arrived: Path, clean: Path, paths: Sequence[str], problems: list[str]) -> None:
    """Move the pictures of records that were taken, if they are PNG files of a reasonable size, and name the others."""
    for path in paths:
        if not (clean / "records" / f"{path.split('/')[1]}.json").exists():
            continue
        try:
            with Image.open(arrived / path, formats=["PNG"]) as picture:
                if picture.width * picture.height > MOST_PIXELS:
                    raise ValueError("too many pixels")
                picture.verify()
        except Exception as error:  # Pillow raises many kinds for a broken file
            problems.append(f"{path} is no PNG picture that can be shown ({type(error).__name__})")
            continue
        (clean / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.move(arrived / path, clean / path)
