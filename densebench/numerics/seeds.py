"""Seeds and orders as functions of a few words, without a state, so that a killed run resumes with the very same draws.

`random_states` undoes what other code draws from the generators that a whole process shares.
"""

from __future__ import annotations

import functools
import hashlib
import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor


def seed_of(*words: Any) -> int:
    """Return a 63-bit seed made of a few words: equal words, equal seed, in every process."""
    return int.from_bytes(hashlib.sha256(repr(words).encode()).digest()[:8], "little") >> 1


@functools.lru_cache(maxsize=2)
def permutation(images: int, seed: int, epoch: int) -> Int[Tensor, " images"]:
    """Return the order of the images in one epoch."""
    return torch.randperm(images, generator=torch.Generator().manual_seed(seed_of(seed, "order", epoch)))


@contextmanager
def random_states() -> Iterator[None]:
    """Restore the states of all random generators after the block: torch's on the CPU and on GPUs, numpy's and Python's."""
    python, arrays, tensors = random.getstate(), np.random.get_state(), torch.get_rng_state()
    of_gpus = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else []
    try:
        yield
    finally:
        random.setstate(python)
        np.random.set_state(arrays)
        torch.set_rng_state(tensors)
        for number, state in enumerate(of_gpus):
            torch.cuda.set_rng_state(state, number)
