"""Locks of files, exclusive or shared. The system frees them when a process dies.

Exclusive locks are those of the package filelock, which works on every system. Shared locks are `fcntl.flock`; Windows has none,
but there a file that another process holds open cannot be removed or renamed.
"""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from densebench.console import notice
from densebench.errors import UserError

try:
    import fcntl
except ImportError:  # on Windows
    fcntl = None  # type: ignore[assignment]

BINARY = getattr(os, "O_BINARY", 0)
MISSING = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)
"""Errors of a file system without locks, such as some network file systems: nothing is locked there."""


@contextmanager
def locked(folder: Path, name: str = ".lock", waiting: str = "", passing: bool = False) -> Iterator[None]:
    """Hold a lock of the folder during the block; the system frees it when the process dies.

    waiting: a notice to print while another process holds the lock. passing: remove the lock file afterwards. Raises UserError
    where the folder cannot be written.
    """
    from filelock import FileLock, SoftFileLock, Timeout

    lock = FileLock(folder / name)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with suppress(NotImplementedError):  # older versions of filelock, on a file system without locks
            try:
                lock.acquire(timeout=0)
            except Timeout:
                if not isinstance(lock, SoftFileLock):  # its file may be left by a killed process: there nothing is locked
                    if waiting:
                        notice(waiting)
                    lock.acquire()
    except OSError as error:
        if error.errno not in MISSING:
            raise UserError(f"cannot write in {folder}: {error.strerror}; choose another folder") from error
    try:
        yield
    finally:
        if passing:
            with suppress(OSError):
                (folder / name).unlink()
        lock.release()


def lock_shared(handle: int) -> None:
    """Take a shared lock of an open file; wait while another process has an exclusive one."""
    if fcntl is not None:
        _flock(handle, fcntl.LOCK_SH)


@contextmanager
def lock_exclusively(path: Path) -> Iterator[bool]:
    """Yield whether no other process uses a file (holds a lock by `lock_shared`); if so, none can begin to during the block.

    Raises OSError where the file cannot be opened to write.
    """
    handle = os.open(path, os.O_RDWR | BINARY)
    if fcntl is None:
        os.close(handle)
        yield _is_closed(path)
        return
    try:
        yield _flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB) and is_open(path, handle)
    finally:
        os.close(handle)


def is_locked(path: Path) -> bool:
    """Return whether a process holds a file exclusively, by `lock_exclusively`; False where there is no such file."""
    if fcntl is None:
        return path.is_file() and not _is_closed(path)
    try:
        handle = os.open(path, os.O_RDONLY | BINARY)
    except OSError:
        return False
    try:
        return not _flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
    finally:
        os.close(handle)


def is_open(path: Path, handle: int) -> bool:
    """Return whether a path leads to the file that is open as `handle`."""
    with suppress(FileNotFoundError):
        return os.path.samestat(path.stat(), os.fstat(handle))
    return False


def process_lives(pid: int) -> bool | None:
    """Return whether a process of this machine lives; None on Windows, where a look at it could end it."""
    if sys.platform == "win32":
        return None
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except OSError:  # it belongs to somebody else
        return True
    return pid > 0


def _flock(handle: int, kind: int) -> bool:
    """Lock an open file; return False where `kind` has LOCK_NB and another process holds the lock."""
    try:
        fcntl.flock(handle, kind)
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno not in MISSING:
            raise
    return True


def _is_closed(path: Path) -> bool:
    """Return whether no process has a file open, on Windows: it renames no open file, not even to its own name."""
    try:
        path.rename(path)
    except OSError:
        return False
    return True
