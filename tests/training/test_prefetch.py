"""The next batch is fetched while the GPU works: order, errors, the end, and how many are held at once."""

from __future__ import annotations

import contextlib
import gc
import types
import weakref

import pytest
import torch
from few_images import VIEWS, Few

from densebench.errors import UserError
from densebench.training.batches import Batch, Reader, collate
from densebench.training.prefetch import Prefetch

CPU = torch.device("cpu")


class Stream:
    """A stream that notes what it is asked for."""

    def __init__(self, log):
        self.log = log

    def wait_event(self, event):
        self.log.append(("waits", event))


@pytest.fixture
def log(monkeypatch):
    """What is asked of the streams, on a machine without a GPU."""
    log = []
    main, event = Stream(log), types.SimpleNamespace(record=lambda: log.append("copied"))
    monkeypatch.setattr(torch.cuda, "Stream", lambda device: Stream(log))
    monkeypatch.setattr(torch.cuda, "Event", lambda: event)
    monkeypatch.setattr(torch.cuda, "stream", lambda stream: contextlib.nullcontext())
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: main)
    monkeypatch.setattr(
        torch.Tensor, "record_stream", lambda tensor, stream: log.append(("held", tensor.data_ptr(), stream is main))
    )
    return log


def batch(number):
    return collate([Reader(Few(20), VIEWS, seed=0)[0, number]])


class Loader:
    """Yields batches, counts those that were taken, and notes that it was closed."""

    def __init__(self, count, error=None):
        self.count, self.error, self.taken, self.closed = count, error, 0, False

    def __iter__(self):
        return self

    def __next__(self):
        if self.taken == self.count:
            raise self.error or StopIteration
        self.taken += 1
        return batch(self.taken - 1)

    def close(self):
        self.closed = True


@pytest.mark.parametrize("ahead", [False, True])
def test_all_batches_come_in_order(ahead, log):
    loader, numbers = Loader(4), []
    batches = Prefetch(loader, VIEWS, CPU)
    for found in batches:
        numbers += found.numbers.tolist()
        assert found.plans
        if ahead:
            batches.fetch()
            batches.fetch()  # a second time does nothing
        assert loader.taken == min(len(numbers) + ahead, 4)
    assert numbers == [0, 1, 2, 3]
    assert next(batches, None) is None


def test_the_main_stream_waits_for_the_copies_and_its_memory_is_held(log):
    found = next(Prefetch(Loader(1), VIEWS, CPU))
    assert log[0] == "copied"
    assert log[1][0] == "waits"
    held = {entry[1] for entry in log[2:]}
    assert all(entry[0] == "held" and entry[2] for entry in log[2:])
    assert found.pixels.buffers[0].data_ptr() in held
    storages = {found.draws[0].moved.untyped_storage().data_ptr()}
    assert {tensor.untyped_storage().data_ptr() for plan in found.plans for tensor in plan.arrays.values()} == storages
    assert storages & held


def test_an_error_is_raised_where_the_batch_is_needed(log):
    loader = Loader(1, UserError("an image is broken"))
    batches = Prefetch(loader, VIEWS, CPU)
    next(batches)
    batches.fetch()
    batches.fetch()
    with pytest.raises(UserError, match="an image is broken"):
        next(batches)
    assert loader.closed


def test_closing_lets_go_of_the_batch_that_was_fetched(log, monkeypatch):
    loader, made, on = Loader(4), [], Batch.on
    monkeypatch.setattr(Batch, "on", lambda *own: made.append(moved := on(*own)) or moved)
    batches = Prefetch(loader, VIEWS, CPU)
    next(batches)
    batches.fetch()
    held = [weakref.ref(moved) for moved in made]
    made.clear()
    batches.close()
    gc.collect()
    assert loader.closed
    assert [ref() for ref in held] == [None, None]


@pytest.mark.parametrize("ahead", [False, True])
def test_on_a_gpu_the_bytes_of_a_batch_have_arrived_where_it_is_used(ahead, cuda):
    batches = Prefetch(Loader(3), VIEWS, torch.device("cuda"))
    for number, found in enumerate(batches):
        if ahead:
            batches.fetch()
        assert torch.equal(found.pixels.buffers[0].cpu(), batch(number).pixels.buffers[0])
        assert torch.equal(found.draws[0].moved.cpu(), batch(number).draws[0].table)
