"""What a process keeps in memory while it scores a network on the same images again and again: labels, images and their views.

While a `Memory` is in use, `extract` writes features to it instead of the disk, and takes views from it that an earlier call has
decoded. Features go when the use ends, since they are useless once the network has changed.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

from torch import Tensor

from densebench.console import warn
from densebench.datasets.dataset import Dataset, Item

Batch = tuple[list[str], Tensor]
"""The names of some images, and their views `[b 3 h w]`."""
_used: ContextVar[Memory | None] = ContextVar("memory", default=None)


class Table(dict[str, Tensor]):
    """Tensors by key, with what `extract` needs of a `Store`."""

    def add(self, tensors: dict[str, Tensor]) -> None:
        """Add tensors by key."""
        self.update(tensors)


class Memory:
    """Labels, images and views of one data set, up to a budget in bytes; what goes beyond it is decoded again at every call.

    A budget of 0 holds none of them, only features: what is scored once need not go to the disk.
    """

    def __init__(self, dataset: Dataset, budget: int) -> None:
        self.source, self.budget = dataset, budget
        self.dataset = self._reading_once(dataset)
        """The data set to give to a protocol: it decodes nothing twice."""
        self.bytes = 0
        self._cached: dict[Any, Any] = {}
        self._tables: dict[str, Table] = {}
        self._is_full = False

    @contextmanager
    def used(self) -> Iterator[None]:
        """Let `extract` use this memory during the block."""
        token = _used.set(self)
        try:
            yield
        finally:
            _used.reset(token)
            self._tables.clear()

    def table(self, key: str) -> Table:
        """Return the features under a key; they are dropped when the block of `used` ends."""
        return self._tables.setdefault(key, Table())

    def batches(
        self, keys: Sequence[str], batches: Sequence[list[int]], load: Callable[[Sequence[list[int]]], Iterable[Any]]
    ) -> Iterator[Any]:
        """Yield batches in order: those in memory, and the others as `load` returns them.

        keys: what identifies the views of each batch. batches: the indices of the images in each. For a GPU `load` returns
        them in page-locked memory, and there they are cached.
        A batch that cannot be read is yielded as `load` yields it, and is not stored.
        """
        loaded = iter(load([batch for key, batch in zip(keys, batches, strict=True) if key not in self._cached]))
        for key in keys:
            batch = self._cached[key] if key in self._cached else next(loaded)
            if isinstance(batch, tuple) and key not in self._cached:
                self._store(key, batch, _taken(batch[1]))
            yield batch

    def _reading_once(self, dataset: Dataset) -> Dataset:
        """Return a copy of a data set that reads each label, image, size and list once."""
        copied = object.__new__(type(dataset))
        vars(copied).update(vars(dataset))
        sizes: dict[str, Callable[[Any], int]] = {
            "label": lambda label: int(label.nbytes),
            "image": lambda image: 3 * image.width * image.height,
            "image_size": lambda _: 0,
            "items": lambda _: 0,
        }
        for name, size in sizes.items():
            object.__setattr__(copied, name, self._once(name, getattr(dataset, name), size))  # the class is frozen
        return copied

    def _once(self, name: str, read: Callable[[Any], Any], size: Callable[[Any], int]) -> Callable[[Any], Any]:
        def cached(item_or_split: Item | str) -> Any:
            key = (name, item_or_split)
            if key not in self._cached:
                value = read(item_or_split)
                self._store(key, value, size(value))
                return copy.copy(value)
            return copy.copy(self._cached[key])  # the caller may change it

        return cached

    def _store(self, key: Any, value: Any, size: int) -> None:
        if self.bytes + size <= self.budget:
            self._cached[key] = value
            self.bytes += size
        elif self.budget and not self._is_full:
            self._is_full = True
            what = f"{self.budget / 2**20:,.0f} MiB hold no more labels, images and views of {self.source.name}"
            warn(f"{what}: the others are decoded again at every probe; give a larger `memory` or a smaller `limit`")


def _taken(views: Tensor) -> int:
    """Return the bytes of memory that views take: torch allocates page-locked memory in powers of two."""
    return 1 << (views.nbytes - 1).bit_length() if views.is_pinned() else views.nbytes


def in_use() -> Memory | None:
    """Return the memory that is in use; None outside `Memory.used`."""
    return _used.get()
