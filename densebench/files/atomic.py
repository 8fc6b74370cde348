"""Files that are never half written, and that are verified by checksums."""

from __future__ import annotations

import errno
import functools
import hashlib
import json
import os
import platform
import re
import shutil
import stat
import tempfile
import threading
import time
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from densebench.console import warn
from densebench.errors import UserError
from densebench.files.locks import process_lives

DAY = 24 * 3600.0
WEEK = 7 * DAY
_PART = re.compile(r"\..+\.(?P<pid>\d{1,9})-(?P<machine>[0-9a-f]{8})\.[a-z0-9_]{8}\.part")
_OLDER_PART = re.compile(r"\..+\.[a-z0-9_]{8}\.part")  # its name does not say which process it belongs to
_SEAL = re.compile(rb"\n#densebench crc32 ([0-9a-f]{8})\n\Z")
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS)
_masking = threading.Lock()
_REMEDIES = {
    errno.EMFILE: "raise the limit of open files (ulimit -n)",
    errno.ENFILE: "raise the limit of open files",
    errno.ENOMEM: "free some memory",
    errno.EACCES: "make it readable",
}


class Damaged(UserError):  # noqa: N818
    """The file `path` is not as it was written. `why`: what is wrong with it, in words."""

    def __init__(self, path: Path, why: str) -> None:
        super().__init__(f"{path} is damaged: {why}")
        self.path, self.why = path, why


@contextmanager
def replacing(path: Path, remedy: str = "choose another folder") -> Iterator[Path]:
    """Yield a temporary path; rename it to `path` when the block ends, remove it when the block fails.

    A reader sees the old file or the new one, never a part. The temporary path lies in a folder of its own beside `path`, whose
    name says which process is at work, so that `sweep` recognises what a killed one left. Raises UserError, which ends with
    `remedy`, where the file cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        prefix = f".{path.name[:40]}.{os.getpid()}-{_machine()}."
        folder = Path(tempfile.mkdtemp(prefix=prefix, suffix=".part", dir=path.parent))
    except OSError as error:
        raise UserError(f"cannot write in {path.parent}: {error.strerror}; {remedy}") from error
    part = folder / path.name
    try:
        yield part
        part.chmod(0o666 & ~_umask())
        part.replace(path)
    except IsADirectoryError as error:
        raise UserError(f"cannot write {path}: there is a folder of that name; remove it") from error
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror or error}; free some space or {remedy}") from error
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def check_output(path: Path) -> None:
    """Raise UserError where a file cannot be written at `path`; call it before the work whose result goes there.

    Folders that are missing are not made, and nothing is left behind.
    """
    try:
        if path.is_dir():
            raise UserError(f"cannot write {path}: there is a folder of that name; give the name of a file")
        folder = next(each for each in path.absolute().parents if each.exists())
        Path(tempfile.mkdtemp(prefix=f".output.{os.getpid()}-{_machine()}.", suffix=".part", dir=folder)).rmdir()
    except OSError as error:
        raise UserError(f"cannot write in {path.parent}: {error.strerror}; choose another folder") from error


def sweep(folder: Path) -> None:
    """Remove what killed processes left half written in a folder and below it.

    A process of this machine is gone when no process has its number; one of another machine counts as gone a week after it began.
    """
    with suppress(OSError):
        for path in [path for path in folder.rglob(".*.part") if _abandoned(path)]:
            remove(path)


def remove(path: Path) -> None:
    """Remove a file, a link or a whole folder, as far as that is possible."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with suppress(OSError):
            path.unlink()


def write_text(path: Path, text: str) -> None:
    """Write `text` to `path` atomically. Bytes of a file's name that are not UTF-8 are escaped as JSON does."""
    with replacing(path) as part:
        part.write_text(text, encoding="utf-8", errors="backslashreplace")


def write_checked(path: Path, content: bytes) -> None:
    """Write `content` and its checksum to `path` atomically; `read_checked` returns the content."""
    with replacing(path) as part:
        part.write_bytes(content + f"\n#densebench crc32 {zlib.crc32(content):08x}\n".encode())


