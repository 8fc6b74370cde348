"""Tensors on disk by key, in immutable safetensors shards that are read through memory mapping.

A shard appears whole or not at all, so a process killed at any moment loses at most the shard that it was filling, and two
processes may fill one store. Which shard holds a key is read from the shards' headers; there is no index to fall out of step.
"""

from __future__ import annotations

import hashlib
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from densebench.console import notice
from densebench.errors import UserError
from densebench.files import canonical_json, replacing, write_text


class Store:
    """A folder of shards: `key in store`, `store[key]`, `store.add({key: tensor})`."""

    def __init__(self, folder: Path, about: dict[str, Any]) -> None:
        """Open or make the store. `about` says what its tensors are; it is written beside the shards for people to read."""
        self.folder = folder
        self._shard: dict[str, Path] = {}
        self._open: dict[Path, Any] = {}
        for path in sorted(folder.glob("*.safetensors")):
            self._read_header(path)
        if not (folder / "about.json").exists():
            write_text(folder / "about.json", canonical_json(about) + "\n")

    def __contains__(self, key: str) -> bool:
        return key in self._shard

    def __len__(self) -> int:
        return len(self._shard)

    def __getitem__(self, key: str) -> Tensor:
        """The tensor of a key, backed by the mapped file. Raises KeyError."""
        path = self._shard[key]
        if path not in self._open:
            self._open[path] = safe_open(path, framework="pt")
        return self._open[path].get_tensor(key)

    def add(self, tensors: dict[str, Tensor]) -> None:
        """Write tensors as one new shard, atomically. Raises UserError where the disk is full."""
        name = hashlib.sha256("\n".join(sorted(tensors)).encode()).hexdigest()[:16]
        path = self.folder / f"{name}.safetensors"
        with replacing(path) as part:
            try:
                save_file({key: tensor.contiguous() for key, tensor in tensors.items()}, part)
            except (SafetensorError, OSError) as error:
                raise UserError(f"cannot write {path}: {error}; free some space or set DENSEBENCH_CACHE elsewhere") from error
        self._shard.update(dict.fromkeys(tensors, path))

    def _read_header(self, path: Path) -> None:
        try:
            with safe_open(path, framework="pt") as shard:
                self._shard.update(dict.fromkeys(shard.keys(), path))
        except (SafetensorError, OSError) as error:
            notice(f"{path} cannot be read ({error}); it is left out and its features are computed again")
            path.unlink(missing_ok=True)


@dataclass(frozen=True)
class Usage:
    """How much room one store takes."""

    folder: Path
    about: str
    bytes: int


def usage(root: Path) -> list[Usage]:
    """Every store under a folder, with its size in bytes."""
    found = []
    for about in sorted(root.glob("*/*/about.json")):
        size = sum(path.stat().st_size for path in about.parent.iterdir())
        found.append(Usage(about.parent, about.read_text(encoding="utf-8").strip(), size))
    return found


def clear(root: Path) -> int:
    """Remove every store under a folder and return the bytes freed."""
    stores = usage(root)
    for store in stores:
        shutil.rmtree(store.folder)
    return sum(store.bytes for store in stores)
