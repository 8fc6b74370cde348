"""Tensors on disk by key, in immutable safetensors shards that are read through memory mapping.

A shard appears whole or not at all, so a process killed at any moment loses at most the shard that it was filling, and two
processes may fill one store. Which shard holds a key is read from the shards' headers; there is no index to fall out of step.
Before the first tensor of a shard is used, its checksum is verified; a damaged shard is removed, and its keys are missing.
"""

from __future__ import annotations

import hashlib
from contextlib import suppress
from pathlib import Path
from typing import Any

from torch import Tensor

from densebench.console import warn
from densebench.files.atomic import Damaged, remove, unreadable
from densebench.files.cache import Hold, is_marked
from densebench.files.tensors import check, keys_of, map_tensors, save_tensors


class Store:
    """A folder of shards: `key in store`, `store[key]`, `store.add({key: tensor})`. While open, no process removes it."""

    def __init__(self, folder: Path, about: dict[str, Any]) -> None:
        """Open or make the store. `about` says what its tensors are; it is written beside the shards for people to read.

        Raises UserError where the folder or a shard cannot be opened; no shard is removed in that case.
        """
        self.folder, self._about = folder, about
        self._hold = Hold(folder, about)
        self._shard: dict[str, Path] = {}
        self._open: dict[Path, Any] = {}
        self._listed: set[Path] = set()
        self.refresh()

    def refresh(self) -> None:
        """List the shards that other processes have added. Raises UserError where one cannot be opened."""
        for path in sorted(self.folder.glob("*.safetensors")):
            if path not in self._listed:
                self._list(path)

    def __contains__(self, key: str) -> bool:
        """Return whether there is a tensor for this key, in a shard that is whole."""
        return key in self._shard and self._is_whole(self._shard[key])

    def __len__(self) -> int:
        return len(self._shard)

    def __getitem__(self, key: str) -> Tensor:
        """Return the tensor of a key, backed by the mapped file. Raises KeyError."""
        path = self._shard[key]
        if not self._is_whole(path):
            raise KeyError(key)
        return self._open[path].get_tensor(key)

    def add(self, tensors: dict[str, Tensor]) -> None:
        """Write tensors as one new shard, atomically. Raises UserError where the disk is full."""
        if not is_marked(self.folder):
            self._hold = Hold(self.folder, self._about)  # another process has removed the folder
        name = hashlib.sha256("\n".join(sorted(tensors)).encode()).hexdigest()[:16]
        path = self.folder / f"{name}.safetensors"
        save_tensors(path, tensors, remedy="set DENSEBENCH_CACHE elsewhere")
        self._open.pop(path, None)
        self._listed.add(path)
        self._shard.update(dict.fromkeys(tensors, path))

    def _list(self, path: Path) -> None:
        """Record which keys a shard holds."""
        try:
            self._shard.update(dict.fromkeys(keys_of(path), path))
            self._listed.add(path)
        except FileNotFoundError:
            pass  # removed by another process just now
        except IsADirectoryError:
            self._remove(path, f"{path} is a folder, not a shard")
        except Damaged as damage:
            self._remove(path, str(damage))
        except OSError as error:
            raise unreadable(path, error) from error

    def _is_whole(self, path: Path) -> bool:
        """Return whether a shard is undamaged; open it, or forget it. Its checksum is verified once, before it is opened."""
        if path in self._open:
            return True
        try:
            if check(path):
                self._open[path] = map_tensors(path)
                return True
            self._remove(path, "")  # an earlier version wrote no checksums
        except FileNotFoundError:
            self._forget(path)
        except Damaged as damage:
            self._remove(path, str(damage))
        except OSError as error:
            raise unreadable(path, error) from error
        return False

    def _remove(self, path: Path, why: str) -> None:
        if why:
            warn(f"{why}; it is removed, and what it held is computed again")
        remove(path)
        self._forget(path)

    def _forget(self, path: Path) -> None:
        self._listed.discard(path)
        self._shard = {key: shard for key, shard in self._shard.items() if shard != path}


def stored_keys(folder: Path) -> set[str]:
    """Return the keys that a store in a folder holds, without opening or changing anything; checksums are not verified."""
    keys: set[str] = set()
    for path in folder.glob("*.safetensors"):
        with suppress(Damaged, OSError):
            keys.update(keys_of(path))
    return keys
