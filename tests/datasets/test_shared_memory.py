"""The shared memory that decoded images take: bounded, through pipes where there is next to none, one line where it is full."""

from __future__ import annotations

import os
import signal

import numpy as np
import pytest
import torch

from densebench.datasets.io import shared_memory
from densebench.datasets.io.loader import Samples, checked, make_loader
from densebench.datasets.io.shared_memory import Transport, piece_size, room, transport
from densebench.errors import UserError

MB, GB = 2**20, 2**30


@pytest.fixture
def free(monkeypatch):
    """Sets how many bytes of shared memory are free."""
    return lambda size: monkeypatch.setattr(shared_memory, "free_bytes", lambda: size)


def test_a_loader_takes_half_of_what_is_free_and_two_gib_at_most(free):
    for size, wanted in ((64 * MB, 32 * MB), (GB, GB // 2), (100 * GB, 2 * GB), (None, 2 * GB)):
        free(size)
        assert room() == wanted


@pytest.mark.parametrize("workers", [1, 2, 12, 64])
@pytest.mark.parametrize("image", [0, 1000, 3 * 640 * 480, 36 * MB])
@pytest.mark.parametrize("size", [256 * MB, GB, 100 * GB])
def test_what_is_decoded_ahead_fits(workers, image, size, free):
    free(size)
    piece = piece_size(image, workers, 32)
    plan = transport(piece * image, workers, 6, held=3)
    assert 1 <= piece <= 32 and 1 <= plan.ahead <= 6
    fits = (workers * plan.ahead + 3) * piece * image <= room()
    assert fits or plan.in_pipes or piece == 1


def test_small_images_are_sent_in_whole_pieces_as_far_ahead_as_is_wanted(free):
    free(100 * GB)
    assert piece_size(3 * 640 * 480, 12, 32) == 32
    assert transport(32 * 3 * 640 * 480, 12, 4, held=2) == Transport(4)


def test_large_images_are_sent_in_small_pieces(free):
    free(100 * GB)
    assert piece_size(36 * MB, 12, 32) == 2
    assert transport(2 * 36 * MB, 12, 6, held=4) == Transport(2)


def test_next_to_no_shared_memory_means_pipes_and_one_line_says_so(free, capsys):
    free(64 * MB)
    for _ in range(2):
        assert transport(MB, 12, 2) == Transport(2)
        assert transport(3 * MB, 12, 2).in_pipes
    [line] = capsys.readouterr().err.splitlines()
    assert "67 MB free" in line and "--shm-size" in line


class Noise(Samples):
    """Arrays that follow from their index; one is broken."""

    def sample(self, key):
        if key == 7:
            raise UserError("the image 7.jpg is missing")
        return np.random.default_rng(key).integers(0, 256, (40, 50, 3), dtype=np.uint8)

    def __len__(self):
        return 8


def stacked(samples):
    return torch.from_numpy(np.stack(samples)), "names"


@pytest.mark.slow
def test_what_comes_through_pipes_is_what_comes_through_shared_memory(free):
    free(MB)
    found = checked(make_loader(Noise(), stacked, 1, pin=False, batch_bytes=MB, batch_size=4))
    images, names = next(found)
    assert torch.equal(images, stacked([Noise()[key] for key in range(4)])[0]) and names == "names"
    with pytest.raises(UserError, match="7.jpg"):
        next(found)


def test_a_batch_from_a_pipe_is_page_locked_as_any_other(monkeypatch):
    pinned = []
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda self, *_: pinned.append(len(self)) or self)
    batch = stacked([Noise()[0], Noise()[1]])
    images, names = torch.utils.data._utils.pin_memory.pin_memory(shared_memory.Piped(batch))
    assert torch.equal(images, batch[0]) and names == "names" and pinned == [2]


class Killed(Samples):
    """Samples whose process is killed as the system kills it."""

    def __init__(self, number):
        self.number = number

    def sample(self, key):
        os.kill(os.getpid(), self.number)

    def __len__(self):
        return 2


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGBUS, signal.SIGKILL])
def test_a_process_that_the_system_kills_is_one_line(number):
    with pytest.raises(UserError, match=r"was killed, as .* memory was full .* --workers") as caught:
        list(make_loader(Killed(number), list, 1, pin=False))
    assert "\n" not in str(caught.value)


def test_another_error_of_a_loader_stays_what_it_is():
    def wrong(_samples):
        raise RuntimeError("something else")

    with pytest.raises(RuntimeError, match="something else"):
        list(make_loader(Noise(), wrong, 0, pin=False))


@pytest.mark.parametrize("told", ["(pid 7) is killed by signal: Bus error. It is", "(pid(s) 7) exited unexpectedly"])
def test_a_death_in_the_words_of_torch_is_one_line(told, monkeypatch, free):
    free(3 * 10**6)

    def dies(self):
        raise RuntimeError(f"DataLoader worker {told}")
        yield

    monkeypatch.setattr(torch.utils.data.DataLoader, "__iter__", dies)
    with pytest.raises(UserError, match=r"shared memory was full \(/dev/shm: 3 MB free now\)"):
        list(make_loader(Noise(), list, 0, pin=False))
