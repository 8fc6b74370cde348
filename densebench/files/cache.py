"""Folders of the cache: each carries a mark that we wrote, is locked while a process uses it, and can be listed and removed.

The time of the mark says when a folder was last used; one small file for each user, under used-by/, says by what.

$DENSEBENCH_CACHE may be a folder that holds other things too, so nothing without the mark is ever removed. The mark is a cache
directory tag (https://bford.info/cachedir/), by which backup programs recognise a cache.
"""

from __future__ import annotations

import errno
import json
import os
import weakref
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from densebench.console import notice
from densebench.errors import UserError
from densebench.files.atomic import canonical_json, digest, remove, sweep, unreadable, write_text
from densebench.files.locks import BINARY, is_open, lock_exclusively, lock_shared

ABOUT, MARK, USERS = "about.json", "CACHEDIR.TAG", "used-by"
TEXT = b"Signature: 8a477f597d28d172789f06886806bc55\n# Made by densebench; `densebench cache clear` removes this folder.\n"
ATTEMPTS = 100
FEATURES = "features"
"""The folder of the cache that holds folders of features, which a limit may remove; others are work in progress."""
LIMIT = "DENSEBENCH_CACHE_LIMIT"
GB = 10**9


class Hold:
    """A folder of the cache in use: marked as ours, and not removed by others as long as this object lives."""

    def __init__(self, folder: Path, about: dict[str, Any]) -> None:
        """Make the folder if needed. `about` says what it holds; it is written beside the folder for people to read.

        Raises UserError where the folder cannot be written.
        """
        try:
            self._close = weakref.finalize(self, os.close, _shared(folder))
        except OSError as error:
            if error.errno in (errno.EMFILE, errno.ENFILE):
                raise unreadable(folder / MARK, error) from error
            raise UserError(f"cannot write in {folder}: {error.strerror}; set DENSEBENCH_CACHE elsewhere") from error
        sweep(folder)
        with suppress(OSError):  # a cache that only others may write
            os.utime(folder / MARK)
        if not (folder / ABOUT).exists():
            write_text(folder / ABOUT, canonical_json(about) + "\n")
        self.folder = folder

    def note(self, user: Mapping[str, str]) -> None:
        """Write down who uses the folder, such as {"protocol": "incontext", "dataset": "voc"}; `Usage.users` lists them."""
        text = canonical_json(dict(user))
        with suppress(UserError):  # a cache that only others may write
            write_text(self.folder / USERS / f"{digest(text, 16)}.json", text + "\n")


def _shared(folder: Path) -> int:
    """Open the mark, making it if it is missing, lock it for use, and return its handle."""
    for _ in range(ATTEMPTS):
        folder.mkdir(parents=True, exist_ok=True)
        try:
            handle = _open(folder / MARK)
        except FileNotFoundError:  # removed by another process just now
            continue
        lock_shared(handle)
        if is_open(folder / MARK, handle):
            return handle
        os.close(handle)
    raise FileNotFoundError(2, "it vanishes again and again")


def _open(mark: Path) -> int:
    """Return a handle of the mark, its text written if need be. In a cache that only others may write, it is opened as it is."""
    try:
        handle = os.open(mark, os.O_RDWR | os.O_CREAT | BINARY, 0o666)
    except OSError as error:
        if error.errno not in (errno.EACCES, errno.EPERM, errno.EROFS) or not mark.exists():
            raise
        return os.open(mark, os.O_RDONLY | BINARY)
    if os.read(handle, len(TEXT) + 1) != TEXT:
        os.lseek(handle, 0, os.SEEK_SET)
        os.write(handle, TEXT)
        os.ftruncate(handle, len(TEXT))
    return handle


@dataclass(frozen=True)
class Usage:
    """How much space one folder takes, and who uses it. `about`: what it says about itself; empty where that is unreadable."""

    folder: Path
    about: dict[str, Any]
    bytes: int
    used: float
    """When a process last began to use it, in seconds since 1970."""
    users: tuple[dict[str, Any], ...] = ()
    """What used it: see `Hold.note`. Empty where nobody left a note."""

    def by(self, name: str) -> list[str]:
        """Return the values of one key of all users, sorted: `by("protocol")`."""
        return sorted({str(user[name]) for user in self.users if name in user})


@dataclass(frozen=True)
class Cleared:
    """What `clear` did: bytes freed, folders removed, folders in use, and those that look like ours but lack our mark."""

    bytes: int
    in_use: list[Path]
    unmarked: list[Path]
    removed: list[Usage]


