"""Vectors and sizes for the tests of distillation."""

from __future__ import annotations

import torch
from torch.nn import functional as F


def random(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def unit(*shape, seed=0):
    return F.normalize(random(*shape, seed=seed), dim=-1)
