"""Samples decoded in worker processes, whose UserErrors reach the main process as they are.

torch's loader buries what a worker raises in a traceback of many lines. So `Samples` returns a UserError in place of the sample,
a batch with one becomes that error, and `checked` raises it.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch.utils.data import DataLoader

from densebench.datasets.io.workers import usable, worker_context
from densebench.errors import UserError


class Samples(torch.utils.data.Dataset[Any]):
    """Base of what a loader reads; a subclass gives `sample`, which may raise UserError."""

    def sample(self, key: Any) -> Any:
        """Return the sample of an index, or of whatever the sampler yields."""
        raise NotImplementedError

    def __getitem__(self, key: Any) -> Any:
        try:
            return self.sample(key)
        except UserError as error:
            return error


class Batches:
    """An iterator of batches of keys, as a batch sampler."""

    def __init__(self, keys: Iterator[Any]) -> None:
        self.keys = keys

    def __iter__(self) -> Iterator[Any]:
        return self.keys


def make_loader(
    samples: torch.utils.data.Dataset[Any], collate: Callable[[list[Any]], Any], workers: int, pin: bool, **sampling: Any
) -> DataLoader[Any]:
    """Return a loader of what `collate` makes of each batch, or of the first UserError in it.

    pin: into page-locked memory, for a GPU. sampling: further arguments of torch's DataLoader.
    """
    collate = functools.partial(_collated, collate)
    workers, with_script = usable(workers, (samples, collate))
    if not workers:
        sampling.pop("prefetch_factor", None)
    return DataLoader(
        samples,
        collate_fn=collate,
        num_workers=workers,
        multiprocessing_context=worker_context(workers, with_script),
        pin_memory=pin,
        **sampling,
    )


def checked(batches: Iterable[Any]) -> Iterator[Any]:
    """Yield the batches of a loader. Raises the first UserError among them."""
    for batch in batches:
        if isinstance(batch, UserError):
            raise batch
        yield batch


def _collated(collate: Callable[[list[Any]], Any], samples: list[Any]) -> Any:
    error = next((sample for sample in samples if isinstance(sample, UserError)), None)
    return error or collate(samples)
