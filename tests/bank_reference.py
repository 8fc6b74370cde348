"""Objects for the tests of CrIBo's bank and cycles."""

from __future__ import annotations

import torch

PATCHES = 2


def random(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def fill(bank, objects, valid=None, numbers=None):
    """Enter objects `[2 b k d]`; labels and crops tell the image by its number."""
    _, b, k, _ = objects.shape
    numbers = torch.arange(b) if numbers is None else torch.as_tensor(numbers)
    valid = torch.ones(b, k, dtype=torch.bool) if valid is None else valid
    labels = numbers[:, None].repeat(1, 2 * PATCHES)
    bank.add(objects, valid, numbers, labels, numbers[:, None, None].repeat(1, 2, 5).float())
