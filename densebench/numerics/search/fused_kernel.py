"""A Triton kernel that multiplies queries with a tile of rows and writes only the maxima of groups, not the products.

It is imported only where it is used, since it needs Triton.
"""

# ruff: noqa: ANN001, ANN202 - Triton reads the annotations of what it compiles

from __future__ import annotations

import triton  # type: ignore[import-not-found]
import triton.language as tl  # type: ignore[import-not-found]
from torch import Tensor

BLOCK_QUERIES, BLOCK_SLOTS, BLOCK_COLUMNS = 128, 256, 64  # 128 KiB of float32 sums a block, on 8 warps
NARROW = 16  # columns of the last steps, where fewer than BLOCK_COLUMNS are left: rows have a multiple of 16 columns
BANDS = 8  # blocks of queries that run side by side and share a block of rows in the L2 cache


@triton.jit
def _add(sums, queries, rows, q, s, c, count, slots, columns):  # type: ignore[no-untyped-def]
    """Return sums to which the products of columns c are added."""
    one = tl.load(queries + q[:, None] * columns + c[None, :], mask=q[:, None] < count, other=0.0)
    other = tl.load(rows + s[None, :].to(tl.int64) * columns + c[:, None], mask=s[None, :] < slots, other=0.0)
    return tl.dot(one, other, sums)


@triton.jit
def _kernel(  # type: ignore[no-untyped-def]
    queries, rows, maxima, count, slots, columns, group: tl.constexpr, block_queries: tl.constexpr, block_slots: tl.constexpr,
    block_columns: tl.constexpr, narrow: tl.constexpr, band: tl.constexpr,
):  # fmt: skip
    """Write the maxima of block_slots // group groups for block_queries queries; all three arrays are contiguous."""
    bands, across = tl.cdiv(count, block_queries), tl.cdiv(slots, block_slots)
    program = tl.program_id(0)
    first = program // (band * across) * band
    height = min(bands - first, band)
    inside = program % (band * across)
    q = (first + inside % height) * block_queries + tl.arange(0, block_queries)
    s = inside // height * block_slots + tl.arange(0, block_slots)
    sums = tl.zeros((block_queries, block_slots), dtype=tl.float32)
    whole = columns // block_columns * block_columns
    for start in range(0, whole, block_columns):
        sums = _add(sums, queries, rows, q, s, start + tl.arange(0, block_columns), count, slots, columns)
    for start in range(whole, columns, narrow):
        sums = _add(sums, queries, rows, q, s, start + tl.arange(0, narrow), count, slots, columns)
    best = tl.max(tl.reshape(sums, (block_queries, block_slots // group, group)), axis=2)
    groups = slots // group
    g = inside // height * (block_slots // group) + tl.arange(0, block_slots // group)
    tl.store(maxima + q[:, None].to(tl.int64) * groups + g[None, :], best, mask=(q[:, None] < count) & (g[None, :] < groups))


def launch(queries: Tensor, rows: Tensor, maxima: Tensor, group: int) -> None:
    """Write the maxima `[q groups]` of the products of queries `[q c]` and rows `[slots c]`, in groups of `group` slots."""
    blocks = triton.cdiv(len(queries), BLOCK_QUERIES) * triton.cdiv(len(rows), BLOCK_SLOTS)
    sizes = {"group": group, "block_queries": BLOCK_QUERIES, "block_slots": BLOCK_SLOTS, "block_columns": BLOCK_COLUMNS}
    sizes |= {"narrow": NARROW, "band": BANDS}
    _kernel[(blocks,)](queries, rows, maxima, *queries.shape[:1], *rows.shape, **sizes, num_warps=8, num_stages=3)
