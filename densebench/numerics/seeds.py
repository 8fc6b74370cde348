"""Seeds and orders as functions of a few words: nothing here has a state, so a killed run resumes with the very same draws."""

from __future__ import annotations

import functools
import hashlib
from typing import Any

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
