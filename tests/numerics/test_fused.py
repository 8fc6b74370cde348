"""Maxima of groups by blocks against whole products; the Triton kernel against its mirror, in Triton's interpreter."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from densebench.numerics.search.fused import by_blocks, group_maxima


@pytest.mark.parametrize(("queries", "slots", "columns", "group"), [(1, 32, 16, 32), (130, 320, 80, 32), (200, 576, 160, 64)])
def test_blocks_equal_whole_products(queries, slots, columns, group):
    generator = torch.Generator().manual_seed(0)
    one, other = (torch.randint(-4, 5, (n, columns), generator=generator).half() for n in (queries, slots))
    maxima = group_maxima(one, other, group)
    assert maxima.dtype == torch.float32
    assert torch.equal(maxima, (one.float() @ other.float().T).unflatten(1, (-1, group)).amax(2))


def test_nothing_has_no_maxima():
    assert by_blocks(torch.zeros(0, 16), torch.zeros(64, 16), 32).shape == (0, 2)


@pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="Triton is not installed")
def test_the_kernel_equals_its_mirror():
    script = Path(__file__).parents[1] / "fused_kernel_interpreted.py"
    done = subprocess.run(
        [sys.executable, str(script)], env={**os.environ, "TRITON_INTERPRET": "1"}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
