"""Unpacking archives that nobody here has written: no path that leaves the folder, no links, no devices.

Only the bytes of ordinary files are copied, never owners, modes or times; this is stricter than the data filter of tarfile, which
early releases of Python 3.11 lack, and one rule serves zip and tar.
"""

from __future__ import annotations

import shutil
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import IO

from densebench.console import progress
from densebench.errors import UserError

Member = tuple[str, int, Callable[[], IO[bytes]]]  # name, bytes when unpacked, how to read it
JUNK = "__MACOSX"  # resource forks that macOS adds to zip files


def unpack(archive: Path, folder: Path, inside: str = "", label: str = "") -> None:
    """Write the files of a zip or tar archive below `folder`, replacing those that are there.

    inside: take only what lies under this folder of the archive, without the folder itself.
    Raises UserError, before anything is written, for an archive that is broken, holds a link, a device or a path that leaves
    the folder, or needs more room than there is; and where a file cannot be written.
    """
    try:
        with _opened(archive) as members:
            wanted = {name: member for member in members if (name := _below(member[0], inside))}
            need, room = sum(size for _, size, _ in wanted.values()), shutil.disk_usage(_existing(folder)).free
            if need > room:
                raise UserError(f"{archive} needs {need / 1e9:.1f} GB in {folder}, {room / 1e9:.1f} GB are free; make room")
            if not wanted:
                raise UserError(f"{archive} holds nothing under {inside or '.'}; delete it and fetch it again")
            with progress(f"unpack {label or archive.name}", len(wanted), "files") as bar:
                for name, (_, _, read) in wanted.items():
                    _write(folder / name, read)
                    bar.advance()
    except (zipfile.BadZipFile, tarfile.TarError, zlib.error, EOFError) as error:
        cause = str(error).partition("\n")[0]
        raise UserError(f"{archive} is not a whole archive ({cause}); delete it and fetch it again") from error
    except OSError as error:
        raise UserError(f"cannot unpack {archive} in {folder}: {error.strerror or error}; make room or choose another") from error


@contextmanager
def _opened(archive: Path) -> Iterator[list[Member]]:
    if zipfile.is_zipfile(archive):
        with zipfile.ZipFile(archive) as opened:
            yield [_zip_member(archive, opened, info) for info in opened.infolist() if not info.is_dir()]
    else:
        with tarfile.open(archive) as opened_tar:
            yield [_tar_member(archive, opened_tar, info) for info in opened_tar if not info.isdir()]


def _zip_member(archive: Path, opened: zipfile.ZipFile, info: zipfile.ZipInfo) -> Member:
    kind = stat.S_IFMT(info.external_attr >> 16)
    if kind not in (0, stat.S_IFREG):
        raise _refused(archive, info.filename, "is no ordinary file")
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


def _below(name: str, inside: str) -> str:
    path = PurePosixPath(name)
    if JUNK in path.parts or not path.is_relative_to(inside):
        return ""
    return path.relative_to(inside).as_posix()


def _write(path: Path, read: Callable[[], IO[bytes]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with read() as source, path.open("wb") as target:
        shutil.copyfileobj(source, target, 1 << 20)


def _existing(folder: Path) -> Path:
    return next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())
