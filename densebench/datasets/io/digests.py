"""SHA-256 of files, remembered between runs without ever trusting a file that may have changed."""

from __future__ import annotations

import functools
import json
import os
import time
from pathlib import Path

from densebench.errors import UserError
from densebench.files.atomic import cache_root, file_digest, read_checked, sweep, write_checked

# A file written within one tick of the clock after its stamp was read keeps that stamp (git calls this the racy problem).
# Two seconds cover the coarsest file systems in use.
SETTLED_SECONDS = 2.0

Stamp = tuple[int, int, int, int]  # size, mtime_ns, ctime_ns, inode


class FileDigests:
    """Digests of files, stored in one JSON index and recognised by path, size, mtime, ctime and inode.

    A digest is remembered only where the file had been at rest for two seconds when it was hashed. Two processes may share
    an index: `save` merges with what the other has written meanwhile; the worst that a lost race costs is a second hashing.
    """

    def __init__(self, index: Path) -> None:
        self.index = index
        sweep(index.parent)
        self.known: dict[str, tuple[Stamp, str]] = self._load()
        self.fresh: dict[str, tuple[Stamp, str]] = {}

    def digest(self, path: Path) -> str:
        """Return the SHA-256 of the file's bytes now. Raises UserError where the file cannot be read."""
        key = os.path.abspath(path)  # noqa: PTH100 - keeps symbolic links, which Path.resolve would follow
        try:
            stamp = _stamp(path)
            entry = self.fresh.get(key) or self.known.get(key)
            if entry is not None and entry[0] == stamp:
                return entry[1]
            now = time.time()
            value = file_digest(path)
            settled = stamp[2] / 1e9 < now - SETTLED_SECONDS and _stamp(path) == stamp
        except OSError as error:
            raise UserError(f"cannot read {path}: {error.strerror}; fetch it again or take it out of the list") from error
        if settled:
            self.fresh[key] = (stamp, value)
        return value

    def save(self) -> None:
        """Write the index atomically, with the entries that others added since it was read."""
        if self.fresh:
            self.known = self._load() | self.fresh
            self.fresh = {}
            entries = {path: [*stamp, value] for path, (stamp, value) in self.known.items()}
            write_checked(self.index, json.dumps(entries).encode())

    def _load(self) -> dict[str, tuple[Stamp, str]]:
        entries = json.loads(read_checked(self.index) or b"{}")
        return {path: ((a, b, c, d), value) for path, (a, b, c, d, value) in entries.items()}


@functools.cache
def shared_digests(index: Path) -> FileDigests:
    """Return the FileDigests of an index that this process shares."""
    return FileDigests(index)


def digests_of(name: str) -> FileDigests:
    """Return the digests of a data set's files, indexed in the cache folder."""
    return shared_digests(cache_root() / "digests" / f"{name}.json")


def _stamp(path: Path) -> Stamp:
    status = path.stat()
    return status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino
