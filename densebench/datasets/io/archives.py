"""Unpacking archives that may come from anybody: no path that leaves the folder, no links, no devices.

Only the bytes of ordinary files are copied, never owners, modes or times; this is stricter than the data filter of tarfile, which
early releases of Python 3.11 lack, and one rule serves zip and tar.
"""

from __future__ import annotations

import gzip
import io
import lzma
import os
import shutil
import stat
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import IO

from densebench.console import progress
from densebench.errors import UserError

Member = tuple[str, int, Callable[[], IO[bytes]]]  # name, bytes when unpacked, how to read it
JUNK = "__MACOSX"  # resource forks that macOS adds to zip files
CHUNK = 1 << 20
ENCRYPTED = 1  # a flag of a zip file's member
METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA)
BROKEN = (
    zipfile.BadZipFile, tarfile.TarError, gzip.BadGzipFile, zlib.error, lzma.LZMAError, struct.error, EOFError, RuntimeError,
    ValueError, OverflowError,
)  # fmt: skip
"""What reading a damaged archive raises."""


def unpack(archive: Path, folder: Path, inside: str = "", label: str = "") -> None:
    """Write the files of a zip or tar archive below `folder`, replacing those that are there.

    inside: take only what lies under this folder of the archive, without the folder itself.
    Raises UserError before anything is written where the archive is broken, encrypted or cut off, holds a link, a device or a
    path that leaves the folder, or needs more space than is free, and where a file would be written through a link. Raises it
    later where a member of a zip file is damaged or a file cannot be written.
    """
    try:
        with _opened(archive) as members:
            wanted = {name: member for member in members if (name := _below(member[0], inside))}
            need, room = sum(size for _, size, _ in wanted.values()), shutil.disk_usage(_existing(folder)).free
            if need > room:
                raise UserError(f"{archive} needs {need / 1e9:.1f} GB in {folder}, {room / 1e9:.1f} GB are free; make room")
            if not wanted:
                raise UserError(f"{archive} holds nothing under {inside or '.'}; delete it and fetch it again")
            _check_way(archive, folder, wanted)
            with progress(f"unpack {label or archive.name}", len(wanted), "files") as bar:
                for name, (_, _, read) in wanted.items():
                    _write(folder / name, read)
                    bar.advance()
    except BROKEN as error:
        raise _not_whole(archive, error) from error
    except OSError as error:
        if error.errno is None:  # from bz2, not from the file system
            raise _not_whole(archive, error) from error
        raise UserError(f"cannot unpack {archive} in {folder}: {error.strerror or error}; make room or choose another") from error


@contextmanager
def _opened(archive: Path) -> Iterator[list[Member]]:
    if zipfile.is_zipfile(archive):
        with zipfile.ZipFile(archive) as opened:
            yield [_zip_member(archive, opened, info) for info in opened.infolist() if not info.is_dir()]
    else:
        with tarfile.open(archive) as opened_tar:
            members = [_tar_member(archive, opened_tar, info) for info in opened_tar if not info.isdir()]
            _read_to_the_end(opened_tar)
            yield members


def _read_to_the_end(opened: tarfile.TarFile) -> None:
    """Check the end of a tar archive: the checksum of a compressed one stands there; a plain one ends in a block of zeros.

    tarfile stops at the first block that is not a header, even a damaged one. Raises one of BROKEN.
    """
    stream = opened.fileobj
    assert stream is not None
    if isinstance(stream, io.BufferedReader):
        stream.seek(opened.offset)
        if stream.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
            raise EOFError("it is cut off or damaged")
    while stream.read(CHUNK):
        pass


def _zip_member(archive: Path, opened: zipfile.ZipFile, info: zipfile.ZipInfo) -> Member:
    kind = stat.S_IFMT(info.external_attr >> 16)
    if kind not in (0, stat.S_IFREG):
        raise _refused(archive, info.filename, "is no ordinary file")
    if info.flag_bits & ENCRYPTED:
        raise _refused(archive, info.filename, "is encrypted")
    if info.compress_type not in METHODS:
        raise _refused(archive, info.filename, f"is compressed by a method that is not known here ({info.compress_type})")
    _check(archive, info.filename)
    return info.filename, info.file_size, lambda: opened.open(info)


def _tar_member(archive: Path, opened: tarfile.TarFile, info: tarfile.TarInfo) -> Member:
    if not info.isreg():
        raise _refused(archive, info.name, "is no ordinary file")
    _check(archive, info.name)
    return info.name, info.size, lambda: _readable(opened.extractfile(info))


def _readable(stream: IO[bytes] | None) -> IO[bytes]:
    if stream is None:
        raise EOFError("a file of the archive has no content")
    return stream


def _check(archive: Path, name: str) -> None:
    if "\\" in name or ":" in name or "\0" in name or name.startswith("/") or ".." in PurePosixPath(name).parts:
        raise _refused(archive, name, "leaves the folder")


def _refused(archive: Path, name: str, why: str) -> UserError:
    return UserError(f"{archive} is refused: its member {name!r} {why}; delete it and fetch it from the official address")


def _not_whole(archive: Path, error: Exception) -> UserError:
    cause = str(error).partition("\n")[0] or type(error).__name__
    return UserError(f"{archive} is not a whole archive ({cause}); delete it and fetch it again")


def _check_way(archive: Path, folder: Path, names: Iterable[str]) -> None:
    """Raise UserError where a file below `folder`, or a folder above that file, is a link; `folder` itself may be one."""
    known = {PurePosixPath()}
    for name in names:
        for path in (PurePosixPath(name), *PurePosixPath(name).parents):
            if path in known:
                break
            known.add(path)
            if (folder / path).is_symlink():
                raise UserError(f"{folder / path} is a link: {archive} is not unpacked through it; remove it or unpack by hand")


def _below(name: str, inside: str) -> str:
    path = PurePosixPath(name)
    if JUNK in path.parts or not path.is_relative_to(inside):
        return ""
    return path.relative_to(inside).as_posix()


def _write(path: Path, read: Callable[[], IO[bytes]]) -> None:
    """Write a file under a temporary name, then rename it: a damaged member harms no existing file, nor one hard-linked to it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".unpacking-{os.getpid()}.part")
    try:
        part.unlink(missing_ok=True)
        with read() as source, part.open("xb") as target:
            shutil.copyfileobj(source, target, CHUNK)
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def _existing(folder: Path) -> Path:
    return next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())
