"""Maxima of groups of products, which are never written to memory: a Triton kernel on a GPU, the same blocks in torch elsewhere.

To write a product in half precision and read it once moves 4 bytes. With 384 numbers a row and 4.8 TB/s that takes as long as
tensor cores take to compute it. The kernel writes 4 bytes a group instead.
"""

from __future__ import annotations

import importlib

import torch
from jaxtyping import Float
from torch import Tensor

from densebench.errors import UserError

GROUPS = (32, 64)  # rows of a group, powers of two that divide a block


def group_maxima(queries: Float[Tensor, "q c"], rows: Float[Tensor, "slots c"], group: int) -> Float[Tensor, "q groups"]:
    """Return the maxima of the products of queries and rows, in groups of `group` consecutive rows, in float32.

    Raises UserError on a GPU where Triton is not installed.
    """
    if not queries.is_cuda:
        return by_blocks(queries, rows, group)
    try:
        kernel = importlib.import_module("densebench.numerics.search.fused_kernel")
    except ImportError as error:
        raise UserError(f"the fused search needs Triton, which cannot be imported ({error}); search without it") from error
    maxima = torch.empty(len(queries), len(rows) // group, device=queries.device)
    if maxima.numel():
        kernel.launch(queries.contiguous(), rows.contiguous(), maxima, group)
    return maxima


def by_blocks(queries: Float[Tensor, "q c"], rows: Float[Tensor, "slots c"], group: int) -> Float[Tensor, "q groups"]:
    """Return what the kernel returns, in its blocks: partial products of some columns are added, then reduced to maxima."""
    maxima = torch.empty(len(queries), len(rows) // group)
    for q in range(0, len(queries), 128):
        for s in range(0, len(rows), 256):
            one, other = queries[q : q + 128].float(), rows[s : s + 256].float()
            sums = torch.zeros(len(one), len(other))
            whole = queries.shape[1] // 64 * 64
            for c in [*range(0, whole, 64), *range(whole, queries.shape[1], 16)]:
                columns = slice(c, c + 64 if c < whole else c + 16)
                sums += one[:, columns] @ other[:, columns].T
            maxima[q : q + 128, s // group : (s + 256) // group] = sums.unflatten(1, (-1, group)).amax(2)
    return maxima
