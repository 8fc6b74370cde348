"""Batches on their way through a network: gathered from pieces, halved where they do not fit, written by threads, bounded."""

from __future__ import annotations

import threading

import pytest
import torch

from densebench.errors import UserError
from densebench.features import pipeline
from densebench.features.pipeline import Writer, computed, gathered, images_at_once

CPU = torch.device("cpu")


def pieces(*sizes, side=4):
    """Pieces of so many images, each filled with its number."""
    numbers = iter(range(sum(sizes)))
    found = []
    for size in sizes:
        some = [next(numbers) for _ in range(size)]
        images = torch.stack([torch.full((3, side, side), float(number)) for number in some])
        found.append(([str(number) for number in some], images))
    return found


def sizes_of(batches):
    return [[len(names) for names, _ in batch] for batch in batches]


def test_pieces_of_one_size_are_gathered_up_to_the_batch():
    some = [*pieces(5, 5, 5, 1), *pieces(5, 5), *pieces(2, 2, side=8)]
    assert sizes_of(gathered(pieces(5, 5, 5, 5), lambda shape: 12)) == [[5, 5], [5, 5]]
    assert sizes_of(gathered(some, lambda shape: 16)) == [[5, 5, 5, 1], [5, 5], [2, 2]]
    assert sizes_of(gathered(some, lambda shape: 16 if shape == (4, 4) else 2)) == [[5, 5, 5, 1], [5, 5], [2], [2]]


def test_a_piece_larger_than_the_batch_is_not_lost():
    assert sizes_of(gathered(pieces(5, 3), lambda shape: 4)) == [[5], [3]]


def means(names, images):
    return images.mean(dim=(1, 2, 3))


def test_results_come_in_order_whatever_the_pieces():
    rows = [
        (name, value)
        for names, kept in computed(gathered(pieces(3, 4, 2), lambda shape: 7), means, CPU)
        for name, value in zip(names, kept.tolist(), strict=True)
    ]
    assert rows == [(str(number), float(number)) for number in range(9)]


class Small:
    """A GPU whose memory holds so many images; counts those of each pass that fits."""

    def __init__(self, most):
        self.most, self.passes = most, []

    def __call__(self, names, images):
        if len(images) > self.most:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory")
        self.passes.append(len(images))
        return means(names, images)


def test_batches_that_do_not_fit_are_halved_once_and_so_are_those_after_them(capsys, monkeypatch):
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: None)
    device = Small(3)
    found = list(computed(gathered(pieces(8, 8), lambda shape: 8), device, CPU))
    assert device.passes == [2] * 8
    assert [name for names, _ in found for name in names] == [str(number) for number in range(16)]
    assert torch.equal(torch.cat([kept for _, kept in found]), torch.arange(16.0))
    told = [line for line in capsys.readouterr().err.splitlines() if "memory of the GPU" in line]
    assert len(told) == 2  # 8 to 4, 4 to 2
    assert "4 images do not fit the memory of the GPU: 2 go through the network together" in told[1]


def test_one_image_that_does_not_fit_is_an_error_that_says_so(monkeypatch):
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: None)
    with pytest.raises(UserError, match="the memory of the GPU does not hold one image of 4 x 4 px"):
        list(computed(gathered(pieces(2), lambda shape: 2), Small(0), CPU))


def at_once(given, device, shape, stride, free=139 * 2**30, held=0, used=0):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.cuda, "mem_get_info", lambda device: (free, free))
        patch.setattr(torch.cuda, "memory_reserved", lambda device: held)
        patch.setattr(torch.cuda, "memory_allocated", lambda device: used)
        return images_at_once(given, torch.device(device), shape, stride)


def test_a_forward_pass_on_the_cpu_has_sixteen_images():
    assert at_once(None, "cpu", (512, 512), 16) == 16


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_a_size_that_is_given_is_taken(device):
    assert at_once(3, device, (512, 512), 16) == 3


def test_a_gpu_gets_as_many_images_as_fill_it_and_fit_half_of_its_free_memory():
    assert at_once(None, "cuda", (512, 512), 16) == 128
    assert at_once(None, "cuda", (1024, 1024), 16) == 32
    assert at_once(None, "cuda", (32, 32), 16) == pipeline.MOST
    assert at_once(None, "cuda", (512, 512), 16, free=2**32) == 8
    assert at_once(None, "cuda", (4096, 4096), 16, free=2**20) == 1


def test_memory_that_torch_holds_unused_after_a_training_is_free():
    assert at_once(None, "cuda", (512, 512), 16, free=2**28, held=2**37, used=2**37) == 1
    assert at_once(None, "cuda", (512, 512), 16, free=2**28, held=2**37, used=2**30) == 128


def shard(number):
    return {str(number): torch.full((2,), float(number))}


@pytest.mark.parametrize("threads", [0, 1, 3])
def test_all_that_was_handed_over_is_written(threads):
    written = {}
    with Writer(written.update, threads) as writer:
        for number in range(20):
            writer.put(shard(number))
    assert sorted(written, key=int) == [str(number) for number in range(20)]


@pytest.mark.parametrize("threads", [0, 1, 3])
def test_what_was_handed_over_is_written_even_where_the_work_ends_by_an_error(threads):
    written = {}
    with pytest.raises(KeyboardInterrupt), Writer(written.update, threads) as writer:
        writer.put(shard(0))
        writer.put(shard(1))
        raise KeyboardInterrupt
    assert sorted(written) == ["0", "1"]


@pytest.mark.parametrize("threads", [0, 1, 3])
@pytest.mark.parametrize("more", [0, 1, 50])
def test_the_error_of_a_write_ends_the_work(threads, more):
    def full(tensors):
        raise UserError("cannot write: no space left on device")

    handed = []
    with pytest.raises(UserError, match="no space left"), Writer(full, threads) as writer:
        for number in range(1 + more):
            writer.put(shard(number))
            handed.append(number)
    assert len(handed) <= 2 * threads + 1


def test_no_more_is_on_its_way_than_the_threads_write():
    gate, begun = threading.Event(), threading.Semaphore(0)
    done = []

    def slow(tensors):
        begun.release()
        gate.wait(10)
        done.append(tensors)

    def work():
        with Writer(slow, 2) as writer:
            for number in range(5):
                writer.put(shard(number))
                handed.append(number)

    handed = []
    thread = threading.Thread(target=work)
    thread.start()
    for _ in range(2):
        assert begun.acquire(timeout=10)
    thread.join(0.2)
    assert len(handed) == 2 and not done
    gate.set()
    thread.join(10)
    assert len(done) == 5
