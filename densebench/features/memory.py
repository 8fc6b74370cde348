"""What a process keeps in memory while it scores a network on the same images again and again: labels, images and their views.

While a `Memory` is in use, `extract` writes features to it instead of the disk, and takes views from it that an earlier call has
decoded. Features go when the use ends, since nobody asks for them again once the network has changed.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

from torch import Tensor

from densebench.console import notice
from densebench.datasets.dataset import Dataset, Item

Batch = tuple[list[str], Tensor]
"""The names of some images, and their views `[b 3 h w]`."""
_used: ContextVar[Memory | None] = ContextVar("memory", default=None)


class Table(dict[str, Tensor]):
    """Tensors by key, with what `extract` needs of a `Store`."""

    def add(self, tensors: dict[str, Tensor]) -> None:
        """Take tensors in."""
        self.update(tensors)


class Memory:
    """Labels, images and views of one data set, up to a budget in bytes; what goes beyond it is decoded again at every call."""

    def __init__(self, dataset: Dataset, budget: int) -> None:
        self.source, self.budget = dataset, budget
        self.dataset = self._remembering(dataset)
        """The data set to give to a protocol: it decodes nothing twice."""
        self.bytes = 0
        self._kept: dict[Any, Any] = {}
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
        """Return the features under a key; they go at the end of the use."""
        return self._tables.setdefault(key, Table())

    def batches(
        self, keys: Sequence[str], batches: Sequence[list[int]], load: Callable[[Sequence[list[int]]], Iterable[Any]]
    ) -> Iterator[Any]:
        """Yield batches in order: those that are kept, and the others as `load` returns them.

        keys: what identifies the views of each batch. batches: the indices of the images in each.
        A batch that cannot be read is yielded as `load` yields it, and not kept.
        """
        loaded = iter(load([batch for key, batch in zip(keys, batches, strict=True) if key not in self._kept]))
        for key in keys:
            batch = self._kept[key] if key in self._kept else next(loaded)
            if isinstance(batch, tuple) and key not in self._kept:
                self._keep(key, batch, batch[1].nbytes)
            yield batch

    def _remembering(self, dataset: Dataset) -> Dataset:
        """Return a copy of a data set that reads each label, image, size and list once. Other processes get it as it was."""
        remembering = object.__new__(type(dataset))
        vars(remembering).update(vars(dataset))
        sizes: dict[str, Callable[[Any], int]] = {
            "label": lambda label: int(label.nbytes),
            "image": lambda image: 3 * image.width * image.height,
            "image_size": lambda _: 0,
            "items": lambda _: 0,
        }
        for name, size in sizes.items():
            object.__setattr__(remembering, name, self._once(name, getattr(dataset, name), size))  # the class is frozen
        return remembering

    def _once(self, name: str, read: Callable[[Any], Any], size: Callable[[Any], int]) -> Callable[[Any], Any]:
        def reading(asked: Item | str) -> Any:
            key = (name, asked)
            if key not in self._kept:
                value = read(asked)
                self._keep(key, value, size(value))
                return copy.copy(value)
            return copy.copy(self._kept[key])  # the caller may change it

        return reading

    def _keep(self, key: Any, value: Any, size: int) -> None:
        if self.bytes + size <= self.budget:
            self._kept[key] = value
            self.bytes += size
        elif not self._is_full:
            self._is_full = True
            what = f"{self.budget / 2**20:,.0f} MiB hold no more labels, images and views of {self.source.name}"
            notice(f"{what}: the others are decoded again at every probe; give a larger `memory` or a smaller `limit`")


def in_use() -> Memory | None:
    """Return the memory that is in use; None outside `Memory.used`."""
    return _used.get()
