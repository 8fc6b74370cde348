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

from densebench.datasets.io.decoding import use_decoder, used_decoder
from densebench.datasets.io.shared_memory import WAITING, Loader, Piped, Transport, transport
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
    samples: torch.utils.data.Dataset[Any],
    collate: Callable[[list[Any]], Any],
    workers: int,
    pin: bool,
    *,
    batch_bytes: int = 0,
    held: int = 1,
    **sampling: Any,
) -> DataLoader[Any]:
    """Return a loader of what `collate` makes of each batch, or of the first UserError in it.

    pin: into page-locked memory, for a GPU. batch_bytes: of a batch, 0 if unknown; it bounds how many are decoded ahead, so that
    they fit the shared memory. held: how many batches are in use at once. sampling: further arguments of torch's DataLoader.
    """
    workers, with_script = usable(workers, (samples, collate))
    ahead = sampling.pop("prefetch_factor", None) or WAITING
    plan = transport(batch_bytes, workers, ahead, held) if workers and batch_bytes else Transport(ahead)
    if workers:
        sampling["prefetch_factor"] = plan.ahead
    return Loader(
        samples,
        collate_fn=functools.partial(_collated, collate, plan.in_pipes),
        num_workers=workers,
        multiprocessing_context=worker_context(workers, with_script),
        pin_memory=pin,
        worker_init_fn=functools.partial(_start, used_decoder()),
        **sampling,
    )


def checked(batches: Iterable[Any]) -> Iterator[Any]:
    """Yield the batches of a loader. Raises the first UserError among them."""
    for batch in batches:
        if isinstance(batch, UserError):
            raise batch
        yield batch


def _start(decoder: str, _worker: int) -> None:
    """Set the decoder of a new worker process: that of the main process."""
    use_decoder(decoder)


def _collated(collate: Callable[[list[Any]], Any], in_pipes: bool, samples: list[Any]) -> Any:
    error = next((sample for sample in samples if isinstance(sample, UserError)), None)
    batch = error or collate(samples)
    return Piped(batch) if in_pipes else batch
