"""Files that are never half written, and the digests by which everything here is recognised."""

from __future__ import annotations

import hashlib
import json
import os
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from densebench.errors import UserError


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; rename it to `path` when the block ends, remove it when the block fails.

    A reader sees the old file or the new one, never a part. Raises UserError where the folder cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".part", dir=path.parent)
    except OSError as error:
        raise UserError(f"cannot write in {path.parent}: {error.strerror}; choose another folder") from error
    os.close(handle)
    part = Path(name)
    try:
        yield part
        part.chmod(0o666 & ~_umask())
        part.replace(path)
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror}; free some space or choose another folder") from error
    finally:
        part.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write `text` to `path` atomically. Bytes of a file's name that are no UTF-8 are escaped, as JSON escapes them."""
    with replacing(path) as part:
        part.write_text(text, encoding="utf-8", errors="backslashreplace")


def canonical_json(value: Any) -> str:
    """The one JSON text of a value: sorted keys, no spaces, no NaN. Equal values have equal texts."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def digest(value: Any, length: int = 64) -> str:
    """The first `length` hexadecimal digits of the SHA-256 of a value's canonical JSON."""
    return hashlib.sha256(canonical_json(value).encode(errors="backslashreplace")).hexdigest()[:length]


def check_ordinary(path: Path) -> None:
    """Raise UserError where `path` is a pipe, a socket, a device or a folder: opening a pipe may wait for ever.

    Raises OSError where it cannot be looked up, FileNotFoundError where it is missing.
    """
    mode = path.stat().st_mode
    if not stat.S_ISREG(mode):
        kind = "a folder" if stat.S_ISDIR(mode) else "a pipe, a socket or a device"
        raise UserError(f"{path} is {kind}, not a file; replace it or take it away")


def file_digest(path: Path) -> str:
    """The SHA-256 of a file's bytes, in hexadecimal. Raises UserError for what is no ordinary file."""
    check_ordinary(path)
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def cache_root() -> Path:
    """Where features and file digests are kept: $DENSEBENCH_CACHE, else ~/.cache/densebench."""
    return Path(os.environ.get("DENSEBENCH_CACHE") or Path.home() / ".cache" / "densebench")


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
