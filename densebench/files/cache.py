"""Folders of the cache: each carries a mark that we wrote, is locked while a process uses it, and can be listed and removed.

$DENSEBENCH_CACHE may be a folder that holds other things too, so nothing without the mark is ever removed. The mark is a cache
directory tag (https://bford.info/cachedir/), by which backup programs recognise a cache.
"""

from __future__ import annotations

import errno
import json
import os
import weakref
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from densebench.errors import UserError
from densebench.files.atomic import canonical_json, remove, sweep, unreadable, write_text
from densebench.files.locks import BINARY, alone, is_open, share

ABOUT, MARK = "about.json", "CACHEDIR.TAG"
TEXT = b"Signature: 8a477f597d28d172789f06886806bc55\n# Made by densebench; `densebench cache clear` removes this folder.\n"
ATTEMPTS = 100


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
        if not (folder / ABOUT).exists():
            write_text(folder / ABOUT, canonical_json(about) + "\n")


def _shared(folder: Path) -> int:
    """Open the mark, making it if it is missing, lock it for use, and return its handle."""
    for _ in range(ATTEMPTS):
        folder.mkdir(parents=True, exist_ok=True)
        try:
            handle = _open(folder / MARK)
        except FileNotFoundError:  # removed by another process just now
            continue
        share(handle)
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
    """How much space one folder takes. `about`: what it says about itself; empty where that is unreadable."""

    folder: Path
    about: dict[str, Any]
    bytes: int


@dataclass(frozen=True)
class Cleared:
    """What `clear` did: bytes freed, folders that are in use, and folders that look like ours but lack our mark."""

    bytes: int
    in_use: list[Path]
    unmarked: list[Path]


def usage(root: Path) -> list[Usage]:
    """Return every folder of ours under a cache, with its size in bytes."""
    return [Usage(folder, _about(folder), _size(folder)) for folder in _folders(root, MARK) if is_marked(folder)]


def clear(root: Path) -> Cleared:
    """Remove every folder of ours under a cache that no process uses; return what was removed and what stays."""
    unmarked = [folder for folder in _folders(root, ABOUT) if not is_marked(folder)]
    freed, in_use = 0, []
    for used in usage(root):
        if release(used.folder):
            freed += used.bytes
        else:
            in_use.append(used.folder)
    return Cleared(freed, in_use, unmarked)


def release(folder: Path) -> bool:
    """Remove a marked folder that no process uses; return whether it is gone. The mark goes last, as it says whose it is."""
    with ExitStack() as stack:
        try:
            is_free = stack.enter_context(alone(folder / MARK))
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
    try:
        about = json.loads((folder / ABOUT).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return about if isinstance(about, dict) else {}


def _size(folder: Path) -> int:
    total = 0
    for path in folder.rglob("*"):
        with suppress(OSError):  # gone by now
            total += path.lstat().st_size if not path.is_dir() else 0
    return total
