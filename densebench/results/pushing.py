"""Pushing: the records of a results folder, their tables and a card go to a repository of the Hugging Face Hub, in one commit."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from densebench.errors import UserError
from densebench.files.atomic import lies_in
from densebench.files.cache import in_gb
from densebench.results.card import card
from densebench.results.hub import KIND, RemoteFile, Repository, api, digest_of, reaching
from densebench.results.leaderboard import leaderboard
from densebench.results.provenance import is_rehearsal
from densebench.results.pulling import RECORD
from densebench.results.record import read
from densebench.results.record_keeping import scan, state
from densebench.results.uniting import Version, label_of, united

FORMATS = ("md", "csv", "html")


@dataclass
class Push:
    """What a push sends: the files that are new or differ, by their path in the repository, and the number of equal ones.

    left_out: what stays here and why, a line each. notices: what a reader should also know.
    """

    repository: Repository
    files: dict[str, bytes] = field(default_factory=dict)
    same: int = 0
    left_out: list[str] = field(default_factory=list)
    notices: list[str] = field(default_factory=list)
    commit: str | None = None
    """The commit that is there now, which the new one follows; None where the repository does not exist."""

    def __str__(self) -> str:
        """Return one line, such as "hf:my-lab/scores: 5 files (0.1 MB) to send, 48 are there already"."""
        size = sum(map(len, self.files.values()))
        shown = in_gb(size) if size >= 10**8 else f"{size / 10**6:.2f} MB"
        return f"{self.repository}: {len(self.files)} files ({shown}) to send, {self.same} are there already"


def prepare(repository: Repository, results: Path, *, pictures: bool = False, offline: bool = False) -> Push:
    """Return what a push of a results folder would send. Nothing is sent.

    pictures: send the pictures of the records too. offline: where the repository cannot be reached, everything counts as new.
    Raises UserError where there is nothing to send, and where the repository holds scores that the folder lacks or contradicts.
    """
    if repository.revision:
        raise UserError(f"{repository}: push goes to the main branch; leave @{repository.revision} out")
    push = Push(repository)
    records = _records(results, push)
    if not records:
        left_out = f" that may be sent ({push.left_out[0]})" if push.left_out else ""
        raise UserError(f"{results} holds no complete record{left_out}; `densebench eval` makes them")
    files = _files(repository, results, records, pictures=pictures)
    try:
        push.commit = repository.commit()
        remote = repository.files(push.commit) if push.commit else {}
        if push.commit:
            _check_nothing_is_lost(repository, push.commit, remote, files, results)
    except UserError as error:
        if not offline or "cannot be reached" not in str(error):
            raise
        push.notices.append(f"{error}; so every file counts as new")
        remote = {}
    push.files = {path: content for path, content in files.items() if not _is_same(remote.get(path), content)}
    push.same = len(files) - len(push.files)
    return push


def send(push: Push, *, private: bool = False) -> str | None:
    """Send what was prepared in one commit; return its address, or None where nothing differs.

    The repository is made where it does not exist; private: make it private. Raises UserError where there is no token, no
    permission or no network, and where somebody else has pushed since it was prepared.
    """
    from huggingface_hub import CommitOperationAdd, get_token

    if get_token() is None:
        raise UserError(f"{push.repository}: there is no token; set HF_TOKEN to one that may write, or run `hf auth login`")
    if not push.files:
        return None
    with reaching(push.repository):
        if push.commit is None:
            api().create_repo(push.repository.name, repo_type=KIND, private=private, exist_ok=True)
        operations = [CommitOperationAdd(path, content) for path, content in sorted(push.files.items())]
        records = sum(RECORD.fullmatch(path) is not None for path in push.files)
        message = f"{records} records of densebench" if records else "Tables of densebench"
        sent = api().create_commit(
            push.repository.name, operations, commit_message=message, repo_type=KIND, parent_commit=push.commit
        )
    return str(sent.commit_url)


def _records(results: Path, push: Push) -> list[dict[str, Any]]:
    """Return the complete records of a folder, and note which ones stay here."""
    scanned = scan(results)
    push.left_out += list(scanned.broken.values())
    records = []
    for record in sorted(scanned.records, key=lambda record: str(record["id"])):
        if is_rehearsal(record):
            push.left_out.append(f"{label_of(record)} is of a rehearsal")
        elif record["status"] != "complete":
            push.left_out.append(f"{label_of(record)} is {state(record)}, not complete")
        else:
            records.append(record)
    return records


def _files(repository: Repository, results: Path, records: list[dict[str, Any]], *, pictures: bool) -> dict[str, bytes]:
    """Return everything that the repository is to hold, by its path there."""
    files = {f"records/{record['id']}.json": (results / "records" / f"{record['id']}.json").read_bytes() for record in records}
    for record in records if pictures else ():
        folder = results / "pictures" / record["id"]
        found = [path for path in sorted(folder.glob("*.png")) if lies_in(path, results / "pictures")]
        files |= {f"pictures/{record['id']}/{path.name}": path.read_bytes() for path in found}
    with tempfile.TemporaryDirectory(prefix="densebench-") as name:  # of what is sent, and of nothing else in the folder
        for path, content in files.items():
            if RECORD.fullmatch(path):
                (Path(name) / "records").mkdir(exist_ok=True)
                (Path(name) / path).write_bytes(content)
        whole = any(record["dataset"]["limit"] is None and record["scores"] for record in records)
        board = leaderboard(name) if whole else None
    for form in FORMATS if board is not None else ():
        files[f"leaderboard.{form}"] = board.render(form).encode() if board is not None else b""
    files["README.md"] = card(repository.name, records, board).encode()
    return files


def _is_same(remote: RemoteFile | None, content: bytes) -> bool:
    return remote is not None and digest_of(content, is_large=remote.is_large) == remote.digest


def _check_nothing_is_lost(
    repository: Repository, commit: str, remote: Mapping[str, RemoteFile], files: Mapping[str, bytes], results: Path
) -> None:
    """Raise UserError where the repository holds records or scores that a push would drop or contradict."""
    there = [path for path in remote if RECORD.fullmatch(path)]
    differing = [path for path in there if path in files and not _is_same(remote[path], files[path])]
    lacking = [path for path in there if path not in files]
    remedy = f"`densebench pull {repository} --into {results}` merges them first"
    if lacking:
        names = ", ".join(Path(path).stem for path in lacking[:5]) + (" ..." if len(lacking) > 5 else "")
        raise UserError(f"{repository} holds {len(lacking)} records that {results} lacks ({names}); {remedy}")
    with tempfile.TemporaryDirectory(prefix="densebench-") as name:
        repository.download(commit, differing, remote, Path(name))
        for path in differing:
            theirs = Version(str(repository), (), read(Path(name) / path))
            mine = Version(str(results), (results,), read(results / path))
            record, clashes, _ = united([mine, theirs])
            if clashes:
                raise UserError(f"{label_of(record)}: {clashes[0]}; `densebench pull {repository} --prefer ...` settles it first")
            if len(record["scores"]) > len(mine.record["scores"]):
                raise UserError(f"{repository} holds scores of {label_of(record)} that {results} lacks; {remedy}")
