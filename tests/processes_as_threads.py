"""Threads of one process that exchange tensors as processes do: what `torch.distributed` does for them, restated simply."""

from __future__ import annotations

import contextlib
import threading
from unittest import mock

import torch
import torch.distributed as dist


class Exchange:
    """The exchanges of `size` threads; each waits for all."""

    def __init__(self, size):
        self.size, self.here = size, threading.local()
        self.barrier, self.slots = threading.Barrier(size, timeout=60), [None] * size

    def rank(self):
        return getattr(self.here, "rank", 0)

    def all(self, sent):
        """What every thread sends, by rank."""
        self.slots[self.rank()] = sent
        self.barrier.wait()
        got = list(self.slots)
        self.barrier.wait()
        return got

    def all_gather(self, parts, tensor):
        for part, sent in zip(parts, self.all(tensor.clone()), strict=True):
            assert part.shape == sent.shape and part.dtype == sent.dtype
            part.copy_(sent)

    def all_reduce(self, tensor, op=dist.ReduceOp.SUM, group=None):
        together = torch.stack(self.all(tensor.clone()))
        tensor.copy_({dist.ReduceOp.SUM: together.sum(0), dist.ReduceOp.MAX: together.amax(0)}[op])

    def reduce(self, tensor, owner):
        together = torch.stack(self.all(tensor.clone()))
        if self.rank() == owner:
            tensor.copy_(together.sum(0))

    def broadcast(self, tensor, source, group=None):
        tensor.copy_(self.all(tensor.clone())[source])

    def all_to_all_single(self, received, sent, received_sizes, sent_sizes):
        assert sum(received_sizes) == len(received) and sum(sent_sizes) == len(sent)
        parts = [of_rank[self.rank()] for of_rank in self.all(sent.split(sent_sizes))]
        assert [len(part) for part in parts] == received_sizes
        received.copy_(torch.cat(parts))

    def all_gather_object(self, parts, sent, group=None):
        parts[:] = self.all(sent)

    def wait(self, group=None):
        self.barrier.wait()

    def broadcast_object_list(self, sent, source, group=None):
        sent[:] = self.all(list(sent))[source]


def in_threads(size, work):
    """What `work` returns in each of `size` threads, by rank. An error in one of them is raised."""
    exchange, results, errors = Exchange(size), [None] * size, []

    def run(rank):
        exchange.here.rank = rank
        try:
            results[rank] = work()
        except threading.BrokenBarrierError:
            pass  # another one failed
        except BaseException as error:
            errors.append(error)
            exchange.barrier.abort()

    names = ("all_gather", "all_gather_object", "all_reduce", "all_to_all_single", "broadcast", "broadcast_object_list", "reduce")
    with contextlib.ExitStack() as patched:
        for name in names:
            patched.enter_context(mock.patch.object(dist, name, getattr(exchange, name)))
        patched.enter_context(mock.patch.object(dist, "barrier", exchange.wait))
        patched.enter_context(mock.patch.object(dist, "is_initialized", lambda: size > 1))
        patched.enter_context(mock.patch.object(dist, "get_world_size", lambda: size))
        patched.enter_context(mock.patch.object(dist, "get_rank", exchange.rank))
        patched.enter_context(mock.patch.object(dist, "new_group", lambda **_: None))
        threads = [threading.Thread(target=run, args=(rank,)) for rank in range(size)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    if errors:
        raise errors[0]
    return results
