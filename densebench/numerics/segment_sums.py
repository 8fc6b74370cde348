"""Sums of the rows of each index, added in a fixed order, so that a GPU returns the same bits in every run.

On a GPU `index_add_` adds by atomic operations, in any order. Here rows are sorted by index instead, stably, and the rows of an
index form a segment that is summed in order. Long segments are divided into pieces, since one thread sums a piece row by row: so
a cluster that holds half of a million points does not keep the GPU waiting for one thread.
"""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

PIECE = 1024  # rows that one thread sums: a million rows make about 1,000 pieces, so both levels are equally long


def sums_by_index(values: Float[Tensor, "n d"], index: Int[Tensor, "n"], count: int) -> Float[Tensor, "count d"]:
    """Return the sum of the values of each index from 0 to count - 1: the same bits every time.

    On a CPU `index_add_` adds row by row, in order, and is fastest. On a GPU it adds in any order, and K-means would end
    differently in every run.
    """
    if values.device.type == "cpu":
        return values.new_zeros(count, values.shape[1]).index_add_(0, index, values)
    return sums_by_segments(values, index, count)


def sums_by_segments(
    values: Float[Tensor, "n d"], index: Int[Tensor, "n"], count: int, piece: int = PIECE
) -> Float[Tensor, "count d"]:
    """Return the same as `sums_by_index`, on any device and without a wait for it.

    The bits are those of `sums_by_index` on a CPU where no index has more than `piece` rows.
    """
    ordered, order = index.sort(stable=True)
    return segment_sums(values.index_select(0, order), lengths_of(ordered, count), piece)


def lengths_of(ordered: Int[Tensor, "n"], count: int) -> Int[Tensor, "count"]:
    """Return how often each number from 0 to count - 1 occurs in a sorted tensor."""
    ends = torch.searchsorted(ordered, torch.arange(count + 1, device=ordered.device, dtype=ordered.dtype))
    return ends.diff()


def segment_sums(values: Float[Tensor, "n d"], lengths: Int[Tensor, "s"], piece: int = PIECE) -> Float[Tensor, "s d"]:
    """Return the sum of each segment of consecutive rows: first of its pieces of `piece` rows, then of these sums.

    lengths: of the segments, n in total; on the device of the values, for which the host does not wait.
    """
    if len(values) <= piece:
        return torch.segment_reduce(values, "sum", lengths=lengths, unsafe=True)  # unsafe: lengths are right already
    segments, number = len(lengths), torch.arange(len(values) // piece + len(lengths), device=lengths.device)
    pieces = (lengths + piece - 1) // piece
    ends = pieces.cumsum(0)
    segment = torch.searchsorted(ends, number, right=True)  # `segments` for the surplus ones, which are empty
    inside = segment.clamp(max=segments - 1)
    left = lengths[inside] - (number - (ends - pieces)[inside]) * piece
    sizes = torch.where(segment < segments, left.clamp(min=0, max=piece), 0)
    partial = torch.segment_reduce(values, "sum", lengths=sizes, unsafe=True)
    return torch.segment_reduce(partial, "sum", lengths=pieces, unsafe=True)