def read_checked(path: Path) -> bytes | None:
    """Return the content that `write_checked` wrote to `path`; None where there is none.

    A damaged file is removed, one line says so, and it counts as missing. Raises UserError, and removes nothing,
    where the file cannot be read.
    """
    try:
        whole = path.read_bytes()
        seal = _SEAL.search(whole)
        content = whole[: seal.start()] if seal else b""
        if seal and zlib.crc32(content) == int(seal[1], 16):
            return content
        why = "its checksum does not match" if seal else "it has no checksum"
    except FileNotFoundError:
        return None
    except IsADirectoryError:
        why = "it is a folder"
    except OSError as error:
        raise unreadable(path, error) from error
    warn(f"{path} is unreadable ({why}); it is made again")
    remove(path)
    return None


@contextmanager
def appending(path: Path, remedy: str) -> Iterator[None]:
    """Raise UserError, which ends with `remedy`, where the disk is full while the block writes to `path` or below it."""
    try:
        yield
    except OSError as error:
        if error.errno not in _FULL:
            raise
        raise UserError(f"cannot write {path}: {error.strerror}; free some space, or {remedy}") from error


def unreadable(path: Path, error: OSError) -> UserError:
    """Return the error for a file that may be whole but cannot be read now."""
    remedy = _REMEDIES.get(error.errno or 0, "check the disk and try again")
    return UserError(f"cannot read {path}: {error.strerror or error}; nothing was removed; {remedy}")


def canonical_json(value: Any) -> str:
    """Return the canonical JSON text of a value: sorted keys, no spaces, no NaN. Equal values have equal texts."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def digest(value: Any, length: int = 64) -> str:
    """Return the first `length` hexadecimal digits of the SHA-256 of a value's canonical JSON."""
    return hashlib.sha256(canonical_json(value).encode(errors="backslashreplace")).hexdigest()[:length]


def check_ordinary(path: Path) -> None:
    """Raise UserError where `path` is a pipe, a socket, a device or a folder: opening a pipe may wait for ever.

    Raises OSError where it cannot be looked up, FileNotFoundError where it is missing.
    """
    mode = path.stat().st_mode
    if not stat.S_ISREG(mode):
        kind = "a folder" if stat.S_ISDIR(mode) else "a pipe, a socket or a device"
        raise UserError(f"{path} is {kind}, not a file; replace it or take it away")


def lies_in(path: Path, folder: Path) -> bool:
    """Return whether `path`, with all links followed, is an ordinary file in `folder` or below it."""
    try:
        return path.is_file() and path.resolve().is_relative_to(folder.resolve())
    except (OSError, RuntimeError):  # such as a circle of links
        return False


def file_digest(path: Path) -> str:
    """Return the SHA-256 of a file's bytes, in hexadecimal. Raises UserError for what is not an ordinary file."""
    check_ordinary(path)
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def cache_root() -> Path:
    """Return the cache folder (features, file digests, ...): $DENSEBENCH_CACHE, else ~/.cache/densebench."""
    return Path(os.environ.get("DENSEBENCH_CACHE") or Path.home() / ".cache" / "densebench")


def _abandoned(path: Path) -> bool:
    """Return whether a path is a temporary part that no process will finish."""
    with suppress(OSError):  # it may be gone by now
        match = _PART.fullmatch(path.name)
        if match and match["machine"] == _machine() and (lives := process_lives(int(match["pid"]))) is not None:
            return not lives
        limit = WEEK if match else DAY
        return bool(match or _OLDER_PART.fullmatch(path.name)) and time.time() - path.stat().st_mtime > limit
    return False


@functools.cache
def _machine() -> str:
    """Return a digest of the space in which process ids are unique: this machine and its process namespace."""
    try:
        numbering = str(Path("/proc/self/ns/pid").readlink())
    except OSError:
        numbering = ""
    return hashlib.sha256(f"{platform.node()} {numbering}".encode()).hexdigest()[:8]


def _umask() -> int:
    with _masking:  # another thread would read the 0
        mask = os.umask(0)
        os.umask(mask)
    return mask
