"""A Triton kernel that multiplies queries with a tile of rows and writes the maxima of groups alone, never the products.

Imported only where it is used, since it needs Triton.
"""

from __future__ import annotations

import triton  # type: ignore[import-not-found]
import triton.language as tl  # type: ignore[import-not-found]
from torch import Tensor

BLOCK_QUERIES, BLOCK_SLOTS, BLOCK_COLUMNS = 128, 256, 64  # 128 KiB of float32 sums a block, on 8 warps
BANDS = 8  # blocks of queries that run side by side, so that they share a block of rows in the cache


@triton.jit
def _kernel(  # type: ignore[no-untyped-def]
    queries, rows, maxima, count, slots, columns, GROUP: tl.constexpr, QUERIES: tl.constexpr, SLOTS: tl.constexpr,
    COLUMNS: tl.constexpr, BAND: tl.constexpr,
):  # fmt: skip
    """Write the maxima of SLOTS // GROUP groups for QUERIES queries. queries, rows, maxima: contiguous, row by row."""
    bands, across = tl.cdiv(count, QUERIES), tl.cdiv(slots, SLOTS)
    program = tl.program_id(0)
    first = program // (BAND * across) * BAND
    height = min(bands - first, BAND)
    inside = program % (BAND * across)
    q = (first + inside % height) * QUERIES + tl.arange(0, QUERIES)
    s = inside // height * SLOTS + tl.arange(0, SLOTS)
    sums = tl.zeros((QUERIES, SLOTS), dtype=tl.float32)
    for start in range(0, columns, COLUMNS):
        c = start + tl.arange(0, COLUMNS)
        one = tl.load(queries + q[:, None] * columns + c[None, :], mask=(q[:, None] < count) & (c[None, :] < columns), other=0.0)
        other = tl.load(
            rows + s[None, :].to(tl.int64) * columns + c[:, None], mask=(s[None, :] < slots) & (c[:, None] < columns), other=0.0
        )
        sums = tl.dot(one, other, sums)
    best = tl.max(tl.reshape(sums, (QUERIES, SLOTS // GROUP, GROUP)), axis=2)
    groups = slots // GROUP
    g = inside // height * (SLOTS // GROUP) + tl.arange(0, SLOTS // GROUP)
    tl.store(maxima + q[:, None].to(tl.int64) * groups + g[None, :], best, mask=(q[:, None] < count) & (g[None, :] < groups))


def launch(queries: Tensor, rows: Tensor, maxima: Tensor, group: int) -> None:
    """Write the maxima `[q groups]` of the products of queries `[q c]` and rows `[slots c]`, in groups of `group` slots."""
    blocks = triton.cdiv(len(queries), BLOCK_QUERIES) * triton.cdiv(len(rows), BLOCK_SLOTS)
    sizes = {"GROUP": group, "QUERIES": BLOCK_QUERIES, "SLOTS": BLOCK_SLOTS, "COLUMNS": BLOCK_COLUMNS, "BAND": BANDS}
    _kernel[(blocks,)](queries, rows, maxima, *queries.shape[:1], *rows.shape, **sizes, num_warps=8, num_stages=3)