def usage(root: Path) -> list[Usage]:
    """Return every folder of ours under a cache, with its size in bytes."""
    return [_usage(folder) for folder in _folders(root, MARK) if is_marked(folder)]


def clear(root: Path, chosen: Callable[[Usage], bool] = lambda _: True) -> Cleared:
    """Remove every `chosen` folder of ours under a cache that no process uses; return what was removed and what stays."""
    unmarked = [folder for folder in _folders(root, ABOUT) if not is_marked(folder)]
    removed, in_use = [], []
    for used in filter(chosen, usage(root)):
        if release(used.folder):
            removed.append(used)
        else:
            in_use.append(used.folder)
    return Cleared(sum(used.bytes for used in removed), in_use, unmarked, removed)


def limit_of(given: float | None) -> int | None:
    """Return the limit of the cache in bytes: `given` in GB (10^9 bytes), else $DENSEBENCH_CACHE_LIMIT, else None (no limit).

    Raises UserError where either is not a number above 0.
    """
    text = os.environ.get(LIMIT, "")
    if given is None and not text:
        return None
    try:
        limit = float(text) if given is None else given
    except ValueError:
        limit = 0.0
    if not 0 < limit < float("inf"):
        name = f"{LIMIT}={text}" if given is None else f"--cache-limit {given:g}"
        raise UserError(f"{name}: it takes a number of GB above 0")
    return int(limit * GB)


def make_room(root: Path, wanted: int, limit: int) -> None:
    """Remove feature folders that no process uses, the least recently used first, until `wanted` more bytes fit under `limit`.

    Raises UserError where what is in use leaves too little; then nothing more can be removed.
    """
    folders = usage(root)
    total = sum(used.bytes for used in folders)
    for used in sorted((used for used in folders if used.folder.parent.name == FEATURES), key=lambda used: used.used):
        if total + wanted <= limit:
            return
        if release(used.folder):
            total -= used.bytes
            what = f"{in_gb(used.bytes)} of {used.about.get('spec', 'unknown')}"
            notice(f"cache limit {in_gb(limit)}: removed {what} ({used.folder.name[:8]})")
    if total + wanted > limit:
        raise UserError(
            f"{in_gb(wanted)} more do not fit the cache limit of {in_gb(limit)}: {in_gb(total)} under {root} are in use or in "
            "progress; raise --cache-limit, or wait until other runs have ended"
        )


def in_gb(count: int) -> str:
    """Return a number of bytes in GB (10^9 bytes), as people read it."""
    if count >= GB / 100:
        return f"{count / GB:.2f} GB"
    return f"{count / 1e6:.2f} MB" if count >= 10_000 else f"{count} bytes"


def _usage(folder: Path) -> Usage:
    with suppress(OSError):
        return Usage(folder, _about(folder), _size(folder), (folder / MARK).stat().st_mtime, tuple(_users(folder)))
    return Usage(folder, {}, 0, 0.0)  # removed by another process just now


def _users(folder: Path) -> Iterator[dict[str, Any]]:
    for path in sorted((folder / USERS).glob("*.json")):
        if user := _json(path):
            yield user


def release(folder: Path) -> bool:
    """Remove a marked folder that no process uses; return whether it is gone. The mark goes last, as it says whose it is."""
    with ExitStack() as stack:
        try:
            is_free = stack.enter_context(lock_exclusively(folder / MARK))
        except OSError:
            return not folder.exists()
        if not is_free:
            return False
        for path in folder.iterdir():
            if path.name != MARK:
                remove(path)
        if len(list(folder.iterdir())) > 1:
            return False
        remove(folder / MARK)
        with suppress(OSError):  # another process is making it again
            folder.rmdir()
        return True


def is_marked(folder: Path) -> bool:
    """Return whether a folder carries our mark."""
    try:
        return (folder / MARK).read_bytes() == TEXT
    except OSError:
        return False


def _folders(root: Path, name: str) -> list[Path]:
    return [path.parent for path in sorted(root.glob(f"*/*/{name}")) if not path.parent.is_symlink()]


def _about(folder: Path) -> dict[str, Any]:
    return _json(folder / ABOUT)


def _json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return content if isinstance(content, dict) else {}


def _size(folder: Path) -> int:
    total = 0
    for path in folder.rglob("*"):
        with suppress(OSError):  # gone by now
            total += path.lstat().st_size if not path.is_dir() else 0
    return total
