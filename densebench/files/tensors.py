"""Tensors in one safetensors file that appears whole or not at all and carries a checksum of all its bytes.

The checksum (CRC-32) is in the file's own metadata, as eight hexadecimal digits, and is computed with zeros in their
place. So any safetensors reader reads the file, and no second file is needed to check it.
"""

from __future__ import annotations

import errno
import json
import os
import re
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from densebench.files.atomic import Damaged, replacing

KEY, BLANK = "densebench.crc32", "00000000"
_CHECKSUM = re.compile(rb'"densebench\.crc32":"([0-9a-f]{8})"')  # a quote inside a name or a value would be escaped
BLOCK = 1 << 20  # bytes read at once


def save_tensors(
    path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None, remedy: str = "choose another folder"
) -> None:
    """Write tensors, from whatever device, to `path` atomically.

    Raises UserError, which ends with `remedy`, where the file cannot be written; a file that was there stays.
    """
    whole = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    with replacing(path, remedy) as part:
        try:
            save_file(whole, part, metadata={**(metadata or {}), KEY: BLANK})
        except SafetensorError as error:
            number = re.search(r"os error (\d+)", str(error))
            raise (OSError(int(number[1]), os.strerror(int(number[1]))) if number else OSError(str(error))) from error
        with part.open("r+b") as stream:
            start, _, checksum = _checksums(part, stream)
            stream.seek(start)
            stream.write(f"{checksum:08x}".encode())


def check(path: Path) -> bool:
    """Verify the checksum of a safetensors file; return whether it carries one of ours.

    Raises Damaged where it does not match or the file is no safetensors file, and OSError where it cannot be read.
    """
    with path.open("rb") as stream:
        start, stated, computed = _checksums(path, stream)
    if start < 0:
        return False
    if stated != computed:
        raise Damaged(path, f"its checksum is {computed:08x}, not {stated:08x}")
    return True


def keys_of(path: Path) -> list[str]:
    """Return the names of a file's tensors; nothing else in it is read or checked. Raises Damaged or OSError."""
    with path.open("rb") as stream:
        header = _header(path, stream)
    try:
        return [name for name in json.loads(header[8:]) if name != "__metadata__"]
    except (ValueError, TypeError, RecursionError) as error:
        raise Damaged(path, "its header is not JSON") from error


def load_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Return the tensors of a file and its metadata. Raises Damaged or OSError."""
    check(path)
    with map_tensors(path) as file:
        return {name: file.get_tensor(name) for name in file.keys()}, file.metadata() or {}  # noqa: SIM118


def map_tensors(path: Path) -> Any:
    """Map a file of tensors: the result's `get_tensor(name)`, `keys()` and `metadata()` read it. Raises Damaged or OSError."""
    try:
        return safe_open(path, framework="pt")
    except SafetensorError as error:
        raise Damaged(path, str(error)) from error
    except FileNotFoundError as error:  # safetensors raises this too where it cannot open an existing file
        path.open("rb").close()
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE)) from error


def _checksums(path: Path, stream: BinaryIO) -> tuple[int, int, int]:
    """Return the position of the checksum in the file (-1: none), the stated checksum and the computed one."""
    header = _header(path, stream)
    match = _CHECKSUM.search(header)
    if match is None:
        return -1, 0, 0
    computed = zlib.crc32(header[: match.start(1)] + BLANK.encode() + header[match.end(1) :])
    block = bytearray(BLOCK)
    while size := stream.readinto(block):  # type: ignore[attr-defined]
        computed = zlib.crc32(memoryview(block)[:size], computed)
    return match.start(1), int(match[1], 16), computed


def _header(path: Path, stream: BinaryIO) -> bytes:
    """Return the first eight bytes, which say how long the header is, and the header."""
    first = stream.read(8)
    length = int.from_bytes(first, "little")
    if len(first) < 8 or length > os.fstat(stream.fileno()).st_size - 8:
        raise Damaged(path, "it is cut short, or not a safetensors file")
    return first + stream.read(length)
